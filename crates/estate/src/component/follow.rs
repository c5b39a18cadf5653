//! Following the log of a live source: pieces out, what is archived in.

use jiff::Timestamp;

use super::LogPiece;
use crate::Result;

/// Follows the log of a live source.
///
/// The caller looks often ([`look`](Self::look)), archives what there is ([`piece`](Self::piece)) and says so
/// ([`acknowledge`](Self::acknowledge)). What was not acknowledged is kept, by the source or in memory within a stated
/// bound; nothing is ever left out. Whatever breaks the continuity is an [`crate::Error::Broken`]: this follower is
/// then of no more use, and the next one begins a new lineage. Dropping it lets the source go; killing the process does,
/// too, and the next one proves whether it may continue.
pub trait Follow: Send {
    /// The lineage that the pieces are of.
    fn lineage(&self) -> &str;

    /// Why the lineage is a new one, so that a base has to be made from now on; `None` where it was proven that
    /// nothing is missing behind the last piece.
    fn began(&self) -> Option<&str>;

    /// Looks whether the source has written something, and remembers when. Cheap: to be called as often as instants are
    /// to be told apart.
    fn look(&mut self) -> Result<bool>;

    /// The next piece to be archived; the same until it is acknowledged, to the byte.
    fn piece(&mut self) -> Result<Option<&LogPiece>>;

    /// Says that everything before this position is archived, durably.
    fn acknowledge(&mut self, position: u64);

    /// Does what keeps the source's log short, when it is time. To be called now and then.
    fn tend(&mut self) -> Result<()>;

    /// How many bytes of the log are not acknowledged.
    fn behind_bytes(&self) -> u64;

    /// Whether what waits should not wait any longer: were the process killed now, the next one could prove nothing.
    fn is_urgent(&self) -> bool {
        false
    }

    /// The position and the instant up to which was looked: what was committed before the instant is before the position.
    fn seen(&self) -> (u64, Timestamp);
}
