//! Diff, find and stats: the same answers as restic.

use std::collections::BTreeSet;
use std::path::Path;

use repository::diff::{Difference, diff};
use repository::find::{FindQuery, Found, find};
use repository::stats::{StatsMode, stats};
use repository::{BlobReader, Context, Index};

use crate::sample::Sample;

#[test]
fn diffs_as_restic_does() {
    for sample in [Sample::ours(), Sample::restics()] {
        let repository = sample.open();
        std::fs::remove_file(sample.source().join("empty")).unwrap();
        std::fs::create_dir(sample.source().join("empty")).unwrap();
        let inside = sample.source().join("empty/inside");
        std::fs::write(&inside, "x").unwrap();
        let inside = inside.to_str().unwrap().to_owned();
        let third = sample.back_up(&repository);
        let index = Index::load(&repository, Context::silent()).unwrap();
        let reader = BlobReader::new(&repository, &index);
        let snapshots = repository.snapshots().unwrap();
        for pair in snapshots.windows(2) {
            let mut found = BTreeSet::new();
            let (before, after) = (pair[0].snapshot.tree, pair[1].snapshot.tree);
            let summary = diff(&reader, &before, &after, Context::silent(), &mut |entry| {
                let sign = match entry.difference {
                    Difference::Added => '+',
                    Difference::Removed => '-',
                    Difference::Kind => 'T',
                    Difference::Content => 'M',
                    Difference::Metadata => return Ok(()),
                };
                found.insert((sign, entry.path.to_str().unwrap().to_owned()));
                Ok(())
            })
            .unwrap();
            let text = sample.restic(&["diff", &pair[0].id.to_hex(), &pair[1].id.to_hex()]);
            let restics: BTreeSet<(char, String)> = text
                .lines()
                .filter_map(|line| {
                    let (sign, path) = line.split_once("    ")?;
                    let sign = sign.trim().chars().next()?;
                    ("+-MT".contains(sign) && path.starts_with('/'))
                        .then(|| (sign, path.trim_end_matches('/').to_owned()))
                })
                .collect();
            assert!(!restics.is_empty(), "{text}");
            // restic does not say what is in a directory that was a file before.
            assert_eq!(found.remove(&('+', inside.clone())), pair[1].id == third);
            assert_eq!(found, restics, "{text}");
            if pair[1].id == third {
                assert_eq!((summary.kinds_changed, summary.added.files), (1, 1));
            } else {
                let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                let (added, removed) = (summary.added.files, summary.removed.files);
                let line =
                    format!("Files: {added} new, {removed} removed, {} changed", summary.files_changed);
                assert!(words.join(" ").contains(&line), "{line} is not in {text}");
                assert!(summary.added.bytes > 4_000_000 && summary.removed.bytes > 4_000_000);
            }
        }
        let same = snapshots[0].snapshot.tree;
        let nothing = diff(&reader, &same, &same, Context::silent(), &mut |_| panic!("no difference"));
        assert_eq!(nothing.unwrap(), Default::default());
    }
}

fn found(sample: &Sample, query: &FindQuery) -> BTreeSet<(String, String)> {
    let repository = sample.open();
    let index = Index::load(&repository, Context::silent()).unwrap();
    let reader = BlobReader::new(&repository, &index);
    let mut all = BTreeSet::new();
    find(&reader, &repository.snapshots().unwrap(), query, Context::silent(), &mut |found| {
        match found {
            Found::Entry { snapshot, path, .. } => {
                all.insert((snapshot.id.to_hex(), path.to_str().unwrap().to_owned()));
            }
            Found::Unreadable { error, .. } => panic!("{error}"),
        }
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn finds_names_as_restic_does() {
    let sample = Sample::ours();
    for pattern in ["*.txt", "noise", "only-*", "1?.txt", "nothing"] {
        let query = FindQuery::patterns(&[pattern], false).unwrap();
        let ours = found(&sample, &query);
        let json: serde_json::Value =
            serde_json::from_str(&sample.restic(&["find", "--json", pattern])).unwrap();
        let mut restics = BTreeSet::new();
        for snapshot in json.as_array().unwrap() {
            for found in snapshot["matches"].as_array().unwrap() {
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                restics.insert((text(&snapshot["snapshot"]), text(&found["path"])));
            }
        }
        assert_eq!(ours, restics, "{pattern}");
        assert_eq!(ours.is_empty(), pattern == "nothing");
    }
    let whole = sample.source().join("same/deep/3.txt");
    let query = FindQuery::patterns(&[whole.to_str().unwrap()], false).unwrap();
    assert_eq!(found(&sample, &query).len(), 2);
    let mut query = FindQuery::patterns(&["NOISE"], true).unwrap();
    assert_eq!(found(&sample, &query).len(), 2);
    query.older_than = Some(Default::default());
    assert_eq!(found(&sample, &query).len(), 0);
}

#[test]
fn finds_who_has_a_pack() {
    let sample = Sample::ours();
    let repository = sample.open();
    let index = Index::load(&repository, Context::silent()).unwrap();
    let packs = (0..index.pack_count()).map(|number| index.pack_id(number)).collect();
    let everything = found(&sample, &FindQuery::packs(&index, &packs));
    let ends_in = |name: &str| everything.iter().any(|(_, path)| Path::new(path).ends_with(name));
    assert!(ends_in("same/deep") && ends_in("noise") && !ends_in("link"), "{everything:?}");
    assert_eq!(found(&sample, &FindQuery::packs(&index, &Default::default())), BTreeSet::new());
}

#[test]
fn counts_as_restic_does() {
    for sample in [Sample::ours(), Sample::restics()] {
        let repository = sample.open();
        std::fs::hard_link(sample.source().join("changing"), sample.source().join("again")).unwrap();
        sample.back_up(&repository);
        let index = Index::load(&repository, Context::silent()).unwrap();
        let reader = BlobReader::new(&repository, &index);
        let snapshots = repository.snapshots().unwrap();
        for (mode, name) in [
            (StatsMode::RestoreSize, "restore-size"),
            (StatsMode::FilesByContents, "files-by-contents"),
            (StatsMode::BlobsPerFile, "blobs-per-file"),
            (StatsMode::RawData, "raw-data"),
        ] {
            let ours = stats(&repository, &reader, &snapshots, mode, Context::silent()).unwrap();
            let json: serde_json::Value =
                serde_json::from_str(&sample.restic(&["stats", "--json", "--mode", name])).unwrap();
            assert_eq!(json["total_size"].as_u64(), Some(ours.bytes), "{name}: {json}");
            if mode == StatsMode::RawData {
                assert_eq!(json["total_blob_count"].as_u64(), Some(ours.blobs), "{name}: {json}");
                assert!(ours.plain_bytes > 0);
            } else if mode != StatsMode::BlobsPerFile {
                // In that mode it depends on the order of the snapshots, which is random there.
                assert_eq!(json["total_file_count"].as_u64(), Some(ours.files), "{name}: {json}");
            }
        }
    }
}
