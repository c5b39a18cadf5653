//! The corpora: made once, kept between runs, and told apart by what they were made from.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::material::Random;
use super::tree::{self, Manifest};
use super::{files, postgres};
use crate::process::Result;

/// Counts the changes of the generators: raised with each, so that nobody measures an older corpus.
const GENERATION: u32 = 1;

/// Which data is backed up.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// 100 000 files of 3 GB together, of mixed compressibility
    Files,
    /// A PostgreSQL data directory of about 2.3 GB, made with pgbench
    Postgres,
    /// One file of 1 GiB of random bytes
    Random,
}

/// A corpus on disk and what it holds.
pub struct Corpus {
    pub kind: Kind,
    pub path: PathBuf,
    pub manifest: Manifest,
}

impl Kind {
    /// The word for it on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Postgres => "postgres",
            Kind::Random => "random",
        }
    }

    fn make(self, root: &Path, scale: f64) -> Result<()> {
        match self {
            Kind::Files => fs::create_dir(root).map_err(Into::into).and_then(|()| files::make(root, scale)),
            Kind::Postgres => postgres::make(root, scale),
            Kind::Random => {
                fs::create_dir(root)?;
                random_file(&root.join("random.bin"), ((1u64 << 30) as f64 * scale) as u64)
            }
        }
    }
}

/// Finds the corpus below `directory`, or makes it.
///
/// The manifest is written last: a corpus without one was not finished, and is made again. One that was
/// changed since is made again too, because every run begins by reading all of it.
pub fn ensure(kind: Kind, scale: f64, directory: &Path) -> Result<Corpus> {
    let name = format!("{}-{GENERATION}-{}", kind.name(), (scale * 1e6).round());
    let (path, manifest_path) = (directory.join(&name), directory.join(format!("{name}.manifest")));
    let kept = fs::read_to_string(&manifest_path).ok().and_then(|text| Manifest::from_text(&text));
    if let Some(manifest) = kept {
        if tree::read(&path).and_then(|found| manifest.expect_same(&found)).is_ok() {
            return Ok(Corpus { kind, path, manifest });
        }
        println!("{} is no longer what was made", path.display());
    }
    println!("making the corpus {} in {}", kind.name(), path.display());
    for leftover in [&path, &manifest_path] {
        remove(leftover)?;
    }
    fs::create_dir_all(directory)
        .map_err(|error| format!("failed to make {}: {error}", directory.display()))?;
    kind.make(&path, scale).map_err(|error| format!("failed to make the corpus {}: {error}", kind.name()))?;
    let manifest = tree::read(&path)?;
    fs::write(&manifest_path, manifest.to_text())?;
    Ok(Corpus { kind, path, manifest })
}

/// Removes a file or a tree; one that is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|error| format!("failed to remove {}: {error}", path.display()).into())
}

fn random_file(path: &Path, size: u64) -> Result<()> {
    let mut random = Random::seeded(3);
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    for _ in 0..size / 8 {
        file.write_all(&random.bits().to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}
