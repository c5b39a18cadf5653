//! The places as their callers see them: commands on this host, and twins of it.

mod host;
