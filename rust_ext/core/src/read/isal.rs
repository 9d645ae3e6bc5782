//! Gzip inflated by Intel's ISA-L, about twice as fast as the portable decoder.
//!
//! Checksums are not computed here but by whoever takes the text, on another thread: inflating is
//! what everything waits for.
//!
//! ISA-L is C, so its state is a struct of raw pointers, for which this needs `unsafe`. They are set anew from slices before each call, and no pointer outlives the call it was set for.
#![allow(unsafe_code)]

use isal_sys::igzip_lib as isal;
use std::io::{self, Read};

const INPUT: usize = 256 << 10;
const MAGIC: u8 = 0x1f;
const DEFLATE: u8 = 8;
const LONGEST_HEADER: usize = 1 << 20;
const TRAILER: usize = 8;

/// The end of a member: where in the text, and the checksum and length (modulo 2^32) it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    at: usize,
    checksum: u32,
    length: u32,
}

/// Holds the text of each member against what its end says.
#[derive(Default)]
pub struct Checks {
    hasher: crc32fast::Hasher,
    length: u32,
}

impl Checks {
    /// Takes the next stretch of text, in which members end at `ends`.
    ///
    /// # Errors
    /// If one is not what its end says.
    pub fn take(&mut self, text: &[u8], ends: &[End]) -> io::Result<()> {
        let mut from = 0;
        for end in ends {
            self.add(&text[from..end.at]);
            from = end.at;
            let Self { hasher, length } = std::mem::take(self);
            if hasher.finalize() != end.checksum || length != end.length {
                return Err(invalid("the checksum does not match"));
            }
        }
        self.add(&text[from..]);
        Ok(())
    }

    fn add(&mut self, text: &[u8]) {
        self.hasher.update(text);
        self.length = self.length.wrapping_add(text.len() as u32);
    }
}

/// Where in a member the input stands.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Header,
    Body,
    Trailer,
    Between,
}

/// Inflates all members of a gzip stream.
pub struct Inflater<R> {
    source: R,
    state: Box<isal::inflate_state>,
    /// What has come of a header that is not whole yet.
    head: Vec<u8>,
    input: Vec<u8>,
    at: usize,
    at_end: bool,
    stage: Stage,
    trailer: Vec<u8>,
}

// SAFETY: the raw pointers in `state` are only used inside `call`, which sets them first.
unsafe impl<R: Send> Send for Inflater<R> {}

impl<R: Read> Inflater<R> {
    pub fn new(source: R) -> Self {
        // SAFETY: a struct of integers, arrays of them and raw pointers, for which zero is valid;
        // `isal_inflate_init` then sets every field that ISA-L reads before writing.
        let state = unsafe {
            let mut state = Box::<isal::inflate_state>::new(std::mem::zeroed());
            isal::isal_inflate_init(&raw mut *state);
            state
        };
        let (head, input, trailer) = (Vec::new(), Vec::new(), Vec::with_capacity(TRAILER));
        Self { source, state, head, input, at: 0, at_end: false, stage: Stage::Header, trailer }
    }

    /// Fills `out` as far as the stream goes: how many bytes, and to `ends` the members that end there.
    ///
    /// # Errors
    /// The source's, and for a stream that ends early or is none.
    pub fn fill(&mut self, out: &mut [u8], ends: &mut Vec<End>) -> io::Result<usize> {
        let mut length = 0;
        while length < out.len() {
            self.refill()?;
            match self.stage {
                Stage::Header => self.header()?,
                Stage::Body => length += self.body(&mut out[length..])?,
                Stage::Trailer => self.trailer(length, ends)?,
                Stage::Between if self.left().is_empty() => break,
                Stage::Between => self.next_member()?,
            }
        }
        Ok(length)
    }

    fn refill(&mut self) -> io::Result<()> {
        if self.left().is_empty() && !self.at_end {
            self.input.resize(INPUT, 0);
            let read = self.source.read(&mut self.input)?;
            self.input.truncate(read);
            (self.at, self.at_end) = (0, read == 0);
        }
        Ok(())
    }

    fn left(&self) -> &[u8] {
        &self.input[self.at..]
    }

    fn header(&mut self) -> io::Result<()> {
        let left = self.input.len() - self.at;
        if left == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = self.head.len();
        self.head.extend_from_slice(&self.input[self.at..]);
        let Some(length) = header_length(&self.head)? else {
            self.at += left;
            return Ok(());
        };
        self.at += length - before;
        self.head.clear();
        // SAFETY: `state` was initialised in `new`.
        unsafe { isal::isal_inflate_reset(&raw mut *self.state) };
        self.state.crc_flag = isal::ISAL_DEFLATE;
        self.stage = Stage::Body;
        Ok(())
    }

    fn body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let before = self.at;
        let (_, written) = self.call(out, |state| {
            // SAFETY: `state` is initialised and names live slices, whose ends ISA-L respects.
            unsafe { isal::isal_inflate(state) }
        })?;
        if self.state.block_state == isal::isal_block_state_ISAL_BLOCK_FINISH {
            self.stage = Stage::Trailer;
            // What ISA-L has read ahead, beyond the bits of the last byte.
            let (bits, ahead) = (self.state.read_in_length.max(0) as u32, self.state.read_in);
            let bytes = ahead.checked_shr(bits % 8).unwrap_or(0).to_le_bytes();
            self.trailer.clear();
            self.trailer.extend_from_slice(&bytes[..(bits / 8) as usize]);
        } else if written == 0 && self.at == before {
            return Err(match self.left() {
                [] => io::ErrorKind::UnexpectedEof.into(),
                _ => invalid("a stream that stands still"),
            });
        }
        Ok(written)
    }

    fn trailer(&mut self, at: usize, ends: &mut Vec<End>) -> io::Result<()> {
        let wanted = TRAILER - self.trailer.len().min(TRAILER);
        let taken = wanted.min(self.left().len());
        if wanted > 0 && taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.trailer.extend_from_slice(&self.input[self.at..self.at + taken]);
        self.at += taken;
        if let [a, b, c, d, e, f, g, h] = *self.trailer {
            let checksum = u32::from_le_bytes([a, b, c, d]);
            ends.push(End { at, checksum, length: u32::from_le_bytes([e, f, g, h]) });
            self.stage = Stage::Between;
        }
        Ok(())
    }

    fn next_member(&mut self) -> io::Result<()> {
        if self.left().first() != Some(&MAGIC) {
            return Err(invalid("bytes after the end of the stream"));
        }
        self.stage = Stage::Header;
        Ok(())
    }

    /// Points ISA-L's state to the input and to `out`, calls it, and returns its outcome and how many
    /// bytes it wrote.
    fn call(
        &mut self,
        out: &mut [u8],
        function: impl FnOnce(*mut isal::inflate_state) -> i32,
    ) -> io::Result<(i32, usize)> {
        // `input` is at most INPUT and `room` at most 2^30 bytes long, so the casts are exact.
        let room = out.len().min(1 << 30);
        self.state.next_in = self.input[self.at..].as_mut_ptr();
        self.state.avail_in = (self.input.len() - self.at) as u32;
        self.state.next_out = out.as_mut_ptr();
        self.state.avail_out = room as u32;
        let outcome = function(&raw mut *self.state);
        let left = (self.state.avail_in as usize).min(self.input.len());
        self.at = self.input.len() - left;
        if outcome < 0 || outcome == isal::ISAL_NEED_DICT as i32 {
            return Err(invalid(&format!("ISA-L code {outcome}")));
        }
        Ok((outcome, room - self.state.avail_out as usize))
    }
}

/// Bytes of the header that `bytes` begin with; `None` if it is not whole (RFC 1952, section 2.3).
///
/// ISA-L has a function for it, which goes wrong where a header is damaged or breaks off.
fn header_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    const CHECKED: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const RESERVED: u8 = 0xe0;
    let Some((&[MAGIC, 0x8b, DEFLATE, flags, ..], _)) = bytes.split_first_chunk::<10>() else {
        let plausible = bytes.len() < 10;
        return if plausible { Ok(None) } else { Err(invalid("a header that is none")) };
    };
    if bytes.len() > LONGEST_HEADER || flags & RESERVED != 0 {
        return Err(invalid("a header that is none"));
    }
    let mut at = 10;
    if flags & EXTRA != 0 {
        let Some(&[low, high]) = bytes.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let text = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest));
            let Some(length) = text else { return Ok(None) };
            at += length + 1;
        }
    }
    if flags & CHECKED != 0 {
        let Some(&[low, high]) = bytes.get(at..at + 2) else { return Ok(None) };
        if crc32fast::hash(&bytes[..at]) as u16 != u16::from_le_bytes([low, high]) {
            return Err(invalid("the checksum of a header does not match"));
        }
        at += 2;
    }
    Ok((at <= bytes.len()).then_some(at))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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

    fn portable(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        MultiGzDecoder::new(bytes).read_to_end(&mut text).ok().map(|_| text)
    }

    /// Gives out at most `step` bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(self.1);
            self.0.read(&mut buffer[..length])
        }
    }

    fn inflated(bytes: &[u8], step: usize, room: usize) -> Option<Vec<u8>> {
        let mut inflater = Inflater::new(Drip(bytes, step));
        let (mut checks, mut text, mut out) = (Checks::default(), Vec::new(), vec![0; room]);
        loop {
            let mut ends = Vec::new();
            let length = inflater.fill(&mut out, &mut ends).ok()?;
            checks.take(&out[..length], &ends).ok()?;
            text.extend_from_slice(&out[..length]);
            if length == 0 {
                return Some(text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn equals_the_portable_decoder(
            texts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..5000), 1..4),
            cut in any::<prop::sample::Index>(),
            (step, room) in (1_usize..3000, 1_usize..9000),
        ) {
            let whole = members(&texts);
            prop_assert_eq!(inflated(&whole, step, room), Some(texts.concat()));
            let part = &whole[..cut.index(whole.len()).max(1)];
            prop_assert_eq!(inflated(part, step, room), portable(part));
        }

        #[test]
        fn a_flipped_byte_is_never_taken_for_the_text(
            text in prop::collection::vec(any::<u8>(), 0..3000),
            place in any::<prop::sample::Index>(),
            step in 1_usize..3000,
        ) {
            let mut bytes = members(std::slice::from_ref(&text));
            // The header's time and system are covered by no checksum and change nothing.
            let place = 10 + place.index(bytes.len() - 10);
            bytes[place] ^= 0x55;
            let got = inflated(&bytes, step, 1000);
            prop_assert!(got.is_none() || got == Some(text));
        }

        #[test]
        fn headers_with_names_and_comments_are_passed_over(
            name in "[a-z]{0,20}", extra in prop::collection::vec(any::<u8>(), 0..50),
            step in 1_usize..40,
        ) {
            let builder = flate2::GzBuilder::new().filename(name).extra(extra).comment("of a table");
            let mut bytes = Vec::new();
            let mut encoder = builder.read(b"a,b\n1,2\n".as_slice(), Compression::default());
            let written = encoder.read_to_end(&mut bytes).is_ok();
            prop_assert!(written);
            prop_assert_eq!(inflated(&bytes, step, 5), Some(b"a,b\n1,2\n".to_vec()));
        }
    }
}
