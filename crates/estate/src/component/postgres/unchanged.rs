//! Which relation files may be taken from the point before without being read, and what that leaves unlooked at.
//!
//! # Why it is safe
//! A file whose device, inode, length and times are the same has the same bytes, because no write leaves the time of
//! change as it was. That holds on the file systems of `LOCAL`, whose times are this machine's, and for times that lay back
//! far enough when the file was read: the repository keeps no others. A write that was stamped before the file was read and
//! took effect only afterwards would be missed; that is why [`wait_for_writers`] is called between.
//!
//! # When everything is read all the same
//! When the point before is another cluster's, of another timeline or of the future; when it did not say what it is; and when
//! everything was last read `WHOLE_EVERY` ago, because damage that comes by itself changes no time. Files in which damage was
//! found are read each time, so that it is told each time.
//!
//! The rules are pgBackRest's (`manifest.c`), with the inode and its time of change, which nobody can set back, in the place of
//! the time of modification.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};

use super::super::{Origin, PointFacts};
use super::detail;

/// After how long everything is read again.
const WHOLE_EVERY: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How many damaged files are remembered; with more of them everything is read.
const DAMAGED_MAX: usize = 1000;
/// File systems that give every change a time of this machine's clock: ext2 to 4, xfs, btrfs, f2fs, bcachefs, zfs, tmpfs.
const LOCAL: &[u64] = &[0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x0102_1994];

/// What was read and what was not, counted by all readers of a capture.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Bytes that were read.
    pub read: AtomicU64,
    /// Pages whose checksums were verified.
    pub pages: AtomicU64,
    /// Files that are as the point before has them.
    pub kept_files: AtomicU64,
    /// Bytes of those.
    pub kept_bytes: AtomicU64,
}

/// What the point before allows.
pub(super) struct Before {
    /// When everything was last read, and the files that are to be read in any case; nothing if all of them are.
    whole: Option<(Timestamp, BTreeSet<PathBuf>)>,
}

impl Before {
    /// Judges the point before, for a capture of the cluster `identity` on `timeline` that begins `now`.
    pub(super) fn of(
        previous: Option<&PointFacts>,
        identity: &str,
        timeline: Option<&str>,
        now: Timestamp,
    ) -> Self {
        let judge = || {
            let before = previous?;
            let detail = |name: &str| before.details.get(name);
            let is_same = before.identity.as_deref() == Some(identity)
                && timeline.is_some()
                && detail(detail::TIMELINE).map(String::as_str) == timeline;
            let whole: Timestamp = detail(detail::READ_WHOLE)?.parse().ok()?;
            let damaged: BTreeSet<PathBuf> = serde_json::from_str(detail(detail::DAMAGED)?).ok()?;
            let is_past = whole <= before.instant && before.instant <= now;
            let is_fresh = now.duration_since(whole) < WHOLE_EVERY;
            (is_same && is_past && is_fresh && damaged.len() <= DAMAGED_MAX).then_some((whole, damaged))
        };
        Self { whole: judge() }
    }

    /// When everything was last read, if not now.
    pub(super) fn read_whole(&self) -> Option<Timestamp> {
        self.whole.as_ref().map(|(whole, _)| *whole)
    }

    /// What is known of a file on a file system that [`is_local`].
    pub(super) fn origin(
        &self,
        path: &Path,
        found: &fs::Metadata,
        looked: &Arc<Looked>,
        counted: impl FnOnce() + Send + 'static,
    ) -> Origin {
        let may_be_kept = self.whole.as_ref().is_some_and(|(_, damaged)| !damaged.contains(path));
        let (bytes, looked) = (found.len(), Arc::clone(looked));
        let kept = move || {
            looked.kept_files.fetch_add(1, Ordering::Relaxed);
            looked.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
            counted();
        };
        Origin::of(found, may_be_kept.then(|| Box::new(kept) as Box<dyn FnOnce() + Send>))
    }
}

/// Tells whether the file system of a directory gives every change a time by which it is known.
pub(super) fn is_local(directory: &Path) -> bool {
    let found = rustix::fs::statfs(directory);
    found.is_ok_and(|found| LOCAL.contains(&u64::try_from(found.f_type).unwrap_or_default()))
}

/// Waits for writes to a file that were stamped and have not taken effect: looking for data takes the lock that they hold (ext4,
/// xfs and btrfs).
pub(super) fn wait_for_writers(file: &File) {
    // What it finds is of no interest, nor is a file without data.
    let _found = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
}

impl Looked {
    /// What was read, for people; `whole` is when everything last was.
    pub(super) fn in_words(&self, whole: Option<Timestamp>) -> Option<String> {
        let [read, pages, files, kept] = [&self.read, &self.pages, &self.kept_files, &self.kept_bytes]
            .map(|counter| counter.load(Ordering::Relaxed));
        let whole = whole.filter(|_| files > 0)?;
        let verified = if pages > 0 { format!(" and {pages} pages verified") } else { String::new() };
        Some(format!(
            "{read} bytes of relations read{verified}; {kept} bytes in {files} files are unchanged by their times and were not \
             read, as they all last were at {whole:.0}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(details: &[(&str, &str)]) -> PointFacts {
        let details = details.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        PointFacts {
            identity: Some("system 7".to_owned()),
            instant: "2026-11-21T12:00:00Z".parse().unwrap(),
            details: details.collect(),
            ..PointFacts::example("postgres")
        }
    }

    #[test]
    fn the_point_before_must_be_of_this_cluster_timeline_and_past() {
        let good =
            [("timeline", "3"), ("read_whole", "2026-11-21T11:00:00Z"), ("damaged", "[\"/d/base/5/1\"]")];
        let before = point(&good);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-21T13:00:00Z");
        let judge = |before: &PointFacts, identity, timeline, now| {
            Before::of(Some(before), identity, timeline, now).read_whole()
        };
        assert_eq!(judge(&before, "system 7", Some("3"), now), Some(at("2026-11-21T11:00:00Z")));
        assert_eq!(judge(&before, "system 8", Some("3"), now), None);
        assert_eq!(judge(&before, "system 7", Some("4"), now), None);
        assert_eq!(judge(&before, "system 7", None, now), None);
        assert_eq!(judge(&before, "system 7", Some("3"), at("2026-11-21T11:30:00Z")), None, "clock set back");
        assert_eq!(judge(&before, "system 7", Some("3"), at("2026-11-29T00:00:00Z")), None, "long ago");
        for left_out in 0..good.len() {
            let some: Vec<_> =
                good.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, pair)| *pair).collect();
            assert_eq!(judge(&point(&some), "system 7", Some("3"), now), None, "{left_out}");
        }
        assert_eq!(Before::of(None, "system 7", Some("3"), now).read_whole(), None);

        let directory = tempfile::tempdir().unwrap();
        let found = fs::metadata(directory.path()).unwrap();
        let kept = |path: &str| {
            let before = Before::of(Some(&before), "system 7", Some("3"), now);
            before.origin(Path::new(path), &found, &Arc::default(), || ()).as_before.is_some()
        };
        assert!(kept("/d/base/5/2"));
        assert!(!kept("/d/base/5/1"), "a damaged file is read each time");
        assert!(!is_local(Path::new("/proc")) && !is_local(Path::new("/none")));
    }
}
