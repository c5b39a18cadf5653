//! The check of a connection: accepted, refused, or greeted with the right words.

use std::io::Read;

use super::answer::{Answer, Over};
use super::http::{Wire, over_in};
use super::network::{self, late};
use super::question::{Tcp, TcpExpect};
use super::text::Matcher;
use super::{Asking, Invalid};

/// How much of a greeting is looked at.
const BANNER_BYTES_MAX: usize = 4096;

/// A question about a connection that has been understood.
#[derive(Debug)]
pub(super) struct TcpCheck {
    tcp: Tcp,
    banner: Option<Matcher>,
}

impl TcpCheck {
    pub(super) fn new(tcp: Tcp) -> Result<TcpCheck, Invalid> {
        if tcp.host.is_empty() || tcp.port == 0 {
            return Err(Invalid::Value {
                what: format!("the address {:?} with port {}", tcp.host, tcp.port),
                why: "it names no host, or no port",
            });
        }
        let banner = match &tcp.expect {
            TcpExpect::Banner(banner) => Some(Matcher::new(banner)?),
            TcpExpect::Open | TcpExpect::Closed => None,
        };
        Ok(TcpCheck { tcp, banner })
    }

    pub(super) fn question(&self) -> &Tcp {
        &self.tcp
    }

    pub(super) fn describe(&self) -> String {
        format!("{}:{} {}", self.tcp.host, self.tcp.port, self.expected())
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        let connected = network::connect(asking, &self.tcp.host, self.tcp.port, &self.expected());
        match (connected, &self.tcp.expect) {
            (Err(Answer::Fails { found, .. }), TcpExpect::Closed) if found != late(asking) => {
                Answer::Holds { detail: format!("{}: {found}", self.describe()) }
            }
            // Silence is no refusal: something may listen behind a filter or a full queue.
            (Err(Answer::Fails { found, .. }), TcpExpect::Closed) => Answer::unknown(found),
            (Err(answer), _) => answer,
            (Ok(_), TcpExpect::Closed) => Answer::fails(
                format!("something answers at {}", self.address()),
                self.expected(),
                "a connection",
            ),
            (Ok(stream), _) => {
                let ends = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
                let greeted = self.greeted(asking, Wire::new(stream, asking.deadline));
                let judged = greeted.and_then(|detail| {
                    network::served_by_the_right_one(asking, ends)?;
                    Ok(Answer::Holds { detail })
                });
                judged.unwrap_or_else(|answer| answer)
            }
        }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.tcp.host, self.tcp.port)
    }

    fn expected(&self) -> String {
        match (&self.banner, &self.tcp.expect) {
            (Some(banner), _) => format!("accepts a connection and greets with what {}", banner.describe()),
            (None, TcpExpect::Closed) => "refuses connections".into(),
            (None, _) => "accepts a connection".into(),
        }
    }

    /// Reads until the greeting is right, is too long to become it, or ends.
    fn greeted(&self, asking: &Asking<'_>, mut wire: Wire<'_>) -> Result<String, Answer> {
        let Some(banner) = &self.banner else { return Ok(self.describe()) };
        let mut received = Vec::new();
        let mut buffer = [0; 512];
        let ended = loop {
            if banner.matches(&String::from_utf8_lossy(&received)) {
                return Ok(self.describe());
            }
            if received.len() > BANNER_BYTES_MAX {
                break None;
            }
            match wire.read(&mut buffer) {
                Ok(0) => break None,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => match over_in(&error) {
                    Some(Over::Cancelled) => return Err(Answer::unknown("interrupted")),
                    Some(Over::Late) => break Some(late(asking)),
                    None => break Some(error.to_string()),
                },
            }
        };
        let greeting = String::from_utf8_lossy(&received).into_owned();
        let found = if received.is_empty() { ended.unwrap_or_default() } else { greeting };
        Err(Answer::fails(format!("{} greets otherwise", self.address()), self.expected(), found))
    }
}
