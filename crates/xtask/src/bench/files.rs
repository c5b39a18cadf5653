//! The corpus `files`: a tree of many small files and some large ones, as on a server with code, data and logs.

use std::fs;
use std::path::{Path, PathBuf};

use super::material::{Random, Vocabulary};
use crate::process::Result;

/// Files in the whole corpus, at scale 1.
const FILES: f64 = 100_000.0;
/// Bytes of the small files, at scale 1.
const SMALL_BYTES: f64 = 1.65e9;
/// Bytes of the large files, at scale 1.
const LARGE_BYTES: f64 = 1.35e9;
/// One file of so many is a large one of 1 to 30 MB.
const SMALL_PER_LARGE: usize = 333;
/// Files in a directory, on average.
const FILES_PER_DIRECTORY: usize = 20;

/// What a file holds.
#[derive(Clone, Copy)]
enum Kind {
    Source,
    Json,
    Log,
    Binary,
    Compressed,
}

/// A file to be made; equal `seed`, `size` and `kind` make equal bytes.
#[derive(Clone)]
struct Spec {
    path: PathBuf,
    kind: Kind,
    size: usize,
    seed: u64,
}

/// Makes the tree in the empty directory `root`.
pub fn make(root: &Path, scale: f64) -> Result<()> {
    let words = Vocabulary::seeded(1);
    let mut random = Random::seeded(2);
    let files = ((FILES * scale) as usize).max(SMALL_PER_LARGE);
    let directories = directories(root, files / FILES_PER_DIRECTORY, &words, &mut random);
    for directory in &directories {
        fs::create_dir(directory)
            .map_err(|error| format!("failed to make {}: {error}", directory.display()))?;
    }
    let specs = specs(&directories, files, scale, &words, &mut random);
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let (specs, words) = (&specs, &words);
                scope.spawn(move || {
                    specs.iter().skip(first).step_by(threads).try_for_each(|spec| write(spec, words))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Names directories, each below one that comes earlier in the list, deep and uneven as trees grow.
fn directories(root: &Path, count: usize, words: &Vocabulary, random: &mut Random) -> Vec<PathBuf> {
    let mut directories: Vec<(PathBuf, usize)> = Vec::with_capacity(count);
    for number in 0..count.max(40) {
        let parent = if number < 40 { None } else { Some(&directories[random.below(number)]) };
        let (parent, depth) = match parent {
            Some((path, depth)) if *depth < 9 => (path.as_path(), *depth),
            _ => (root, 0),
        };
        directories.push((parent.join(format!("{}-{number:x}", words.word(random))), depth + 1));
    }
    directories.into_iter().map(|(path, _)| path).collect()
}

/// Decides on all files: kinds and sizes by the odds below, sizes stretched so that the sums come out.
fn specs(
    directories: &[PathBuf],
    files: usize,
    scale: f64,
    words: &Vocabulary,
    random: &mut Random,
) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::with_capacity(files);
    for number in 0..files {
        let directory = &directories[(random.unit().powf(1.7) * directories.len() as f64) as usize];
        let is_large = number % SMALL_PER_LARGE == SMALL_PER_LARGE - 1;
        // Copies of whole files are everywhere: vendored code, build results, backups of backups.
        let original = if is_large || number < 100 || random.below(100) >= 6 {
            None
        } else {
            Some(random.below(number))
        };
        let (kind, size, seed) = match original
            .map(|original| &specs[original])
            .filter(|original| original.size < 1 << 20)
        {
            Some(original) => (original.kind, original.size, original.seed),
            None if is_large => {
                (large_kind(random), random.log_normal(3.5e6, 0.8).clamp(1e6, 28e6) as usize, random.bits())
            }
            None => {
                (small_kind(random), random.log_normal(4000.0, 1.5).min(900_000.0) as usize, random.bits())
            }
        };
        let path = directory.join(format!("{}_{number:x}.{}", words.word(random), extension(kind)));
        specs.push(Spec { path, kind, size, seed });
    }
    let is_large = |spec: &Spec| spec.size >= 1_000_000;
    let sum = |large: bool| {
        specs.iter().filter(|spec| is_large(spec) == large).map(|spec| spec.size).sum::<usize>() as f64
    };
    let (small, large) = (SMALL_BYTES * scale / sum(false), LARGE_BYTES * scale / sum(true));
    for spec in &mut specs {
        let stretch = if is_large(spec) { large } else { small };
        spec.size = (spec.size as f64 * stretch) as usize;
    }
    specs
}

fn small_kind(random: &mut Random) -> Kind {
    match random.below(100) {
        0..45 => Kind::Source,
        45..62 => Kind::Json,
        62..70 => Kind::Log,
        70..88 => Kind::Binary,
        _ => Kind::Compressed,
    }
}

fn large_kind(random: &mut Random) -> Kind {
    match random.below(100) {
        0..30 => Kind::Compressed,
        30..65 => Kind::Binary,
        65..85 => Kind::Log,
        _ => Kind::Json,
    }
}

fn extension(kind: Kind) -> &'static str {
    match kind {
        Kind::Source => "rs",
        Kind::Json => "json",
        Kind::Log => "log",
        Kind::Binary => "bin",
        Kind::Compressed => "gz",
    }
}

fn write(spec: &Spec, words: &Vocabulary) -> Result<()> {
    let mut random = Random::seeded(spec.seed);
    let mut content = Vec::with_capacity(spec.size + 256);
    match spec.kind {
        Kind::Source => words.source(&mut random, &mut content, spec.size),
        Kind::Json => words.json(&mut random, &mut content, spec.size),
        Kind::Log => words.log(&mut random, &mut content, spec.size),
        Kind::Binary => words.binary(&mut random, &mut content, spec.size),
        Kind::Compressed => random.fill(&mut content, spec.size),
    }
    fs::write(&spec.path, content)
        .map_err(|error| format!("failed to write {}: {error}", spec.path.display()).into())
}
