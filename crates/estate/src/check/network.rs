//! What the checks over the network share: connecting within a place, and making sure who is at the other end.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Asking;
use super::answer::{Answer, Over};
use crate::listener;

/// A connection that takes longer is tried again, so that the flag is looked at in between.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// Connects from within the place, or gives the answer of the check that cannot.
pub(super) fn connect(
    asking: &Asking<'_>,
    host: &str,
    port: u16,
    expected: &str,
) -> Result<TcpStream, Answer> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let nobody = |found: String| Answer::fails(format!("nobody answers at {address}"), expected, found);
    loop {
        let left = match asking.deadline.left() {
            Ok(left) => left,
            Err(Over::Late) => return Err(nobody(late(asking))),
            Err(Over::Cancelled) => return Err(Answer::unknown("interrupted")),
        };
        match asking.place.connect(host, port, left.min(ATTEMPT_MAX)) {
            Ok(stream) => return Ok(stream),
            Err(place::Error::Connect { reason, .. }) if reason.kind() == ErrorKind::TimedOut => {}
            Err(place::Error::Connect { reason, .. }) if is_an_answer(&reason) => {
                return Err(nobody(reason.to_string()));
            }
            Err(error) => return Err(Answer::unknown(error.to_string())),
        }
    }
}

/// Makes sure that the service that the context asks for is the one that listens where the connection went.
pub(super) fn served_by_the_right_one(
    asking: &Asking<'_>,
    ends: io::Result<(SocketAddr, SocketAddr)>,
) -> Result<(), Answer> {
    let Some(served) = asking.context.served_by else { return Ok(()) };
    let (peer, own) = ends.map_err(|error| Answer::unknown(format!("cannot tell who answered: {error}")))?;
    if !peer.ip().to_canonical().is_loopback() && peer.ip() != own.ip() {
        return Err(Answer::unknown(format!(
            "cannot tell whether {} answered: {peer} is not in this place",
            served.service()
        )));
    }
    let listeners = listener::listeners_at(asking.place, peer, &asking.limits())
        .map_err(|error| Answer::unknown(error.to_string()))?;
    served.answers_for(&listeners, peer.port())
}

/// Says that time was over, as what was found.
pub(super) fn late(asking: &Asking<'_>) -> String {
    format!("no answer within {:?}", asking.context.timeout)
}

/// Tells a refusal, which is the other side's answer, from what kept us from asking.
fn is_an_answer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
    )
}
