//! Starts real S3 servers for tests, on loopback, in directories that vanish with them. A dev-dependency only;
//! everything here panics with what to do.
//!
//! [`Garage`] keeps what it is given and is what most tests want. [`Moto`] knows conditional writes and speaks TLS.
//!
//! The programs are the ones that `cargo xtask setup` installed; `LIFEBOAT_TEST_GARAGE` names another Garage. When
//! there is none the test fails; it is never skipped.

mod garage;
mod moto;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use garage::{ACCESS_KEY_ID, Garage, REGION, SECRET_ACCESS_KEY};
pub use moto::Moto;

/// The bucket that exists.
pub const BUCKET: &str = "lifeboat";

/// How long a server may take to answer; on an idle machine it is a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where setup installs programs.
fn tools() -> Option<PathBuf> {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.map(|cache| cache.join("lifeboat/tools"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a part of the tests, which have no command line to be told by"
)]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}
