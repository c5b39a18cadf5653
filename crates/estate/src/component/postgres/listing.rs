//! What of a data directory is read, and how: relation files page by page, everything else as it lies there.
//!
//! # Left out
//! As the documentation of the low-level base backup says, and `basebackup.c` does: the contents (not the directories)
//! of `pg_wal`, `pg_replslot`, `pg_dynshmem`, `pg_notify`, `pg_serial`, `pg_snapshots`, `pg_stat_tmp` and
//! `pg_subtrans`; temporary files and relations, and all of an unlogged relation but its empty form; caches that the
//! server makes anew; what belongs to the running server only.
//!
//! # Afterwards
//! A relation that is made after the listing is in the log that the backup comes with, and so is everything that is
//! written to a file beyond the length that it had when it was listed.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::whole::{self, Ended, Unread};
use super::super::{Content, Member, Open, StreamMeta};
use super::control;
use super::pages::{self, BLOCK_BYTES, Damage, PageReader};
use super::unchanged::{Before, Looked};

/// Directories of which only the directory itself is kept. `pg_wal` comes last, with what the backup needs.
const CONTENTS: &[&str] =
    &["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Files at the top of a data directory that are of the running server, or of another backup.
const FILES: &[&str] = &[
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_manifest",
    "recovery.signal",
    "standby.signal",
];
/// What comes when all else has been read.
pub(super) const LATER: &[&str] = &["backup_label", "tablespace_map", control::PATH, "pg_wal"];

/// A place for relations outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Tablespace {
    /// Its number, which is its name in `pg_tblspc`.
    pub oid: String,
    /// Its directory; others than this cluster may have their own directories in it.
    pub location: PathBuf,
}

/// What is needed to list.
pub(super) struct Layout<'a> {
    pub data: &'a Path,
    /// The directory of this cluster's version in every tablespace, such as `PG_15_202209061`.
    pub version: String,
    /// Pages have checksums of `Some` many pages in each part of a relation.
    pub part_pages: Option<u64>,
}

/// What all readers of a capture share.
#[derive(Default)]
pub(super) struct Readers {
    pub damage: Damage,
    pub unread: Unread,
    pub looked: Arc<Looked>,
    /// The directories below which files are known by their times.
    pub local: Vec<PathBuf>,
}

/// A relation file as it was when it was listed.
#[derive(Debug)]
pub(super) struct RelationFile {
    path: PathBuf,
    found: Metadata,
}

/// Finds the tablespaces that are links; those that lie in the data directory are read with it.
pub(super) fn tablespaces(data: &Path) -> io::Result<Vec<Tablespace>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join("pg_tblspc"))? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            let oid = entry.file_name().to_string_lossy().into_owned();
            found.push(Tablespace { oid, location: fs::read_link(entry.path())? });
        }
    }
    found.sort();
    Ok(found)
}

/// Lists all relation files.
pub(super) fn relations(layout: &Layout<'_>, tablespaces: &[Tablespace]) -> io::Result<Vec<RelationFile>> {
    let mut files = Vec::new();
    one_directory(&layout.data.join("global"), &mut files)?;
    let in_place = fs::read_dir(layout.data.join("pg_tblspc"))?.flatten().map(|entry| entry.path());
    let in_place = in_place.filter(|path| !path.is_symlink()).map(|path| path.join(&layout.version));
    let outside = tablespaces.iter().map(|tablespace| tablespace.location.join(&layout.version));
    for upper in std::iter::once(layout.data.join("base")).chain(in_place).chain(outside) {
        for database in entries(&upper)? {
            let is_temporary = database.file_name().to_string_lossy().starts_with("pgsql_tmp");
            if !is_temporary && database.file_type().is_ok_and(|kind| kind.is_dir()) {
                one_directory(&database.path(), &mut files)?;
            }
        }
    }
    Ok(files)
}

/// Lists the files of one database in one tablespace.
fn one_directory(directory: &Path, files: &mut Vec<RelationFile>) -> io::Result<()> {
    let found = entries(directory)?;
    let name = |entry: &DirEntry| entry.file_name().to_string_lossy().into_owned();
    let unlogged: BTreeSet<String> =
        found.iter().filter_map(|entry| name(entry).strip_suffix("_init").map(str::to_owned)).collect();
    for entry in found {
        let name = name(&entry);
        if is_left_out(&name) || is_unlogged(&name, &unlogged) || entry.path().ends_with(control::PATH) {
            continue;
        }
        match entry.metadata() {
            Ok(found) if found.is_file() => files.push(RelationFile { path: entry.path(), found }),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The entries of a directory, none when it is gone.
fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(directory) {
        Ok(found) => found.collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display()))),
    }
}

/// Temporary files, caches, and relations of sessions: `t3_16384`.
fn is_left_out(name: &str) -> bool {
    let temporary =
        name.strip_prefix('t').and_then(|rest| rest.split_once('_')).is_some_and(|(session, rest)| {
            let digits = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
            digits(session) && digits(rest)
        });
    temporary || name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init")
}

/// A file of a relation that recovery begins anew, other than the one from which it does so.
fn is_unlogged(name: &str, unlogged: &BTreeSet<String>) -> bool {
    let relation = name.split(['_', '.']).next().unwrap_or_default();
    unlogged.contains(relation) && !name.strip_prefix(relation).is_some_and(|fork| fork.starts_with("_init"))
}

/// Everything that is left out of the walk, in the repository's patterns.
pub(super) fn excludes(layout: &Layout<'_>, tablespaces: &[Tablespace]) -> io::Result<Vec<String>> {
    let mut excludes = Vec::new();
    let data = escaped(layout.data);
    excludes.extend(CONTENTS.iter().map(|name| format!("{data}/{name}/*")));
    excludes.extend(FILES.iter().map(|name| format!("{data}/{name}")));
    // Relations are members of their own.
    excludes.push(format!("{data}/base/*/*"));
    excludes.push(format!("{data}/base/pgsql_tmp*"));
    excludes.push(format!("{data}/global/*"));
    excludes.push(format!("{data}/pg_tblspc/*/*/*/*"));
    for tablespace in tablespaces {
        let location = escaped(&tablespace.location);
        excludes.push(format!("{location}/{}/*/*", escaped(Path::new(&layout.version))));
        excludes.push(format!("{location}/{}/pgsql_tmp*", escaped(Path::new(&layout.version))));
        for other in entries(&tablespace.location)? {
            if other.file_name().to_str() != Some(&layout.version) {
                excludes.push(escaped(&other.path()));
            }
        }
    }
    Ok(excludes)
}

/// A path as a pattern that matches nothing else.
fn escaped(path: &Path) -> String {
    let mut pattern = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A directory that is walked while the server writes to it.
pub(super) fn live(path: &Path, excludes: &[String]) -> Member {
    let content = Content::Host { path: path.to_owned(), excludes: excludes.to_vec(), live: true };
    Member { path_in_snapshot: path.to_owned(), content }
}

impl RelationFile {
    /// How long it was when it was listed.
    pub(super) fn bytes(&self) -> u64 {
        self.found.len()
    }

    /// As a member that is read page by page, or not at all if it is as `before`.
    pub(super) fn member(self, layout: &Layout<'_>, before: &Before, readers: &Readers) -> Member {
        let Self { path, found } = self;
        let first = layout.part_pages.and_then(|pages| pages::first_page(&path, pages));
        let (end, meta, path_in_snapshot) = (found.len(), StreamMeta::of(&found), path.clone());
        let unread = whole::expect(&readers.unread);
        let is_local = readers.local.iter().any(|directory| path.starts_with(directory));
        let origin = is_local.then(|| {
            let unread = Unread::clone(&unread);
            before.origin(&path, &found, &readers.looked, move || whole::taken(&unread))
        });
        let (damage, looked) = (Damage::clone(&readers.damage), Arc::clone(&readers.looked));
        let open: Open = Box::new(move || {
            let pages = PageReader::open(path, end, first, damage, looked)?;
            Ok(Box::new(Ended::new(pages, unread)))
        });
        // Its length is not known: it may be cut meanwhile.
        let content = Content::Stream { meta, size: None, block_bytes: Some(BLOCK_BYTES), open, origin };
        Member { path_in_snapshot, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recovery_makes_anew_is_left_out() {
        for name in ["t3_16384", "t12_16384_fsm", "pgsql_tmp123.0", "pg_internal.init", "pg_internal.init.99"]
        {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["16384", "tables", "t_1", "PG_VERSION", "pg_filenode.map"] {
            assert!(!is_left_out(name), "{name}");
        }
        let unlogged = BTreeSet::from(["16384".to_owned()]);
        for name in ["16384", "16384.1", "16384_fsm", "16384_vm.1"] {
            assert!(is_unlogged(name, &unlogged), "{name}");
        }
        for name in ["16384_init", "16384_init.1", "163840", "16385_fsm"] {
            assert!(!is_unlogged(name, &unlogged), "{name}");
        }
    }

    #[test]
    fn the_files_of_a_directory_are_chosen() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["1", "1.1", "2", "2_init", "2_fsm", "t1_5", "pgsql_tmp9.0", "PG_VERSION", "pg_internal.init"]
        {
            fs::write(directory.path().join(name), name).unwrap();
        }
        fs::create_dir(directory.path().join("pgsql_tmp")).unwrap();
        let mut files = Vec::new();
        one_directory(directory.path(), &mut files).unwrap();
        let mut names: Vec<_> = files.iter().map(|file| file.path.file_name().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["1", "1.1", "2_init", "PG_VERSION"]);
        one_directory(Path::new("/no/such/directory"), &mut files).unwrap();
        assert_eq!(escaped(Path::new("/a[1]/b*")), "/a\\[1]/b\\*");
    }
}
