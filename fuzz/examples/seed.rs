//! Makes seeds: `seed REPOSITORY PASSWORD PREFIX` writes what lies in a small local repository, opened, into the corpus
//! of the targets, under names that begin with PREFIX.
#![allow(clippy::print_stdout, reason = "a tool of the developers")]

use std::path::Path;
use std::sync::Arc;

use repository::event::Context;
use repository::format::BlobKind;
use repository::{BlobReader, Clock, FileKind, Index, Repository};
use store::Local;

/// Seeds of a target that are kept from one repository, and how long each may be.
const SEEDS_MAX: usize = 3;
const SEED_BYTES_MAX: usize = 8 << 10;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [location, password, prefix] = arguments.as_slice() else {
        return Err("usage: seed REPOSITORY PASSWORD PREFIX".into());
    };
    let store = Arc::new(Local::open(location)?);
    let repository = Repository::open(store, password.as_bytes(), Clock::system())?;
    let mut config = repository.store().get("config")?;
    let config = repository.key().open(&mut config)?.to_vec();
    write(prefix, "small_files", vec![config])?;
    let load = |kind| -> Result<Vec<Vec<u8>>> {
        repository.list(kind)?.iter().map(|(id, _)| Ok(repository.load(kind, id)?)).collect()
    };
    write(prefix, "index_file", load(FileKind::Index)?)?;
    write(prefix, "snapshot", load(FileKind::Snapshot)?)?;
    let keys = repository.list(FileKind::Key)?;
    let key = repository.store().get(&FileKind::Key.object(&keys[0].0))?;
    write(&format!("{prefix}-key"), "small_files", vec![key])?;
    let raw: Vec<Vec<u8>> = repository
        .list(FileKind::Snapshot)?
        .iter()
        .map(|(id, _)| {
            let mut sealed = repository.store().get(&FileKind::Snapshot.object(id))?;
            Ok(repository.key().open(&mut sealed)?.to_vec())
        })
        .collect::<Result<_>>()?;
    write(prefix, "sealed_file", raw)?;
    let index = Index::load(&repository, Context::silent())?;
    let reader = BlobReader::new(&repository, &index);
    let mut trees = Vec::new();
    let mut blobs = Vec::new();
    for location in index.iter().filter(|location| location.blob.kind == BlobKind::Tree) {
        trees.push(reader.read(BlobKind::Tree, &location.blob.id)?);
        let mut sealed = Vec::new();
        let (start, length) = (u64::from(location.blob.offset), u64::from(location.blob.length));
        let object = FileKind::Pack.object(&index.pack_id(location.pack));
        repository.store().get_range(&object, start..start + length, &mut sealed)?;
        let opened = repository.key().open(&mut sealed)?;
        blobs.push([location.blob.uncompressed_length.to_le_bytes().as_slice(), opened].concat());
    }
    write(prefix, "tree", trees)?;
    write(prefix, "blob", blobs)?;
    let mut headers = Vec::new();
    for (id, _) in repository.list(FileKind::Pack)? {
        let pack = repository.store().get(&FileKind::Pack.object(&id))?;
        let (rest, length) = pack.split_last_chunk::<4>().ok_or("a pack of less than four bytes")?;
        let start = rest.len() - u32::from_le_bytes(*length) as usize;
        headers.push(repository.key().open(&mut rest[start..].to_vec())?.to_vec());
    }
    write(prefix, "pack_header", headers)
}

fn write(prefix: &str, target: &str, mut seeds: Vec<Vec<u8>>) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&directory)?;
    seeds.retain(|seed| seed.len() <= SEED_BYTES_MAX);
    seeds.sort_by_key(|seed| std::cmp::Reverse(seed.len()));
    for (number, seed) in seeds.iter().take(SEEDS_MAX).enumerate() {
        std::fs::write(directory.join(format!("{prefix}-{number}")), seed)?;
        println!("{target}: {} bytes", seed.len());
    }
    Ok(())
}
