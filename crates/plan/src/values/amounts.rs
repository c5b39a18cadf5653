//! Amounts: bytes, shares, free space.

/// A number of bytes: `512`, `10KB`, `4 MiB`, `1.5GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A whole number of percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Makes a share; everything above 100 is 100.
    pub const fn new(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent })
    }

    /// Gives the percents, 0 to 100.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Gives the share, 0.0 to 1.0.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// Free space: bytes, or a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// So many bytes.
    Bytes(Bytes),
    /// Such a share.
    Percent(Percent),
}
