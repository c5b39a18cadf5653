//! Memory as a machine has it that has run for weeks: all of it in use, most of it as cache that may be reused.
//!
//! A virtual machine gives memory that it does not use back to its host, and pays for every page that it
//! takes again: writing 1 GiB to a file was seen to take 0.4 s in pages that the guest had and 4 s in pages
//! that it had to fetch, whatever the tool. Which tool meets which pages is chance, so no tool shall meet fetched ones.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::machine;
use crate::process::Result;

/// Memory that is left to what a command reads and writes; the rest is filled.
const LEFT_BYTES: u64 = 4 << 30;

/// A file without blocks on the disk whose pages fill the cache.
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Makes the file, as long as this machine has memory to spare.
    pub fn make(directory: &Path) -> Result<Self> {
        let path = directory.join("ballast");
        let bytes = machine::memory_bytes()?.saturating_sub(LEFT_BYTES);
        File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| format!("failed to make {}: {error}", path.display()))?;
        Ok(Self { path })
    }

    /// Fills the memory, and then has in the cache what the next command will read.
    pub fn fill(&self, next: &Path) -> Result<()> {
        read(&self.path)?;
        read(next)
    }
}

/// Reads a file, or every file below a directory, to its end.
fn read(path: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let failed = |error| format!("failed to read {}: {error}", path.display());
        let kind = path.symlink_metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            for entry in path.read_dir().map_err(failed)? {
                waiting.push(entry?.path());
            }
        } else if kind.is_file() {
            let mut file = File::open(&path).map_err(failed)?;
            while file.read(&mut buffer).map_err(failed)? > 0 {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_is_read_and_what_is_missing_is_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        std::fs::create_dir(scratch.path().join("below")).expect("a directory");
        std::fs::write(scratch.path().join("below/file"), "text").expect("a file");
        read(scratch.path()).expect("it is read");
        let error = read(&scratch.path().join("nothing")).expect_err("it is missing");
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
