//! Putting a file where it was asked for: whole or not at all, also when the process is killed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens files without a name that can get the name of `target`; none where there are no such files.
pub(super) fn sheets(target: &Path, count: usize) -> Vec<File> {
    let opened: rustix::io::Result<Vec<File>> = (0..count).map(|_| nameless(directory(target))).collect();
    opened.unwrap_or_default()
}

/// Gives a file without a name the name `target`, also where another one has it.
///
/// Fails for one of another file system.
pub(super) fn put_sheet(file: &File, target: &Path) -> io::Result<()> {
    let beside = beside(target);
    let put = name(file, target, &beside);
    if put.is_err() {
        let _left = std::fs::remove_file(&beside);
    }
    put
}

/// The directory in which `target` lies.
pub(super) fn directory(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a file is called while another one still has the name `target`.
fn beside(target: &Path) -> PathBuf {
    let mut beside = target.as_os_str().to_owned();
    beside.push(format!(".lifeboat-{}", std::process::id()));
    beside.into()
}

fn nameless(directory: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    rustix::fs::open(directory, flags, MODE).map(File::from)
}

/// Lets `fill` write a file that then appears at `target`.
///
/// It has no name before it is whole, so that nothing is left of it if the process is killed. It is not synced: a server
/// syncs what it keeps of what it got, and asks again after a power cut.
pub(super) fn write(target: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    put(target, fill).map_err(Error::io("write", target))
}

fn put(target: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let directory = directory(target);
    let beside = beside(target);
    let put = match nameless(directory) {
        Ok(mut file) => fill(&mut file).and_then(|()| name(&file, target, &beside)),
        // Not every file system has files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::CREATE | OFlags::TRUNC;
            let file = rustix::fs::open(&beside, flags, MODE)?;
            fill(&mut File::from(file)).and_then(|()| std::fs::rename(&beside, target))
        }
        Err(error) => return Err(error.into()),
    };
    if put.is_err() {
        // What is left of it is of no use to anybody.
        let _left = std::fs::remove_file(&beside);
    }
    put
}

/// Gives a file without a name its place, also where another one is.
fn name(file: &File, target: &Path, beside: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |to: &Path| rustix::fs::linkat(CWD, &own, CWD, to, AtFlags::SYMLINK_FOLLOW);
    match link(target) {
        Err(Errno::EXIST) => {
            let _old = std::fs::remove_file(beside);
            link(beside)?;
            std::fs::rename(beside, target)
        }
        linked => Ok(linked?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        write(&target, |file| file.write_all(b"one")).unwrap();
        write(&target, |file| file.write_all(b"other")).unwrap();
        assert_eq!((std::fs::read(&target).unwrap(), names()), (b"other".to_vec(), 1));
        let cut = write(&target, |file| file.write_all(b"x").and(Err(io::Error::other("cut off"))));
        assert!(cut.is_err());
        assert_eq!((std::fs::read(&target).unwrap(), names()), (b"other".to_vec(), 1));
    }

    #[test]
    fn a_sheet_gets_its_name_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        for content in [b"one", b"two"] {
            let sheets = sheets(&target, 2);
            assert_eq!(sheets.len(), 2);
            (&sheets[0]).write_all(content).unwrap();
            put_sheet(&sheets[0], &target).unwrap();
            assert_eq!((std::fs::read(&target).unwrap(), names()), (content.to_vec(), 1));
        }
        // One of another file system cannot get a name here.
        let sheets = sheets(&Path::new("/dev/shm").join("file"), 1);
        assert!(put_sheet(&sheets[0], &target).is_err());
        assert_eq!((std::fs::read(&target).unwrap(), names()), (b"two".to_vec(), 1));
    }
}
