//! What several tests need: trees of files, repositories of ours and of restic's, child processes.

pub mod child;
pub mod engine;
pub mod nasty;
pub mod restic;
pub mod tree;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

/// Bytes that compress well, without long repetitions.
pub fn text(bytes: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line: u32| format!("{line} is followed by {}\n", line + 1).into_bytes());
    lines.take(bytes).collect()
}

/// Whether the tests run as root, who may make devices and mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
