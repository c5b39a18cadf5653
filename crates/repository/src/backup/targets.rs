//! The paths that are to be backed up, as the upper part of the snapshot's tree.
//!
//! `/srv/www` and `/etc` become a root with `srv` and `etc`, and `www` in `srv`: directories on the way hold
//! nothing but what leads to a target. A relative path keeps its components; `.` stands for what is in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::format::Node;
use crate::{Error, Result};

use super::members::{StreamSource, Totals};

/// A place in the upper part of the tree.
#[derive(Default)]
pub(super) struct Target<'a> {
    /// Where it is on this machine; absolute. For a stream, where it is in the snapshot.
    pub path: PathBuf,
    /// What is taken in whole here, if it is a target.
    pub whole: Option<Whole<'a>>,
    /// The member that it is, by its number.
    pub member: Option<usize>,
    /// What leads on to targets; of a target that is a directory, what stands in place of what it holds.
    pub children: Children<'a>,
}

/// What leads on to targets below one place, in the order of raw names.
pub(super) type Children<'a> = BTreeMap<Vec<u8>, Target<'a>>;

/// What is taken in whole at a place.
pub(super) enum Whole<'a> {
    /// The file or directory of this machine at the target's path.
    Host,
    /// A file that is read from a stream.
    Stream(Box<StreamSource<'a>>),
    /// What the snapshot before has, and the totals of that.
    AsBefore(Box<Node>, Totals),
    /// What is known only when all else has been read.
    Later,
}

/// Removes `.` and resolves `..` by its text, as restic does.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match clean.components().next_back() {
                Some(Component::Normal(_)) => {
                    clean.pop();
                }
                Some(Component::RootDir) => {}
                _ => clean.push(".."),
            },
            other => clean.push(other),
        }
    }
    clean
}

/// Arranges `paths` in a tree.
///
/// Fails when two of them would stand at the same place of it.
pub(super) fn arrange<'a>(paths: &[PathBuf]) -> Result<Target<'a>> {
    let mut root = Target::default();
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|error| Error::io("resolve", path, error))?;
        let absolute = clean(&absolute);
        let names: Vec<OsString> = clean(path)
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.to_owned()),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            for name in list(&absolute)? {
                root.insert(&absolute, &[name])?;
            }
        } else {
            let base =
                absolute.ancestors().nth(names.len()).expect("an absolute path ends with its relative one");
            root.insert(base, &names)?;
        }
    }
    Ok(root)
}

/// The names in a directory that stands for what is in it: `/`, `.`, `..`.
fn list(path: &Path) -> Result<Vec<OsString>> {
    let entries = std::fs::read_dir(path).map_err(|error| Error::io("list", path, error))?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name()).map_err(|error| Error::io("list", path, error)))
        .collect()
}

impl Target<'_> {
    fn insert(&mut self, base: &Path, names: &[OsString]) -> Result<()> {
        let (mut place, mut path) = (self, base.to_owned());
        for (position, name) in names.iter().enumerate() {
            path.push(name);
            if place.whole.is_some() {
                // An upper directory is backed up whole and this is in it.
                return Ok(());
            }
            place = place.children.entry(name.as_bytes().to_vec()).or_default();
            if !place.path.as_os_str().is_empty() && place.path != path {
                let (one, other) = (place.path.display(), path.display());
                return Err(Error::Refused(format!(
                    "{one} and {other} would have the same name in the snapshot; give absolute paths"
                )));
            }
            place.path.clone_from(&path);
            if position + 1 == names.len() {
                place.whole = Some(Whole::Host);
                place.children.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(target: &Target<'_>, at: &str, found: &mut Vec<String>) {
        for (name, child) in &target.children {
            let at = format!("{at}/{}", String::from_utf8_lossy(name));
            if child.whole.is_some() {
                let path = child.path.strip_prefix(std::env::current_dir().unwrap()).unwrap_or(&child.path);
                found.push(format!("{at} = {}", path.display()));
            }
            leaves(child, &at, found);
        }
    }

    fn arranged(paths: &[&str]) -> Vec<String> {
        let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
        let mut found = Vec::new();
        leaves(&arrange(&paths).unwrap(), "", &mut found);
        found
    }

    #[test]
    fn keeps_components() {
        assert_eq!(arranged(&["/srv/www", "/etc"]), ["/etc = /etc", "/srv/www = /srv/www"]);
        assert_eq!(arranged(&["a/./b/../c"]), ["/a/c = a/c"]);
        let above = std::env::current_dir().unwrap().parent().unwrap().join("x");
        assert_eq!(arranged(&["../x"]), [format!("/x = {}", above.display())]);
        assert_eq!(arranged(&["/srv", "/srv/www"]), ["/srv = /srv"]);
        assert_eq!(arranged(&["/srv/www", "/srv"]), ["/srv = /srv"]);
    }

    #[test]
    fn refuses_two_things_of_one_name() {
        assert!(arrange(&["x".into(), "../x".into()]).is_err());
    }
}
