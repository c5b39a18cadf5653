//! Prints how fast trees are written and read and files are cut, on one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use repository::Id;
use repository::chunker::{Chunker, Gear, Polynomial, Rabin};
use repository::format::{Node, NodeKind, Time, TreeBuilder, mode_from_unix, parse_tree};

#[expect(clippy::print_stdout, reason = "an example is a program")]
fn main() {
    let nodes: Vec<Node> = (0..20_000).map(node).collect();
    let tree = build(&nodes);
    let report = |what: &str, bytes: usize, run: &mut dyn FnMut()| {
        println!("{what:12} {:7.0} MB/s", bytes as f64 / 1e6 / best_of_five(run).as_secs_f64());
    };
    report("tree build", tree.len(), &mut || _ = black_box(build(&nodes)));
    report("tree parse", tree.len(), &mut || _ = black_box(parse_tree(&tree)));

    let data = noise(256 << 20);
    let polynomial: Polynomial = "25b468838dcb75".parse().expect("it is restic's own example");
    let gear = Chunker::Gear(Box::new(Gear::new(&[7; 32])));
    let rabin = Chunker::Rabin(Box::new(Rabin::new(polynomial)));
    for (what, chunker) in [("gear", gear), ("rabin", rabin)] {
        let mut chunks = 0;
        report(what, data.len(), &mut || chunks = count(&chunker, &data));
        println!("{what:12} {:7.0} KiB on average", data.len() as f64 / 1024.0 / chunks as f64);
    }
}

fn best_of_five(run: &mut dyn FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..5).map(time).min().expect("five is more than none")
}

fn node(number: u64) -> Node {
    Node {
        name: format!("report-{number:08}.txt").into_bytes(),
        kind: NodeKind::File,
        mode: mode_from_unix(0o100_644),
        mtime: Time::new(1_600_000_000 + number as i64 * 7919, 123_456_789),
        atime: Time::new(1_700_000_000, 987_654_321),
        ctime: Time::new(1_650_000_000 + number as i64, 5_000_000),
        uid: 1000,
        gid: 1000,
        user: "somebody".to_owned(),
        group: "somebody".to_owned(),
        inode: 4_000_000 + number,
        device_id: 0,
        size: 40_000 + number,
        links: 1,
        link_target: Vec::new(),
        xattrs: Vec::new(),
        generic_attributes: None,
        device: 0,
        content: Some(vec![Id::of(&number.to_le_bytes())]),
        subtree: None,
        error: String::new(),
    }
}

fn build(nodes: &[Node]) -> Vec<u8> {
    let mut tree = TreeBuilder::new();
    for node in nodes {
        tree.add(node).expect("the names ascend");
    }
    tree.finish()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

fn count(chunker: &Chunker, mut data: &[u8]) -> usize {
    let mut chunks = 0;
    while let Some(cut) = chunker.next_cut(data, true) {
        data = &data[cut..];
        chunks += 1;
    }
    chunks
}
