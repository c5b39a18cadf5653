//! The server that most tests want: one Garage node, with a bucket and a key.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{BUCKET, START_TIMEOUT, free_port, tools, variable};

/// The region that requests have to be signed for.
pub const REGION: &str = "garage";
/// The key that may do everything with the bucket. Garage prescribes its form.
pub const ACCESS_KEY_ID: &str = "GK31c2f218a2e44f485b94239e";
/// The secret that belongs to it; it guards nothing.
pub const SECRET_ACCESS_KEY: &str = "4420d99ef7aa26b56b5130ad7913a6a5c77653a5e7a47a3b4c9b8b9c5f8521a9";

/// A running server; it is killed and its data deleted when this is dropped.
#[derive(Debug)]
pub struct Garage {
    directory: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Garage {
    /// Starts a server that holds one empty bucket.
    ///
    /// # Panics
    ///
    /// When there is no program or it does not come up.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files must exist");
        let mut garage = Self { directory, port: 0, process: None };
        // A port that was free a moment ago may be taken by now; twice is bad luck enough.
        for _ in 0..2 {
            garage.configure();
            if garage.try_start() {
                return garage;
            }
            garage.stop();
        }
        panic!("garage did not start; it said:\n{}", garage.log());
    }

    /// The URL of the server, `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Kills the server; connections are refused until [`start_again`](Self::start_again).
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // An error means that it has exited already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts the server again after [`stop`](Self::stop), on the same port and with the same data.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_again(&mut self) {
        self.stop();
        assert!(self.try_start(), "garage did not start again; it said:\n{}", self.log());
    }

    /// Runs `garage ARGUMENTS` against this server, `["key", "create", "other"]` for example, and returns its
    /// output.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn administer(&self, arguments: &[&str]) -> String {
        let output = Command::new(program()).arg("-c").arg(self.configuration()).args(arguments).output();
        let output = output.expect("the program that runs as the server can be run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "garage {arguments:?} failed: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn configuration(&self) -> PathBuf {
        self.directory.path().join("garage.toml")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn configure(&mut self) {
        let (s3, rpc) = (free_port(), free_port());
        self.port = s3;
        let directory = self.directory.path().display();
        let text = format!(
            r#"
metadata_dir = "{directory}/metadata"
data_dir = "{directory}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{SECRET_ACCESS_KEY}"

[s3_api]
api_bind_addr = "127.0.0.1:{s3}"
s3_region = "{REGION}"
"#
        );
        std::fs::write(self.configuration(), text).expect("the new directory is writable");
    }

    /// Starts the process and waits until it answers; `false` when it exits or stays silent.
    fn try_start(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log"));
        let log = log.expect("the new directory is writable");
        let started = Command::new(program())
            .arg("-c")
            .arg(self.configuration())
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY_ID)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_ACCESS_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(started.expect("the program was found and can be run"));
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            let process = self.process.as_mut().expect("it was set above");
            if process.try_wait().is_ok_and(|exited| exited.is_some()) {
                return false;
            }
            // The port opens before bucket and key are made; the administration answers for those.
            if TcpStream::connect(self.address()).is_ok() && self.has_bucket() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn has_bucket(&self) -> bool {
        let mut command = Command::new(program());
        command.arg("-c").arg(self.configuration()).args(["bucket", "info", BUCKET]);
        command.output().is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(ACCESS_KEY_ID)
        })
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program; panics with what to do when there is none.
fn program() -> PathBuf {
    let named = variable("LIFEBOAT_TEST_GARAGE").map(PathBuf::from);
    let built = tools().map(|tools| tools.join("bin/garage"));
    match named.or(built) {
        Some(program) if program.is_file() => program,
        Some(program) => panic!(
            "the S3 tests need the server Garage, and there is no {}: run `cargo xtask setup`, or set \
             LIFEBOAT_TEST_GARAGE to the program",
            program.display()
        ),
        None => {
            panic!("the S3 tests need the server Garage: set HOME, or LIFEBOAT_TEST_GARAGE to the program")
        }
    }
}
