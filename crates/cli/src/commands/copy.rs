//! `lifeboat copy`

use engine::copies;
use engine::site::Site;
use repository::{Clock, InitOptions, Repository};
use serde::Serialize;

use crate::access::{KEY_COST, author};
use crate::estate::{PlanArgs, Read, access_to_copy};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Ui, printable};
use crate::units;

/// Bring the plan's copies up to date
///
/// Every backup copies what it has made; this brings everything else that a copy lacks: what was backed up while it could
/// not be reached, and snapshots that are no recovery points. With --init copies are made where there are none yet.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat copy --init                          make the copies that the plan names, and fill them
  lifeboat copy
  lifeboat copy --only s3://hub-backups-eu/prod")]
pub struct Args {
    /// Only this copy: its location as the plan writes it, or its number from 1
    #[arg(long, value_name = "COPY")]
    only: Option<String>,
    /// Make a repository where there is none
    #[arg(long)]
    init: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Serialize)]
struct Copied {
    copy: String,
    snapshots: usize,
    points: u64,
    bytes_added: u64,
    error: Option<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let read = args.plan.read()?;
    let chosen: Vec<usize> = match &args.only {
        Some(wanted) => vec![copies::find(&read.plan, wanted)?],
        None => (0..read.plan.copies.len()).collect(),
    };
    if chosen.is_empty() {
        return Err(Failure::usage("the plan has no `copies`", "name some: copies: [{ location: s3://… }]"));
    }
    let site = args.plan.open(ui)?;
    let mut all = Vec::new();
    for index in chosen {
        let location = site.copies[index].location.clone();
        let mut copied =
            Copied { copy: location.clone(), snapshots: 0, points: 0, bytes_added: 0, error: None };
        match bring(args, &read, index, &site, &mut copied, ui) {
            Ok(()) => ui.line(format!(
                "{}: {} copied, {} added",
                printable(&location),
                units::counted(copied.snapshots as u64, "snapshot", "snapshots"),
                units::bytes(copied.bytes_added)
            ))?,
            Err(why) => {
                ui.problem(&format!("the copy {location}"), &why);
                copied.error = Some(why);
            }
        }
        let answer = serde_json::to_value(&copied).expect("it has only text keys");
        ui.event(&Line::Answer { kind: "copied", answer })?;
        all.push(copied);
    }
    let failed: Vec<&str> =
        all.iter().filter(|copied| copied.error.is_some()).map(|copied| copied.copy.as_str()).collect();
    let verdict = match failed.as_slice() {
        [] => Verdict::Verified,
        some => Verdict::Failed(Explained::new(
            format!("not up to date: {}", some.join(", ")),
            "see above; what arrived is whole, and the same command goes on",
        )),
    };
    Ok(Done::new(verdict, &serde_json::json!({ "copies": all })))
}

fn bring(
    args: &Args,
    read: &Read,
    index: usize,
    site: &Site,
    copied: &mut Copied,
    ui: &Ui,
) -> Result<(), String> {
    let target = match site.copies[index].open() {
        Err(_) if args.init && is_missing(read, index, ui) => make(read, index, site, ui)?,
        opened => opened?,
    };
    let progress = Progress::new(ui);
    let report =
        copies::update(site, &target, None, progress.context()).map_err(|error| error.to_string())?;
    drop(progress);
    (copied.snapshots, copied.points) = (report.copied.len(), report.points);
    copied.bytes_added = report.written.sealed_bytes;
    Ok(())
}

fn is_missing(read: &Read, index: usize, ui: &Ui) -> bool {
    let opened = access_to_copy(read, index).and_then(|access| access.open(ui));
    matches!(
        opened,
        Err(Failure::Opening {
            error: repository::Error::NoRepository { .. } | repository::Error::Incomplete { .. },
            ..
        })
    )
}

/// Makes a repository that cuts files as the plan's does, so that backups into either share what they can.
fn make(read: &Read, index: usize, site: &Site, ui: &Ui) -> Result<Repository, String> {
    let made = || -> Result<Repository, Failure> {
        let access = access_to_copy(read, index)?;
        let store = access.store(ui)?;
        let password = access.password.read(&format!("the new copy {}", access.location), true)?;
        let config = site.repository.config();
        let options = InitOptions {
            chunking: config.chunking(),
            polynomial: Some(config.chunker_polynomial.clone()),
            cost: KEY_COST,
            author: author(),
        };
        let repository = Repository::init(store, &password, &options, Clock::system())
            .map_err(|error| Failure::Opening { error, hints: Vec::new() })?;
        ui.line(format!(
            "made repository {} at {}",
            repository.config().id.short(),
            printable(&repository.location())
        ))?;
        Ok(repository)
    };
    made().map_err(|failure| failure.to_string())
}
