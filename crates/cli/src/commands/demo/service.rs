//! `lifeboat demo-service`: the little HTTP service of the demo, in front of a real SQLite database.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::outcome::{Answer, Failure};

/// Serve the demo's orders over HTTP; started by the demo's plan
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database
    #[arg(long)]
    database: PathBuf,
    /// The configuration, without which it does not start
    #[arg(long)]
    config: PathBuf,
    /// The port of the loopback address at which it answers
    #[arg(long)]
    port: u16,
}

/// A client that says nothing is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(args: &Args) -> Answer {
    let configured = std::fs::read_dir(&args.config).map(Iterator::count).unwrap_or(0);
    if configured == 0 {
        return Err(Failure::other(format!("there is no configuration in {}", args.config.display())));
    }
    let database = open(&args.database)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))
        .map_err(|error| Failure::other(format!("failed to listen at port {}: {error}", args.port)))?;
    for client in listener.incoming() {
        // A client that goes away takes its answer with it.
        let _gone = client.and_then(|client| answer(&client, &database));
    }
    Err(Failure::other("the listener is gone"))
}

fn open(path: &Path) -> Result<Connection, Failure> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .map_err(|error| Failure::other(format!("failed to open {}: {error}", path.display())))
}

fn answer(client: &TcpStream, database: &Connection) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(client).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let count = database.query_row("select count(*) from orders", [], |row| row.get::<_, i64>(0));
    let (status, body) = match (path, count) {
        ("/health", Ok(_)) => ("200 OK", r#"{"status": "ok"}"#.to_owned()),
        ("/orders", Ok(orders)) => ("200 OK", format!(r#"{{"orders": {orders}}}"#)),
        (_, Ok(_)) => ("404 Not Found", r#"{"error": "no such page"}"#.to_owned()),
        (_, Err(error)) => {
            ("500 Internal Server Error", serde_json::json!({ "error": error.to_string() }).to_string())
        }
    };
    let mut client = client;
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
