//! Text and doubles to exact numbers.
//!
//! A lab value is taken to be the shortest decimal that names its double, which for everything with
//! up to 15 significant digits is the text itself. So csv, csv.gz and Parquet agree to the last bit,
//! and sums of such decimals are exact integers that do not depend on the order of addition.

/// Decimal places of [`Number::Scaled`].
pub const PLACES: u32 = 6;
/// What one is, scaled.
pub const ONE: f64 = 1e6;
/// Largest scaled magnitude; 65,535 of them still fit an `i64`.
pub const LIMIT: i64 = 1 << 46;

/// A cell that should hold a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// `value = scaled / 10^6`, exactly.
    Scaled(i64),
    /// `value = mantissa * 10^exponent`, exactly; what does not fit [`Number::Scaled`].
    Decimal(i64, i16),
    /// No text at all.
    Empty,
    /// NaN, infinite, or too large for a double.
    NotFinite,
    /// Text that is no number.
    Text,
}

pub(super) const POWERS: [i64; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// Reads a decimal, with blanks around it allowed.
#[inline]
#[must_use]
pub fn parse_number(text: &[u8]) -> Number {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    // At most 13 characters keep the mantissa below LIMIT's digits without further checks.
    if digits.len() > 13 {
        return parse_slowly(text);
    }
    let (mut mantissa, mut places, mut dotted, mut seen) = (0_i64, 0_usize, false, false);
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            mantissa = mantissa * 10 + i64::from(digit);
            places += usize::from(dotted);
            seen = true;
        } else if byte == b'.' && !dotted {
            dotted = true;
        } else {
            return parse_slowly(text);
        }
    }
    if !seen || places > PLACES as usize {
        return parse_slowly(text);
    }
    let scaled = mantissa.saturating_mul(POWERS[PLACES as usize - places]);
    if scaled > LIMIT {
        return parse_slowly(text);
    }
    Number::Scaled(if negative { -scaled } else { scaled })
}

#[cold]
fn parse_slowly(text: &[u8]) -> Number {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Number::Empty;
    }
    // The standard parser also takes "inf" and "nan"; both end as NotFinite.
    match std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) {
        Some(value) => number_of(value),
        None => Number::Text,
    }
}

/// Adding and taking away 1.5 * 2^52 rounds to a whole number, without a call.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

/// What [`scaled_of`] says of a value that is not [`Number::Scaled`].
pub const UNSCALED: i64 = i64::MIN;

/// Many doubles at once, as [`number_of`] scales them, or [`UNSCALED`].
#[must_use]
pub fn scaled_of(values: &[f64]) -> Vec<i64> {
    let scaled = |&value: &f64| {
        let scaled = value * ONE;
        let rounded = scaled + ROUNDING;
        let whole = rounded - ROUNDING;
        let exact = (scaled.abs() <= LIMIT as f64) & (whole / ONE == value);
        // So far below 2^51 the sum's last bits are the whole number: nothing that a processor of
        // today cannot do for several values at once.
        let bits = rounded.to_bits().wrapping_sub(ROUNDING.to_bits()) as i64;
        if exact { bits } else { UNSCALED }
    };
    values.iter().map(scaled).collect()
}

/// The same for a double: the shortest decimal that names it.
#[inline]
#[must_use]
pub fn number_of(value: f64) -> Number {
    let scaled = value * ONE;
    let whole = (scaled + ROUNDING) - ROUNDING;
    if scaled.abs() <= LIMIT as f64 && whole / ONE == value {
        return Number::Scaled(whole as i64);
    }
    shortest(value)
}

/// The same for a single: the shortest decimal that names it, which is not that of its double.
#[inline]
#[must_use]
pub fn number_of_single(value: f32) -> Number {
    // Two decimals of six digits never share a single, so that one that names it is the shortest.
    const THOUSANDTHS: f64 = 1e3;
    let whole = (f64::from(value) * THOUSANDTHS).round_ties_even();
    if whole.abs() < 1e6 && (whole / THOUSANDTHS) as f32 == value {
        return Number::Scaled(whole as i64 * 1000);
    }
    if !value.is_finite() {
        return Number::NotFinite;
    }
    parse_number(ryu::Buffer::new().format_finite(value).as_bytes())
}

#[cold]
fn shortest(value: f64) -> Number {
    if !value.is_finite() {
        return Number::NotFinite;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let mantissa = format!("{whole}{fraction}").parse::<i64>();
    match (mantissa, exponent.parse::<i16>()) {
        (Ok(mantissa), Ok(exponent)) => Number::Decimal(mantissa, exponent - fraction.len() as i16),
        _ => Number::Text,
    }
}

/// Reads a whole number; `None` for anything else. Writers that know nulls only in floating point
/// leave ids such as `123.0`, which are taken as 123.
#[inline]
#[must_use]
pub fn parse_id(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.len() > 18 {
        return parse_long_id(text);
    }
    if digits.is_empty() {
        return None;
    }
    let mut id = 0_i64;
    for (place, &byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let zeros = byte == b'.' && place > 0 && digits[place + 1..].iter().all(|&b| b == b'0');
            if !zeros {
                return None;
            }
            break;
        }
        id = id * 10 + i64::from(digit);
    }
    Some(if negative { -id } else { id })
}

#[cold]
fn parse_long_id(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, zeros) = text.split_once('.').unwrap_or((text, ""));
    // Rust's own parser would take a plus sign, too.
    let digits = whole.strip_prefix('-').unwrap_or(whole).bytes().all(|byte| byte.is_ascii_digit());
    (digits && zeros.bytes().all(|byte| byte == b'0')).then(|| whole.parse().ok())?
}

/// Reads `YYYY-MM-DD`, `YYYY-MM-DD HH:MM` or `YYYY-MM-DD HH:MM:SS` (or with a `T`, a fraction, an offset) as microseconds
/// since 1970, what is finer being cut off; `None` for anything else. With an offset from UTC (`Z`, ` UTC`, `+01`,
/// `+0100`, `+01:00`) it is the time in UTC, as in an Arrow column with a time zone.
#[must_use]
pub fn parse_time(text: &[u8]) -> Option<i64> {
    let (text, minutes_ahead) = split_offset(text)?;
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then(|| parse_id(digits))?
    };
    if text.len() < 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let day_count = days_since_1970(year, month, day)?;
    if text.len() == 10 {
        return Some(day_count * 86_400_000_000);
    }
    if text.len() < 16 || !matches!(text[10], b' ' | b'T') || text[13] != b':' {
        return None;
    }
    let (hour, minute) = (number(11..13)?, number(14..16)?);
    let second = match text.get(16) {
        None => 0,
        Some(b':') => number(17..19)?,
        Some(_) => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match text.get(19..) {
        None | Some([]) => 0,
        Some([b'.', fraction @ ..]) if (1..=9).contains(&fraction.len()) => {
            number(20..text.len())? * 10_i64.pow(9 - fraction.len() as u32) / 1000
        }
        _ => return None,
    };
    let minutes = (day_count * 24 + hour) * 60 + minute - minutes_ahead;
    Some(minutes * 60_000_000 + second * 1_000_000 + micros)
}

/// A time of day without its offset, and how many minutes that is ahead of UTC; `None` for what is no offset.
fn split_offset(text: &[u8]) -> Option<(&[u8], i64)> {
    // Behind the minutes: a date has signs, too.
    let Some((time, behind)) = text.split_at_checked(16) else { return Some((text, 0)) };
    if let Some(utc) = text.strip_suffix(b"Z").or_else(|| text.strip_suffix(b" UTC")) {
        return Some((utc, 0));
    }
    let Some(place) = behind.iter().position(|byte| matches!(byte, b'+' | b'-')) else {
        return Some((text, 0));
    };
    let two = |digits: &[u8]| -> Option<i64> {
        (digits.len() == 2 && digits.iter().all(u8::is_ascii_digit)).then(|| parse_id(digits))?
    };
    let (hours, minutes) = match &behind[place + 1..] {
        [a, b] => (two(&[*a, *b])?, 0),
        [a, b, c, d] | [a, b, b':', c, d] => (two(&[*a, *b])?, two(&[*c, *d])?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = hours * 60 + minutes;
    Some((&text[..time.len() + place], if behind[place] == b'-' { -ahead } else { ahead }))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-compatible
/// low-level date algorithms", `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    const LENGTHS: [i64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = *LENGTHS.get(usize::try_from(month - 1).ok()?)?;
    if day < 1 || day > length || (month == 2 && day == 29 && !leap) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// value = mantissa * 10^exponent, as text that Rust's own parser reads.
    fn as_f64(number: Number) -> f64 {
        match number {
            Number::Scaled(scaled) => format!("{scaled}e-6").parse().unwrap_or(f64::NAN),
            Number::Decimal(m, e) => format!("{m}e{e}").parse().unwrap_or(f64::NAN),
            _ => f64::NAN,
        }
    }

    /// Significant digits.
    fn digits(number: Number) -> usize {
        let mantissa = match number {
            Number::Scaled(mantissa) | Number::Decimal(mantissa, _) => mantissa.unsigned_abs(),
            _ => 0,
        };
        mantissa.to_string().trim_end_matches('0').len()
    }

    #[test]
    fn reads_what_hospitals_write() {
        assert_eq!(parse_number(b"15.4"), Number::Scaled(15_400_000));
        assert_eq!(parse_number(b".08"), Number::Scaled(80_000));
        assert_eq!(parse_number(b"-7."), Number::Scaled(-7_000_000));
        assert_eq!(parse_number(b" 3 "), Number::Scaled(3_000_000));
        assert_eq!(parse_number(b"1e2"), Number::Scaled(100_000_000));
        assert_eq!(
            parse_number(b"0.30000000000000004"),
            Number::Decimal(30_000_000_000_000_004, -17)
        );
        assert_eq!(parse_number(b""), Number::Empty);
        for text in ["1e400", "NaN", "inf", "-inf"] {
            assert_eq!(parse_number(text.as_bytes()), Number::NotFinite, "{text}");
        }
        for text in ["___", "< 5", "-", ".", "1.2.3", "5\0", "1,5"] {
            assert_eq!(parse_number(text.as_bytes()), Number::Text, "{text}");
        }
    }

    #[test]
    fn reads_ids_and_times() {
        assert_eq!(parse_id(b"29600294"), Some(29_600_294));
        assert_eq!(parse_id(b"29600294.0"), Some(29_600_294));
        assert_eq!(parse_id(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_id(b"-9223372036854775808.0"), Some(i64::MIN));
        for text in ["9223372036854775808", "+000000000000000001", "123456789012345678.5"] {
            assert_eq!(parse_id(text.as_bytes()), None, "{text}");
        }
        for text in ["", "abc", "1.5", "1e3", "12345678901234567890", ".0", "-"] {
            assert_eq!(parse_id(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_time(b"1970-01-02"), Some(86_400_000_000));
        assert_eq!(parse_time(b"2196-02-24 14:38:00"), Some(7_136_606_280_000_000));
        assert_eq!(parse_time(b"2196-02-24T14:38:00.5"), Some(7_136_606_280_500_000));
        assert_eq!(parse_time(b"2196-02-24 14:38"), Some(7_136_606_280_000_000));
        for finer in ["14:38:00.500000999", "14:38:00.5Z", "14:38:00.500000Z"] {
            let text = format!("2196-02-24 {finer}");
            assert_eq!(parse_time(text.as_bytes()), Some(7_136_606_280_500_000), "{text}");
        }
        for offset in ["Z", " UTC", "+00", "-00:00", "+0000"] {
            for time in ["14:38", "14:38:00", "14:38:00.0"] {
                let text = format!("2196-02-24 {time}{offset}");
                assert_eq!(parse_time(text.as_bytes()), Some(7_136_606_280_000_000), "{text}");
            }
        }
        for text in
            ["2196-02-25 01:08+10:30", "2196-02-24T12:38:00.000-0200", "2196-02-24T13:38-01"]
        {
            assert_eq!(parse_time(text.as_bytes()), Some(7_136_606_280_000_000), "{text}");
        }
        for offset in [
            "+", "+1", "+100", "+24", "+01:60", "+01:0", "+01:000", "+ 1", "+01+01", "Z+01",
            " +01", "z", "UTC",
        ] {
            let text = format!("2196-02-24 14:38:00{offset}");
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
        for text in [
            "2023-01-01Z",
            "2023-01-01+01:00",
            "2023-02-29",
            "2023-13-01",
            "2023-1-1",
            "2023-01-01 24:00:00",
            "2023-01-01 10:0",
            "2023-01-01 10:00:",
            "x",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_single_is_read_as_a_shortest_text_that_names_it(value in any::<f32>()) {
            let number = number_of_single(value);
            if value.is_finite() {
                // Two texts may be equally short: the standard library then takes another one.
                prop_assert_eq!(as_f64(number) as f32, value);
                prop_assert_eq!(digits(number), digits(parse_number(format!("{value:e}").as_bytes())));
            } else {
                prop_assert_eq!(number, Number::NotFinite);
            }
        }

        #[test]
        fn a_single_is_read_as_the_decimal_it_was(units in -2_000_000_i32..2_000_000) {
            let text = format!("{}e-3", units);
            let value: f32 = text.parse().unwrap_or(f32::NAN);
            prop_assert_eq!(number_of_single(value), parse_number(text.as_bytes()));
        }

        #[test]
        fn text_and_double_agree(value in any::<f64>()) {
            let number = number_of(value);
            if value.is_finite() {
                prop_assert_eq!(as_f64(number), value);
                prop_assert_eq!(parse_number(format!("{value}").as_bytes()), number);
                prop_assert_eq!(parse_number(format!("{value:e}").as_bytes()), number);
            } else {
                prop_assert_eq!(number, Number::NotFinite);
            }
        }

        #[test]
        fn decimals_are_exact(units in -70_000_000_000_000_i64..70_000_000_000_000, places in 0_u32..=6) {
            let text = format!("{}{}.{:0width$}",
                if units < 0 { "-" } else { "" },
                units.abs() / 10_i64.pow(places), units.abs() % 10_i64.pow(places),
                width = places as usize);
            let expected = i128::from(units) * 10_i128.pow(6 - places);
            match parse_number(text.as_bytes()) {
                Number::Scaled(scaled) => prop_assert_eq!(i128::from(scaled), expected),
                Number::Decimal(..) => prop_assert!(expected.abs() > i128::from(LIMIT)),
                other => prop_assert!(false, "{} gave {:?}", text, other),
            }
        }
    }
}
