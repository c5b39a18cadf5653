//! What the steps of a run do, as data: what the journal pins, and what `perform` carries out.
//!
//! Names of components, services and checks refer to the plan that the run has pinned; things without a name of
//! their own, such as the environment of a `run:` step, are found by their position in that plan's text.

use estate::component::{Damage, Part, PointFacts};
use estate::swap::SwapPlan;
use plan::Position;
use runbook::Action;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::log::Further;

/// A place in the text of the pinned plan: line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At(pub u32, pub u32);

impl From<Position> for At {
    fn from(position: Position) -> Self {
        Self(position.line, position.column)
    }
}

/// One effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Makes a recovery point.
    Backup(Backup),
    /// Brings the points of a component to one of the plan's copies.
    Copy {
        /// Which component.
        component: String,
        /// Which copy, from 0 in the order of the plan.
        copy: usize,
    },
    /// Forgets what the plan's `keep` does not keep of a component, in the repository and its copies.
    Forget {
        /// Which component.
        component: String,
    },
    /// What a drill begins with: the protected paths of these components are removed in the twin.
    Disaster {
        /// The components.
        components: Vec<String>,
    },
    /// Shows that checks do not hold while what they are about is destroyed.
    Control {
        /// The checks.
        checks: Vec<String>,
    },
    /// Restores a point beside its targets.
    Fetch(Restored),
    /// Brings what lies beside further along its log.
    Replay(Restored),
    /// Shows that what lies beside is what was recorded.
    Prove(Restored),
    /// Shows that every byte beside is the snapshot's.
    Compare(Restored),
    /// Damages what lies beside, which is scratch, and shows that its proof notices.
    Notice {
        /// What is damaged.
        restored: Restored,
        /// How.
        how: Damage,
    },
    /// Puts what was proven in its place and keeps what was there.
    Swap {
        /// What is swapped.
        restored: Restored,
        /// The moves.
        swap: SwapPlan,
    },
    /// Removes what was restored only to be proven.
    Discard {
        /// The component.
        component: String,
        /// A directory of this run's own.
        directory: std::path::PathBuf,
    },
    /// Starts a service.
    Start {
        /// Which.
        service: String,
    },
    /// Stops a service.
    Stop {
        /// Which.
        service: String,
    },
    /// Looks a second time whether services still run, with the process with which they passed their gates.
    Steady {
        /// Which.
        services: Vec<String>,
    },
    /// Runs a shell command.
    Run {
        /// The command, with the plan's values filled in.
        script: String,
        /// The step in the plan, for its directory, environment and user.
        at: At,
    },
    /// Tells people.
    Notify {
        /// The step in the plan.
        at: At,
    },
    /// Does nothing but say something that belongs into the report.
    Note {
        /// What.
        text: String,
    },
    /// Says why something cannot be shown here; the run is at most not proven.
    NotHere {
        /// Why.
        why: String,
    },
}

/// A backup of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Which.
    pub component: String,
    /// Whether an implausible point is accepted, and by whom.
    pub accept: Option<String>,
    /// Read everything and write nothing: what a drill does.
    pub rehearsal: bool,
}

/// A recovery point on its way back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The component.
    pub component: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// Its tree.
    pub tree: String,
    /// What goes where.
    pub parts: Vec<Part>,
    /// What was recorded when it was made.
    pub recorded: PointFacts,
    /// How far the log brings it; not at all if `None`.
    pub further: Option<Further>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Checks of the plan, all of which must hold.
    Checks(Vec<String>),
    /// A question that stands in the plan without a name.
    Inline(At),
    /// A service's gate.
    Gate(String),
    /// Whether a service runs.
    Running(String),
}

impl Work {
    /// Makes it an action; `command` is what a person would type.
    pub fn action(&self, command: impl Into<String>) -> Action {
        action(self, command)
    }
}

impl Question {
    /// Makes it an action that asks.
    pub fn action(&self, command: impl Into<String>) -> Action {
        action(self, command)
    }
}

fn action(data: &impl Serialize, command: impl Into<String>) -> Action {
    let value = serde_json::to_value(data).expect("it has only text keys");
    let (kind, input) = match value {
        Value::Object(fields) => fields.into_iter().next().expect("an enum's value has its variant as key"),
        Value::String(kind) => (kind, Value::Null),
        _ => unreachable!("an enum is written as text or as an object"),
    };
    Action::new(kind, command, input)
}

/// Reads an action back.
///
/// Fails, in words, for one that this version does not know.
pub fn read<T: DeserializeOwned>(action: &Action) -> Result<T, String> {
    let value = Value::Object([(action.kind.clone(), action.input.clone())].into_iter().collect());
    serde_json::from_value(value)
        .map_err(|error| format!("this version does not know the action {}: {error}", action.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_back() {
        let works = [
            Work::Start { service: "backend".into() },
            Work::Run { script: "true".into(), at: At(3, 7) },
            Work::Backup(Backup { component: "database".into(), accept: None, rehearsal: true }),
        ];
        for work in works {
            assert_eq!(read::<Work>(&work.action("x")), Ok(work));
        }
        for question in [Question::Inline(At(1, 2)), Question::Checks(vec!["a".into()])] {
            assert_eq!(read::<Question>(&question.action("x")), Ok(question));
        }
        assert!(read::<Work>(&Action::new("teleport", "", Value::Null)).is_err());
    }
}
