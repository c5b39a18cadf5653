//! Connections and ports.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::thread;
use std::time::Duration;

use estate::check::{Port, PortExpect, Question, Tcp, TcpExpect, TextMatch};

use super::http::Server;
use super::{ask, ask_and_cancel, ask_for, fails, holds, refused, unknown};

fn tcp(host: &str, port: u16, expect: TcpExpect) -> Question {
    Question::Tcp(Tcp { host: host.into(), port, expect })
}

fn banner(text: &str) -> TcpExpect {
    TcpExpect::Banner(TextMatch::Regex(text.into()))
}

fn port(port: u16, expect: PortExpect) -> Question {
    Question::Port(Port { port, address: None, expect })
}

#[test]
fn open_and_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    holds(&ask(tcp("127.0.0.1", open, TcpExpect::Open)));
    holds(&ask(tcp("localhost", open, TcpExpect::Open)));
    fails(&ask(tcp("127.0.0.1", open, TcpExpect::Closed)), "something answers");
    drop(listener);
    fails(&ask(tcp("127.0.0.1", open, TcpExpect::Open)), "nobody answers");
    holds(&ask(tcp("127.0.0.1", open, TcpExpect::Closed)));
    unknown(&ask(tcp("no-such-host.invalid", 80, TcpExpect::Open)), "no-such-host.invalid");
    // That a name is not known does not show that a port is closed.
    unknown(&ask(tcp("no-such-host.invalid", 80, TcpExpect::Closed)), "no-such-host.invalid");
    assert!(refused(tcp("", 80, TcpExpect::Open)).contains("names no host"));
    assert!(refused(tcp("localhost", 0, TcpExpect::Open)).contains("no port"));
}

/// A port whose queue is full: whoever else connects hears nothing, as behind a filter that drops packets.
fn silent_port() -> (std::process::Child, u16) {
    let text = "import socket, time
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(0)
waiting = []
for _ in range(8):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    waiting.append(client)
time.sleep(0.2)
print(listener.getsockname()[1], flush=True)
time.sleep(300)";
    let mut python = std::process::Command::new("python3")
        .args(["-c", text])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(python.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (python, line.trim().parse().unwrap())
}

#[test]
fn silence_is_no_refusal() {
    let (mut python, port) = silent_port();
    let short = Duration::from_millis(500);
    fails(&ask_for(tcp("127.0.0.1", port, TcpExpect::Open), short), "no answer within 500ms");
    // Something may well listen there.
    unknown(&ask_for(tcp("127.0.0.1", port, TcpExpect::Closed), short), "no answer within 500ms");
    ask_and_cancel(tcp("127.0.0.1", port, TcpExpect::Open));
    python.kill().unwrap();
    python.wait().unwrap();
}

#[test]
fn greetings_are_read_as_far_as_needed() {
    let server = Server::at("127.0.0.1", |mut stream| {
        for piece in ["220 ma", "il ready\r\n", "more"] {
            let _ = stream.write_all(piece.as_bytes());
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(Duration::from_secs(60));
    });
    holds(&ask(tcp("127.0.0.1", server.port, banner("^220 mail ready"))));
    let wrong = ask_for(tcp("127.0.0.1", server.port, banner("^500")), Duration::from_millis(500));
    fails(&wrong, "found 220 mail ready");
    ask_and_cancel(tcp("127.0.0.1", server.port, banner("^500")));

    let silent = Server::at("127.0.0.1", |_stream| thread::sleep(Duration::from_secs(60)));
    let answer = ask_for(tcp("127.0.0.1", silent.port, banner("^220")), Duration::from_millis(300));
    fails(&answer, "no answer within 300ms");
    let endless = Server::at("127.0.0.1", |mut stream| while stream.write_all(b"x").is_ok() {});
    fails(&ask(tcp("127.0.0.1", endless.port, banner("^220"))), "greets otherwise");
}

#[test]
fn ports_are_found_by_who_listens() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let number = listener.local_addr().unwrap().port();
    holds(&ask(port(number, PortExpect::Listening)));
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
    holds(&ask(port(number, PortExpect::ListeningAs(comm.clone()))));
    fails(&ask(port(number, PortExpect::ListeningAs("postgres".into()))), &format!("found {comm}"));
    fails(&ask(port(number, PortExpect::Free)), "is in use");
    let at = |address| {
        Question::Port(Port { port: number, address: Some(address), expect: PortExpect::Listening })
    };
    holds(&ask(at(Ipv4Addr::LOCALHOST.into())));
    fails(&ask(at(Ipv4Addr::new(10, 1, 2, 3).into())), "has no listener");
    fails(&ask(at(Ipv6Addr::LOCALHOST.into())), "has no listener");
    drop(listener);
    fails(&ask(port(number, PortExpect::Listening)), "nothing listens");
    holds(&ask(port(number, PortExpect::Free)));
    assert!(refused(port(0, PortExpect::Listening)).contains("nothing can listen"));
}

#[test]
fn ports_of_ipv6_are_found_too() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let number = listener.local_addr().unwrap().port();
    holds(&ask(port(number, PortExpect::Listening)));
    let at = |address| {
        Question::Port(Port { port: number, address: Some(address), expect: PortExpect::Listening })
    };
    holds(&ask(at(Ipv6Addr::LOCALHOST.into())));
    holds(&ask(at(Ipv4Addr::LOCALHOST.into())));
    // A connection is no listener.
    let _client = std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, number)).unwrap();
    let accepted = listener.accept().unwrap();
    drop(listener);
    fails(&ask(port(number, PortExpect::Listening)), "nothing listens");
    drop(accepted);
}
