//! What the tests of twins start: a process that makes a twin and does there what it is told, line by line;
//! and, started again, that twin's first process, or a probe in it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use place::{Command, Init, Limits, ProcessId, Twin, TwinOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One line of standard input: what to do with the twin.
#[derive(Serialize, Deserialize)]
enum Order {
    Run(String),
    Start(String, PathBuf),
    IsRunning(ProcessId),
    Stop(ProcessId),
    Connect(String, u16),
    Read(PathBuf),
    Write(PathBuf, String),
    Destroy,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["init"] => place::twin_init(),
        ["probe", kind, target] => probe(kind, target),
        ["rename", from, to] => code(fs::rename(from, to)),
        ["serve", port, word] => code(answer_all(port, word)),
        ["twin", scratch, ref keep @ ..] => serve(scratch, keep),
        _ => ExitCode::FAILURE,
    }
}

/// Succeeds when the kernel lets it through.
fn probe(kind: &str, target: &str) -> ExitCode {
    let done = match kind {
        "unix" => UnixStream::connect(target).map(drop),
        "abstract" => {
            SocketAddr::from_abstract_name(target).and_then(|to| UnixStream::connect_addr(&to)).map(drop)
        }
        "tcp" => std::net::TcpStream::connect(target).map(drop),
        "reboot" => rustix::system::reboot(rustix::system::RebootCommand::CadOff).map_err(Into::into),
        "vsock" => socket(40),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    code(done)
}

/// Says `word` to everybody who connects.
fn answer_all(port: &str, word: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    say(&json!("up"));
    loop {
        listener.accept()?.0.write_all(word.as_bytes())?;
    }
}

fn code(done: io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&json!(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn socket(family: u16) -> io::Result<()> {
    let family = rustix::net::AddressFamily::from_raw(family);
    rustix::net::socket(family, rustix::net::SocketType::STREAM, None).map(drop).map_err(Into::into)
}

fn serve(scratch: &str, keep: &[&str]) -> ExitCode {
    if let Err(error) = place::enter_user_namespace() {
        say(&json!({ "forbidden": error.to_string() }));
        return ExitCode::FAILURE;
    }
    let options = TwinOptions {
        scratch: scratch.into(),
        init: Init::this_program(["init"]),
        // What begins with a minus is to be gone.
        keep: keep.iter().filter(|path| !path.starts_with('-')).map(PathBuf::from).collect(),
        gone: keep.iter().filter_map(|path| path.strip_prefix('-')).map(PathBuf::from).collect(),
    };
    let mut twin = match Twin::make(&options) {
        Ok(twin) => Some(twin),
        Err(error) => {
            say(&json!({ "failed": error.to_string() }));
            return ExitCode::FAILURE;
        }
    };
    say(&json!({ "report": twin.as_ref().map(Twin::report) }));
    let place = twin.as_ref().map(Twin::place).expect("it was made");
    for line in io::stdin().lines() {
        let Ok(order) = line.map_err(io::Error::other).and_then(|line| Ok(serde_json::from_str(&line)?))
        else {
            return ExitCode::FAILURE;
        };
        let answer = match order {
            Order::Destroy => twin.take().map_or(Ok(()), Twin::destroy).map(|()| json!(null)),
            order => obey(&place, order),
        };
        say(&answer.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    ExitCode::SUCCESS
}

fn obey(place: &place::Place, order: Order) -> Result<Value, place::Error> {
    let within = Duration::from_secs(20);
    match order {
        Order::Run(text) => {
            let finished = place.run(&Command::shell(text), &Limits::timeout(within))?;
            let text = finished.out.text() + &finished.err.text();
            Ok(json!({ "success": finished.success(), "end": finished.end.to_string(), "text": text }))
        }
        Order::Start(text, log) => Ok(json!(place.start(&Command::shell(text), &log)?)),
        Order::IsRunning(process) => Ok(json!(place.is_running(&process))),
        Order::Stop(process) => place.stop(&process, within).map(|stopped| json!(format!("{stopped:?}"))),
        Order::Connect(host, port) => {
            let mut banner = String::new();
            let mut stream = place.connect(&host, port, within)?;
            let read =
                stream.set_read_timeout(Some(within)).and_then(|()| stream.read_to_string(&mut banner));
            Ok(read.map_or_else(|error| json!({ "error": error.to_string() }), |_| json!(banner)))
        }
        Order::Read(path) => {
            let read = place.within(|| fs::read_to_string(path))?;
            Ok(read.map_or_else(|error| json!({ "error": error.to_string() }), |text| json!(text)))
        }
        Order::Write(path, text) => {
            let written = place.within(|| fs::write(path, text))?;
            Ok(written.map_or_else(|error| json!({ "error": error.to_string() }), |()| json!(null)))
        }
        Order::Destroy => unreachable!("it is the caller's"),
    }
}

fn say(answer: &Value) {
    let mut out = io::stdout().lock();
    // Nobody listens any more: then nobody minds.
    let _ = writeln!(out, "{answer}");
    let _ = out.flush();
}
