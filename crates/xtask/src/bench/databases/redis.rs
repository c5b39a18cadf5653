//! `redis`: a server full of documents, backed up and brought back, beside `BGSAVE`, `cp` and `gzip`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::corpus;
use super::super::material::{Random, Vocabulary};
use super::document::{Section, Unit};
use super::home::{Bench, Beside, Home, as_user, find, text, wait};
use crate::packages::{Package, on_path};
use crate::process::{Result, not_started, output};

/// What brings the server.
pub const PACKAGE: Package = Package { name: "redis-server", present: || on_path("redis-server") };
/// The user of the server, who owns its data directory.
const USER: &str = "redis";
/// Bytes of documents at scale 1.
const BYTES: f64 = 1e9;
/// A document in bytes: the middle of a log-normal distribution.
const DOCUMENT_BYTES: f64 = 1400.0;

const BACKUP: &str = "backup";
const BACKUP_AT_ONCE: &str = "backup, `repl-diskless-sync-delay 0`";
const SECOND: &str = "second backup, 1 % changed, `repl-diskless-sync-delay 0`";
const PLAIN: &str = "restore of the files";
const PROVEN: &str = "restore, proven by a server that has loaded it";

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("redis");
    let mut section = Section { title: "Redis", columns: vec!["lifeboat", "by hand"], ..Section::default() };
    let home = bench.home("redis", Some(USER))?;
    let data = home.empty("data")?;
    let server = Server::start(&home, &data, "s")?;
    println!("filling the server");
    let filled = fill(&server, BYTES * bench.scale)?;
    for run in 0..bench.runs {
        let lifeboat = bench.home(&format!("redis-{run}"), None)?;
        lifeboat.plan(&format!(
            "  cache:\n    redis: {}\n    socket: {}\n    facts: {{ keys: DBSIZE }}\n",
            text(&data)?,
            text(&server.socket)?
        ))?;
        let digest = server.ask(&["DEBUG", "DIGEST"])?;
        back_up(bench, &lifeboat, &server, &mut section)?;
        restore(bench, &home, &lifeboat, &digest, &mut section)?;
        change(&server, filled.keys, run)?;
        section.add(SECOND, Unit::Seconds, 0, back_up_at_once(bench, &lifeboat, &server, SECOND)?);
        corpus::remove(&lifeboat.path)?;
    }
    let used: f64 = server.used_memory()?;
    server.process.stop()?;
    corpus::remove(&home.path)?;
    section.about = format!(
        "A server with {} documents of {:.2} GB together, of which it uses {:.2} GB of memory. By hand a backup is `BGSAVE`, \
         waiting for it, `cp` and `gzip`, and a restore `gunzip` into an empty directory; proven, a server is then started on it \
         and awaited until it has loaded everything. Lifeboat takes the dump as a replica does, for which a server waits \
         `repl-diskless-sync-delay` seconds, 5 by default; it reads the dump whole, counts its keys, and asks a private server \
         with the dump for the one fact of the plan. Its proven restore (`lifeboat restore --to`) does that, too; the other one is \
         `lifeboat repository restore`. What was restored had the digest of the live server (`DEBUG DIGEST`).",
        filled.keys,
        filled.bytes as f64 / 1e9,
        used / 1e9
    );
    Ok(section)
}

fn back_up(bench: &Bench, lifeboat: &Home, server: &Server, section: &mut Section) -> Result<()> {
    let seconds = bench.time("lifeboat: backup", &lifeboat.lifeboat(&["backup"]), &server.data)?;
    section.add(BACKUP, Unit::Seconds, 0, seconds);
    let repository = lifeboat.path.join("repository");
    // The next first backup is one into an empty repository again.
    let kept = lifeboat.path.join("kept");
    fs::rename(&repository, &kept)?;
    let init = ["repository", "init", "--repository", "repository", "--password-file", "password"];
    bench.untimed(&lifeboat.lifeboat(&init))?;
    let at_once = back_up_at_once(bench, lifeboat, server, BACKUP_AT_ONCE)?;
    section.add(BACKUP_AT_ONCE, Unit::Seconds, 0, at_once);
    corpus::remove(&kept)?;

    let cli = format!("redis-cli -s '{}'", text(&server.socket)?);
    let data = text(&server.data)?;
    let line = format!(
        "{cli} BGSAVE; until {cli} INFO persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.05; done; \
         {cli} INFO persistence | grep -q rdb_last_bgsave_status:ok; cp '{data}/dump.rdb' by-hand.rdb; gzip -f by-hand.rdb"
    );
    let seconds = bench.time("by hand: BGSAVE, cp, gzip", &lifeboat.shell(&line), &server.data)?;
    section.add(BACKUP, Unit::Seconds, 1, seconds);
    section.add(BACKUP_AT_ONCE, Unit::Seconds, 1, seconds);
    Ok(())
}

fn back_up_at_once(bench: &Bench, lifeboat: &Home, server: &Server, what: &str) -> Result<f64> {
    server.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])?;
    let seconds = bench.time(&format!("lifeboat: {what}"), &lifeboat.lifeboat(&["backup"]), &server.data);
    server.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "5"])?;
    seconds
}

fn restore(bench: &Bench, home: &Home, lifeboat: &Home, digest: &str, section: &mut Section) -> Result<()> {
    let repository = lifeboat.path.join("repository");
    let plain = lifeboat.path.join("plain");
    let options = ["--repository", "repository", "--password-file", "password", "--target", text(&plain)?];
    let words: Vec<&str> = ["repository", "restore", "latest"].into_iter().chain(options).collect();
    let seconds = bench.time("lifeboat: restore of the files", &lifeboat.lifeboat(&words), &repository)?;
    section.add(PLAIN, Unit::Seconds, 0, seconds);
    expect_dump(home, &plain, digest)?;
    corpus::remove(&plain)?;

    let to = lifeboat.path.join("proven");
    fs::create_dir(&to)?;
    let words = ["restore", "cache", "--to", text(&to)?, "--yes"];
    let seconds = bench.time("lifeboat: restore, proven", &lifeboat.lifeboat(&words), &repository)?;
    section.add(PROVEN, Unit::Seconds, 0, seconds);
    expect_dump(home, &to, digest)?;
    corpus::remove(&to)?;

    let back = home.empty("back")?;
    let line = format!("gunzip < '{}' > dump.rdb", text(&lifeboat.path.join("by-hand.rdb.gz"))?);
    let mut by_hand = home.shell(&line);
    by_hand.directory.clone_from(&back);
    let seconds = bench.time("by hand: gunzip", &by_hand, &lifeboat.path)?;
    section.add(PLAIN, Unit::Seconds, 1, seconds);
    let (socket, directory) = (home.path.join("b"), text(&back)?);
    let cli = format!("redis-cli -s '{}'", text(&socket)?);
    let line = format!(
        "redis-server --port 0 --unixsocket '{}' --dir '{directory}' --save '' --daemonize yes --logfile '{directory}/log'; \
         until [[ $({cli} PING 2>&1) == PONG ]]; do sleep 0.02; done; {cli} DBSIZE; {cli} SHUTDOWN NOSAVE",
        text(&socket)?
    );
    let loading = bench.time("by hand: load", &home.shell(&line), &back)?;
    section.add(PROVEN, Unit::Seconds, 1, seconds + loading);
    expect_dump(home, &back, digest)
}

/// Starts a server on the dump that lies somewhere below a directory, and compares the digest of its data.
fn expect_dump(home: &Home, below: &Path, digest: &str) -> Result<()> {
    let dump =
        find(below, "dump.rdb")?.ok_or_else(|| format!("there is no dump below {}", below.display()))?;
    let data = home.empty("looked")?;
    fs::copy(&dump, data.join("dump.rdb"))?;
    if super::home::is_root() {
        output(Command::new("chown").args(["-R", USER]).arg(&data))?;
    }
    let server = Server::start(home, &data, "l")?;
    let found = server.ask(&["DEBUG", "DIGEST"])?;
    server.process.stop()?;
    corpus::remove(&data)?;
    if found == digest { Ok(()) } else { Err(format!("restored was {found}, not {digest}").into()) }
}

/// A server on a socket of its own.
struct Server {
    process: Beside,
    data: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn start(home: &Home, data: &Path, socket: &str) -> Result<Self> {
        let socket = home.path.join(socket);
        let mut command = as_user(Some(USER), OsStr::new("redis-server"));
        command.args(["--port", "0", "--save", "", "--enable-debug-command", "yes", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(data).current_dir(data);
        let process = Beside::start(&mut command, home.bench.scratch.join("redis.log"))?;
        let mut server = Self { process, data: data.to_owned(), socket };
        wait("redis-server starts and loads", Duration::from_millis(20), || {
            match server.process.ended()? {
                Some(why) => Err(format!("redis-server ended: {why}").into()),
                None => Ok(server.ask(&["PING"]).is_ok_and(|answer| answer == "PONG")),
            }
        })?;
        Ok(server)
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        output(Command::new("redis-cli").arg("-s").arg(&self.socket).args(words))
    }

    fn used_memory(&self) -> Result<f64> {
        let memory = self.ask(&["INFO", "memory"])?;
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.ok_or("redis tells no used_memory")?.trim().parse()?)
    }
}

/// What a server was filled with.
struct Filled {
    keys: usize,
    bytes: u64,
}

/// Fills the server with documents under the keys `doc:1`, `doc:2`, ….
fn fill(server: &Server, bytes: f64) -> Result<Filled> {
    let mut random = Random::seeded(7);
    let mut filled = Filled { keys: 0, bytes: 0 };
    let mut next = || {
        (filled.bytes < bytes as u64).then(|| {
            let size = random.log_normal(DOCUMENT_BYTES, 0.7).min(60_000.0) as usize;
            filled.keys += 1;
            filled.bytes += size as u64;
            (filled.keys, size, random.bits())
        })
    };
    pipe(server, &mut next)?;
    Ok(filled)
}

/// Gives one document of a hundred another content.
fn change(server: &Server, keys: usize, run: u32) -> Result<()> {
    let mut random = Random::seeded(100 + u64::from(run));
    let mut left = keys.div_ceil(100);
    pipe(server, &mut || {
        left = left.checked_sub(1)?;
        Some((1 + random.below(keys), DOCUMENT_BYTES as usize, random.bits()))
    })
}

/// Sets documents: the number of each, its size, and the seed of its content.
fn pipe(server: &Server, next: &mut dyn FnMut() -> Option<(usize, usize, u64)>) -> Result<()> {
    let mut command = Command::new("redis-cli");
    command.arg("-s").arg(&server.socket).arg("--pipe");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| not_started(&command, &error))?;
    let mut out = BufWriter::with_capacity(1 << 20, child.stdin.take().expect("it was asked for"));
    let (words, mut document) = (Vocabulary::seeded(1), Vec::new());
    while let Some((number, size, seed)) = next() {
        document.clear();
        words.json(&mut Random::seeded(seed), &mut document, size);
        set(&mut out, &format!("doc:{number}"), &document)?;
    }
    out.flush()?;
    drop(out);
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("redis-cli --pipe ended with {status}").into()) }
}

/// Writes a command that sets a key, as the protocol has it.
fn set(out: &mut impl Write, key: &str, value: &[u8]) -> std::io::Result<()> {
    write!(out, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len())?;
    out.write_all(value)?;
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_the_protocol_has_them() {
        let mut out = Vec::new();
        set(&mut out, "doc:1", b"[]").expect("memory takes all");
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$5\r\ndoc:1\r\n$2\r\n[]\r\n");
    }
}
