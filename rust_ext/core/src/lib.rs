//! Hospital event tables to ragged visits, and ragged visits to sparse ones.
//!
//! This crate knows no Python. Whatever it returns is the same for any number of threads.

pub mod deciles;
pub mod encode;
mod error;
pub mod heads;
pub mod keys;
mod memory;
pub mod read;
pub mod records;
#[cfg(test)]
mod scratch;

pub use error::{Error, Report, Result};
