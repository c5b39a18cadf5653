//! Runs: their ids and files on this machine, their copies in the repository, and the short record of how each ended.
//!
//! On this machine a run is the directory `runs/RUN` of the state directory: the journal, and `orders`, where
//! operators of other processes put what they want. In the repository it is `runs/RUN/…` (lines of the
//! journal, see `copy_run`) and `runs/RUN/end-N` (the [`Record`] of its N-th end).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use repository::Repository;
use runbook::journal::{Parsed, Replayed};
use runbook::{Outcome, RunStatus, State};
use serde::{Deserialize, Serialize};

use crate::resolve::{Context, Mode};
use crate::{Error, Result};

/// The directory of runs, here and in the repository.
pub(crate) const DIRECTORY: &str = "runs";
/// The name of the record of how a run ended.
const END: &str = "end";

/// What kind of run it is; part of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Makes recovery points.
    Backup,
    /// Brings one component back.
    Restore,
    /// Reads stored data, and restores into scratch.
    Verify,
    /// Answers a disaster.
    Recover,
    /// Rehearses a disaster.
    Drill,
}

impl Kind {
    /// The word for it, in ids and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Recover => "recover",
            Self::Drill => "drill",
        }
    }
}

/// Makes an id: sortable by time, readable, and its own: `20261121-094500-123-drill-7f3a`.
pub fn new_id(kind: Kind, now: Timestamp) -> String {
    let mut random = [0; 2];
    // Without random bytes two runs of one second could meet; the journal refuses the second one then.
    let _unlucky = getrandom::fill(&mut random);
    // Milliseconds, so that of two runs of one second the later one is the latest.
    let (time, milliseconds) = (now.strftime("%Y%m%d-%H%M%S"), now.subsec_millisecond());
    format!("{time}-{milliseconds:03}-{}-{:02x}{:02x}", kind.as_str(), random[0], random[1])
}

/// When the run of this id began, as the id itself says.
pub fn began(id: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", id.get(..15)?).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The files of one run on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Those of the run `id` below the state directory.
    pub fn of(state: &Path, id: &str) -> Self {
        Self { directory: state.join(DIRECTORY).join(id) }
    }

    /// The run's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// Where orders of other processes are put.
    pub fn orders(&self) -> PathBuf {
        self.directory.join("orders")
    }

    /// Makes the directory, for its owner's eyes only, with the state directory around it. What is above that is no
    /// secret, and the servers of proofs, which run as other users, have to get through.
    pub(crate) fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(above) = self.directory.ancestors().nth(3) {
            std::fs::create_dir_all(above).map_err(Error::io("make", above))?;
        }
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.directory).map_err(Error::io("make", &self.directory))
    }
}

/// How a run ended, in short: what status and history are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this record.
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// What kind of run it was.
    pub kind: Kind,
    /// The estate: the plan's name.
    pub estate: String,
    /// The scenario, if it was one.
    pub scenario: Option<String>,
    /// Disaster or drill.
    pub mode: Mode,
    /// Who began it.
    pub by: String,
    /// The machine.
    pub host: String,
    /// The program's version.
    pub program: String,
    /// The digest of what the scenario stands on in the plan; of the whole plan if it was none.
    pub plan_digest: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Why not better.
    pub reasons: Vec<String>,
    /// How many checks held.
    pub held: usize,
    /// Machine time by phase, in seconds.
    pub phases: Vec<(String, f64)>,
    /// Time in which people were waited for, in seconds.
    pub waited_seconds: f64,
    /// Which points were brought back.
    pub chosen: Vec<crate::resolve::Chosen>,
    /// Components that were backed up or restored, and how that ended, in words if not well.
    pub components: BTreeMap<String, Option<String>>,
    /// From the declaration of the disaster to the end, in seconds: the RTO as measured. For recoveries and drills.
    pub rto_seconds: Option<f64>,
    /// From the oldest record recovered to the disaster, in seconds: the RPO as measured.
    pub rpo_seconds: Option<f64>,
}

impl Record {
    /// The version of the records that this program writes.
    pub const VERSION: u32 = 1;

    /// How long it took, people included.
    pub fn took(&self) -> Duration {
        (self.ended - self.began).try_into().unwrap_or_default()
    }
}

/// The context that a run has pinned.
pub fn context_of(state: &State) -> Result<Context> {
    let what = format!("the journal of run {}", state.run());
    serde_json::from_value(state.runbook().context.clone()).map_err(|error| Error::damaged(&what, error))
}

/// Writes the record of a run that has ended; a run that is taken up again and ends anew has another.
pub(crate) fn save_record(repository: &Repository, record: &Record, ending: usize) -> Result<()> {
    let bytes = serde_json::to_vec(record).expect("a record has only text keys");
    repository.sidecar_create(&format!("{DIRECTORY}/{}/{END}-{ending:06}", record.run), &bytes)?;
    Ok(())
}

/// Lists the records of all runs that the repository knows, the newest last; of a run with several ends, the last.
///
/// Records that cannot be read are told in words beside.
pub fn records(repository: &Repository) -> Result<(Vec<Record>, Vec<String>)> {
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for (name, _) in repository.sidecar_list(DIRECTORY)? {
        let Some((run, last)) = name.rsplit_once('/') else { continue };
        if last.starts_with(END) {
            newest.insert(run.to_owned(), name.clone());
        }
    }
    let names: Vec<String> = newest.into_values().collect();
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for (name, read) in names.iter().zip(repository.sidecar_read_many(&names)) {
        let parsed = match read {
            Ok(Some(bytes)) => serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string()),
            Ok(None) => continue,
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(record) if record.version <= Record::VERSION => records.push(record),
            Ok(_) => unreadable.push(format!("{name} was written by a newer version")),
            Err(why) => unreadable.push(format!("{name}: {why}")),
        }
    }
    Ok((records, unreadable))
}

/// Reads a run's journal: from this machine, or else from its copy in the repository.
///
/// Fails when neither has it.
pub fn read(state: &Path, repository: Option<&Repository>, id: &str) -> Result<Replayed> {
    let file = Files::of(state, id).journal();
    if file.exists() {
        return Ok(runbook::journal::read(&file)?);
    }
    let unknown = || {
        Error::refused(
            format!("there is no run {id}, neither on this machine nor in the repository"),
            "`lifeboat status` shows the last runs",
        )
    };
    let repository = repository.ok_or_else(unknown)?;
    let text = crate::copy_run::whole(repository, id)?.ok_or_else(unknown)?;
    let Parsed { entries, torn, .. } = runbook::journal::parse(&text)?;
    let state = State::replay(&entries).map_err(runbook::journal::JournalError::from)?;
    Ok(Replayed { state, entries, torn })
}

/// All runs on this machine, by id, the newest last.
pub fn local(state: &Path) -> Result<Vec<String>> {
    let directory = state.join(DIRECTORY);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", &directory)(error)),
    };
    let mut ids: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// All runs of which the repository has a copy, by id, the newest last.
pub fn copied(repository: &Repository) -> Result<Vec<String>> {
    let listed = repository.sidecar_list(DIRECTORY)?;
    let mut ids: Vec<String> =
        listed.iter().filter_map(|(name, _)| Some(name.split('/').nth(1)?.to_owned())).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Runs of which the repository has a copy and no end: they go on somewhere, or were ended by force.
pub(crate) fn copied_open(repository: &Repository) -> Result<Vec<String>> {
    let mut ended: BTreeMap<String, bool> = BTreeMap::new();
    for (name, _) in repository.sidecar_list(DIRECTORY)? {
        let mut segments = name.split('/').skip(1);
        if let (Some(run), Some(last)) = (segments.next(), segments.next()) {
            *ended.entry(run.to_owned()).or_default() |= last.starts_with(END);
        }
    }
    Ok(ended.into_iter().filter(|(_, ended)| !ended).map(|(run, _)| run).collect())
}

/// Finds a run on this machine by its id or the end of it, as people type it; `latest` is the newest.
pub fn find(state: &Path, name: &str) -> Result<String> {
    find_among(&local(state)?, name)
}

/// Finds a run by its id or the end of it, on this machine and in the repository; `latest` is the newest of both.
pub fn find_everywhere(state: &Path, repository: &Repository, name: &str) -> Result<String> {
    let mut ids = local(state)?;
    ids.extend(copied(repository)?);
    ids.sort_unstable();
    ids.dedup();
    find_among(&ids, name)
}

fn find_among(ids: &[String], name: &str) -> Result<String> {
    let fitting: Vec<&String> = match name {
        "latest" => ids.last().into_iter().collect(),
        _ => ids.iter().filter(|id| *id == name || id.ends_with(name)).collect(),
    };
    match fitting.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Ok(name.to_owned()),
        several => Err(Error::refused(
            format!("{name} may be any of {} runs", several.len()),
            "name it by its whole id; `lifeboat status` shows the last runs",
        )),
    }
}

/// Whether a run can be taken up again.
pub fn is_open(state: &State) -> bool {
    !matches!(
        state.status(),
        RunStatus::Ended(Outcome::Verified)
            | RunStatus::RolledBack
            | RunStatus::Committed
            | RunStatus::Committing
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::Files;

    #[test]
    fn a_state_directory_is_its_owners_and_what_is_above_it_is_not() {
        let base = tempfile::tempdir().unwrap();
        let above = base.path().join("above");
        let files = Files::of(&above.join("estate"), "20261121-000000-000-backup-0000");
        files.make().unwrap();
        let others = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
        assert_eq!(others(&above.join("estate")), 0);
        assert_eq!(others(files.directory()), 0);
        assert_ne!(others(&above), 0, "a server that proves as another user gets through");
    }
}
