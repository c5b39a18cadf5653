//! The server that keeps conditions, over TLS: moto, a Python program. What it holds is in its memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::{BUCKET, START_TIMEOUT, free_port, tools};

/// Makes the bucket as soon as the server answers; moto asks nobody who he is.
const MAKE_BUCKET: &str = "
import ssl, sys, urllib.request
request = urllib.request.Request(sys.argv[1], method='PUT')
urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=5)
";

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub struct Moto {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl Moto {
    /// Starts a server that holds one empty bucket and shows a certificate of its own making.
    ///
    /// # Panics
    ///
    /// When there is no program or it does not come up.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files must exist");
        make_certificate(directory.path());
        let port = free_port();
        let log = File::create(directory.path().join("log")).expect("the new directory is writable");
        let process = Command::new(program("moto_server"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .arg("--ssl-cert")
            .arg(directory.path().join("certificate.pem"))
            .arg("--ssl-key")
            .arg(directory.path().join("key.pem"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program was found and can be run");
        let server = Self { directory, port, process };
        server.make_bucket();
        server
    }

    /// The URL of the server, `https://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file with the certificate, which nobody else vouches for.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn make_bucket(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let url = format!("{}/{BUCKET}", self.endpoint());
        loop {
            let mut command = Command::new(program("python3"));
            let output = command.args(["-c", MAKE_BUCKET, &url]).output().expect("python3 can be run");
            if output.status.success() {
                return;
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                let errors = String::from_utf8_lossy(&output.stderr);
                panic!("moto did not start; it said:\n{log}\nand the last attempt to reach it:\n{errors}");
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn make_certificate(directory: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl is installed by `cargo xtask setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A program of the environment that setup made; panics with what to do when it is not there.
fn program(name: &str) -> PathBuf {
    let program = tools().map(|tools| tools.join("moto/bin").join(name));
    program.filter(|program| program.is_file()).unwrap_or_else(|| {
        panic!("the S3 tests need the server moto, and its {name} is not there: run `cargo xtask setup`")
    })
}
