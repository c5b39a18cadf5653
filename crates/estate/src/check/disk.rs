//! The check of free space.

use super::answer::Answer;
use super::question::Disk;
use super::{Asking, Invalid};

/// A question about free space that has been understood.
#[derive(Debug)]
pub(super) struct DiskCheck(Disk);

/// What ordinary users have of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Space {
    free: u64,
    all: u64,
}

impl Space {
    fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.free as f64 * 100.0 / self.all as f64 }
    }
}

impl DiskCheck {
    pub(super) fn new(disk: Disk) -> Result<DiskCheck, Invalid> {
        if disk.free_bytes_min.is_none() && disk.free_percent_min.is_none() {
            return Err(Invalid::NoExpectation {
                what: format!("the disk at {}", disk.path.display()),
                example: "free bytes or free percent",
            });
        }
        if disk.free_percent_min.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            return Err(Invalid::Value {
                what: "the share of free space".into(),
                why: "it is a number of percent from 0 to 100",
            });
        }
        if disk.free_bytes_min.unwrap_or(0) == 0 && disk.free_percent_min.unwrap_or(0.0) == 0.0 {
            return Err(Invalid::NoExpectation {
                what: format!("the disk at {}", disk.path.display()),
                example: "more than nothing",
            });
        }
        Ok(DiskCheck(disk))
    }

    pub(super) fn question(&self) -> &Disk {
        &self.0
    }

    pub(super) fn describe(&self) -> String {
        let bytes = self.0.free_bytes_min.map(|bytes| format!("{bytes} bytes"));
        let percent = self.0.free_percent_min.map(|percent| format!("{percent} %"));
        let parts: Vec<String> = bytes.into_iter().chain(percent).collect();
        format!("the disk at {} has {} free", self.0.path.display(), parts.join(" and "))
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        let path = &self.0.path;
        let failed =
            |why: String| Answer::unknown(format!("cannot measure the disk at {}: {why}", path.display()));
        match asking.place.within(|| rustix::fs::statvfs(path)) {
            Ok(Ok(stat)) => self.judge(Space {
                free: stat.f_bavail.saturating_mul(stat.f_frsize),
                // As df does: what is reserved for root belongs neither to the free nor to the whole.
                all: (stat.f_blocks - stat.f_bfree + stat.f_bavail).saturating_mul(stat.f_frsize),
            }),
            Ok(Err(error)) => failed(error.to_string()),
            Err(error) => failed(error.to_string()),
        }
    }

    fn judge(&self, space: Space) -> Answer {
        let found = format!("{} bytes free, {:.1} %", space.free, space.percent());
        let enough = self.0.free_bytes_min.is_none_or(|least| space.free >= least)
            && self.0.free_percent_min.is_none_or(|least| space.percent() >= least);
        if enough {
            return Answer::Holds { detail: format!("{}: {found}", self.0.path.display()) };
        }
        Answer::fails(format!("the disk at {} is too full", self.0.path.display()), self.describe(), found)
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Disk, DiskCheck, Space};

    #[test]
    fn both_limits_must_hold() {
        let judge = |bytes, percent| {
            let disk = Disk { path: "/".into(), free_bytes_min: bytes, free_percent_min: percent };
            DiskCheck::new(disk).unwrap().judge(Space { free: 250, all: 1000 })
        };
        assert!(judge(Some(250), None).holds());
        assert!(judge(None, Some(25.0)).holds());
        assert!(judge(Some(250), Some(25.0)).holds());
        assert!(matches!(judge(Some(251), Some(25.0)), Answer::Fails { .. }));
        assert!(matches!(judge(Some(250), Some(25.1)), Answer::Fails { .. }));
    }

    #[test]
    fn a_file_system_without_blocks_has_nothing_free() {
        assert_eq!(Space { free: 0, all: 0 }.percent(), 0.0);
    }
}
