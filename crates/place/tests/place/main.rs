//! The places as their callers see them: commands on this host, and twins of it.
//!
//! Twins are made by helper processes, as root and as an ordinary user; the tests run as root.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]

mod files;
mod host;
mod isolation;
mod life;
mod session;
mod twin;
