//! Where the server of a database listens.

use std::fmt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::component) enum Address {
    /// The socket file, such as `/run/postgresql/.s.PGSQL.5432`.
    Socket(PathBuf),
    /// A host and a port.
    Tcp(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Address {
    /// Tells whether a server there runs on this machine.
    pub(in crate::component) fn is_here(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp(host, _) => matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"),
        }
    }
}
