//! The driver of files: a list of paths, walked by the repository, and names of secrets.
//!
//! What a restored tree is compared with is a [`Tally`] that the engine takes from the stored snapshot
//! itself, so that nothing is walked twice and nothing that changes in between makes them differ. It shows
//! that every entry is there with its size, mode, owner and time; that every byte is right the repository
//! shows, which verifies each chunk by its digest while it restores, and in a restore test compares every byte again.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component as Step, Path, PathBuf};

use jiff::Timestamp;

use super::{
    Cancel, Capture, CaptureRequest, Component, Content, Entry, EntryKind, FilesOptions, Finding, Finish,
    Finished, LeftToPeople, Member, Open, Part, PointFacts, Proof, Severity, State, StreamMeta, Tally,
    env_files, glob,
};
use crate::facts::{Facts, Value};
use crate::{Error, Result};

const FILES: &str = "files";
const DIRECTORIES: &str = "directories";
const OTHERS: &str = "links and special files";
const BYTES: &str = "bytes";
const SHAPE: &str = "paths, sizes, modes, times";
const OWNERS: &str = "owners";
/// Before the name of an env file's fact; its value is the names, one a line.
const NAMES_OF: &str = "names of ";

/// Files and directories.
#[derive(Debug, Clone)]
pub struct Files {
    options: FilesOptions,
}

impl Files {
    /// Makes the driver; touches nothing.
    pub fn new(options: FilesOptions) -> Self {
        Self { options }
    }

    /// The declared paths as they are now, globs expanded; one inside another is left to the outer.
    ///
    /// Fails when one is missing, cannot be read, matches nothing, or is a symbolic link, of which only the
    /// link would be kept.
    fn roots(&self) -> Result<Vec<PathBuf>> {
        let mut roots = BTreeSet::new();
        for declared in &self.options.paths {
            let path = normal(&self.options.base.join(declared));
            if glob::is_glob(declared) {
                let found = glob::expand(&path).map_err(Error::io("search", &path))?;
                if found.is_empty() {
                    let hint = "nothing matches it: correct `files:` in the plan".to_owned();
                    return Err(Error::Missing { path, hint });
                }
                roots.extend(found);
            } else {
                roots.insert(path);
            }
        }
        roots.iter().try_for_each(|root| readable(root))?;
        let inside = |root: &PathBuf| root.ancestors().skip(1).any(|outer| roots.contains(outer));
        Ok(roots.iter().filter(|root| !inside(root)).cloned().collect())
    }

    fn env_files(&self) -> Vec<PathBuf> {
        self.options.env_files.iter().map(|path| normal(&self.options.base.join(path))).collect()
    }

    /// Everything that is declared, without looking at the disk more than globs need.
    fn declared(&self) -> Vec<PathBuf> {
        let mut declared = BTreeSet::new();
        for path in &self.options.paths {
            let whole = normal(&self.options.base.join(path));
            if glob::is_glob(path) {
                declared.extend(glob::expand(&whole).unwrap_or_default());
            } else {
                declared.insert(whole);
            }
        }
        declared.extend(self.env_files());
        declared.into_iter().collect()
    }
}

impl Component for Files {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn engine(&self) -> String {
        // What a proof depends on: how entries are counted.
        "files 1".to_owned()
    }

    fn preflight(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |error: Error| {
            let hint = "a backup fails as things are".to_owned();
            findings.push(Finding { severity: Severity::Error, what: error.to_string(), hint });
        };
        if let Err(error) = self.roots() {
            find(error);
        }
        for error in self.env_files().iter().filter_map(|path| env_files::names(path).err()) {
            find(error);
        }
        findings
    }

    fn state(&self) -> Result<State> {
        let present = self.declared().iter().any(|path| fs::symlink_metadata(path).is_ok());
        let damage = present.then(|| self.roots().err().map(|error| error.to_string())).flatten();
        Ok(State { present, damage, ..State::default() })
    }

    fn capture(&self, _request: &CaptureRequest<'_>) -> Result<Capture> {
        let roots = self.roots()?;
        let mut point = PointFacts {
            kind: self.kind().to_owned(),
            engine: self.engine(),
            instant: Timestamp::now(),
            facts: Facts::default(),
            queries: [].into(),
            bytes: None,
            roots: roots.clone(),
            identity: None,
            token: None,
            details: [].into(),
            log: None,
        };
        let excludes = &self.options.excludes;
        let host = |path: PathBuf| Member {
            path_in_snapshot: path.clone(),
            content: Content::Host { path, excludes: excludes.clone(), live: false },
        };
        let mut members: Vec<Member> = roots.into_iter().map(host).collect();
        for path in self.env_files() {
            let names = env_files::names(&path)?;
            let found = fs::metadata(&path).map_err(Error::io("look at", &path))?;
            let kept = env_files::names_file(&path);
            members.push(names_member(kept.clone(), &names, &found));
            point
                .facts
                .automatic
                .insert(format!("{NAMES_OF}{}", path.display()), Value::Text(names.join("\n")));
            point.roots.push(kept);
        }
        if members.is_empty() {
            let why = "the component names no files: add some to `files:` in the plan".to_owned();
            return Err(Error::BadSource { path: self.options.base.clone(), why });
        }
        Ok(Capture { members, point, finish: Box::new(Ending) })
    }

    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part> {
        recorded.roots.iter().map(|root| Part::home(root, run)).collect()
    }

    fn prepare(&self, parts: &[Part], _recorded: &PointFacts) -> Result<()> {
        for part in parts {
            // Whether it was a file or a directory is known when it lies beside; here what is there decides.
            let is_directory = fs::symlink_metadata(&part.target).is_ok_and(|found| found.is_dir());
            super::restore::make_way(part, is_directory)?;
        }
        Ok(())
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        let mut tally = Tally::default();
        for part in parts {
            count(&part.beside, &part.in_snapshot, &mut tally, cancel)?;
        }
        let mut proof = Proof::default();
        let found = facts_of(&tally);
        for (name, value) in &found.automatic {
            match recorded.facts.automatic.get(name) {
                // Giving files to others is root's alone: what could not be done is not damage.
                Some(expected)
                    if name == OWNERS && expected != value && !rustix::process::geteuid().is_root() =>
                {
                    proof.unknown(name, expected, "only root can restore the owners of files");
                }
                Some(expected) => proof.agree(name, expected, value),
                None => proof.unknown(name, "", "the point does not record it"),
            }
        }
        Ok(proof)
    }

    fn is_proven_by_bytes(&self) -> bool {
        true
    }

    fn left_to_people(&self, recorded: &PointFacts) -> Vec<LeftToPeople> {
        let names = recorded.facts.automatic.iter().filter_map(|(fact, names)| match names {
            Value::Text(names) => Some((fact.strip_prefix(NAMES_OF)?, names)),
            _ => None,
        });
        let left = |(path, names): (&str, &String)| {
            env_files::left(Path::new(path), &names.lines().map(str::to_owned).collect::<Vec<_>>())
        };
        names.filter_map(left).collect()
    }

    fn destroy(&self) -> Vec<PathBuf> {
        self.declared()
    }
}

/// The end of a capture: what was stored is what there is to compare with.
struct Ending;

impl Finish for Ending {
    fn finish(self: Box<Self>, stored: Option<&Tally>) -> Result<Finished> {
        let Some(tally) = stored else { return Ok(Finished::default()) };
        Ok(Finished { facts: facts_of(tally), bytes: Some(tally.bytes), ..Finished::default() })
    }
}

fn facts_of(tally: &Tally) -> Facts {
    let number = |count: u64| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
    let automatic = [
        (FILES, number(tally.files)),
        (DIRECTORIES, number(tally.directories)),
        (OTHERS, number(tally.others)),
        (BYTES, number(tally.bytes)),
        (SHAPE, Value::Text(tally.shape())),
        (OWNERS, Value::Text(tally.owners())),
    ];
    Facts { automatic: automatic.map(|(name, value)| (name.to_owned(), value)).into(), ..Facts::default() }
}

fn names_member(path_in_snapshot: PathBuf, names: &[String], found: &Metadata) -> Member {
    let text = names.iter().map(|name| format!("{name}\n")).collect::<String>().into_bytes();
    let meta =
        StreamMeta { mode: found.mode() & 0o777, uid: found.uid(), gid: found.gid(), mtime: time_of(found) };
    let size = Some(text.len() as u64);
    let open: Open = Box::new(move || Ok(Box::new(Cursor::new(text)) as Box<dyn Read + Send>));
    Member {
        path_in_snapshot,
        content: Content::Stream { meta, size, block_bytes: None, open, origin: None },
    }
}

fn time_of(found: &Metadata) -> Timestamp {
    let nanoseconds = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    Timestamp::from_nanosecond(nanoseconds).unwrap_or_default()
}

/// Checks that a declared path is there and can be read, as far as that shows without a walk.
fn readable(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "create it, or correct `files:` in the plan".to_owned();
            return Err(Error::Missing { path: path.to_owned(), hint });
        }
        Err(error) => return Err(Error::io("look at", path)(error)),
    };
    if found.is_symlink() {
        let why = "it is a symbolic link, and a backup would hold the link alone: name what it points to"
            .to_owned();
        return Err(Error::BadSource { path: path.to_owned(), why });
    }
    if found.is_dir() {
        fs::read_dir(path).map(drop).map_err(Error::io("list", path))
    } else if found.is_file() {
        fs::File::open(path).map(drop).map_err(Error::io("read", path))
    } else {
        let why = "it is neither a file nor a directory".to_owned();
        Err(Error::BadSource { path: path.to_owned(), why })
    }
}

/// Counts a restored tree under the names that it has in the snapshot.
fn count(path: &Path, named: &Path, tally: &mut Tally, cancel: &Cancel) -> Result<()> {
    if cancel.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let found = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    let link;
    let kind = match found.file_type() {
        kind if kind.is_file() => EntryKind::File(found.len()),
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => {
            link = fs::read_link(path).map_err(Error::io("read", path))?;
            EntryKind::Symlink(&link)
        }
        _ => EntryKind::Special,
    };
    tally.add(&Entry {
        path: named,
        kind,
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        mtime_nanoseconds: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
    });
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
            let name = entry.map_err(Error::io("list", path))?.file_name();
            count(&path.join(&name), &named.join(&name), tally, cancel)?;
        }
    }
    Ok(())
}

/// A path without `.` and without a slash at its end; `..` stays, for what it means is up to the disk.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|step| !matches!(step, Step::CurDir)).collect()
}
