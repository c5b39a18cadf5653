//! HTTP: right and wrong answers, and servers that misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use estate::check::{Http, HttpExpect, Question, Status, TextMatch};
use estate::secrets::Secrets;

use super::{ask, ask_and_cancel, ask_for, ask_with, check, fails, holds, refused, unknown};

/// A server in this process that gives each connection to a function.
pub(super) struct Server {
    pub(super) port: u16,
}

impl Server {
    /// Serves until the test process ends.
    pub(super) fn at(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((address, 0)).expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Server { port }
    }

    /// Reads the request's head and sends these bytes.
    fn saying(answer: impl Into<Vec<u8>>) -> Server {
        let answer = answer.into();
        Server::at("127.0.0.1", move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(&answer);
        })
    }

    /// Answers with a status, header fields and a body of known length.
    fn answering(status: &str, headers: &str, body: &str) -> Server {
        let length = body.len();
        Server::saying(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Reads up to the end of a head.
fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("we send ASCII")
}

fn status(status: u16) -> HttpExpect {
    HttpExpect { status: vec![Status::Is(status)], ..HttpExpect::default() }
}

fn json(expression: &str) -> HttpExpect {
    HttpExpect { json: Some(expression.into()), ..HttpExpect::default() }
}

fn body(expected: TextMatch) -> HttpExpect {
    HttpExpect { body: Some(expected), ..HttpExpect::default() }
}

fn get(server: &Server, expect: HttpExpect) -> Question {
    Question::Http(Http::get(server.url("/health"), expect))
}

#[test]
fn statuses_are_numbers_lists_and_classes() {
    let server = Server::answering("503 Service Unavailable", "", "");
    holds(&ask(get(&server, status(503))));
    fails(&ask(get(&server, status(200))), "found HTTP 503");
    let either = |status| HttpExpect { status, ..HttpExpect::default() };
    holds(&ask(get(&server, either(vec![Status::Is(200), Status::Is(503)]))));
    holds(&ask(get(&server, either(vec![Status::Class(5)]))));
    fails(&ask(get(&server, either(vec![Status::Class(2), Status::Is(404)]))), "HTTP 2xx or 404");
}

#[test]
fn a_check_without_an_expectation_is_refused() {
    let nothing = Http::get("http://localhost/", HttpExpect::default());
    assert!(refused(Question::Http(nothing)).contains("expects nothing, so it would always hold"));
    let anything = Http::get("http://localhost/", body(TextMatch::Regex(".*".into())));
    assert!(refused(Question::Http(anything)).contains("matches even nothing"));
    let empty = Http::get("http://localhost/", body(TextMatch::Contains(String::new())));
    assert!(refused(Question::Http(empty)).contains("always be found"));
}

#[test]
fn the_right_word_on_an_error_page_is_no_success() {
    let server = Server::answering("500 Oops", "", "not ok");
    fails(&ask(get(&server, body(TextMatch::Contains("ok".into())))), "found HTTP 500");
    let both = HttpExpect { status: vec![Status::Is(500)], ..body(TextMatch::Contains("ok".into())) };
    holds(&ask(get(&server, both)));
}

#[test]
fn json_must_evaluate_to_true_and_nothing_else() {
    let server = Server::answering("200 OK", "", r#"[{"name": "a", "active": true}, {"name": "b"}]"#);
    holds(&ask(get(&server, json("length(@) > `1`"))));
    holds(&ask(get(&server, json("[0].active"))));
    fails(&ask(get(&server, json("length(@) > `2`"))), "answers with other JSON");
    // Truthy is not true: a name that is there says nothing.
    fails(&ask(get(&server, json("[0].name"))), r#"found "a" from"#);
    fails(&ask(get(&server, json("[1].active"))), "found null");
    fails(&ask(get(&server, json("sum(@) > `1`"))), "not of the shape");
    let nonsense = Http::get("http://localhost/", json("length(@"));
    assert!(refused(Question::Http(nonsense)).contains("cannot understand the JMESPath expression"));
}

#[test]
fn what_is_no_json_fails() {
    for body in ["<html>starting…</html>", "", r#"{"status": "ok""#] {
        let server = Server::answering("200 OK", "", body);
        fails(&ask(get(&server, json("status == 'ok'"))), "does not answer with JSON");
    }
    let deep = "[".repeat(100_000);
    fails(&ask(get(&Server::answering("200 OK", "", &deep), json("@ == `1`"))), "does not answer with JSON");
}

#[test]
fn header_fields_are_compared() {
    let server = Server::answering("200 OK", "X-Version: 2.1\r\nx-version: 2.2\r\n", "");
    let expect = |name: &str, expected| HttpExpect {
        headers: vec![(name.to_owned(), expected)],
        ..HttpExpect::default()
    };
    holds(&ask(get(&server, expect("x-version", TextMatch::Equals("2.2".into())))));
    holds(&ask(get(&server, expect("X-Version", TextMatch::Regex(r"^2\.\d$".into())))));
    fails(&ask(get(&server, expect("X-Version", TextMatch::Equals("3".into())))), "found 2.1, 2.2");
    fails(&ask(get(&server, expect("X-Other", TextMatch::Contains("a".into())))), "no such field");
}

#[test]
fn bodies_in_all_framings_are_read() {
    let expect = || body(TextMatch::Equals("hello world".into()));
    let head = "HTTP/1.1 200 OK\r\n";
    for answer in [
        format!("{head}Content-Length: 11\r\n\r\nhello world, and more than was said"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"),
        format!("{head}\r\nhello world"),
        "HTTP/1.0 200 OK\r\n\r\nhello world".to_owned(),
        format!("HTTP/1.1 100 Continue\r\n\r\n{head}Content-Length: 11\r\n\r\nhello world"),
    ] {
        holds(&ask(get(&Server::saying(answer), expect())));
    }
}

#[test]
fn a_body_that_is_cut_short_fails() {
    let head = "HTTP/1.1 200 OK\r\n";
    for answer in [
        format!("{head}Content-Length: 100\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nff\r\nhello"),
        "HTTP/1.1 200".to_owned(),
        String::new(),
    ] {
        let answer = ask(get(&Server::saying(answer), body(TextMatch::Contains("hello".into()))));
        fails(&answer, "the connection was closed too early");
    }
}

#[test]
fn garbage_is_no_answer() {
    let head = "HTTP/1.1 200 OK\r\n";
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\u{3}".to_owned(),
        "HTTP/1.1 abc\r\n\r\n".to_owned(),
        format!("{head}Content-Length: -5\r\n\r\nhello"),
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: gzip\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"),
        format!("{head}{}", "X: y\r\n".repeat(1000)),
        format!("{head}X: {}", "y".repeat(1 << 20)),
        "HTTP/1.1 103 Early\r\n\r\n".repeat(20),
    ] {
        let answer = ask(get(&Server::saying(answer), body(TextMatch::Contains("hello".into()))));
        fails(&answer, "not HTTP");
    }
}

#[test]
fn a_body_without_end_is_not_judged_and_not_kept() {
    let endless = |head: &'static str, piece: &'static [u8]| {
        Server::at("127.0.0.1", move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(piece).is_ok() {}
        })
    };
    for server in [
        endless("HTTP/1.1 200 OK\r\n\r\n", b"ok and on and on "),
        endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nok! \r\n"),
        endless("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", b"ok! "),
    ] {
        unknown(&ask(get(&server, body(TextMatch::Contains("ok".into())))), "is longer than");
        // Nothing is expected of the body, so how long it is does not matter.
        holds(&ask(get(&server, status(200))));
    }
}

#[test]
fn silence_and_slowness_end_with_the_time_of_the_check() {
    let silent = Server::at("127.0.0.1", |mut stream| {
        request(&mut stream);
        thread::sleep(Duration::from_secs(60));
    });
    let slow = Server::at("127.0.0.1", |mut stream| {
        request(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".iter().cycle() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    for server in [silent, slow] {
        let begun = Instant::now();
        let answer =
            ask_for(get(&server, body(TextMatch::Contains("ok".into()))), Duration::from_millis(600));
        fails(&answer, "no answer within 600ms");
        assert!(begun.elapsed() < Duration::from_secs(10));
        ask_and_cancel(get(&server, json("x == `1`")));
    }
}

#[test]
fn a_closed_port_is_an_answer_and_an_unknown_name_is_none() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{free}/");
    fails(&ask(Question::Http(Http::get(url, status(200)))), "nobody answers at 127.0.0.1");
    let nowhere = Http::get("http://no-such-host.invalid/", status(200));
    unknown(&ask(Question::Http(nowhere)), "no-such-host.invalid");
}

#[test]
fn redirects_are_the_answer_unless_they_are_to_be_followed() {
    let last = Server::answering("200 OK", "", "arrived");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let to = last.url("/there");
    let server = Server::at("127.0.0.1", move |mut stream| {
        let request = request(&mut stream);
        let to = if request.starts_with("GET /health") { "/next" } else { &to };
        told.lock().unwrap().push(request);
        let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    });
    fails(&ask(get(&server, status(200))), "found HTTP 302 to /next");
    holds(&ask(get(&server, status(302))));

    let follow = |redirects_max| {
        let mut http = Http::get(server.url("/health"), body(TextMatch::Contains("arrived".into())));
        http.redirects_max = redirects_max;
        ask(Question::Http(http))
    };
    fails(&follow(1), "an answer after at most 1 redirects");
    holds(&follow(2));
    assert!(seen.lock().unwrap().iter().any(|request| request.starts_with("GET /next HTTP/1.1\r\n")));
}

#[test]
fn secrets_go_to_the_server_and_nowhere_else() {
    let elsewhere = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&elsewhere);
    let other = Server::at("127.0.0.1", move |mut stream| {
        *told.lock().unwrap() = request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    });
    let to = other.url("/");
    let server = Server::at("127.0.0.1", move |mut stream| {
        let request = request(&mut stream);
        if request.starts_with("GET /away") {
            let _ = write!(stream, "HTTP/1.1 307 Away\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        // A server that shows what it was sent, as debug pages do.
        let _ = write!(stream, "HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n{request}", request.len());
    });
    let url = |path: &str| format!("http://admin:p%40ss-word@127.0.0.1:{}{path}?key=hunter2", server.port);
    let secrets = Secrets::new(["hunter2".into(), "t0ken".into(), "YWRtaW46cEBzcy13b3Jk".into()]);
    let with = |url: String, expect| {
        let mut http = Http::get(url, expect);
        http.headers = vec![("Authorization".into(), "Bearer t0ken".into())];
        http
    };
    let check_of = |http: &Http| check(Question::Http(http.clone()));

    let expect =
        || HttpExpect { status: vec![Status::Is(403)], ..body(TextMatch::Contains("absent".into())) };
    let with_token = with(url("/"), expect());
    let answer = ask_with(Question::Http(with_token.clone()), super::PATIENCE, &secrets);
    fails(&answer, "Bearer ***");
    let basic = Http::get(url("/"), expect());
    let basic_answer = ask_with(Question::Http(basic.clone()), super::PATIENCE, &secrets);
    fails(&basic_answer, "Basic ***");
    let shown = format!(
        "{answer:?} {basic_answer:?} {:?} {:?} {} {} {with_token:?}",
        check_of(&with_token),
        check_of(&basic),
        check_of(&with_token).describe(),
        check_of(&with_token).by_hand(&secrets),
    );
    for secret in ["hunter2", "t0ken", "p%40ss", "p@ss", "YWRtaW46cEBzcy13b3Jk"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }

    let mut away = with(url("/away"), status(200));
    away.redirects_max = 3;
    holds(&ask(Question::Http(away)));
    let sent = elsewhere.lock().unwrap().clone();
    assert!(sent.starts_with("GET / HTTP/1.1\r\n") && !sent.contains("t0ken"), "{sent}");
}

#[test]
fn what_cannot_be_sent_is_refused_without_showing_it() {
    let refuse = |name: &str, value: &str| {
        let mut http = Http::get("http://localhost/", status(200));
        http.headers = vec![(name.into(), value.into())];
        let why = refused(Question::Http(http));
        assert!(!why.contains("hunter2"), "{why}");
    };
    refuse("X-Token", "hunter2\r\nX-Evil: 1");
    refuse("X Token", "hunter2");
    refuse("Content-Length", "7");
    for url in ["ftp://hunter2@host/", "hunter2", "http://:hunter2@/", "http://host:99999/hunter2"] {
        let why = refused(Question::Http(Http::get(url, status(200))));
        assert!(!why.contains("hunter2"), "{why}");
    }
    for bad in [Status::Is(99), Status::Is(100), Status::Is(600), Status::Class(1)] {
        let expect = HttpExpect { status: vec![bad], ..HttpExpect::default() };
        assert!(refused(Question::Http(Http::get("http://h/", expect))).contains("status"));
    }
}

#[test]
fn bodies_and_methods_are_sent() {
    let server = Server::at("127.0.0.1", |mut stream| {
        let head = request(&mut stream);
        let mut body = [0; 7];
        let echoed = match stream.read_exact(&mut body) {
            Ok(()) => String::from_utf8_lossy(&body).into_owned(),
            Err(_) => String::new(),
        };
        let answer = format!("{head}|{echoed}");
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    });
    let mut http =
        Http::get(server.url("/a?b=c"), body(TextMatch::Regex(r"(?s)^POST /a\?b=c .*\|\{.q.:1\}$".into())));
    http.method = "POST".into();
    http.body = Some(r#"{"q":1}"#.into());
    holds(&ask(Question::Http(http)));
}

#[test]
fn ipv6_is_asked_like_ipv4() {
    let server = Server::at("::1", |mut stream| {
        let head = request(&mut stream);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
    });
    let host = format!("[::1]:{}", server.port);
    let expect = body(TextMatch::Contains(format!("Host: {host}")));
    holds(&ask(Question::Http(Http::get(format!("http://{host}/"), expect))));
}

#[test]
fn a_compressed_body_is_not_judged() {
    let server = Server::answering("200 OK", "Content-Encoding: gzip\r\n", "not really");
    unknown(&ask(get(&server, body(TextMatch::Contains("really".into())))), "encoded with gzip");
    holds(&ask(get(&server, status(200))));
}
