//! Who listens at a TCP port of a place.
//!
//! The kernel's table of sockets is that of a network namespace, so a command of the place prints it; which process holds a
//! socket is then found by the socket's inode among all processes of the host, those of twins included.
//!
//! Limits: a process of another user is not visible unless we are root; its socket is, with its user.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use place::{Command, Limits, Place};

use crate::component::Holder;
use crate::proc;

/// A busy server has some hundred thousand connections of 150 bytes each.
const TABLE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The state `LISTEN` in the kernel's table.
const LISTEN: &str = "0A";

/// A socket that listens, and the processes that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// The user that made it.
    pub uid: u32,
    /// Who has it open; empty if that may not be seen. Workers that were forked share one socket.
    pub holders: Vec<Holder>,
}

/// Why the listeners are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table could not be printed within the place.
    #[error("failed to read the table of sockets: {0}")]
    Place(#[from] place::Error),
    /// What was printed is no table.
    #[error("failed to read the table of sockets in {place}: {why}")]
    Table {
        /// The place's name.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Finds all sockets of a place that listen at a TCP port, over IPv4 and IPv6.
pub fn listeners_of(place: &Place, port: u16, limits: &Limits<'_>) -> Result<Vec<Listener>, Error> {
    let mut sockets: Vec<Socket> = table(place, limits)?;
    sockets.retain(|socket| socket.address.port() == port);
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let mut listeners: Vec<Listener> = Vec::new();
    let open: Vec<(i32, Vec<u64>)> = proc::all().into_iter().map(|pid| (pid, proc::sockets(pid))).collect();
    for Socket { address, uid, inode } in sockets {
        let holders = open.iter().filter(|(_, inodes)| inodes.contains(&inode));
        let holder = |(pid, _): &(i32, _)| Holder { pid: pid.cast_unsigned(), name: proc::name(*pid) };
        listeners.push(Listener { address, uid, holders: holders.map(holder).collect() });
    }
    Ok(listeners)
}

/// Finds the sockets that a connection to this very address reaches: the most particular ones.
pub(crate) fn listeners_at(
    place: &Place,
    address: SocketAddr,
    limits: &Limits<'_>,
) -> Result<Vec<Listener>, Error> {
    let mut listeners = listeners_of(place, address.port(), limits)?;
    listeners.retain(|listener| listener.accepts(address.ip()));
    let best = listeners.iter().map(|listener| listener.distance(address.ip())).min();
    listeners.retain(|listener| Some(listener.distance(address.ip())) == best);
    Ok(listeners)
}

impl Listener {
    /// Tells whether a connection to this address can reach it.
    ///
    /// A socket at `::` counts for IPv4, too: the table does not tell those that were made for IPv6 only.
    pub fn accepts(&self, address: IpAddr) -> bool {
        let (own, address) = (self.address.ip().to_canonical(), address.to_canonical());
        own == address || own == Ipv6Addr::UNSPECIFIED || (own == Ipv4Addr::UNSPECIFIED && address.is_ipv4())
    }

    /// The kernel prefers the socket of the very address to one of all addresses, and its own family's to the other's.
    fn distance(&self, address: IpAddr) -> u8 {
        let (own, address) = (self.address.ip().to_canonical(), address.to_canonical());
        match (own == address, own.is_ipv4() == address.is_ipv4()) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.holders.is_empty() {
            return write!(formatter, "a process of user {} at {}", self.uid, self.address);
        }
        write!(formatter, "{} at {}", Holder::list(&self.holders), self.address)
    }
}

/// One listening socket of the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

fn table(place: &Place, limits: &Limits<'_>) -> Result<Vec<Socket>, Error> {
    let print = Command::new("cat", ["/proc/net/tcp", "/proc/net/tcp6"]).clean_environment();
    let limits = Limits { output_bytes_max: TABLE_BYTES_MAX, on_line: None, ..*limits };
    let finished = place.run(&print, &limits)?;
    let failed = |why: String| Error::Table { place: place.name().to_owned(), why };
    let bytes = finished.out.whole().ok_or_else(|| failed("it is too long".into()))?;
    // Without IPv6 the second file is missing, which is no error; the first always has its title.
    if bytes.is_empty() {
        return Err(failed(format!("cat {}: {}", finished.end, finished.err.text().trim())));
    }
    let text = String::from_utf8_lossy(&bytes);
    let listening = text.lines().filter(|line| line.split_ascii_whitespace().nth(3) == Some(LISTEN));
    listening.map(|line| parse(line).ok_or_else(|| failed(format!("an unknown line {line:?}")))).collect()
}

/// Reads a line of `/proc/net/tcp` or `tcp6`: number, local, remote, state, queues, timers, retransmits, user, …, inode.
fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = SocketAddr::new(parse_address(address)?, port);
    Some(Socket { address, uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
}

/// An address is printed as numbers of 32 bit, whose bytes in memory are in the order of the network.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |digits: &[u8]| match digits.len() {
        8 => Some(u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?.to_ne_bytes()),
        _ => None,
    };
    let words: Vec<[u8; 4]> = text.as_bytes().chunks(8).map(word).collect::<Option<_>>()?;
    match *words.as_slice() {
        [v4] => Some(IpAddr::from(v4)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Listener, SocketAddr, parse};

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_understood() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 123456 1 0";
        let v6 = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 77 1";
        let socket = parse(v4).unwrap();
        assert_eq!(
            (socket.address.to_string().as_str(), socket.uid, socket.inode),
            ("127.0.0.1:8080", 1000, 123_456)
        );
        let socket = parse(v6).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.inode), ("[::1]:80", 77));
        for damaged in
            ["", "0: 0100007F 0 0A", "0: 0100007F:XX 0 0A 0 0 0 0 0 1", "0: 01:50 0 0A 0 0 0 0 0 1"]
        {
            assert_eq!(parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn the_most_particular_listener_is_meant() {
        let listener = |address: &str| Listener {
            address: address.parse::<SocketAddr>().unwrap(),
            uid: 0,
            holders: Vec::new(),
        };
        let (local, v4, v6) = (listener("127.0.0.1:80"), listener("0.0.0.0:80"), listener("[::]:80"));
        let to = "127.0.0.1".parse().unwrap();
        assert!(local.accepts(to) && v4.accepts(to) && v6.accepts(to));
        assert!(local.distance(to) < v4.distance(to) && v4.distance(to) < v6.distance(to));
        assert!(!local.accepts("10.0.0.1".parse().unwrap()));
        assert!(!v4.accepts("::1".parse().unwrap()));
    }
}
