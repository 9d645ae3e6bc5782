//! One mutation: spoil a table, read it in several ways, and hold the readings to the truth.

use super::mutate::mutate;
use super::oracle::{Answer, Refusal, answer};
use super::random::Random;
use super::tables::{Cells, Kind, LABS, VISITS, cells, gzip_of, parquet_of, text_of};
use equipoise_core::read::{Run, Table};
use equipoise_core::records::{
    CodeRecords, Ledger, Outcome, Places, ValueRecords, VisitIndex, read_codes, read_values,
};
use flate2::read::MultiGzDecoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::panic::catch_unwind;
use std::path::Path;

type Reading = Result<Answer, Refusal>;
type Outcomes = Result<bool, Box<dyn Error>>;

/// Where the bytes are spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    Text,
    TextInGzip,
    Gzip,
    Parquet,
}

impl Spoilt {
    pub const ALL: [Self; 4] = [Self::Text, Self::TextInGzip, Self::Gzip, Self::Parquet];
}

/// Makes and checks a mutation; whether it was read rather than refused.
pub fn check(spoilt: Spoilt, random: &mut Random, folder: &Path) -> Outcomes {
    let kind = Kind::ALL[random.below(3)];
    let cells = cells(random);
    match spoilt {
        Spoilt::Parquet => parquet(kind, &cells, random, folder),
        Spoilt::Gzip => gzip(kind, &cells, random, folder),
        Spoilt::Text | Spoilt::TextInGzip => {
            let mut text = text_of(&cells, random);
            mutate(&mut text, random);
            let as_is = spoilt == Spoilt::Text;
            let bytes = if as_is { text.clone() } else { gzip_of(&text, random)? };
            let reading =
                read(kind, &folder.join(if as_is { "t.csv" } else { "t.gz" }), &bytes, random)?;
            let marked = as_is && (text.starts_with(&[0x1f, 0x8b]) || text.starts_with(b"PAR1"));
            if !marked {
                same(&reading, &truth(kind, &text))?;
            }
            Ok(reading.is_ok())
        }
    }
}

/// What the oracle says of a text; a blank one is no table.
fn truth(kind: Kind, text: &[u8]) -> Reading {
    if text.trim_ascii().is_empty() { Err(Refusal(None)) } else { answer(kind, text) }
}

fn gzip(kind: Kind, cells: &Cells, random: &mut Random, folder: &Path) -> Outcomes {
    let text = text_of(cells, random);
    let mut bytes = gzip_of(&text, random)?;
    mutate(&mut bytes, random);
    let reading = read(kind, &folder.join("t.csv.gz"), &bytes, random)?;
    if reading.is_ok() {
        // What another decoder makes of it; a header's flags are no part of the text.
        let mut inflated = Vec::new();
        let whole = MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut inflated).is_ok();
        same(&reading, &truth(kind, if whole { &inflated } else { &text }))?;
    }
    Ok(reading.is_ok())
}

fn parquet(kind: Kind, cells: &Cells, random: &mut Random, folder: &Path) -> Outcomes {
    let mut bytes = parquet_of(cells, random)?;
    let whole = random.below(50) == 0;
    if !whole {
        mutate(&mut bytes, random);
    }
    let path = folder.join("t.parquet");
    let reading = read(kind, &path, &bytes, random)?;
    if let Ok(answer) = &reading {
        let declared = catch_unwind(|| declared_rows(&path)).ok().flatten();
        let read: u64 = answer.rows.values().sum();
        if declared != Some(read) {
            return Err(format!("{read} rows read, {declared:?} in the footer").into());
        }
    }
    if whole && reading.is_err() {
        return Err(format!("a whole file was refused: {reading:?}").into());
    }
    Ok(reading.is_ok())
}

fn declared_rows(path: &Path) -> Option<u64> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    u64::try_from(reader.metadata().file_metadata().num_rows()).ok()
}

/// The one answer of all numbers of threads and sizes of blocks.
fn read(
    kind: Kind,
    path: &Path,
    bytes: &[u8],
    random: &mut Random,
) -> Result<Reading, Box<dyn Error>> {
    std::fs::write(path, bytes)?;
    let first = read_once(kind, path, 1, 64 + random.below(900))?;
    let second = read_once(kind, path, 2, 64 + random.below(200))?;
    same(&second, &first)?;
    if random.below(4) == 0 {
        same(&read_once(kind, path, 1 + random.below(3), 64 << 10)?, &first)?;
    }
    Ok(first)
}

fn same(got: &Reading, wanted: &Reading) -> Result<(), Box<dyn Error>> {
    match (got, wanted) {
        _ if got == wanted => Ok(()),
        // Which of several damages is met first is no part of the promise; that one is met is.
        (Err(Refusal(a)), Err(Refusal(b))) if a.is_none() || b.is_none() => Ok(()),
        _ => Err(format!("got {got:?}, want {wanted:?}").into()),
    }
}

fn read_once(
    kind: Kind,
    path: &Path,
    threads: usize,
    block: usize,
) -> Result<Reading, Box<dyn Error>> {
    let table = Table {
        files: vec![path.to_owned()],
        columns: kind.columns().iter().map(|&name| name.to_owned()).collect(),
    };
    let mut run = Run { threads, block, progress: &mut |_, _| true };
    let index = VisitIndex::new(&VISITS).ok_or("visits that are not unique")?;
    let places = Places { visit: Some(table.columns.len() - 1), ..Places::default() };
    let known = (kind == Kind::Numbered).then_some(&LABS[..]);
    let read = if kind == Kind::Coded {
        read_codes(&table, 2, places, &index, &mut run).map(answer_of_codes)
    } else {
        read_values(&table, kind.parts(), places, &index, known, &mut run).map(answer_of_values)
    };
    match read {
        Ok(answer) => Ok(Ok(answer?)),
        Err(error) => Ok(Err(Refusal(error.report().row))),
    }
}

fn answer_of_codes(read: CodeRecords) -> Result<Answer, Box<dyn Error>> {
    let zeros = vec![0.0; read.codes.len()];
    answer_from(&read.offsets, &read.codes, &zeros, &read.names, &read.ledger)
}

fn answer_of_values(read: ValueRecords) -> Result<Answer, Box<dyn Error>> {
    answer_from(&read.offsets, &read.labs, &read.values, &read.names, &read.ledger)
}

/// As the oracle writes it; fails if the records are not in order.
fn answer_from(
    offsets: &[i64],
    items: &[i32],
    values: &[f64],
    names: &[String],
    ledger: &Ledger,
) -> Result<Answer, Box<dyn Error>> {
    let mut answer = Answer::default();
    for outcome in Outcome::ALL {
        if ledger.rows(outcome) > 0 {
            answer.rows.insert(outcome.words(), ledger.rows(outcome));
        }
    }
    for (place, ends) in offsets.windows(2).enumerate() {
        let (from, to) = (ends[0] as usize, ends[1] as usize);
        if !items[from..to].is_sorted_by(|a, b| a < b) {
            return Err("a visit's labs or codes are not ascending".into());
        }
        for (item, value) in items[from..to].iter().zip(&values[from..to]) {
            answer.means.insert((place, names[*item as usize].clone()), value.to_bits());
        }
    }
    if answer.means.len() != items.len() || offsets.len() != VISITS.len() + 1 {
        return Err("records of other visits, or a lab or code twice".into());
    }
    Ok(answer)
}
