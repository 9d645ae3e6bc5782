//! Fields of at most eight bytes as one machine word: digits are read all at once.
//!
//! The eight-digit step is D. Lemire's (fast_float, `parse_eight_digits_unrolled`).

use super::number::{LIMIT, PLACES, POWERS};

const LONGEST: u32 = 8;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The bytes of a short field, the first one lowest, and zeros above them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Word {
    bytes: u64,
    length: u32,
}

impl Word {
    /// The bytes `from..to` of `text`; `None` if there are more than eight.
    #[inline(always)]
    #[must_use]
    pub fn of(text: &[u8], from: usize, to: usize) -> Option<Self> {
        let length = to - from;
        if length > LONGEST as usize {
            return None;
        }
        let bytes = match text.get(from..from + 8) {
            Some(&[a, b, c, d, e, f, g, h]) => {
                u64::from_le_bytes([a, b, c, d, e, f, g, h]) & low_bytes(length as u32)
            }
            _ => text[from..to].iter().rev().fold(0, |bytes, &byte| (bytes << 8) | u64::from(byte)),
        };
        Some(Self { bytes, length: length as u32 })
    }

    /// Whether there is no byte.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Whether it begins with a quote.
    #[inline(always)]
    #[must_use]
    pub fn is_quoted(self) -> bool {
        self.bytes as u8 == b'"'
    }

    /// The number that these digits write; `None` if they are not all digits, or none.
    #[inline(always)]
    #[must_use]
    pub fn digits(self) -> Option<i64> {
        if self.length == 0 {
            return None;
        }
        // The last digit goes to the highest byte; zeros stand before the first.
        let shift = 64 - 8 * self.length;
        let digits = (self.bytes << shift) ^ ((ONES * u64::from(b'0')) & (u64::MAX << shift));
        if (digits.wrapping_add(ONES * 0x76) | digits) & HIGHS != 0 {
            return None;
        }
        let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
        let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
        Some((fours.wrapping_mul(10_000 << 32 | 1) >> 32) as i64)
    }

    /// The decimal that it writes, times 10^6; `None` for anything that is not digits with at most
    /// one point among them, at most six places and not above [`LIMIT`].
    #[inline(always)]
    #[must_use]
    pub fn scaled(self) -> Option<i64> {
        let negative = self.bytes as u8 == b'-';
        let (bytes, length) = if negative && self.length > 0 {
            (self.bytes >> 8, self.length - 1)
        } else {
            (self.bytes, self.length)
        };
        let points = bytes ^ (ONES * u64::from(b'.'));
        let found = points.wrapping_sub(ONES) & !points & HIGHS;
        let point = (found.trailing_zeros() / 8).min(length);
        let before = low_bytes(point);
        let whole = Self {
            bytes: (bytes & before) | ((bytes >> 8) & !before),
            length: length - u32::from(found != 0),
        };
        let places = whole.length - point;
        let scaled = whole.digits()? * POWERS.get(PLACES.checked_sub(places)? as usize)?;
        if scaled > LIMIT {
            return None;
        }
        Some(if negative { -scaled } else { scaled })
    }
}

/// Ones in the lowest `count` bytes, of at most eight.
#[inline(always)]
fn low_bytes(count: u32) -> u64 {
    // In two steps, for a shift by 64 is none.
    ((1_u64 << (4 * count)) << (4 * count)).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::number::{Number, parse_id, parse_number};
    use proptest::prelude::*;

    fn word(text: &str) -> Option<Word> {
        Word::of(text.as_bytes(), 0, text.len())
    }

    #[test]
    fn known_words() {
        assert_eq!(word("29600294").and_then(Word::digits), Some(29_600_294));
        assert_eq!(word("7").and_then(Word::digits), Some(7));
        assert_eq!(word("-12.5").and_then(Word::scaled), Some(-12_500_000));
        assert_eq!(word(".08").and_then(Word::scaled), Some(80_000));
        assert_eq!(word("99999999").and_then(Word::scaled), None);
        assert_eq!(word("").and_then(Word::digits), None);
        assert_eq!(word("123456789"), None);
        for text in ["", "-", ".", "-.", "1.2.3", "1,5", "1e2", "1 ", "5\0", "1\u{fc}"] {
            assert_eq!(word(text).and_then(Word::scaled), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn equals_the_slow_way(text in "[-0-9.]{0,8}|.{0,2}[0-9]{0,5}", more in "[0-9,.\n]{0,9}") {
            let all = format!("{text}{more}");
            if let Some(word) = Word::of(all.as_bytes(), 0, text.len()) {
                prop_assert_eq!(Some(word), Word::of(text.as_bytes(), 0, text.len()));
                if let Some(digits) = word.digits() {
                    prop_assert_eq!(parse_id(text.as_bytes()), Some(digits));
                } else {
                    prop_assert!(!text.bytes().all(|b| b.is_ascii_digit()) || text.is_empty());
                }
                if let Some(scaled) = word.scaled() {
                    prop_assert_eq!(parse_number(text.as_bytes()), Number::Scaled(scaled));
                } else if let Number::Scaled(_) = parse_number(text.as_bytes()) {
                    // Left to the slow way: other characters, and more places than are scaled.
                    let places = text.split_once('.').map_or(0, |(_, places)| places.len());
                    let odd = text.bytes().any(|b| !matches!(b, b'-' | b'.' | b'0'..=b'9'));
                    prop_assert!(odd || places > PLACES as usize);
                }
            }
        }
    }
}
