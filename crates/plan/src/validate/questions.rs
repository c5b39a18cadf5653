//! Checks: a check without an expectation is refused, because it could only ever be green.

use super::{Section, Validator};
use crate::Position;
use crate::language::{
    Ask, CommandExpect, ComponentKind, FileExpect, HttpCheck, HttpExpect, PortExpect, Question, SqlQuestion,
    TcpExpect,
};

impl Validator<'_> {
    /// Tells what is wrong with a question or the names of checks.
    pub(super) fn ask(&mut self, ask: &Ask) {
        match (&ask.question, ask.check.is_empty()) {
            (Some(question), true) => self.question(question, ask.at),
            (None, false) => self.all_known(Section::Checks, &ask.check, ask.at),
            (Some(_), false) => {
                let hint = "name checks under `check`, or ask a question here, not both";
                self.say_with_hint(ask.at, "this names checks and asks a question as well", hint);
            }
            (None, true) => self.if_complete(ask.at, "this asks nothing", "name a check"),
        }
    }

    /// Tells what is wrong with a question.
    pub(super) fn question(&mut self, question: &Question, at: Position) {
        match question {
            Question::Http(http) => self.http(http, at),
            Question::Command(command) => {
                if command.expect.as_ref().is_none_or(|expect| *expect == CommandExpect::default()) {
                    self.expects_nothing("command", at, "expect: { exit: 0 }");
                }
            }
            Question::Sql(check) => self.sql(&check.sql, at),
            Question::File(file) => match &file.expect {
                Some(expect) if *expect != FileExpect::default() => {
                    if expect.exists == Some(false) && has_properties(expect) {
                        let hint = "remove `exists: false`, or everything else";
                        self.say_with_hint(at, "a file that must not exist cannot be like anything", hint);
                    }
                }
                _ => self.expects_nothing("file", at, "expect: { exists: true }"),
            },
            Question::Disk(disk) => {
                if disk.expect.is_none() {
                    self.expects_nothing("disk", at, "expect: { free: 10GB }");
                }
            }
            Question::Tcp(tcp) => {
                let TcpExpect { open, banner } = &tcp.expect;
                if !**open && banner.is_some() {
                    self.say_with_hint(
                        at,
                        "a connection that is refused sends no banner",
                        "remove one of them",
                    );
                }
            }
            Question::Port(port) => {
                let PortExpect { listening, program } = &port.expect;
                if !**listening && program.is_some() {
                    let hint = "remove `program`, or `listening: false`";
                    self.say_with_hint(at, "where nothing listens, no program does", hint);
                }
                if port.port == 0 {
                    self.say_with_hint(at, "nothing listens at port 0", "ports are from 1 to 65535");
                }
            }
        }
    }

    fn expects_nothing(&mut self, kind: &str, at: Position, example: &str) {
        let message = format!("this {kind} check expects nothing, so it could never fail");
        self.if_complete(at, message, &format!("say what must come back, for example {example}"));
    }

    fn http(&mut self, http: &HttpCheck, at: Position) {
        if http.expect.as_ref().is_none_or(|expect| *expect == HttpExpect::default()) {
            self.expects_nothing("http", at, "expect: { status: 200 }");
        }
        let url = http.http.written();
        let scheme = url.starts_with("http://") || url.starts_with("https://") || url.starts_with("${");
        if !scheme {
            let message = format!("`{url}` is not a URL of http");
            self.say_with_hint(at, message, "it begins with http:// or https://");
        }
        let expects_days = http.expect.as_ref().is_some_and(|expect| expect.tls_days.is_some());
        if expects_days && url.starts_with("http://") {
            let message = "`tls_days` asks for a certificate, and http:// has none";
            self.say_with_hint(at, message, "ask https://, or remove `tls_days`");
        }
        if http.ca_file.is_some() && !*http.verify_tls {
            let message = "`ca_file` says who is believed, and `verify_tls: false` that anybody is";
            self.say_with_hint(at, message, "remove one of them");
        }
        let token = |c: char| c.is_ascii_uppercase() || c == '-';
        if !http.method.chars().all(token) {
            let message = format!("`{}` is not a method of HTTP", http.method.value);
            self.say_with_hint(at, message, "methods are written in capitals: GET, HEAD, POST");
        }
    }

    fn sql(&mut self, sql: &SqlQuestion, at: Position) {
        self.known(Section::Components, &sql.component);
        if let Some(component) = self.body.components.get(&sql.component)
            && !matches!(component.kind, ComponentKind::Sqlite(_) | ComponentKind::Postgres(_))
        {
            let message = format!(
                "the component `{}` is a {} component, which cannot be asked by sql",
                sql.component,
                component.kind.kind()
            );
            self.say_with_hint(sql.component.at(), message, "name a sqlite or postgres component");
        }
        let bounds = sql.at_least.is_some() || sql.at_most.is_some();
        let stated =
            [sql.equals.is_some(), bounds, sql.empty.is_some()].into_iter().filter(|stated| *stated).count();
        match stated {
            0 => self.expects_nothing("sql", at, "equals: ok"),
            1 => {}
            _ => {
                let hint = "write `equals`, or `at_least` and `at_most`, or `empty`";
                self.say_with_hint(at, "this sql check expects several things that exclude each other", hint);
            }
        }
        if let (Some(least), Some(most)) = (sql.at_least, sql.at_most)
            && least > most
        {
            let message = format!("nothing is at least {least} and at most {most}");
            self.say_with_hint(at, message, "swap the two");
        }
    }
}

fn has_properties(expect: &FileExpect) -> bool {
    FileExpect { exists: None, ..expect.clone() } != FileExpect::default()
}
