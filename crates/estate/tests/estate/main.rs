//! The estate from outside: real files, real databases, real servers and processes.

mod checks;
mod services;
