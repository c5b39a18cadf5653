//! Putting a file where it was asked for: whole or not at all, also when the process is killed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Lets `fill` write a file that then appears at `target`.
///
/// It has no name before it is whole, so that nothing is left of it if the process is killed. It is not synced: a server
/// syncs what it keeps of what it got, and asks again after a power cut.
pub(super) fn write(target: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    put(target, fill).map_err(Error::io("write", target))
}

fn put(target: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut beside = target.as_os_str().to_owned();
    beside.push(format!(".lifeboat-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let nameless = rustix::fs::open(directory, flags | OFlags::TMPFILE, mode);
    let put = match nameless {
        Ok(file) => {
            let mut file = File::from(file);
            fill(&mut file).and_then(|()| name(&file, target, &beside))
        }
        // Not every file system has files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let file = rustix::fs::open(&beside, flags | OFlags::CREATE | OFlags::TRUNC, mode)?;
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
}
