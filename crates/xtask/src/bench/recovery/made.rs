//! What the estates are made of: databases of orders with documents, as the demo has them, and trees of small files.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::material::{Random, Vocabulary};
use crate::process::{Result, line, not_started, output};

/// The document of an order, in bytes: the middle of a log-normal distribution.
const DOCUMENT_BYTES: f64 = 1400.0;
/// Small files in a directory.
const FILES_PER_DIRECTORY: usize = 50;
/// What separates fields and rows for `.import --ascii`.
const FIELD: u8 = 0x1f;
const ROW: u8 = 0x1e;

/// Makes a SQLite database of about `bytes` bytes: orders with a document each, an index, a write-ahead log.
pub fn database(path: &Path, bytes: f64, seed: u64) -> Result<()> {
    let schema = "create table orders \
        (id integer primary key, customer text not null, cents integer not null, note text);";
    let index = "create index orders_by_customer on orders (customer);";
    let mut command = Command::new("sqlite3");
    command.args(["-bail", "-batch"]).arg(path).args([
        "pragma synchronous=off; pragma journal_mode=off",
        schema,
        ".import --ascii /dev/stdin orders",
        index,
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| not_started(&command, &error))?;
    let rows = child.stdin.take().expect("it was asked for");
    let written = orders(BufWriter::with_capacity(1 << 20, rows), bytes, seed);
    let status = child.wait()?;
    written.map_err(|error| format!("failed to write rows to `{}`: {error}", line(&command)))?;
    if !status.success() {
        return Err(format!("`{}` ended with {status}", line(&command)).into());
    }
    output(Command::new("sqlite3").arg(path).arg("pragma journal_mode=wal")).map(drop)
}

/// Writes rows until they have about `bytes` bytes.
fn orders(mut out: impl Write, bytes: f64, seed: u64) -> std::io::Result<()> {
    let (words, mut random) = (Vocabulary::seeded(1), Random::seeded(seed));
    let (mut written, mut id) = (0.0, 0);
    let mut row = Vec::new();
    while written < bytes {
        id += 1;
        row.clear();
        write!(row, "{id}")?;
        row.push(FIELD);
        write!(row, "customer-{}", random.below(4_001))?;
        row.push(FIELD);
        write!(row, "{}", random.below(90_000))?;
        row.push(FIELD);
        let document = random.log_normal(DOCUMENT_BYTES, 0.7).min(60_000.0) as usize + row.len();
        words.json(&mut random, &mut row, document);
        row.push(ROW);
        out.write_all(&row)?;
        // Rows do not fill a page to its end, and the index has a share.
        written += row.len() as f64 * 1.12;
    }
    out.flush()
}

/// Makes `count` files of some hundred bytes in directories of fifty.
pub fn small_files(root: &Path, count: usize) -> Result<()> {
    let directories = count.div_ceil(FILES_PER_DIRECTORY);
    let threads = std::thread::available_parallelism()?.get();
    let make = &|first: usize| -> Result<()> {
        let words = Vocabulary::seeded(1);
        let mut content = Vec::new();
        for number in (first..directories).step_by(threads) {
            let directory = root.join(format!("{:02x}/{number:05x}", number % 256));
            fs::create_dir_all(&directory)
                .map_err(|error| format!("failed to make {}: {error}", directory.display()))?;
            let mut random = Random::seeded(number as u64);
            for file in number * FILES_PER_DIRECTORY..((number + 1) * FILES_PER_DIRECTORY).min(count) {
                content.clear();
                let size = 100 + random.below(1500);
                words.source(&mut random, &mut content, size);
                let path = directory.join(format!("{file:06x}.conf"));
                fs::write(&path, &content)
                    .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|first| scope.spawn(move || make(first))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}
