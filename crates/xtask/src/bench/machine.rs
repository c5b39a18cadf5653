//! The machine that was measured on, as a report may say it: what it is, never which one.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Result, output};

/// Instructions that decide how fast a backup program can hash and encrypt.
const INSTRUCTIONS: &[&str] = &["sha_ni", "aes", "vaes", "avx2", "avx512f"];

/// Describes processor, memory, kernel and the file system of `directory`, a fact in each line.
pub fn describe(directory: &Path) -> Result<Vec<(&'static str, String)>> {
    let processor = read("/proc/cpuinfo")?;
    let flags = field(&processor, "flags").unwrap_or_default();
    let instructions: Vec<&str> = flags.split(' ').filter(|flag| INSTRUCTIONS.contains(flag)).collect();
    let memory_bytes = memory_bytes()?;
    let file_system =
        output(Command::new("findmnt").args(["--noheadings", "--output=FSTYPE", "--target"]).arg(directory))?;
    // What follows the version names whoever built the kernel, which may name the place.
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    Ok(vec![
        ("processor", field(&processor, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("instructions", instructions.join(", ")),
        ("memory", format!("{:.0} GiB", memory_bytes as f64 / (1u64 << 30) as f64)),
        ("kernel", format!("Linux {kernel}")),
        ("file system", file_system),
    ])
}

/// All the memory that the machine has.
pub fn memory_bytes() -> Result<u64> {
    let kib: u64 = field(&read("/proc/meminfo")?, "MemTotal")
        .and_then(|total| total.split(' ').next()?.parse().ok())
        .ok_or("/proc/meminfo tells no total")?;
    Ok(kib * 1024)
}

/// How many processes wanted a processor in the last minute: above nothing before the run, others disturbed it.
pub fn load() -> Result<f64> {
    let load = read("/proc/loadavg")?;
    load.split(' ')
        .next()
        .and_then(|minute| minute.parse().ok())
        .ok_or_else(|| "/proc/loadavg has another form".into())
}

/// Today, as `2026-01-31`.
pub fn date() -> Result<String> {
    output(Command::new("date").args(["--utc", "+%F"]))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("failed to read {path}: {error}").into())
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}
