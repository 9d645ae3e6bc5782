//! Where the fields of a row are, of those whose separators are marked.
#![allow(unsafe_code)]

/// Work that is compiled twice, once for newer processors.
pub trait Work {
    /// What comes out.
    type Output;

    /// Does it; must be `#[inline(always)]`, and so must all that is to gain from it.
    fn run(self, picks: Picks) -> Self::Output;
}

/// Whether the processor picks out bits by number, as nobody but this file can say.
#[derive(Debug, Clone, Copy)]
pub struct Picks(bool);

impl Picks {
    /// It is not relied on.
    pub const NO: Self = Self(false);
}

/// Does `work` as it is compiled for this processor.
pub fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if super::simd::x86::newest().is_some() {
        // SAFETY: the processor has just been seen to have what the function was compiled for.
        return unsafe { run_newer(work) };
    }
    work.run(Picks::NO)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn run_newer<W: Work>(work: W) -> W::Output {
    work.run(Picks(true))
}

/// Where the separators of one row are.
#[derive(Debug, Clone, Copy)]
pub struct RowMarks<'a> {
    separators: &'a [u64],
    /// Position of the row, and the separators from there on, 64 bytes and the next 64.
    start: u32,
    near: u64,
    far: u64,
    picks: Picks,
}

impl<'a> RowMarks<'a> {
    /// The marks of the row at `start`.
    #[inline(always)]
    pub fn new(separators: &'a [u64], start: u32, picks: Picks) -> Self {
        let (near, far) = bits_at(separators, start);
        Self { separators, start, near, far, picks }
    }

    /// Where the field at `place` begins and ends; the row must have it.
    #[inline(always)]
    pub fn span(&self, place: usize) -> (usize, usize) {
        if place == 0 {
            return (self.start as usize, self.position_of(0) as usize);
        }
        let before = self.position_of(place as u32 - 1);
        let behind = match before - self.start {
            offset @ ..63 => self.near >> (offset + 1),
            offset @ 63..127 => self.far >> (offset - 63),
            _ => 0,
        };
        let to = match behind {
            0 => self.position_of(place as u32),
            _ => before + 1 + behind.trailing_zeros(),
        };
        (before as usize + 1, to as usize)
    }

    /// Position of separator number `n`.
    #[inline(always)]
    fn position_of(&self, n: u32) -> u32 {
        let in_near = self.near.count_ones();
        let (word, left, base) = if n < in_near {
            (self.near, n, self.start)
        } else {
            (self.far, n - in_near, self.start + 64)
        };
        if left >= word.count_ones() {
            return farther(self.separators, self.start, n);
        }
        base + if self.picks.0 { picked(word, left) } else { counted(word, left) }
    }
}

/// The 64 bits from any position on, and the 64 behind them.
#[inline(always)]
fn bits_at(words: &[u64], position: u32) -> (u64, u64) {
    let (word, shift) = ((position / 64) as usize, position % 64);
    let from = |low: u64, high: u64| (low >> shift) | ((high << 1) << (63 - shift));
    match words.get(word..word + 3) {
        Some(&[first, second, third]) => (from(first, second), from(second, third)),
        _ => (0, 0),
    }
}

/// Position of separator number `n` of a row that begins at `start`, which must be in the row.
#[cold]
fn farther(separators: &[u64], start: u32, n: u32) -> u32 {
    let (mut base, mut left) = (start, n);
    loop {
        let (bits, _) = bits_at(separators, base);
        if left < bits.count_ones() {
            return base + counted(bits, left);
        }
        (base, left) = (base + 64, left - bits.count_ones());
    }
}

/// Place of the one number `n` of a word, counted from 0; it must have more than `n`.
#[inline(always)]
fn counted(mut word: u64, n: u32) -> u32 {
    for _ in 0..n {
        word &= word.wrapping_sub(1);
    }
    word.trailing_zeros()
}

/// The same on a processor that picks out bits by number.
#[inline(always)]
fn picked(word: u64, n: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: only asked for with [`Picks`], which `run` gives to processors that can.
    return unsafe { std::arch::x86_64::_pdep_u64(1 << n, word) }.trailing_zeros();
    #[cfg(not(target_arch = "x86_64"))]
    counted(word, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::simd::mark;
    use proptest::prelude::*;

    /// Where all fields of a row are.
    struct Spans<'a>(&'a [u64], u32, usize);

    impl Work for Spans<'_> {
        type Output = Vec<(usize, usize)>;

        #[inline(always)]
        fn run(self, picks: Picks) -> Self::Output {
            let row = RowMarks::new(self.0, self.1, picks);
            (0..self.2).map(|place| row.span(place)).collect()
        }
    }

    proptest! {
        #[test]
        fn fields_are_where_they_are(
            before in 0_usize..200, lengths in prop::collection::vec(0_usize..12, 1..90),
            longer in prop::collection::vec((0_usize..90, 0_usize..150), 0..4)) {
            let mut lengths = lengths;
            for (place, more) in longer {
                let places = lengths.len();
                lengths[place % places] += more;
            }
            let fields: Vec<String> = lengths.iter().map(|&length| "x".repeat(length)).collect();
            let text = format!("{}\n{}\n", "y".repeat(before), fields.join(","));
            let (mut separators, mut rows) = (Vec::new(), Vec::new());
            mark(text.as_bytes(), &mut separators, &mut rows);
            let (start, width) = (rows[0].position + 1, fields.len());
            let mut expected = Vec::new();
            let mut at = before + 1;
            for length in lengths {
                expected.push((at, at + length));
                at += length + 1;
            }
            prop_assert_eq!(&run(Spans(&separators, start, width)), &expected);
            prop_assert_eq!(&Spans(&separators, start, width).run(Picks::NO), &expected);
        }
    }
}
