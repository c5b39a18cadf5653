//! The dump of a server that gives none over the wire: it is told to save one to its disk, and that is read.
//!
//! Managed servers and careful administrators forbid what replicas ask for (`PSYNC`) and allow `BGSAVE`. The server replaces
//! its dump by a rename, so what is open is whole. It must be on this machine; its own last dump is replaced.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::capture::{Tee, Work};
use super::connection::{Answer, Failure};
use super::rdb::{self, Dump};
use super::server::{self, Server};
use super::within;
use crate::{Error, Result};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tells whether a server that said this gives no dump over the wire, whoever asks again.
pub(super) fn is_refusal(said: &str) -> bool {
    said.starts_with("NOPERM") || said.starts_with("ERR unknown command")
}

/// Lets the server save a dump, and copies it to `to`.
///
/// Fails with what it `refused` before where it does not allow this, either.
pub(super) fn take(work: &Work<'_>, to: File, refused: &str) -> Result<Dump> {
    let mut server = Server::reach(work.options, work.place, work.cancel)?;
    let address = server.address.clone();
    let failed = |why: String| Error::Server { action: "take a dump", server: address.to_string(), why };
    let deadline = Instant::now() + work.options.proof_timeout;
    let wait = || {
        if work.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            return Err(failed("its own dump takes too long".to_owned()));
        }
        std::thread::sleep(LOOK_EVERY);
        Ok(())
    };
    let saves = saves(&mut server).map_err(server::failed("ask for its dumps", &address))?;
    loop {
        match server.connection.ask(&["BGSAVE"]) {
            Ok(_) => break,
            // It has another child: a dump that is older than the question, or a rewrite of what it appends.
            Err(Failure::Server(said)) if said.contains("in progress") || said.contains("is active") => {
                wait()?;
            }
            Err(Failure::Server(said)) => {
                return Err(failed(format!(
                    "{}; nor does it save one itself: {said}",
                    Failure::Server(refused.to_owned())
                )));
            }
            Err(failure) => return Err(server::failed("begin a dump", &address)(failure)),
        }
    }
    loop {
        let now = self::saves(&mut server).map_err(server::failed("ask for its dumps", &address))?;
        if !now.is_saving && now.is_good {
            break;
        }
        if !now.is_saving && !now.is_good {
            return Err(failed("its own dump failed: look into its log; its disk may be full".to_owned()));
        }
        wait()?;
    }
    let path = work.options.data.join(server.dump_name());
    let file = within(work.place, || File::open(&path).map_err(Error::io("read", &path)))??;
    let dump = rdb::read(&mut Tee(file, to))
        .map_err(|bad| Error::BadSource { path: path.clone(), why: bad.to_string() })?;
    let made = dump.fields.get("ctime").and_then(|made| made.parse::<i64>().ok());
    match made {
        Some(made) if made < saves.clock => {
            let why = "the server saved another dump than this one: is it the server's own directory?";
            Err(Error::BadSource { path, why: why.to_owned() })
        }
        _ => Ok(dump),
    }
}

/// What a server says of its own dumps.
struct Saves {
    is_saving: bool,
    is_good: bool,
    /// Its clock, in seconds.
    clock: i64,
}

fn saves(server: &mut Server) -> std::result::Result<Saves, Failure> {
    let said = |answer: Answer| answer.text().unwrap_or_default();
    let info = server::parsed(&said(server.connection.ask(&["INFO"])?));
    let of = |name: &str| info.get(name).map_or("", String::as_str);
    let clock = of("server_time_usec").parse::<i64>().map_or(0, |usec| usec / 1_000_000);
    Ok(Saves {
        is_saving: of("rdb_bgsave_in_progress") == "1",
        is_good: of("rdb_last_bgsave_status") == "ok",
        clock,
    })
}
