//! Shipping: the log of a live database, held and cut into pieces; and what was shipped, replayed.
//!
//! | module | what lives there |
//! |---|---|
//! | `wal` | SQLite's bytes |
//! | `hold` | holding the live log; locks |
//! | `follower` | cutting pieces, resuming by proof, beginning the log anew |
//! | `sums` | the checksum of the whole database that goes with every commit |
//! | `piece` | the bytes of a piece |
//! | `replay` | pieces on a restored database |
//!
//! # Instants
//! Frames carry no time. A commit has two instants: one at which it was not there yet and one at which it was, as far apart as two
//! looks. The later one is the commit's: nothing that is later than an instant comes back with it.

mod follower;
mod hold;
mod piece;
mod replay;
mod sums;
mod wal;

pub(super) use follower::follow;
pub(super) use hold::{STATE_ENDING, begin_capture, shipper};
pub(super) use replay::replay;
