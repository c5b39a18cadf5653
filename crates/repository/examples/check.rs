//! Checks a repository, reading all of it: `check DIRECTORY PASSWORD`.
#![expect(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::sync::Arc;

use repository::check::{CheckOptions, ReadData, check};
use repository::{Clock, Context, Repository};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, password] = &arguments[..] else {
        return Err("usage: check DIRECTORY PASSWORD".into());
    };
    let store = Arc::new(store::Local::open(directory)?);
    let repository = Repository::open(store, password.as_bytes(), Clock::system())?;
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(&repository, &options, Context::silent())?;
    for finding in &report.findings {
        println!("{:?}: {finding}", finding.severity());
    }
    for snapshot in &report.affected {
        println!(
            "snapshot {} lost {} files, such as {:?}",
            snapshot.id,
            snapshot.count,
            snapshot.paths.first()
        );
    }
    println!("{} packs, {} blobs, {} trees read", report.packs_read, report.blobs, report.trees);
    Ok(())
}
