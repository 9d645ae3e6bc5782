//! Gzip inflated by Intel's ISA-L, about twice as fast as the portable decoder.
//!
//! The only file with `unsafe`: ISA-L is C, so its state is a struct of raw pointers. They are set
//! anew from slices before each call, and no pointer outlives the call it was set for.
#![allow(unsafe_code)]

use isal_sys::igzip_lib as isal;
use std::io::{self, Read};

const INPUT: usize = 256 << 10;
const MAGIC: u8 = 0x1f;

/// Inflates all members of a gzip stream, checksums verified.
pub struct GzDecoder<R> {
    source: R,
    state: Box<isal::inflate_state>,
    input: Vec<u8>,
    at: usize,
    at_end: bool,
    finished: bool,
}

// SAFETY: the raw pointers in `state` are only used inside `step`, which sets them first.
unsafe impl<R: Send> Send for GzDecoder<R> {}

impl<R: Read> GzDecoder<R> {
    pub fn new(source: R) -> Self {
        // SAFETY: a struct of integers, arrays of them and raw pointers, for which zero is valid;
        // `isal_inflate_init` then sets every field that ISA-L reads before writing.
        let mut state = unsafe {
            let mut state = Box::<isal::inflate_state>::new(std::mem::zeroed());
            isal::isal_inflate_init(&raw mut *state);
            state
        };
        state.crc_flag = isal::ISAL_GZIP;
        Self { source, state, input: Vec::new(), at: 0, at_end: false, finished: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        if self.at == self.input.len() && !self.at_end {
            self.input.resize(INPUT, 0);
            let read = self.source.read(&mut self.input)?;
            self.input.truncate(read);
            (self.at, self.at_end) = (0, read == 0);
        }
        Ok(())
    }

    /// Inflates from the input into `out`: how much was written.
    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (input, room) = (self.input.len() - self.at, out.len().min(1 << 30));
        self.state.next_in = self.input[self.at..].as_mut_ptr();
        self.state.avail_in = input as u32;
        self.state.next_out = out.as_mut_ptr();
        self.state.avail_out = room as u32;
        // SAFETY: both pointers name live slices of at least the lengths given, which ISA-L does not
        // exceed; `input` is at most INPUT and `room` at most 2^30, so the casts are exact.
        let outcome = unsafe { isal::isal_inflate(&raw mut *self.state) };
        if outcome < 0 || outcome == isal::ISAL_NEED_DICT as i32 {
            let what = if outcome == isal::ISAL_INCORRECT_CHECKSUM {
                "the checksum does not match".to_owned()
            } else {
                format!("ISA-L code {outcome}")
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let (left, written) = (self.state.avail_in as usize, room - self.state.avail_out as usize);
        self.at = self.input.len() - left;
        self.finished = self.state.block_state == isal::isal_block_state_ISAL_BLOCK_FINISH;
        if written == 0 && left == input && input > 0 && !self.finished {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a stream that stands still"));
        }
        Ok(written)
    }

    /// Starts the next member, if there is one.
    fn next_member(&mut self) -> io::Result<()> {
        match self.input.get(self.at) {
            Some(&MAGIC) => {
                // SAFETY: `state` was initialised in `new`.
                unsafe { isal::isal_inflate_reset(&raw mut *self.state) };
                self.state.crc_flag = isal::ISAL_GZIP;
                self.finished = false;
                Ok(())
            }
            _ => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the end of the stream"))
            }
        }
    }
}

impl<R: Read> Read for GzDecoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            self.refill()?;
            if self.finished {
                if self.at_end {
                    break;
                }
                self.next_member()?;
            }
            let written = self.step(out)?;
            if written > 0 {
                return Ok(written);
            }
            if self.at_end && !self.finished {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::{GzEncoder, MultiGzDecoder};
    use proptest::prelude::*;

    fn members(texts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in texts {
            let mut encoder = GzEncoder::new(text.as_slice(), Compression::default());
            let _ = encoder.read_to_end(&mut bytes);
        }
        bytes
    }

    fn inflated(mut decoder: impl Read) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        decoder.read_to_end(&mut bytes).ok().map(|_| bytes)
    }

    proptest! {
        #[test]
        fn equals_the_portable_decoder(
            texts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..5000), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = members(&texts);
            prop_assert_eq!(inflated(GzDecoder::new(whole.as_slice())), Some(texts.concat()));
            let part = &whole[..cut.index(whole.len()).max(1)];
            prop_assert_eq!(
                inflated(GzDecoder::new(part)).is_some(),
                inflated(MultiGzDecoder::new(part)).is_some()
            );
        }

        #[test]
        fn a_flipped_byte_is_never_taken_for_the_text(
            text in prop::collection::vec(any::<u8>(), 1..3000),
            place in any::<prop::sample::Index>(),
        ) {
            let mut bytes = members(std::slice::from_ref(&text));
            // The header's time and system are covered by no checksum and change nothing.
            let place = 10 + place.index(bytes.len() - 10);
            bytes[place] ^= 0x55;
            let got = inflated(GzDecoder::new(bytes.as_slice()));
            prop_assert!(got.is_none() || got == Some(text));
        }
    }
}
