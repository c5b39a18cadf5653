//! Our Rabin chunker cuts where restic cuts.

use std::fs;

use repository::Id;
use repository::chunker::{Chunker, Polynomial, Rabin};

use crate::support::restic::ResticRepository;
use crate::support::{noise, text};

#[test]
fn rabin_cuts_where_restic_cuts() {
    let repository = ResticRepository::init();
    let source = repository.source();
    for (name, data) in files() {
        fs::write(source.join(name), data).unwrap();
    }
    let root = repository.backup(&source);

    let config: serde_json::Value = serde_json::from_slice(&repository.run(["cat", "config"])).unwrap();
    let polynomial: Polynomial = config["chunker_polynomial"].as_str().unwrap().parse().unwrap();
    let chunker = Chunker::Rabin(Box::new(Rabin::new(polynomial)));
    let nodes = repository.directory(root, &source);
    assert_eq!(nodes.len(), files().len());
    for node in nodes {
        let name = String::from_utf8(node.name).unwrap();
        let data = fs::read(source.join(&name)).unwrap();
        assert_eq!(blobs(&chunker, &data), node.content.unwrap(), "{name}");
    }
}

fn blobs(chunker: &Chunker, mut data: &[u8]) -> Vec<Id> {
    let mut blobs = Vec::new();
    while let Some(cut) = chunker.next_cut(data, true) {
        blobs.push(Id::of(&data[..cut]));
        data = &data[cut..];
    }
    blobs
}

/// Noise, text, zeros, and lengths around those where the chunker changes what it does.
fn files() -> Vec<(String, Vec<u8>)> {
    const KIB: usize = 1024;
    let mut files = vec![
        ("noise".to_owned(), noise(1, 30_000 * KIB)),
        ("text".to_owned(), text(20_000 * KIB)),
        ("zeros".to_owned(), vec![0; 9_000 * KIB]),
        ("noise after zeros".to_owned(), [vec![0; 3_000 * KIB], noise(2, 9_000 * KIB)].concat()),
        ("repeated".to_owned(), noise(3, 700).repeat(10_000)),
    ];
    for length in [0, 1, 512 * KIB - 1, 512 * KIB, 512 * KIB + 1, 8192 * KIB, 8192 * KIB + 1] {
        files.push((format!("noise of {length}"), noise(4, length)));
        files.push((format!("ones of {length}"), vec![1; length]));
    }
    files
}
