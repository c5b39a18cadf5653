//! What `/proc` of this host tells about processes: parents, sessions, names, sockets, marks.
//!
//! Processes of a twin are in it, too, under numbers of the host. It must not be read on a thread that is within
//! a twin. Whatever has gone in the meantime or may not be seen is simply not there.

use std::fs;
use std::path::{Path, PathBuf};

/// What `/proc/PID/stat` tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) alive: bool,
}

/// Every process that can be seen.
pub(crate) fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Looks at a process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(of(pid, "stat")).ok()?)
}

/// The name of its program as the kernel keeps it; empty if it may not be seen.
pub(crate) fn name(pid: i32) -> String {
    let bytes = fs::read(of(pid, "comm")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
}

/// The inodes of all sockets that a process has open.
pub(crate) fn sockets(pid: i32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(of(pid, "fd")) else { return Vec::new() };
    let inode = |target: PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok().and_then(inode)).collect()
}

/// Tells whether a process was started with this very variable in its environment.
pub(crate) fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let environment = fs::read(of(pid, "environ")).unwrap_or_default();
    let wanted = format!("{name}={value}");
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

/// The number that a process has in its own PID namespace, which is what it and its twin know it by.
pub(crate) fn pid_inside(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(of(pid, "status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

/// Tells whether a process is in the control group of this path, or in one below it.
pub(crate) fn is_in_control_group(pid: i32, group: &str) -> bool {
    let text = fs::read_to_string(of(pid, "cgroup")).unwrap_or_default();
    // HIERARCHY:CONTROLLERS:PATH
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.into_iter().any(|path| Path::new(path).starts_with(group))
}

/// Names this start of the machine: numbers of processes mean nothing after the next.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn of(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// The second field is the name in parentheses, which may hold anything, so counting begins behind the last one.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X" | "x");
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { parent: number()?, group: number()?, session: number()?, alive })
}

#[cfg(test)]
mod tests {
    use super::{Stat, has_variable, parse_stat};

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let stat = parse_stat(b"7 (a) R 1 2) S 3 4 5 0 -1");
        assert_eq!(stat, Some(Stat { parent: 3, group: 4, session: 5, alive: true }));
        for damaged in [&b""[..], b"7 (x", b"7 (x) S 1 2", b"7 (x) S a b c"] {
            assert_eq!(parse_stat(damaged), None);
        }
    }

    #[test]
    fn a_variable_counts_only_whole() {
        let path = std::fs::read("/proc/self/environ").unwrap();
        let first = path.split(|byte| *byte == 0).find(|variable| variable.contains(&b'=')).unwrap();
        let (name, value) = std::str::from_utf8(first).unwrap().split_once('=').unwrap();
        let me = std::process::id().cast_signed();
        assert!(has_variable(me, name, value));
        assert!(!has_variable(me, name, &format!("{value}-")));
    }
}
