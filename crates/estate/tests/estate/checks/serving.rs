//! Who answers: a check that asks for a service does not take the answer of another.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use estate::check::{
    Answer, AskContext, Http, HttpExpect, Port, PortExpect, Question, Status, Tcp, TcpExpect,
};
use estate::secrets::Secrets;
use estate::served::Served;
use estate::service::Service;
use place::{Command, Place};

use super::{check, fails, holds, unknown};
use crate::services::{Ground, Guard, free_port, named, server, until};

fn ask_of(served: &Served, question: Question) -> Answer {
    let (cancel, secrets) = (AtomicBool::new(false), Secrets::default());
    let context = AskContext {
        timeout: Duration::from_secs(20),
        cancel: &cancel,
        secrets: &secrets,
        served_by: Some(served),
    };
    check(question).ask(&Place::host(), &context)
}

fn questions(port: u16) -> [Question; 3] {
    let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
    [
        Question::Http(Http::get(format!("http://127.0.0.1:{port}/"), expect)),
        Question::Tcp(Tcp { host: "localhost".into(), port, expect: TcpExpect::Open }),
        Question::Port(Port { port, address: None, expect: PortExpect::Listening }),
    ]
}

fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn started<'a>(service: &'a Service, ground: &'a Ground) -> Guard<'a> {
    service.start(&ground.context()).unwrap();
    Guard(service, ground)
}

#[test]
fn only_the_service_itself_may_answer_for_it() {
    let ground = Ground::new();
    let (live, ours) = (free_port(), free_port());
    let live_one = named("live", server(live, ground.state.path()));
    let our_one = named("ours", server(ours, ground.state.path()));
    let _guards = (started(&live_one, &ground), started(&our_one, &ground));
    until(|| answers(live) && answers(ours));
    let served = our_one.served(&ground.context()).unwrap();
    for question in questions(ours) {
        holds(&ask_of(&served, question));
    }
    // The answer is right, only not from the service that is meant.
    for question in questions(live) {
        fails(&ask_of(&served, question), "is not served by ours");
    }
    our_one.stop(&ground.context()).unwrap();
    for question in questions(live) {
        fails(&ask_of(&served, question), "is not served by ours");
    }
}

#[test]
fn children_and_daemons_of_the_service_answer_for_it() {
    let ground = Ground::new();
    for launcher in ["", "setsid "] {
        let port = free_port();
        // The server is a child of the service's first process, in its session or in one of its own.
        let text = format!("{launcher}python3 -m http.server --bind 127.0.0.1 {port} & wait; sleep 300");
        let service = named("parent", Command::shell(text).directory(ground.state.path()));
        let _guard = started(&service, &ground);
        until(|| answers(port));
        let served = service.served(&ground.context()).unwrap();
        for question in questions(port) {
            holds(&ask_of(&served, question));
        }
    }
}

#[test]
fn an_answer_from_elsewhere_is_nobodys_here() {
    let ground = Ground::new();
    let service = named("ours", Command::shell("sleep 300"));
    let _guard = started(&service, &ground);
    let served = service.served(&ground.context()).unwrap();
    // Nobody answers at all: that comes first.
    let [http, ..] = questions(free_port());
    fails(&ask_of(&served, http), "nobody answers");
    let gone = Question::Port(Port { port: free_port(), address: None, expect: PortExpect::Free });
    holds(&ask_of(&served, gone));
    // The table is that of the place, so a name elsewhere cannot be told; a name that is unknown even less.
    let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
    unknown(
        &ask_of(&served, Question::Http(Http::get("http://no-such-host.invalid/", expect))),
        "no-such-host",
    );
}
