//! Files and free space.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use estate::check::{Answer, CONTENT_BYTES_MAX, Disk, FileExpect, Properties, Question, TextMatch};

use super::{ask, ask_for, fails, holds, refused, unknown};

fn present(path: &Path, properties: Properties) -> Question {
    let expect = FileExpect::Present(properties);
    Question::File(estate::check::File { path: path.to_owned(), expect })
}

fn absent(path: &Path) -> Question {
    Question::File(estate::check::File { path: path.to_owned(), expect: FileExpect::Absent })
}

#[test]
fn there_and_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fails(&ask(present(&file, Properties::default())), "is not there");
    holds(&ask(absent(&file)));
    fs::write(&file, "hello").unwrap();
    holds(&ask(present(&file, Properties::default())));
    fails(&ask(absent(&file)), "5 bytes");
    holds(&ask(present(folder.path(), Properties::default())));
    // Below a file there is nothing.
    holds(&ask(absent(&file.join("below"))));
    fails(&ask(present(&file.join("below"), Properties::default())), "is not there");
    let dangling = folder.path().join("link");
    symlink("/nowhere", &dangling).unwrap();
    fails(&ask(present(&dangling, Properties::default())), "is not there");
    fails(&ask(absent(&dangling)), "is there");
}

#[test]
fn size_digest_and_content() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "hello\n").unwrap();
    let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let with_size = |bytes| Properties { bytes_min: Some(bytes), ..Properties::default() };
    let with_digest = |digest: &str| Properties { sha256: Some(digest.into()), ..Properties::default() };
    let with_content =
        |text: &str| Properties { content: Some(TextMatch::Contains(text.into())), ..Properties::default() };
    holds(&ask(present(&file, with_size(6))));
    fails(&ask(present(&file, with_size(7))), "found 6 bytes");
    holds(&ask(present(&file, with_digest(digest))));
    holds(&ask(present(&file, with_digest(&digest.to_uppercase()))));
    fails(&ask(present(&file, with_digest(&digest.replace('5', "6")))), "has other content");
    assert!(refused(present(&file, with_digest("abc"))).contains("64 hexadecimal digits"));
    holds(&ask(present(&file, with_content("ell"))));
    fails(&ask(present(&file, with_content("bye"))), "found hello");
    fails(&ask(present(folder.path(), with_size(1))), "is no regular file");
}

#[test]
fn a_file_too_large_to_search_is_not_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    File::create(&path).unwrap().set_len(CONTENT_BYTES_MAX + 1).unwrap();
    let content = Properties { content: Some(TextMatch::Contains("x".into())), ..Properties::default() };
    unknown(&ask(present(&path, content)), "check its sha256 instead");
    // A digest may take longer than the check has.
    File::create(&path).unwrap().set_len(64 << 30).unwrap();
    let digest = Properties { sha256: Some("0".repeat(64)), ..Properties::default() };
    unknown(&ask_for(present(&path, digest), Duration::from_millis(200)), "no answer within 200ms");
}

#[test]
fn age_counts_and_the_future_is_no_age() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = File::create(&path).unwrap();
    let hour = Duration::from_secs(3600);
    let young = || Properties { younger_than: Some(hour), ..Properties::default() };
    holds(&ask(present(&path, young())));
    file.set_modified(SystemTime::now() - 2 * hour).unwrap();
    fails(&ask(present(&path, young())), "is too old");
    file.set_modified(SystemTime::now() + hour).unwrap();
    unknown(&ask(present(&path, young())), "modified in the future");
}

#[test]
fn what_cannot_be_read_is_not_judged() {
    // Opening it for reading fails for everybody, root included.
    let path = Path::new("/proc/sys/vm/compact_memory");
    if !path.exists() {
        return;
    }
    let content = Properties { content: Some(TextMatch::Contains("x".into())), ..Properties::default() };
    unknown(&ask(present(path, content)), "cannot read /proc/sys/vm/compact_memory");
}

#[test]
fn free_space_is_measured() {
    let disk = |path: &str, bytes, percent| {
        Question::Disk(Disk { path: path.into(), free_bytes_min: bytes, free_percent_min: percent })
    };
    holds(&ask(disk("/tmp", Some(1), None)));
    holds(&ask(disk("/tmp", Some(1), Some(0.000_001))));
    fails(&ask(disk("/tmp", Some(u64::MAX), None)), "is too full");
    fails(&ask(disk("/proc", None, Some(1.0))), "0.0 %");
    unknown(&ask(disk("/nowhere", Some(1), None)), "cannot measure the disk at /nowhere");
    assert!(refused(disk("/tmp", None, None)).contains("expects nothing"));
    assert!(refused(disk("/tmp", Some(0), None)).contains("expects nothing"));
    assert!(refused(disk("/tmp", None, Some(101.0))).contains("percent"));
    // As df counts it.
    let Answer::Holds { detail } = ask(disk("/", Some(1), None)) else { panic!("the root has nothing free") };
    let shown =
        std::process::Command::new("df").args(["--output=size,used,avail", "-B1", "/"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let numbers: Vec<f64> =
        shown.lines().nth(1).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
    let percent = numbers[2] * 100.0 / (numbers[1] + numbers[2]);
    let found: f64 = detail.trim_end_matches(" %").rsplit(' ').next().unwrap().parse().unwrap();
    assert!((found - percent).abs() < 1.0, "{detail} and {shown}");
}
