//! Measures a capture of SQLite databases: `cargo run -p estate --example sqlite_speed -- FILE…`.
//!
//! Each file is captured and read three times: from nothing, and twice more with what was recorded before.

use std::error::Error;
use std::io::{Read, Write};
use std::time::Instant;

use estate::component::sqlite::Sqlite;
use estate::component::{Cancel, CaptureRequest, Component, Content, PointFacts, SqliteOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    let files: Vec<String> = std::env::args().skip(1).collect();
    let mut previous: Vec<Option<PointFacts>> = files.iter().map(|_| None).collect();
    for _ in 0..3 {
        let start = Instant::now();
        let (mut read, mut unchanged) = (0_u64, 0);
        for (file, previous) in files.iter().zip(&mut previous) {
            let component = Sqlite::new(SqliteOptions::of(std::path::absolute(file)?));
            let request = CaptureRequest {
                run: "speed",
                scratch: scratch.path(),
                previous: previous.as_ref(),
                cancel: Cancel::default(),
            };
            let begun = Instant::now();
            let capture = component.capture(&request)?;
            let facts = begun.elapsed();
            unchanged += usize::from(capture.is_unchanged());
            for member in capture.members {
                if let Content::Stream { open, .. } = member.content {
                    let (mut reader, mut buffer) = (open()?, vec![0; 1 << 20]);
                    loop {
                        let count = reader.read(&mut buffer)?;
                        if count == 0 {
                            break;
                        }
                        read += count as u64;
                    }
                }
            }
            capture.finish.finish(None)?;
            writeln!(out, "  {file}: begun in {facts:?}, read in {:?}", begun.elapsed() - facts)?;
            *previous = Some(capture.point);
        }
        writeln!(out, "{read} bytes read, {unchanged} unchanged, {:?}", start.elapsed())?;
    }
    Ok(())
}
