//! Where separators stand, a bit for each byte, found with the newest instructions at hand.
#![allow(unsafe_code)]

use wide::u8x16;

/// Bytes looked at together.
pub const BLOCK: usize = 64;

/// Where a row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowEnd {
    /// Position of its newline.
    pub position: u32,
    /// Separators of the text up to that newline and with it.
    pub separators: u32,
}

impl RowEnd {
    /// The end of what stands before the first row.
    pub const BEFORE: Self = Self { position: u32::MAX, separators: 0 };
}

/// Sets a bit of `separators` for every comma and newline of `text` outside quotes, and pushes the
/// end of every row to `rows`. `text` begins at the start of a row; both are emptied first.
pub fn mark(text: &[u8], separators: &mut Vec<u64>, rows: &mut Vec<RowEnd>) {
    separators.clear();
    rows.clear();
    #[cfg(target_arch = "x86_64")]
    match x86::newest() {
        // SAFETY: the processor has just been seen to have what the functions were compiled for.
        Some(x86::Newest::Avx512) => return unsafe { x86::mark_avx512(text, separators, rows) },
        Some(x86::Newest::Avx2) => return unsafe { x86::mark_avx2(text, separators, rows) },
        None => (),
    }
    mark_with(text, separators, rows, Found::of);
}

/// What is compiled for newer processors.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{BLOCK, Found, RowEnd, mark_with};
    use std::arch::x86_64::{_mm512_cmpeq_epi8_mask, _mm512_loadu_si512, _mm512_set1_epi8};

    pub enum Newest {
        Avx2,
        Avx512,
    }

    /// The newest instructions there are, of those that something is compiled for.
    #[inline]
    pub fn newest() -> Option<Newest> {
        let avx2 = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("lzcnt")
            && std::is_x86_feature_detected!("popcnt");
        match std::is_x86_feature_detected!("avx512bw") {
            _ if !avx2 => None,
            false => Some(Newest::Avx2),
            true => Some(Newest::Avx512),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub fn mark_avx512(text: &[u8], separators: &mut Vec<u64>, rows: &mut Vec<RowEnd>) {
        mark_with(text, separators, rows, |block: &[u8; BLOCK]| {
            // SAFETY: a block is 64 bytes, as many as are loaded.
            let bytes = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
            let bits = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
            Found { quotes: bits(b'"'), newlines: bits(b'\n'), commas: bits(b',') }
        });
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub fn mark_avx2(text: &[u8], separators: &mut Vec<u64>, rows: &mut Vec<RowEnd>) {
        mark_with(text, separators, rows, Found::of);
    }
}

#[inline(always)]
fn mark_with(
    text: &[u8],
    separators: &mut Vec<u64>,
    rows: &mut Vec<RowEnd>,
    find: impl Fn(&[u8; BLOCK]) -> Found,
) {
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    let mut padded = [0; BLOCK];
    padded[..tail.len()].copy_from_slice(tail);
    separators.reserve(blocks.len() + 4);
    let (mut state, mut before, mut base) = (State::default(), 0_u32, 0_u32);
    for block in blocks.iter().chain([&padded]) {
        let found = find(block);
        let here = state.separators(&found, block);
        let mut newlines = found.newlines & here;
        while newlines != 0 {
            let bit = newlines.trailing_zeros();
            let up_to_it = here & (u64::MAX >> (63 - bit));
            let separators = before + up_to_it.count_ones();
            rows.push(RowEnd { position: base.wrapping_add(bit), separators });
            newlines &= newlines - 1;
        }
        separators.push(here);
        before += here.count_ones();
        base = base.wrapping_add(BLOCK as u32);
    }
    // So that 128 bits can be taken from any position.
    separators.extend([0, 0, 0]);
}

/// A bit for each byte of a block.
struct Found {
    quotes: u64,
    newlines: u64,
    commas: u64,
}

impl Found {
    #[inline(always)]
    fn of(block: &[u8; BLOCK]) -> Self {
        let (mut quotes, mut newlines, mut commas) = (0_u64, 0_u64, 0_u64);
        for (place, part) in block.as_chunks::<16>().0.iter().enumerate() {
            let part = u8x16::new(*part);
            let bits = |byte: u8| u64::from(part.simd_eq(u8x16::splat(byte)).to_bitmask() as u16);
            quotes |= bits(b'"') << (16 * place);
            newlines |= bits(b'\n') << (16 * place);
            commas |= bits(b',') << (16 * place);
        }
        Self { quotes, newlines, commas }
    }
}

/// What one block hands on to the next, each as bits to be or-ed in.
struct State {
    /// All ones between quotes.
    quoted: u64,
    /// One if a field begins with the block.
    start: u64,
    /// One if the last byte was a quote that closed a field, or the first of a doubled pair.
    closed: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { quoted: 0, start: 1, closed: 0 }
    }
}

impl State {
    /// The separators of a block that are outside quotes.
    #[inline(always)]
    fn separators(&mut self, found: &Found, block: &[u8; BLOCK]) -> u64 {
        let all = found.newlines | found.commas;
        if found.quotes == 0 {
            let here = all & !self.quoted;
            *self = Self { quoted: self.quoted, start: here >> 63, closed: 0 };
            return here;
        }
        // Every quote is taken to open or to close; if one then opens elsewhere than at the start of
        // a field (or as the second of a doubled pair), it was a character like any other.
        let quoted = prefix_xor(found.quotes) ^ self.quoted;
        let (here, closing) = (all & !quoted, found.quotes & !quoted);
        let may_open = (here << 1) | self.start | (closing << 1) | self.closed;
        if found.quotes & quoted & !may_open != 0 {
            return self.walk(block);
        }
        let quoted = 0_u64.wrapping_sub(quoted >> 63);
        *self = Self { quoted, start: here >> 63, closed: closing >> 63 };
        here
    }

    /// The same from byte to byte, for any quotes.
    #[cold]
    fn walk(&mut self, block: &[u8; BLOCK]) -> u64 {
        #[derive(Clone, Copy, PartialEq)]
        enum Place {
            Start,
            Within,
            Quoted,
            Closed,
        }
        let mut place = match self {
            Self { quoted: u64::MAX, .. } => Place::Quoted,
            Self { start: 1, .. } => Place::Start,
            Self { closed: 1, .. } => Place::Closed,
            _ => Place::Within,
        };
        let mut here = 0;
        for (bit, byte) in block.iter().enumerate() {
            place = match (place, byte) {
                (Place::Quoted, b'"') => Place::Closed,
                (Place::Quoted, _) | (Place::Start | Place::Closed, b'"') => Place::Quoted,
                (_, b',' | b'\n') => {
                    here |= 1 << bit;
                    Place::Start
                }
                _ => Place::Within,
            };
        }
        *self = Self {
            quoted: if place == Place::Quoted { u64::MAX } else { 0 },
            start: u64::from(place == Place::Start),
            closed: u64::from(place == Place::Closed),
        };
        here
    }
}

/// Bit i of the result is the parity of bits 0 to i.
#[inline(always)]
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_quick_way_equals_the_walk(text in "[a,\"\n]{0,400}") {
            let (mut separators, mut rows) = (Vec::new(), Vec::new());
            mark(text.as_bytes(), &mut separators, &mut rows);
            let (blocks, tail) = text.as_bytes().as_chunks::<BLOCK>();
            let mut padded = [0; BLOCK];
            padded[..tail.len()].copy_from_slice(tail);
            let mut state = State::default();
            let walked: Vec<u64> =
                blocks.iter().chain([&padded]).map(|block| state.walk(block)).collect();
            prop_assert_eq!(&separators[..walked.len()], walked.as_slice());
            let newlines: Vec<usize> = text.bytes().enumerate()
                .filter(|&(at, byte)| byte == b'\n' && walked[at / 64] >> (at % 64) & 1 == 1)
                .map(|(at, _)| at).collect();
            let ends: Vec<usize> = rows.iter().map(|row| row.position as usize).collect();
            prop_assert_eq!(ends, newlines);
        }
    }
}
