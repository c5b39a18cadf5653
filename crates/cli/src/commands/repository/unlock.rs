//! `lifeboat repository unlock`

use serde::Serialize;

use crate::access::Access;
use crate::json::Line;
use crate::outcome::{Answer, Done};
use crate::ui::Ui;
use crate::units;

/// Remove the locks of processes that are gone
///
/// A lock is removed when it was not refreshed for 30 minutes, when its process ran on this host and is no more, or
/// when it cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository unlock
  lifeboat repository unlock --all    when you know that nobody works on the repository")]
pub struct Args {
    /// Remove every lock, also of processes that are alive: they stop, and may leave work undone
    #[arg(long, visible_alias = "remove-all")]
    all: bool,
}

#[derive(Serialize)]
struct Summary {
    removed: usize,
    left: usize,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let removed = repository.unlock(args.all, access.lock())?;
    for id in &removed {
        ui.event(&Line::Removed { kind: "lock", id: id.to_hex() })?;
    }
    ui.talk(format!("removed {}", units::counted(removed.len() as u64, "lock", "locks")))?;
    let left = repository.locks()?;
    for (id, content) in &left {
        let holder = match content {
            Ok(file) => file.to_string(),
            Err(error) => error.clone(),
        };
        ui.note(&format!("lock {} is still there: {holder}", id.short()));
    }
    Ok(Done::verified(&Summary { removed: removed.len(), left: left.len() }))
}
