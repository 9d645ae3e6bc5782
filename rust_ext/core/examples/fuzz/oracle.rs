//! What a table says, read in the plainest way, with nothing of the core's but its words.

use super::tables::{Kind, VISITS};
use equipoise_core::records::Outcome;
use num_bigint::{BigInt, Sign};
use std::collections::BTreeMap;

/// Rows by outcome, and the mean (as bits; 0 for a code) of each (place of the visit, name).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub rows: BTreeMap<&'static str, u64>,
    pub means: BTreeMap<(usize, String), u64>,
}

/// A refusal, and the row that it names if it names one.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub Option<u64>);

type Values = BTreeMap<(usize, String), Vec<(BigInt, i32)>>;

pub fn answer(kind: Kind, text: &[u8]) -> Result<Answer, Refusal> {
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    let places = header(kind, &text[..end]).ok_or(Refusal(None))?;
    let (rows, open) = split(text.get(end + 1..).unwrap_or_default());
    let (mut answer, mut values) = (Answer::default(), Values::new());
    for (row, number) in rows.iter().zip(2..) {
        let refusal = Refusal(Some(number));
        if row.len() != places.1 {
            if row.join(&b',').trim_ascii().is_empty() {
                continue;
            }
            return Err(refusal);
        }
        let fields: Vec<&[u8]> =
            places.0.iter().map(|&place| field(&row[place], place + 1 == row.len())).collect();
        let outcome = take(kind, &fields, &mut values).ok_or(refusal)?;
        *answer.rows.entry(outcome.words()).or_default() += 1;
    }
    if open {
        return Err(Refusal(Some(rows.len() as u64 + 2)));
    }
    answer.means = values.into_iter().map(|(pair, v)| (pair, mean(&v))).collect();
    Ok(answer)
}

/// The places of the wanted columns, and how many columns there are.
fn header(kind: Kind, line: &[u8]) -> Option<(Vec<usize>, usize)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (rows, open) = split(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line));
    let names: Vec<String> = match rows.first() {
        Some(row) if !open => {
            row.iter().map(|raw| plain(field(raw, true)).trim().to_owned()).collect()
        }
        _ => return None,
    };
    let find = |wanted: &&str| {
        let places = |same: fn(&str, &str) -> bool| -> Vec<usize> {
            (0..names.len()).filter(|&place| same(&names[place], wanted)).collect()
        };
        let exact = places(|name, wanted| name == wanted);
        let found = if exact.is_empty() { places(str::eq_ignore_ascii_case) } else { exact };
        // There twice, nobody knows which is meant.
        <[usize; 1]>::try_from(found).ok().map(|[place]| place)
    };
    let places = kind.columns().iter().map(find).collect::<Option<Vec<usize>>>()?;
    Some((places, names.len()))
}

/// Rows of raw fields, and whether a quote is open at the end.
fn split(text: &[u8]) -> (Vec<Vec<Vec<u8>>>, bool) {
    let (mut rows, mut row, mut raw, mut quoted) = (Vec::new(), Vec::new(), Vec::new(), false);
    let last = if text.is_empty() || text.ends_with(b"\n") { &b""[..] } else { b"\n" };
    let mut bytes = text.iter().chain(last).copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&b'"') => {
                raw.extend_from_slice(b"\"\"");
                bytes.next();
                continue;
            }
            b'"' if quoted => quoted = false,
            b'"' if raw.is_empty() => quoted = true,
            b',' | b'\n' if !quoted => {
                row.push(std::mem::take(&mut raw));
                if byte == b'\n' {
                    rows.push(std::mem::take(&mut row));
                }
                continue;
            }
            _ => {}
        }
        raw.push(byte);
    }
    (rows, quoted)
}

/// A field without the quotes around it, and without the carriage return of the last one.
fn field(raw: &[u8], last: bool) -> &[u8] {
    let raw = raw.strip_suffix(b"\r").filter(|_| last).unwrap_or(raw);
    raw.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(raw)
}

fn plain(field: &[u8]) -> String {
    String::from_utf8_lossy(field).replace("\"\"", "\"")
}

/// What becomes of a row; `None` if it must be refused.
fn take(kind: Kind, fields: &[&[u8]], values: &mut Values) -> Option<Outcome> {
    let (visit, parts) = (fields.last()?, &fields[..kind.parts()]);
    if visit.is_empty() {
        return Some(Outcome::NoVisitId);
    }
    let id = id(visit)?;
    let Some(place) = VISITS.iter().position(|&visit| visit == id) else {
        return Some(Outcome::UnknownVisit);
    };
    let Some(name) = name(kind, parts)? else { return Some(Outcome::NoCode) };
    let mut value = (BigInt::ZERO, 0);
    if kind != Kind::Coded {
        let cell = fields[kind.parts()].trim_ascii();
        let number = std::str::from_utf8(cell).ok().and_then(|text| text.parse::<f64>().ok());
        value = match number {
            Some(number) if number.is_finite() => decimal(number)?,
            Some(_) => return Some(Outcome::NotFinite),
            None if cell.is_empty() => return Some(Outcome::NoValue),
            None => return Some(Outcome::NotANumber),
        };
    }
    values.entry((place, name)).or_default().push(value);
    Some(Outcome::Used)
}

/// The name of a lab or code; inside, `None` if there is none.
fn name(kind: Kind, parts: &[&[u8]]) -> Option<Option<String>> {
    if kind == Kind::Numbered {
        return match parts[0].trim_ascii() {
            [] => Some(None),
            text => id(text).map(|id| Some(id.to_string())),
        };
    }
    let mut texts = Vec::new();
    for part in parts {
        if std::str::from_utf8(part).is_err() || part.contains(&0) || part.contains(&0x1f) {
            return None;
        }
        texts.push(plain(part).trim().to_owned());
        if texts[0].is_empty() {
            return Some(None);
        }
    }
    Some(Some(texts.join("\u{1f}")))
}

/// A whole number that fits 64 bits, zeros behind a point allowed.
fn id(cell: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(cell.trim_ascii()).ok()?;
    let (whole, zeros) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole).bytes().all(|b| b.is_ascii_digit());
    (digits && zeros.bytes().all(|b| b == b'0')).then_some(whole.parse().ok()?)
}

/// The shortest decimal that names `value`, as a whole number and a power of ten.
fn decimal(value: f64) -> Option<(BigInt, i32)> {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e')?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: i32 = exponent.parse().ok()?;
    Some((format!("{whole}{fraction}").parse().ok()?, exponent - fraction.len() as i32))
}

/// The bits of the double that is nearest to the exact mean: 45 more digits, and one for the rest.
fn mean(values: &[(BigInt, i32)]) -> u64 {
    const DIGITS: i32 = 45;
    let lowest = values.iter().map(|value| value.1).min().unwrap_or(0);
    let power = |exponent: i32| BigInt::from(10).pow(exponent as u32);
    let sum: BigInt = values.iter().map(|(m, exponent)| m * power(exponent - lowest)).sum();
    let (top, count) = (sum * power(DIGITS), BigInt::from(values.len().max(1)));
    let (quotient, rest) = (&top / &count, &top % &count);
    let sticky = u8::from(rest.sign() != Sign::NoSign);
    let text = format!("{quotient}{sticky}e{}", lowest - DIGITS - 1);
    text.parse::<f64>().unwrap_or(f64::NAN).to_bits()
}
