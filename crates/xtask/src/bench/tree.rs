//! What a tree holds, in a form that two trees can be compared by: how we know that a restore was one.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::process::Result;

/// One line for every entry below a root, in the order of names.
///
/// A line has the entry's kind, mode, owner, modification time, size, SHA-256 and relative path. Access and
/// inode times are left out, and the modification times of directories, which some peers do not restore.
pub struct Manifest {
    lines: Vec<String>,
    /// Regular files.
    pub files: u64,
    /// Directories, the root itself not counted.
    pub directories: u64,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// Reads the whole tree with as many threads as there are cores.
pub fn read(root: &Path) -> Result<Manifest> {
    let mut entries = Vec::new();
    collect(root, &mut entries)?;
    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
    let mut manifest = Manifest { lines: Vec::new(), files: 0, directories: 0, bytes: 0 };
    for (_, metadata) in &entries {
        manifest.files += u64::from(metadata.is_file());
        manifest.directories += u64::from(metadata.is_dir());
        manifest.bytes += if metadata.is_file() { metadata.len() } else { 0 };
    }
    manifest.lines = lines(root, &entries)?;
    Ok(manifest)
}

impl Manifest {
    /// Fails at the first entry in which the other tree differs.
    pub fn expect_same(&self, other: &Manifest) -> Result<()> {
        let pairs = self.lines.iter().zip(&other.lines);
        if let Some((ours, theirs)) = pairs.into_iter().find(|(ours, theirs)| ours != theirs) {
            return Err(format!("the trees differ: expected\n  {ours}\nfound\n  {theirs}").into());
        }
        if self.lines.len() != other.lines.len() {
            return Err(format!(
                "the trees differ: expected {} entries, found {}",
                self.lines.len(),
                other.lines.len()
            )
            .into());
        }
        Ok(())
    }

    /// The manifest as text, to be kept beside a corpus.
    pub fn to_text(&self) -> String {
        format!("{} {} {}\n{}\n", self.files, self.directories, self.bytes, self.lines.join("\n"))
    }

    /// Reads the text of [`Manifest::to_text`]; `None` if it is not one.
    pub fn from_text(text: &str) -> Option<Self> {
        let (head, rest) = text.split_once('\n')?;
        let mut numbers = head.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let (files, directories, bytes) = (next()?, next()?, next()?);
        Some(Self { lines: rest.lines().map(str::to_owned).collect(), files, directories, bytes })
    }
}

fn collect(directory: &Path, entries: &mut Vec<(PathBuf, Metadata)>) -> Result<()> {
    for entry in directory.read_dir().map_err(|error| failed(directory, &error))? {
        let entry = entry.map_err(|error| failed(directory, &error))?;
        let (path, metadata) =
            (entry.path(), entry.metadata().map_err(|error| failed(&entry.path(), &error))?);
        if metadata.is_dir() {
            collect(&path, entries)?;
        }
        entries.push((path, metadata));
    }
    Ok(())
}

fn lines(root: &Path, entries: &[(PathBuf, Metadata)]) -> Result<Vec<String>> {
    let threads = std::thread::available_parallelism()?.get();
    let mut lines = vec![String::new(); entries.len()];
    let parts: Result<Vec<Vec<String>>> = std::thread::scope(|scope| {
        let worker = |first| {
            let mut buffer = vec![0; 1 << 18];
            entries
                .iter()
                .skip(first)
                .step_by(threads)
                .map(|(path, metadata)| line(root, path, metadata, &mut buffer))
                .collect()
        };
        let workers: Vec<_> = (0..threads).map(|first| scope.spawn(move || worker(first))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    for (first, part) in parts?.into_iter().enumerate() {
        for (number, line) in part.into_iter().enumerate() {
            lines[first + number * threads] = line;
        }
    }
    Ok(lines)
}

fn line(root: &Path, path: &Path, metadata: &Metadata, buffer: &mut [u8]) -> Result<String> {
    let relative = path.strip_prefix(root).expect("every entry lies below the root").display();
    let kept = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
    Ok(if metadata.is_file() {
        let digest = digest(path, buffer).map_err(|error| failed(path, &error))?;
        let changed = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        format!("{kept} {changed} {} {digest} {relative}", metadata.len())
    } else if metadata.is_symlink() {
        format!(
            "{kept} {relative} -> {}",
            fs::read_link(path).map_err(|error| failed(path, &error))?.display()
        )
    } else {
        format!("{kept} {relative}")
    })
}

fn digest(path: &Path, buffer: &mut [u8]) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    loop {
        match file.read(buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("failed to read {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).expect("made");
        fs::write(at("sub/a"), "one").expect("written");
        fs::write(at("b"), "two").expect("written");
        let before = read(folder.path()).expect("read");
        assert_eq!((before.files, before.directories, before.bytes), (2, 1, 6));
        before.expect_same(&read(folder.path()).expect("read")).expect("nothing has changed");
        let kept = Manifest::from_text(&before.to_text()).expect("its own text");
        kept.expect_same(&before).expect("text keeps everything");

        fs::write(at("c"), "").expect("written");
        assert!(before.expect_same(&read(folder.path()).expect("read")).is_err(), "a file more");
        fs::remove_file(at("c")).expect("removed");
        let changed = fs::metadata(at("b")).and_then(|metadata| metadata.modified()).expect("its time");
        fs::write(at("b"), "twi").expect("written");
        fs::File::options()
            .write(true)
            .open(at("b"))
            .and_then(|file| file.set_modified(changed))
            .expect("set back");
        let error = before.expect_same(&read(folder.path()).expect("read")).expect_err("a byte is other");
        assert!(error.to_string().contains(" b\n"), "{error}");
        fs::remove_file(at("b")).expect("removed");
        assert!(before.expect_same(&read(folder.path()).expect("read")).is_err(), "a file less");
    }
}
