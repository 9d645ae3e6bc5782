//! A folder for tests and the fuzzer, removed with its owner.
//!
//! Not by the crate `tempfile`: that asks a feature of `bitflags` for which Cargo would build all of
//! Arrow and Parquet a second time.

use std::path::{Path, PathBuf};

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A folder in `parent`, named by what it is for and by the process.
    pub(crate) fn new(parent: &Path, purpose: &str) -> std::io::Result<Self> {
        let path = parent.join(format!("equipoise-{purpose}-{}", std::process::id()));
        // One that a killed process of the same number has left will do.
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
