//! Components: what has state to protect. The contract that every driver keeps, and the drivers.
//!
//! # On the way in
//! [`Component::capture`] begins at the source: from then until its [`Finish`] is finished or
//! dropped, the source stands still for us (one read transaction, one finished dump). It gives [`Member`]s,
//! which the caller reads, in any order and from any thread, and facts of that same moment. Then the caller
//! says what was stored ([`Tally`]) and finishes. A capture that is dropped without `finish` is aborted and
//! leaves nothing behind.
//!
//! # On the way back
//! [`Component::parts`] says what to restore where. The caller has each part restored to
//! `beside`, on the file system of its target; [`Component::prepare`] has said before whether the target may
//! be replaced at all; [`Log::replay`] brings it to a later instant; [`Component::prove`] looks only at `beside` and compares it with what was recorded;
//! [`crate::swap`] puts it in its place. What could not be evaluated is *not proven*, never passed.

mod address;
mod capture;
pub mod command;
mod damage;
mod env_files;
pub mod files;
mod follow;
pub(crate) mod glob;
mod holders;
mod log;
mod options;
pub mod postgres;
mod proof;
pub mod redis;
mod restore;
pub mod sqlite;
mod tally;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::Result;

pub use capture::{
    Capture, CaptureRequest, Content, Finish, Finished, Member, Nothing, Open, Origin, PointFacts, Problem,
    StreamMeta,
};
pub use damage::Damage;
pub use follow::Follow;
pub use holders::{Holder, Holders};
pub use log::{Log, LogBase, LogFile, LogPiece, Replay, Replayed, Standing};
pub use options::{
    CommandOptions, DumpOptions, Export, Exported, FilesOptions, Identity, Pages, PostgresOptions,
    RedisOptions, SqliteOptions, Tls,
};
pub use proof::{Holds, LeftToPeople, Proof, Proven, Shown};
pub use restore::Part;
pub(crate) use restore::appended;
pub use tally::{Entry, EntryKind, Tally};

/// A flag by which the caller asks long work to stop; work that stops for it fails with
/// [`crate::Error::Interrupted`].
pub type Cancel = Arc<AtomicBool>;

/// Something with state to protect.
///
/// A driver holds its options and no open file: every method begins from nothing, so that one value serves
/// several threads, a long-running process, and a twin (whose file system the caller enters first).
pub trait Component: Send + Sync {
    /// The word for it in the plan, such as `sqlite`.
    fn kind(&self) -> &'static str;

    /// Tells whether the driver enters its place by itself, because it runs commands there. Its methods are
    /// then called on an ordinary thread; those of all others inside [`place::Place::within`].
    fn enters_by_itself(&self) -> bool {
        false
    }

    /// Tells whether [`Self::capture`] and the reading of its members are done inside [`place::Place::within`].
    fn is_captured_within(&self) -> bool {
        !self.enters_by_itself()
    }

    /// Tells whether [`Self::prove`] is called inside [`place::Place::within`].
    fn is_proven_within(&self) -> bool {
        !self.enters_by_itself()
    }

    /// Tells whether [`Self::prove`] starts something that runs as the owner of the restored files, who must then be able
    /// to reach them.
    fn is_proven_as_another_user(&self) -> bool {
        false
    }

    /// The name and version of what captures and proves, such as `SQLite 3.54.1`. It ends [`PointFacts::engine`] of every
    /// point, which begins with the server where there is one; another version of either makes a proof stale.
    fn engine(&self) -> String;

    /// Looks for what would make a capture or a restore fail, changing nothing.
    fn preflight(&self) -> Vec<Finding>;

    /// Tells what is at the source now, changing nothing.
    ///
    /// Fails when it cannot be looked at; that it is missing or damaged is an answer.
    fn state(&self) -> Result<State>;

    /// Begins a capture.
    ///
    /// Fails when a declared part is missing, unreadable, empty or damaged, when the source stays locked
    /// beyond the driver's patience, and when a declared fact or export cannot be evaluated: a partial
    /// capture is no capture.
    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture>;

    /// Says what is to be restored for the point `recorded` by the run `run`, in the order of the swaps.
    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part>;

    /// Checks before anything is fetched that the targets may be replaced: their parent directories are made,
    /// and a target that is in use or of another identity is refused.
    ///
    /// Fails with [`crate::Error::InUse`], [`crate::Error::OtherIdentity`] or [`crate::Error::BadTarget`].
    fn prepare(&self, parts: &[Part], recorded: &PointFacts) -> Result<()>;

    /// Shows that what lies beside is what was recorded: the engine's own integrity check, then the facts.
    ///
    /// Looks at `beside` only, and changes nothing there but what its engine must do to open it, such as replaying
    /// the log that is part of the point. Fails when it cannot look at all; damage is an
    /// answer ([`Holds::No`]), and what could not be evaluated is one too ([`Holds::Unknown`]).
    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof>;

    /// Tells whether [`Self::prove`] looks at names, sizes and times and not at every byte, so that a restore test has the
    /// caller compare the bytes with those of the snapshot.
    fn is_proven_by_bytes(&self) -> bool {
        false
    }

    /// Damages what lies beside, which is scratch, so that [`Self::prove`] can be seen to notice; what was damaged, in words.
    ///
    /// `None` when there is nothing to be damaged that way. Fails when it cannot be done.
    fn damage(
        &self,
        parts: &[Part],
        _recorded: &PointFacts,
        how: Damage,
        _cancel: &Cancel,
    ) -> Result<Option<String>> {
        damage::of_files(parts, how)
    }

    /// The log by which a point is brought further, where the engine has one.
    fn log(&self) -> Option<&dyn Log> {
        None
    }

    /// Does what is to be done once the parts are in their places, such as feeding a dump to the command that
    /// loads it. Does it again when called again.
    fn after_swap(&self, _parts: &[Part], _recorded: &PointFacts, _cancel: &Cancel) -> Result<()> {
        Ok(())
    }

    /// Takes back what [`Self::after_swap`] did elsewhere than in the files of the parts. Does nothing when there is nothing
    /// to be taken back, or it was taken back already.
    fn undo_swap(&self, _parts: &[Part], _recorded: &PointFacts, _cancel: &Cancel) -> Result<()> {
        Ok(())
    }

    /// Names what is kept of the old elsewhere than in files, which [`Self::commit`] removes.
    fn kept(&self, _parts: &[Part], _cancel: &Cancel) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes what is kept elsewhere than in files. Resumes by being called again.
    fn commit(&self, _parts: &[Part], _cancel: &Cancel) -> Result<()> {
        Ok(())
    }

    /// The commands with which a person does what [`Self::after_swap`] does, shown before it is done; nothing if moving
    /// files is all.
    fn swap_by_hand(&self, _parts: &[Part], _recorded: &PointFacts) -> Option<String> {
        None
    }

    /// The commands with which a person shows what [`Self::prove`] shows, for a printed runbook; nothing if there are
    /// none that this kind needs.
    fn prove_by_hand(&self, _parts: &[Part], _recorded: &PointFacts) -> Option<String> {
        None
    }

    /// Lists what is still to be done by people, as it is now: secret values that are in no backup.
    fn left_to_people(&self, _recorded: &PointFacts) -> Vec<LeftToPeople> {
        Vec::new()
    }

    /// The paths that a disaster removes, for a twin to remove them: the state itself and its companion
    /// files.
    fn destroy(&self) -> Vec<PathBuf>;
}

/// What is at a component's source or target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Something is there.
    pub present: bool,
    /// Whose data it is, as far as the driver can tell; comparable with [`PointFacts::identity`] for people.
    pub identity: Option<String>,
    /// What is wrong with it, such as `is not a SQLite database`.
    pub damage: Option<String>,
    /// How much there is, where that costs no walk.
    pub bytes: Option<u64>,
    /// Who has it open.
    pub holders: Vec<Holder>,
}

/// What a preflight found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, where.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It works, and may stop working or not protect as much as it seems.
    Warning,
    /// A backup or restore fails as things are.
    Error,
}
