//! The check of a port: does something listen there, and is it the right program.

use super::answer::Answer;
use super::question::{Port, PortExpect};
use super::{Asking, Invalid};
use crate::listener::{self, Listener};

/// The kernel keeps this much of a program's name.
const COMM_BYTES: usize = 15;

/// A question about a port that has been understood.
#[derive(Debug)]
pub(super) struct PortCheck(Port);

impl PortCheck {
    pub(super) fn new(port: Port) -> Result<PortCheck, Invalid> {
        if port.port == 0 {
            return Err(Invalid::Value { what: "port 0".into(), why: "nothing can listen there" });
        }
        if matches!(&port.expect, PortExpect::ListeningAs(name) if name.is_empty()) {
            return Err(Invalid::Value { what: "the name of the program".into(), why: "it is empty" });
        }
        Ok(PortCheck(port))
    }

    pub(super) fn question(&self) -> &Port {
        &self.0
    }

    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.where_(), self.expected())
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        match listener::listeners_of(asking.place, self.0.port, &asking.limits()) {
            Ok(mut listeners) => {
                listeners.retain(|listener| self.0.address.is_none_or(|address| listener.accepts(address)));
                self.judge(asking, &listeners).unwrap_or_else(|answer| answer)
            }
            Err(error) => Answer::unknown(error.to_string()),
        }
    }

    fn judge(&self, asking: &Asking<'_>, listeners: &[Listener]) -> Result<Answer, Answer> {
        let found = || match listeners {
            [] => "nothing listens".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let fails =
            |why: &str| Err(Answer::fails(format!("{} {why}", self.where_()), self.expected(), found()));
        match (&self.0.expect, listeners) {
            (PortExpect::Free, []) => {}
            (PortExpect::Free, _) => return fails("is in use"),
            (_, []) => return fails("has no listener"),
            (PortExpect::Listening, _) => {}
            (PortExpect::ListeningAs(name), some) => {
                let name = &name[..name.floor_char_boundary(COMM_BYTES)];
                let hidden = some.iter().find(|listener| listener.holders.is_empty());
                if let Some(hidden) = hidden {
                    return Err(Answer::unknown(format!(
                        "cannot see which program listens at {}: it belongs to user {}; ask as root",
                        hidden.address, hidden.uid
                    )));
                }
                if !some.iter().all(|listener| listener.holders.iter().any(|holder| holder.name == name)) {
                    return fails("is another program's");
                }
            }
        }
        if let (Some(served), false) = (asking.context.served_by, listeners.is_empty()) {
            served.answers_for(listeners, self.0.port)?;
        }
        Ok(Answer::Holds { detail: format!("{}: {}", self.where_(), found()) })
    }

    fn where_(&self) -> String {
        match self.0.address {
            Some(address) => format!("port {} at {address}", self.0.port),
            None => format!("port {}", self.0.port),
        }
    }

    fn expected(&self) -> String {
        match &self.0.expect {
            PortExpect::Listening => "has a listener".into(),
            PortExpect::ListeningAs(name) => format!("has the listener {name}"),
            PortExpect::Free => "has no listener".into(),
        }
    }
}
