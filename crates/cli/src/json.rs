//! The lines of `--json`, all of them: a contract with scripts, described in `docs/json.md`.
//!
//! Fields and events may be added under the same [`SCHEMA`]; one that is removed or changes its meaning makes
//! a new number.

use serde::Serialize;

/// The version of everything below.
pub const SCHEMA: u32 = 1;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line<'a> {
    /// The first.
    Start { schema: u32, program: &'a str, command: &'a str },
    /// How far a task is; now and then.
    Progress(ProgressLine<'a>),
    /// With `--verbose`: an item that is done.
    Item { path: String, change: &'static str, bytes: u64 },
    /// Something went wrong with one item; the work goes on.
    Problem { item: &'a str, error: &'a str },
    /// The store failed in passing and will be asked again.
    Retry { error: String, pause_seconds: f64 },
    /// A remark that needs no action.
    Note { message: &'a str },
    /// The command failed.
    Error { message: String, hints: &'a [String] },
    /// The last.
    End(EndLine<'a>),

    /// An entry of a run's journal, as the journal has it.
    Run { run: &'a str, entry: serde_json::Value },
    /// A use case's answer: readiness, points, a diagnosis, a preview, the end of a run.
    Answer { kind: &'static str, answer: serde_json::Value },

    /// A repository was made.
    Repository { id: String, location: String },
    /// A snapshot, made or listed.
    Snapshot(Box<SnapshotLine<'a>>),
    /// A key, added or listed.
    Key(KeyLine),
    /// A file or directory of a snapshot.
    Node(Box<NodeLine>),
    /// What a restore would do to one path.
    Planned { path: String, action: &'static str, bytes: u64 },
    /// What a check found.
    Finding { severity: &'static str, message: String, remedy: Option<String> },
    /// A snapshot that cannot be restored whole.
    Affected { snapshot_id: String, time: String, count: u64, paths: Vec<String> },
    /// A path that differs between two snapshots.
    Difference { path: String, change: &'static str },
    /// What becomes of the snapshots of one group.
    ForgetGroup(ForgetGroupLine),
    /// A snapshot was copied, or was there already.
    Copied { source_id: String, target_id: String, was_there: bool },
    /// What a snapshot loses when it is repaired.
    Loss { snapshot_id: String, path: String, what: String },
    /// A snapshot was written anew under another name.
    Rewritten { old_id: String, new_id: String },
    /// A pack or index file that a repair looked at, and what it found.
    Repair { kind: &'static str, id: String, what: String },
    /// A file of the repository was removed.
    Removed { kind: &'static str, id: String },
}

/// How far a task is.
#[derive(Debug, Serialize)]
pub struct ProgressLine<'a> {
    pub task: &'static str,
    pub seconds: f64,
    pub items_done: u64,
    pub items_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub current: Option<&'a str>,
}

/// The end of a command.
#[derive(Debug, Serialize)]
pub struct EndLine<'a> {
    pub outcome: &'static str,
    pub exit_code: u8,
    pub seconds: f64,
    pub why: Option<&'a str>,
    pub hints: &'a [String],
    pub summary: serde_json::Value,
}

/// A snapshot with its name.
#[derive(Debug, Serialize)]
pub struct SnapshotLine<'a> {
    pub id: String,
    pub short_id: String,
    pub snapshot: &'a repository::format::Snapshot,
}

impl<'a> SnapshotLine<'a> {
    /// The line of `entry`.
    pub fn of(entry: &'a repository::SnapshotEntry) -> Box<Self> {
        let id = entry.id;
        Box::new(Self { id: id.to_hex(), short_id: id.short(), snapshot: &entry.snapshot })
    }
}

/// A key.
#[derive(Debug, Serialize)]
pub struct KeyLine {
    pub id: String,
    pub current: bool,
    pub created: Option<String>,
    pub username: Option<String>,
    pub hostname: Option<String>,
    pub error: Option<String>,
}

/// A file or directory of a snapshot.
#[derive(Debug, Serialize)]
pub struct NodeLine {
    pub snapshot_id: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub mode: u32,
    pub permissions: String,
    pub uid: u32,
    pub gid: u32,
    pub user: String,
    pub group: String,
    pub size: u64,
    pub mtime: String,
    pub ctime: String,
    pub link_target: Option<String>,
}

/// What becomes of the snapshots of one group.
#[derive(Debug, Serialize)]
pub struct ForgetGroupLine {
    pub host: Option<String>,
    pub paths: Option<Vec<String>>,
    pub tags: Option<Vec<String>>,
    pub keep: Vec<KeptLine>,
    pub remove: Vec<String>,
}

/// A snapshot that stays.
#[derive(Debug, Serialize)]
pub struct KeptLine {
    pub snapshot_id: String,
    pub reasons: Vec<String>,
}
