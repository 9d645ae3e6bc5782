//! Gzip inflated by flate2, where ISA-L is not built in: it checks the checksums itself.

use flate2::read::MultiGzDecoder;
use std::io::{self, Read};

/// The end of a member; there is nothing left to check.
pub enum End {}

/// Accepts everything.
#[derive(Default)]
pub struct Checks {}

impl Checks {
    /// Does nothing: what was inflated has been checked.
    ///
    /// # Errors
    /// None.
    pub fn take(&mut self, _text: &[u8], _ends: &[End]) -> io::Result<()> {
        Ok(())
    }
}

/// Inflates all members of a gzip stream.
pub struct Inflater<R>(MultiGzDecoder<R>);

impl<R: Read> Inflater<R> {
    pub fn new(source: R) -> Self {
        Self(MultiGzDecoder::new(source))
    }

    /// Fills `out` as far as the stream goes: how many bytes.
    ///
    /// # Errors
    /// The source's, and for a stream that ends early or is none.
    pub fn fill(&mut self, out: &mut [u8], _ends: &mut Vec<End>) -> io::Result<usize> {
        let mut length = 0;
        while length < out.len() {
            match self.0.read(&mut out[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }
}
