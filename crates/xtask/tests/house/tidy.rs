//! How files are kept: every module says what it is, no file grows without end, nothing unfinished is left
//! behind, documents point at what is there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace;

/// In a longer file nobody finds his way; split it by what a reader looks for.
const LINES_MAX: usize = 900;

/// Signs of work that was left for later, written in two halves so that this file does not hold them.
const UNFINISHED: &[(&str, &str)] = &[("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK:")];

/// A test that passes by any panic, also by one that it was not written for.
const HOLLOW: &[(&str, &str)] = &[("#[should_", "panic")];

#[test]
fn every_module_says_what_lives_there() {
    report(&files("rs"), |text| match text.lines().next() {
        Some(first) if first.starts_with("//! ") => None,
        _ => Some("does not begin with a `//!` header".into()),
    });
}

#[test]
fn no_file_is_too_long_to_find_ones_way() {
    report(&files("rs"), |text| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("has {lines} lines, more than {LINES_MAX}"))
    });
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let sources = [files("rs"), files("toml"), files("md")].concat();
    report(&sources, |text| found_any(text, UNFINISHED));
}

#[test]
fn every_test_counts() {
    report(&files("rs"), |text| found_any(text, HOLLOW).or_else(|| left_out(text)));
}

#[test]
fn tests_that_are_left_out_are_found() {
    let text =
        |reason: &str| format!("#[ig\u{6e}ore{reason}]\nfn helper() {{}}\n#[test]\nfn parent() {{}}\n");
    assert_eq!(left_out(&text(" = \"is started by parent\"")), None);
    for reason in ["", " = \"is slow\"", " = \"is started by nobody\""] {
        assert!(left_out(&text(reason)).is_some(), "{reason}");
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests: Vec<PathBuf> = files("toml")
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml") && *path != workspace().join("Cargo.toml"))
        .collect();
    report(&manifests, |text| {
        (!text.contains("[lints]\nworkspace = true")).then(|| "has lints of its own".into())
    });
}

#[test]
fn documents_link_to_what_is_there() {
    let documents = files("md");
    let mut broken = Vec::new();
    for document in &documents {
        let folder = document.parent().expect("a file lies in a folder");
        for target in relative_links(&read(document)) {
            let inside = folder.join(&target).canonicalize().is_ok_and(|path| path.starts_with(workspace()));
            if !inside {
                broken.push(format!("{}: link to {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn links_are_recognised() {
    let text = "a [page](docs/a.md#part), [out](https://example.org), [here](#part) and ![pic](b.png)";
    assert_eq!(relative_links(text), ["docs/a.md", "b.png"]);
    assert_eq!(found_any("a // TO\u{44}O: later", UNFINISHED).as_deref(), Some("holds `TO\u{44}O`"));
}

/// The targets of Markdown links that are paths, without the part after `#`.
fn relative_links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let paths = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    paths.filter(|path| !path.is_empty() && !path.contains("://")).map(str::to_owned).collect()
}

/// Finds a test that is left out of the run, unless it is the other half of one in the same file: what
/// must run in a process of its own is a test with the reason `is started by …`.
fn left_out(text: &str) -> Option<String> {
    let attributes = text.split("#[ig\u{6e}ore").skip(1).filter_map(|rest| rest.split_once(']'));
    let is_helper = |attribute: &str| {
        let parent = attribute.strip_prefix(" = \"is started by ").and_then(|rest| rest.strip_suffix('"'));
        parent.is_some_and(|parent| text.contains(&format!("fn {parent}(")))
    };
    let mut left_out = attributes.map(|(attribute, _)| attribute).filter(|attribute| !is_helper(attribute));
    left_out.next().map(|attribute| format!("has a test that is never run: ignore{attribute}"))
}

fn found_any(text: &str, words: &[(&str, &str)]) -> Option<String> {
    let mut words = words.iter().map(|(head, tail)| format!("{head}{tail}"));
    words.find(|word| text.contains(word)).map(|word| format!("holds `{word}`"))
}

/// Fails with all findings at once; a list of files that is empty by mistake fails too.
fn report(paths: &[PathBuf], finding: impl Fn(&str) -> Option<String>) {
    assert!(!paths.is_empty(), "no file was looked at");
    let found =
        paths.iter().filter_map(|path| finding(&read(path)).map(|what| format!("{} {what}", path.display())));
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// All files of the clone with that extension, without what builds leave behind.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(workspace(), extension, &mut found);
    found
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("the clone can be read").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let left_behind = name == "target" || name.to_string_lossy().starts_with('.');
        if is_folder && !left_behind {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}
