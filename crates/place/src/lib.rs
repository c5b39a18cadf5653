//! Where things take effect: processes, files and connections on this host or in its twin.
//!
//! [`Place`] is the one type by which everything else acts on the world, so that the same scenario runs on
//! this host when it is meant and in a [`Twin`] when it is rehearsed. A twin is a copy-on-write overlay of
//! this host in namespaces of its own: nothing that happens in it changes the host or leaves the machine.
//! Nothing in here knows what a component, a plan or a repository is.
//!
//! | module | what lives there |
//! |---|---|
//! | [`place`](Place) | the two kinds of place behind one set of methods |
//! | [`command`](Command) | a command, its limits, what came of it: plain data |
//! | `run` | watching one command to its end |
//! | [`process`](ProcessId) | identities of processes, and ending all that belongs to one |
//! | `twin` | making, entering and destroying a twin |
//! | `sys` | the system calls that need `unsafe` |

mod command;
mod error;
mod place;
mod process;
mod run;
mod sys;
mod twin;

pub use command::{Captured, Command, Daemons, End, Finished, Input, Limits, OnLine, Stream};
pub use error::{Error, Result};
pub use place::Place;
pub use process::{ProcessId, Stopped};
pub use run::Reading;
pub use twin::{Fate, Init, Mounted, Twin, TwinOptions, TwinReport, enter_user_namespace, twin_init};
