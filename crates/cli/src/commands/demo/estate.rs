//! The made-up tree, and what disaster does to it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::proof::{At, Error};
use crate::units::{count, counted};

/// What was made, as far as a look at the tree does not tell it.
#[derive(Debug, Default)]
pub struct Made {
    pub sparse_files: u64,
}

const FOLDERS: u64 = 150;
const FILES_IN_FOLDER: u64 = 20;
const LARGE_FILES: u64 = 4;
const LARGE_BYTES: usize = 8 << 20;
const SPARSE_FILES: u64 = 3;
const SPARSE_BYTES: u64 = 64 << 20;

/// Makes the tree at `root`.
pub fn make(root: &Path, seed: u64) -> Result<Made, Error> {
    let mut random = Random(seed);
    fs::create_dir(root).at("make", root)?;
    for number in 0..FOLDERS {
        let folder = folder(root, number);
        fs::create_dir_all(&folder).at("make", &folder)?;
        for file in 0..FILES_IN_FOLDER {
            make_file(&folder, file, &mut random)?;
        }
        make_links(&folder, number)?;
    }
    make_large(root, &mut random)?;
    make_odd(root)?;
    // Directories last: what is made in them changes their times.
    for number in 0..FOLDERS {
        set_time(&folder(root, number), &mut random)?;
    }
    Ok(Made { sparse_files: SPARSE_FILES })
}

fn folder(root: &Path, number: u64) -> PathBuf {
    root.join(format!("area-{:02}/folder-{number:03}", number % 12))
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("file-{number:02}"))
}

/// Mostly text, some random bytes, some nothing; of all modes and ages.
fn make_file(folder: &Path, number: u64, random: &mut Random) -> Result<(), Error> {
    let path = file(folder, number);
    let length = 1 + random.below(24_000) as usize;
    let bytes = match number {
        0 => Vec::new(),
        n if n % 5 == 1 => random.bytes(length),
        _ => random.text(length),
    };
    fs::write(&path, bytes).at("write", &path)?;
    if number % 7 == 3 {
        // A file system without attributes is no reason to do without the demo; the report counts them.
        let _unsupported = rustix::fs::setxattr(
            &path,
            "user.lifeboat.demo",
            &random.bytes(12),
            rustix::fs::XattrFlags::empty(),
        );
    }
    set_time(&path, random)?;
    let mode = [0o644, 0o600, 0o755, 0o440, 0o664][random.below(5) as usize];
    fs::set_permissions(&path, Permissions::from_mode(mode)).at("set the mode of", &path)
}

fn make_links(folder: &Path, number: u64) -> Result<(), Error> {
    if number.is_multiple_of(3) {
        let path = folder.join("hard-link");
        fs::hard_link(file(folder, 2), &path).at("link", &path)?;
    }
    let path = folder.join("symlink");
    let target =
        if number.is_multiple_of(4) { "../nowhere".to_owned() } else { format!("file-{:02}", number % 20) };
    symlink(target, &path).at("link", &path)
}

fn make_large(root: &Path, random: &mut Random) -> Result<(), Error> {
    for number in 0..LARGE_FILES {
        let path = root.join(format!("large-{number}"));
        fs::write(&path, random.bytes(LARGE_BYTES)).at("write", &path)?;
        set_time(&path, random)?;
    }
    for number in 0..SPARSE_FILES {
        let path = root.join(format!("sparse-{number}"));
        let mut file = File::create(&path).at("write", &path)?;
        file.set_len(SPARSE_BYTES).at("write", &path)?;
        for _ in 0..4 {
            file.seek(SeekFrom::Start(random.below(SPARSE_BYTES - 4096))).at("write", &path)?;
            file.write_all(&random.bytes(4096)).at("write", &path)?;
        }
        set_time(&path, random)?;
    }
    Ok(())
}

fn make_odd(root: &Path) -> Result<(), Error> {
    for name in [&b"not \xff utf-8"[..], b"with \"quotes\" and \\", b"line\nbreak", "ünïcödé".as_bytes()]
    {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, name).at("write", &path)?;
    }
    let path = root.join("empty folder");
    fs::create_dir(&path).at("make", &path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o1777)).at("set the mode of", &path)?;
    let path = root.join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o620);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).at("make", &path)
}

/// An odd instant of the last years, down to the nanosecond.
fn set_time(path: &Path, random: &mut Random) -> Result<(), Error> {
    let time = Duration::new(1_500_000_000 + random.below(200_000_000), random.below(1_000_000_000) as u32);
    set_modified(path, SystemTime::UNIX_EPOCH + time)
}

fn set_modified(path: &Path, time: SystemTime) -> Result<(), Error> {
    File::open(path).and_then(|file| file.set_modified(time)).at("set the time of", path)
}

/// What was damaged.
#[derive(Debug, Default)]
pub struct Damage {
    /// Every path that is not as it was, relative to the root.
    pub paths: Vec<PathBuf>,
    deleted: u64,
    truncated: u64,
    flipped: u64,
    changed_modes: u64,
    replaced: u64,
    strangers: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files deleted, {} truncated, {} with flipped bits under the same size and time, {} with \
             another mode, {} replaced, {}",
            count(self.deleted),
            count(self.truncated),
            count(self.flipped),
            count(self.changed_modes),
            count(self.replaced),
            counted(self.strangers, "stranger", "strangers")
        )
    }
}

/// Damages the tree that [`make`] made: each folder in one way, and one of the large files.
pub fn damage(root: &Path, seed: u64) -> Result<Damage, Error> {
    let mut random = Random(seed ^ 0xdead);
    let mut damage = Damage::default();
    for number in 0..FOLDERS {
        let folder = folder(root, number);
        // Files 4 to 19 are never hard-linked, so that a damage hits exactly one path.
        let path = file(&folder, 4 + random.below(16));
        match number % 6 {
            0 => {
                damage.delete_folder(&folder)?;
                continue;
            }
            1 => {
                fs::remove_file(&path).at("delete", &path)?;
                damage.deleted += 1;
            }
            2 => damage.truncate(&path)?,
            3 => damage.flip(&path, &mut random)?,
            4 => damage.change_mode(&path)?,
            _ => damage.replace(&path)?,
        }
        damage.paths.push(path);
    }
    let large = root.join("large-0");
    damage.flip(&large, &mut random)?;
    damage.paths.push(large);
    let stranger = root.join("area-01/stranger");
    fs::write(&stranger, "not from here").at("write", &stranger)?;
    damage.strangers += 1;
    damage.paths.push(stranger);
    for path in &mut damage.paths {
        *path = path.strip_prefix(root).map(Path::to_owned).expect("all lie below the root");
    }
    Ok(damage)
}

impl Damage {
    fn delete_folder(&mut self, folder: &Path) -> Result<(), Error> {
        for entry in fs::read_dir(folder).at("list", folder)? {
            self.paths.push(entry.at("list", folder)?.path());
            self.deleted += 1;
        }
        self.paths.push(folder.to_owned());
        fs::remove_dir_all(folder).at("delete", folder)
    }

    fn truncate(&mut self, path: &Path) -> Result<(), Error> {
        let length = fs::metadata(path).at("look at", path)?.len();
        writable(path)?;
        let file = OpenOptions::new().write(true).open(path).at("truncate", path)?;
        file.set_len(length / 2).at("truncate", path)?;
        self.truncated += 1;
        Ok(())
    }

    /// As a failing disk does it: nothing but the content changes.
    fn flip(&mut self, path: &Path, random: &mut Random) -> Result<(), Error> {
        let metadata = fs::metadata(path).at("look at", path)?;
        writable(path)?;
        let file = OpenOptions::new().read(true).write(true).open(path).at("open", path)?;
        let offset = random.below(metadata.size());
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).at("read", path)?;
        byte[0] ^= 1 << random.below(8);
        file.write_all_at(&byte, offset).at("write", path)?;
        drop(file);
        set_modified(path, metadata.modified().at("look at", path)?)?;
        fs::set_permissions(path, metadata.permissions()).at("set the mode of", path)?;
        self.flipped += 1;
        Ok(())
    }

    fn change_mode(&mut self, path: &Path) -> Result<(), Error> {
        let mode = fs::metadata(path).at("look at", path)?.mode();
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 ^ 0o101))
            .at("set the mode of", path)?;
        self.changed_modes += 1;
        Ok(())
    }

    /// A directory where a file was.
    fn replace(&mut self, path: &Path) -> Result<(), Error> {
        fs::remove_file(path).at("delete", path)?;
        fs::create_dir(path).at("make", path)?;
        let inside = path.join("in the way");
        fs::write(&inside, "x").at("write", &inside)?;
        self.replaced += 1;
        Ok(())
    }
}

fn writable(path: &Path) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(0o600)).at("set the mode of", path)
}

/// Numbers that a seed settles, by SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn text(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "harbour", "ledger", "rope", "invoice", "signal", "keel", "order", "watch", "tide", "archive",
            "crew", "lantern", "freight", "anchor", "log", "storm",
        ];
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            text.extend(WORDS[self.below(16) as usize].bytes());
            text.push(if self.below(12) == 0 { b'\n' } else { b' ' });
        }
        text.truncate(length);
        text
    }
}
