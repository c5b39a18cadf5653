//! Sheets: files without a name in the directory where files of a log are wanted, which whoever asks opens, and the helper fills.
//!
//! They go along with the question, so that they are the asker's own and on its file system, and one that is filled comes
//! back with the answer: to give it its name is all that is left to do then. What will be asked for next is in one already.
//! Nothing is left of a sheet when both processes are gone.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;

/// How many go along with a question: one for the answer, one for what will be asked for next.
pub(super) const PASSED: usize = 2;
/// So much has to be free on their file system if they are to be filled ahead, in bytes; otherwise memory holds that.
const ROOM: u64 = 1 << 30;

/// Where a sheet can get its name, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Home {
    /// The directory.
    directory: (u64, u64),
    user: u32,
    group: u32,
}

/// Empty sheets of one home.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    home: Option<Home>,
    files: Vec<File>,
}

/// A sheet that is empty.
#[derive(Debug)]
pub(super) struct Blank {
    home: Home,
    file: File,
}

/// A sheet that holds a file of the log.
#[derive(Debug)]
pub(super) struct Filled {
    pub home: Home,
    pub bytes: u64,
    pub file: File,
}

impl Sheets {
    /// Takes files for sheets that came along with a question; none of them if one is anything but empty and nameless.
    pub fn of(files: Vec<OwnedFd>, directory: Option<(u64, u64)>) -> Self {
        let files: Vec<File> = files.into_iter().map(File::from).collect();
        let homes = || {
            files.iter().map(|file| {
                let found = file.metadata().ok()?;
                let is_blank = found.is_file() && found.nlink() == 0 && found.len() == 0;
                let (user, group) = (found.uid(), found.gid());
                is_blank.then_some(Home { directory: directory?, user, group })
            })
        };
        let home = homes().next().flatten();
        if home.is_none() || homes().any(|other| other != home) {
            return Self::default();
        }
        Self { home, files }
    }

    pub fn home(&self) -> Option<Home> {
        self.home
    }

    /// Adds others, of which not more than `most` are kept; those of another home take the place of these.
    pub fn add(&mut self, others: Self, most: usize) {
        if others.home.is_none() {
            return;
        }
        if self.home != others.home {
            *self = Self { home: others.home, files: Vec::new() };
        }
        self.files.extend(others.files);
        self.files.truncate(most);
    }

    /// Takes one of this home.
    pub fn take(&mut self, home: Home) -> Option<Blank> {
        let file = self.files.pop_if(|_| self.home == Some(home))?;
        Some(Blank { home, file })
    }
}

impl Blank {
    /// Whether so much is free where it lies that a server will not miss what is written ahead.
    pub fn has_room(&self) -> bool {
        rustix::fs::fstatvfs(&self.file)
            .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM)
    }

    /// Writes what it is to hold.
    pub fn fill(mut self, pieces: &[Bytes]) -> io::Result<Filled> {
        pieces.iter().try_for_each(|piece| self.file.write_all(piece))?;
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Ok(Filled { home: self.home, bytes, file: self.file })
    }
}

impl Filled {
    /// Reads what it holds, for somebody who cannot use the sheet itself.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(self.bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(directory: &std::path::Path) -> OwnedFd {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).unwrap()
    }

    #[test]
    fn only_what_is_empty_and_nameless_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let at = Some((1, 2));
        let path = directory.path().join("file");
        let named = || OwnedFd::from(File::create(&path).unwrap());
        let full = || {
            let file = File::from(blank(directory.path()));
            (&file).write_all(b"x").unwrap();
            OwnedFd::from(file)
        };
        let fifo = OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
        assert!(Sheets::of(vec![blank(directory.path()), blank(directory.path())], at).home().is_some());
        assert!(Sheets::of(vec![blank(directory.path()), named()], at).home().is_none());
        assert!(Sheets::of(vec![full()], at).home().is_none());
        assert!(Sheets::of(vec![fifo], at).home().is_none());
        assert!(Sheets::of(vec![blank(directory.path())], None).home().is_none());
        assert!(Sheets::of(Vec::new(), at).home().is_none());
    }

    #[test]
    fn a_sheet_is_used_where_it_belongs() {
        let directory = tempfile::tempdir().unwrap();
        let new = |inode: u64| Sheets::of(vec![blank(directory.path())], Some((1, inode)));
        let (one, other) = (new(1).home().unwrap(), new(2).home().unwrap());
        let mut sheets = Sheets::default();
        sheets.add(new(1), 2);
        assert!(sheets.take(other).is_none());
        let filled = sheets.take(one).unwrap().fill(&["ab".into(), "c".into()]).unwrap();
        assert_eq!((filled.bytes, filled.read().unwrap()), (3, Bytes::from_static(b"abc")));
        (0..5).for_each(|_| sheets.add(new(1), 2));
        assert_eq!(sheets.files.len(), 2);
        // Another directory is another home; no sheets change nothing.
        sheets.add(new(2), 2);
        sheets.add(Sheets::default(), 2);
        assert!(sheets.take(one).is_none() && sheets.take(other).is_some() && sheets.take(other).is_none());
    }
}
