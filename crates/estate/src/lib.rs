//! What a plan can name: the drivers of components, services and checks.
//!
//! [`component`] holds the contract of everything that has state to protect and its drivers; [`facts`] what
//! is measured at the source and compared after a restore; [`floor`] what a backup must at least look like to
//! be believed; [`swap`] how what was restored beside takes the place of what was there.
//!
//! This crate knows no repository and no plan file: a component says what to read, between which begin and
//! end, and takes what was restored beside. The engine carries the bytes. All paths are absolute; for a twin
//! the engine calls everything here inside the twin's file system.

mod by_hand;
pub mod check;
pub mod component;
mod error;
pub mod facts;
pub mod floor;
pub mod listener;
mod proc;
pub mod secrets;
pub mod served;
pub mod service;
pub mod swap;
mod tls;

pub use error::{Error, Result};
