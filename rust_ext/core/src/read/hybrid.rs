//! Parquet's hybrid of runs and packed bits, in which levels and places in dictionaries are written
//! (Apache Parquet, "Encodings", `RLE = 3`).

use bytes::Bytes;

/// Widest values; a dictionary has no more than 2^32 entries.
const WIDEST: u32 = 32;

/// A stretch of equal values, or of values packed side by side.
#[derive(Debug, Clone, Copy)]
pub enum Run<'a> {
    /// A value, and how many times it stands there.
    Same(u32, usize),
    /// Values of their own.
    Packed(Packed<'a>),
}

impl Run<'_> {
    /// Number of values.
    #[inline(always)]
    pub fn length(self) -> usize {
        match self {
            Self::Same(_, length) => length,
            Self::Packed(packed) => packed.length,
        }
    }
}

/// Values side by side, lowest bit first.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// The bytes, from the first value's first bit on or some bits before it.
    pub bytes: &'a [u8],
    /// Bits before the first value.
    pub from: usize,
    /// Number of values.
    pub length: usize,
    width: u32,
}

impl Packed<'_> {
    /// The values in order.
    #[inline(always)]
    pub fn values(self) -> impl Iterator<Item = u32> {
        let mask = (1_u64 << self.width) - 1;
        (0..self.length).map(move |place| {
            let bit = self.from + place * self.width as usize;
            ((word_at(self.bytes, bit / 8) >> (bit % 8)) & mask) as u32
        })
    }

    /// The same of values that are one bit wide: so many of them at a time, the first one lowest.
    #[inline(always)]
    pub fn bits(self) -> impl Iterator<Item = (u64, usize)> {
        (0..self.length).step_by(BITS).map(move |place| {
            let (bit, count) = (self.from + place, BITS.min(self.length - place));
            ((word_at(self.bytes, bit / 8) >> (bit % 8)) & ((1 << count) - 1), count)
        })
    }

    /// How many of these values, which are one bit wide, are ones.
    #[inline(always)]
    pub fn ones(self) -> usize {
        self.bits().map(|(bits, _)| bits.count_ones() as usize).sum()
    }
}

/// Bits of a word of which the first may be any of a byte's.
const BITS: usize = 56;

/// Eight bytes from `at` on, with zeros for those behind the end.
#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(&[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => bytes[at..].iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte)),
    }
}

/// What is left of the run that is being read.
#[derive(Debug, Clone, Copy)]
enum Rest {
    Same(u32, usize),
    /// Place of the next value's first bit, and number of values.
    Packed(usize, usize),
}

/// Reads runs.
#[derive(Debug)]
pub struct Hybrid {
    bytes: Bytes,
    width: u32,
    /// Where the next run begins.
    at: usize,
    rest: Rest,
}

impl Hybrid {
    /// Values of `width` bits; `None` if that is too wide.
    pub fn new(bytes: Bytes, width: u32) -> Option<Self> {
        let rest = Rest::Same(0, 0);
        (width <= WIDEST).then_some(Self { bytes, width, at: 0, rest })
    }

    /// The next values, at most `most` of them and at least one; `None` if there are no more.
    #[inline]
    pub fn next(&mut self, most: usize) -> Option<Run<'_>> {
        if self.width == 0 {
            return Some(Run::Same(0, most));
        }
        while matches!(self.rest, Rest::Same(_, 0) | Rest::Packed(_, 0)) {
            self.rest = self.header()?;
        }
        match &mut self.rest {
            Rest::Same(value, left) => {
                let length = most.min(*left);
                *left -= length;
                Some(Run::Same(*value, length))
            }
            Rest::Packed(bit, left) => {
                let (length, from) = (most.min(*left), *bit);
                *left -= length;
                *bit += length * self.width as usize;
                let bytes = &self.bytes[from / 8..(*bit).div_ceil(8)];
                Some(Run::Packed(Packed { bytes, from: from % 8, length, width: self.width }))
            }
        }
    }

    fn header(&mut self) -> Option<Rest> {
        let header = self.varint()?;
        let count = usize::try_from(header >> 1).ok()?;
        let left = self.bytes.len() - self.at;
        if header & 1 == 0 {
            let size = self.width.div_ceil(8) as usize;
            let value = word_at(self.bytes.get(self.at..self.at + size)?, 0);
            self.at += size;
            return Some(Rest::Same(u32::try_from(value).ok()?, count));
        }
        // Groups of eight values; the last may be cut off where the page ends.
        let size = count.checked_mul(self.width as usize)?.min(left);
        let values = (size * 8 / self.width as usize).min(count.checked_mul(8)?);
        let bit = self.at * 8;
        self.at += size;
        Some(Rest::Packed(bit, values))
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs as a writer would put them: repeated, or packed bit by bit.
    fn written(runs: &[(bool, u32, usize)], width: u32) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let mask = ((1_u64 << width) - 1) as u32;
        let varint = |mut value: usize, bytes: &mut Vec<u8>| {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        };
        for &(packed, seed, count) in runs {
            if packed {
                varint(count << 1 | 1, &mut bytes);
                let run: Vec<u32> = (0..count as u32 * 8)
                    .map(|place| seed.wrapping_mul(place.wrapping_add(7)) & mask)
                    .collect();
                let bits = run.iter().flat_map(|v| (0..width).map(move |bit| v >> bit & 1));
                let bits: Vec<u32> = bits.collect();
                let byte = |eight: &[u32]| (0..8).map(|bit| (eight[bit] as u8) << bit).sum::<u8>();
                bytes.extend(bits.chunks(8).map(byte));
                values.extend(run);
            } else {
                varint(count << 1, &mut bytes);
                bytes.extend(&(seed & mask).to_le_bytes()[..width.div_ceil(8) as usize]);
                values.extend(std::iter::repeat_n(seed & mask, count));
            }
        }
        (bytes, values)
    }

    fn read(hybrid: &mut Hybrid, most: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while let Some(run) = hybrid.next(most) {
            match run {
                Run::Same(value, length) => values.extend(std::iter::repeat_n(value, length)),
                Run::Packed(packed) => values.extend(packed.values()),
            }
        }
        values
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            width in 1_u32..=32, most in 1_usize..50,
            runs in prop::collection::vec((any::<bool>(), any::<u32>(), 1_usize..20), 0..9),
        ) {
            let (bytes, values) = written(&runs, width);
            let mut hybrid = Hybrid::new(bytes.into(), width).ok_or(TestCaseError::fail("width"))?;
            prop_assert_eq!(read(&mut hybrid, most), values);
        }

        #[test]
        fn any_bytes_end(width in 0_u32..=40, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(mut hybrid) = Hybrid::new(bytes.into(), width) {
                for _ in 0..100 {
                    if let Some(Run::Packed(packed)) = hybrid.next(9) {
                        prop_assert_eq!(packed.values().count(), packed.length);
                        if width == 1 {
                            prop_assert_eq!(packed.values().sum::<u32>(), packed.ones() as u32);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn values_of_no_width_are_all_zero() {
        let mut hybrid = Hybrid::new(Bytes::new(), 0);
        let run = hybrid.as_mut().and_then(|hybrid| hybrid.next(7));
        assert!(matches!(run, Some(Run::Same(0, 7))));
    }
}
