//! Our patterns against stock restic's, on a real tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use repository::Patterns;

use crate::support::restic::ResticRepository;
use crate::support::tree::read_tree;

const FILES: [&str; 14] = [
    "a/x/b/y/c",
    "dir1/foo/dir2/bar/file",
    "dir1/foo/x.go",
    "foo/bar/file",
    "foo/dir2/bar/file",
    "foo/other",
    "keep.log",
    "other.LOG",
    "other.log",
    "s[1]/a?c",
    "s[1]/a*c",
    "s1/a\u{e4}c",
    "very/deep/keep.log",
    "x.tar.gz",
];

/// Each list of patterns is given to `restic backup --exclude`; what it keeps must be what we do not choose.
#[test]
fn excludes_are_restics() {
    let restic = ResticRepository::init();
    let source = restic.source();
    for file in FILES {
        std::fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        std::fs::write(source.join(file), b"").unwrap();
    }
    let root = source.to_str().unwrap();
    let anchored = |pattern: &str| format!("{root}/{pattern}");
    let lists: Vec<(Vec<String>, bool)> = vec![
        (vec!["*.go".into()], false),
        (vec!["foo/**/bar".into()], false),
        (vec!["foo/*/bar".into()], false),
        (vec![anchored("foo")], false),
        (vec![anchored("**/bar/file")], false),
        (vec!["foo/**".into()], false),
        (vec!["*.log".into(), "!keep.log".into()], false),
        (vec!["*.log".into(), "!keep.log".into(), "deep/*".into()], false),
        (vec!["*.LOG".into()], true),
        (vec!["a?c".into()], false),
        (vec!["a\\?c".into(), "s\\[1\\]/a\\**".into()], false),
        (vec!["[a-e]".into(), "*.tar.*".into()], false),
        (vec!["[^f]oo".into(), "other".into(), "./s1/".into()], false),
        (vec!["a/**/b/**/c".into(), "x/../dir1/foo/x.go".into()], false),
    ];
    for (patterns, insensitive) in lists {
        let option = if insensitive { "--iexclude" } else { "--exclude" };
        let mut arguments = vec!["backup".to_owned(), root.to_owned()];
        arguments.extend(patterns.iter().flat_map(|pattern| [option.to_owned(), pattern.clone()]));
        restic.run(&arguments);
        let listed = String::from_utf8(restic.run(["ls", "latest"])).unwrap();
        let theirs: BTreeSet<PathBuf> = listed
            .lines()
            .map(PathBuf::from)
            .filter(|path| path.starts_with(root) && path != &source)
            .collect();
        let compiled = Patterns::parse(patterns.iter().map(String::as_str), insensitive).unwrap();
        let excluded = |path: &Path| {
            path.ancestors().take_while(|above| *above != source).any(|above| compiled.matches(above))
        };
        let ours: BTreeSet<PathBuf> = read_tree(&source)
            .into_keys()
            .map(|path| source.join(path))
            .filter(|path| !excluded(path))
            .collect();
        assert_eq!(ours, theirs, "{patterns:?}");
    }
}
