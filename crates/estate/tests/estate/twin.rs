//! Services and checks in a twin: what is live on the host neither answers there nor is touched.
//!
//! Twins need the rights of root, with which the tests run.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use estate::check::{
    Answer, AskContext, Check, Command, Database, File, FileExpect, Http, HttpExpect, Port, PortExpect,
    Properties, Question, Sql, SqlExpect, Status, Tcp, TcpExpect,
};
use estate::secrets::Secrets;
use estate::served::Served;
use estate::service::{Context, Look};
use place::{Init, Limits, Place, Twin, TwinOptions};
use tempfile::TempDir;

use crate::services::{Ground, Guard, free_port, named, server, until};

/// A service on the host with its state directory, and a twin of the host.
pub(crate) struct Stage {
    pub(crate) host: Ground,
    pub(crate) twin: Twin,
    scratch: TempDir,
}

impl Stage {
    /// `prepare` happens on the host, before there is a twin.
    pub(crate) fn set(prepare: impl FnOnce(&Ground)) -> Stage {
        // A twin has a `/tmp` of its own.
        let folder = |prefix| tempfile::Builder::new().prefix(prefix).tempdir_in("/var/tmp").unwrap();
        let host = Ground::at(Place::host(), folder("lifeboat-estate-"));
        prepare(&host);
        let scratch = folder("lifeboat-scratch-");
        let options = TwinOptions {
            scratch: scratch.path().to_owned(),
            init: Init {
                program: PathBuf::from(env!("CARGO_BIN_EXE_twin-init-for-tests")),
                arguments: Vec::new(),
            },
            keep: Vec::new(),
            gone: Vec::new(),
        };
        Stage { host, twin: Twin::make(&options).unwrap(), scratch }
    }

    fn ask(&self, place: &Place, question: Question, served_by: Option<&Served>) -> Answer {
        let (cancel, secrets) = (AtomicBool::new(false), Secrets::default());
        let context =
            AskContext { timeout: Duration::from_secs(20), cancel: &cancel, secrets: &secrets, served_by };
        Check::new(question).unwrap().ask(place, &context)
    }
}

fn questions(port: u16) -> Vec<Question> {
    let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
    vec![
        Question::Http(Http::get(format!("http://localhost:{port}/"), expect)),
        Question::Tcp(Tcp { host: "127.0.0.1".into(), port, expect: TcpExpect::Open }),
        Question::Port(Port { port, address: None, expect: PortExpect::Listening }),
        Question::Command(Command {
            command: place::Command::shell(format!(
                "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'"
            )),
            exit: vec![0],
            stdout: None,
            stderr: None,
        }),
    ]
}

#[test]
fn a_live_service_neither_answers_for_its_twin_nor_is_touched() {
    let port = free_port();
    let mut web = None;
    let stage = Stage::set(|host| {
        let service = named("web", server(port, host.state.path()));
        service.start(&host.context()).unwrap();
        web = Some(service);
    });
    let web = web.unwrap();
    let _guard = Guard(&web, &stage.host);
    until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let (host, here) = (stage.host.context(), stage.twin.place());
    let live = web.watch(&host).unwrap();
    let twin = Context { place: &here, ..host };

    // The twin sees the record of the live service, and it means nothing there.
    assert!(here.within(|| host.state.join("web.json").exists()).unwrap());
    assert_eq!(web.status(&twin), estate::service::Status::Stopped);
    for question in questions(port) {
        let answer = stage.ask(&here, question.clone(), None);
        assert!(matches!(answer, Answer::Fails { .. }), "{question:?}: {answer:?}");
        assert!(stage.ask(&Place::host(), question, None).holds());
    }
    assert!(!web.stop(&twin).unwrap().was_running);

    // Its twin takes the same port, answers there, and is known by its processes.
    assert!(!web.start(&twin).unwrap().already);
    let listens = || stage.ask(&here, questions(port).remove(1), None).holds();
    until(listens);
    let (ours, theirs) = (web.served(&twin).unwrap(), web.served(&host).unwrap());
    for question in questions(port) {
        let answer = stage.ask(&here, question.clone(), Some(&ours));
        assert!(answer.holds(), "{question:?}: {answer:?}");
    }
    // The live service would be the wrong one in the twin, and its twin the wrong one on the host.
    for question in questions(port).into_iter().take(3) {
        let answer = stage.ask(&here, question.clone(), Some(&theirs));
        assert!(matches!(answer, Answer::Fails { .. }), "{question:?}: {answer:?}");
        let answer = stage.ask(&Place::host(), question.clone(), Some(&ours));
        assert!(matches!(answer, Answer::Fails { .. }), "{question:?}: {answer:?}");
    }
    let rehearsed = web.watch(&twin).unwrap();
    assert_eq!(web.look_again(&twin, &rehearsed), Look::Same);
    assert!(web.stop(&twin).unwrap().was_running);
    assert!(matches!(web.look_again(&twin, &rehearsed), Look::Gone { .. }));
    assert_eq!(web.look_again(&host, &live), Look::Same);
    stage.twin.destroy().unwrap();
    assert_eq!(web.look_again(&host, &live), Look::Same);
    drop(stage.scratch);
}

#[test]
fn files_and_databases_are_those_of_the_twin() {
    let stage = Stage::set(|host| {
        fs::write(host.state.path().join("file"), "live").unwrap();
        let connection = rusqlite::Connection::open(host.state.path().join("estate.db")).unwrap();
        connection.execute_batch("create table agents (id); insert into agents values (1)").unwrap();
    });
    let folder = stage.host.state.path();
    let questions = || {
        let file = File { path: folder.join("file"), expect: FileExpect::Present(Properties::default()) };
        let sql = Sql {
            database: Database::Sqlite { path: folder.join("estate.db") },
            query: "select count(*) from agents".into(),
            expect: SqlExpect::AtLeast(1.0),
        };
        [Question::File(file), Question::Sql(sql)]
    };
    let here = stage.twin.place();
    for question in questions() {
        assert!(stage.ask(&here, question, None).holds());
    }
    // The disaster.
    let remove = place::Command::shell("rm -rf file estate.db*").directory(folder);
    assert!(here.run(&remove, &Limits::timeout(Duration::from_secs(20))).unwrap().success());
    for question in questions() {
        let answer = stage.ask(&here, question.clone(), None);
        assert!(matches!(answer, Answer::Fails { .. }), "{question:?}: {answer:?}");
        assert!(stage.ask(&Place::host(), question, None).holds());
    }
}

#[test]
fn nothing_beyond_the_twin_can_be_asked_or_started() {
    let stage = Stage::set(|_| {});
    let here = stage.twin.place();
    let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
    // 192.0.2.1 is an address for documents: nobody has it.
    for url in ["http://192.0.2.1/", "http://example.org/"] {
        let answer = stage.ask(&here, Question::Http(Http::get(url, expect.clone())), None);
        assert!(matches!(answer, Answer::Unknown { .. }), "{url}: {answer:?}");
    }
}
