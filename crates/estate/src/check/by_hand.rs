//! Checks as commands that a person would type, for the printed runbook.

use super::Kind;
use super::question::{Database, Disk, File, FileExpect, Http, Port, PortExpect, Sql, Tcp, TcpExpect, Trust};
use crate::by_hand::{line, path, quoted};

pub(super) fn of(kind: &Kind) -> String {
    match kind {
        Kind::Http(check) => {
            let (http, url) = check.parts();
            of_http(http, &url)
        }
        Kind::Tcp(check) => of_tcp(check.question()),
        Kind::Command(check) => format!("{}; echo $?", line(check.command())),
        Kind::Sql(check) => of_sql(check.question()),
        Kind::File(check) => of_file(check.question()),
        Kind::Port(check) => of_port(check.question()),
        Kind::Disk(check) => of_disk(check.question()),
    }
}

fn of_http(http: &Http, url: &str) -> String {
    let mut words = vec!["curl -sS -i".to_owned()];
    match http.method.as_str() {
        "GET" => {}
        "HEAD" => words.push("--head".into()),
        method => words.push(format!("-X {method}")),
    }
    words.extend(http.headers.iter().map(|(name, _)| format!("-H {}", quoted(&format!("{name}: …")))));
    words.extend(http.body.iter().map(|_| "--data …".to_owned()));
    if http.redirects_max > 0 {
        words.push(format!("-L --max-redirs {}", http.redirects_max));
    }
    match &http.trust {
        Trust::System => {}
        Trust::CaFile(file) => words.push(format!("--cacert {}", path(file))),
        Trust::Anyone => words.push("-k".into()),
    }
    words.push(quoted(url).into_owned());
    words.join(" ")
}

fn of_tcp(tcp: &Tcp) -> String {
    let (host, port) = (quoted(&tcp.host), tcp.port);
    match tcp.expect {
        TcpExpect::Open => format!("nc -z -v {host} {port}"),
        TcpExpect::Closed => format!("! nc -z -v {host} {port}"),
        TcpExpect::Banner(_) => format!("nc -w 3 {host} {port} < /dev/null"),
    }
}

fn of_sql(sql: &Sql) -> String {
    let query = quoted(sql.query.trim());
    match &sql.database {
        Database::Sqlite { path: file } => format!("sqlite3 -readonly {} {query}", path(file)),
        Database::Postgres(options) => {
            let word = |flag: &str, value: Option<String>| {
                value.map_or_else(String::new, |value| format!(" {flag} {}", quoted(&value)))
            };
            let socket = options.socket.as_ref().map(|socket| socket.display().to_string());
            let at = word("-h", options.host.clone().or(socket))
                + &word("-p", options.port.map(|port| port.to_string()));
            let who = word("-U", options.user.clone()) + &word("-d", Some(options.database.clone()));
            format!("psql -XAt{at}{who} -c {query}")
        }
    }
}

fn of_file(file: &File) -> String {
    let name = path(&file.path);
    match &file.expect {
        FileExpect::Absent => format!("test ! -e {name}"),
        FileExpect::Present(properties) if properties.sha256.is_some() => format!("sha256sum {name}"),
        FileExpect::Present(properties) if properties.content.is_some() => format!("cat {name}"),
        FileExpect::Present(_) => format!("ls -l --time-style=full-iso {name}"),
    }
}

fn of_port(port: &Port) -> String {
    let show = format!("ss -Hltnp 'sport = :{}'", port.port);
    match port.expect {
        PortExpect::Free => format!("test -z \"$({show})\""),
        PortExpect::Listening | PortExpect::ListeningAs(_) => show,
    }
}

fn of_disk(disk: &Disk) -> String {
    format!("df -B1 {}", path(&disk.path))
}
