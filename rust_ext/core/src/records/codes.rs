//! Coded events (diagnoses, procedures, medications): the set of codes of every visit.

use super::columns::SEPARATOR;
use super::{Ledger, Outcome, VisitIndex};
use crate::error::Result;
use crate::keys::{TextKeys, merged};
use crate::read::delimited::Row;
use crate::read::number::parse_id;
use crate::read::{Batch, Run, Sink, Table, scan};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

/// For every visit its codes, ascending and unique.
#[derive(Debug, Default)]
pub struct CodeRecords {
    /// Visits + 1 offsets into `codes`.
    pub offsets: Vec<i64>,
    /// Numbers of the codes, in the order of `names`.
    pub codes: Vec<i32>,
    /// The codes' names, sorted; the parts of a name are separated by U+001F.
    pub names: Vec<String>,
    /// What became of every row.
    pub ledger: Ledger,
}

/// Reads a table of codes whose columns are: visit id, code, further parts of the code's name.
///
/// # Errors
/// A file, a column or an id that is not as it should be.
pub fn read_codes(table: &Table, index: &VisitIndex, run: &mut Run<'_>) -> Result<CodeRecords> {
    let parts = table.columns.len() - 1;
    let sinks = scan(table, run, || Codes::new(parts, index))?;
    let mut ledger = Ledger::default();
    let threads: Vec<Vec<String>> = sinks.iter().map(Codes::names).collect();
    let (names, numbers) = merged(&threads);
    let mut pairs = Vec::with_capacity(sinks.iter().map(|sink| sink.pairs.len()).sum());
    for (sink, numbers) in sinks.into_iter().zip(&numbers) {
        ledger.add(sink.ledger);
        pairs.extend(sink.pairs.iter().map(|&(visit, code)| (visit, numbers[code as usize])));
    }
    pairs.sort_unstable();
    pairs.dedup();
    let mut offsets = vec![0];
    for (place, &(visit, _)) in pairs.iter().enumerate() {
        offsets.resize(visit as usize + 1, place as i64);
    }
    offsets.resize(index.len() + 1, pairs.len() as i64);
    let codes = pairs.iter().map(|&(_, code)| code as i32).collect();
    Ok(CodeRecords { offsets, codes, names, ledger })
}

/// One thread's (visit, code) pairs.
struct Codes<'a> {
    index: &'a VisitIndex,
    parts: usize,
    keys: TextKeys,
    name: Vec<u8>,
    pairs: Vec<(u32, u32)>,
    ledger: Ledger,
}

impl<'a> Codes<'a> {
    fn new(parts: usize, index: &'a VisitIndex) -> Self {
        Self {
            index,
            parts,
            keys: TextKeys::default(),
            name: Vec::new(),
            pairs: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.keys.names().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Takes one event; the parts of its name come from `part`.
    fn add<T: AsRef<str>>(
        &mut self,
        visit: Option<i64>,
        mut part: impl FnMut(usize) -> Result<T>,
    ) -> Result<()> {
        let outcome = 'outcome: {
            let Some(visit) = visit else { break 'outcome Outcome::NoVisitId };
            let Some(place) = self.index.place(visit) else { break 'outcome Outcome::UnknownVisit };
            self.name.clear();
            for place in 0..self.parts {
                if place > 0 {
                    self.name.push(SEPARATOR);
                }
                self.name.extend_from_slice(part(place)?.as_ref().trim().as_bytes());
                if self.name.is_empty() {
                    break 'outcome Outcome::NoCode;
                }
            }
            self.pairs.push((place, self.keys.number(&self.name)));
            Outcome::Used
        };
        self.ledger.count(outcome);
        Ok(())
    }
}

impl Sink for Codes<'_> {
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        let visit = match row.field(0).trim_ascii() {
            [] => None,
            id => Some(parse_id(id).ok_or_else(|| row.wrong(0, "a whole number"))?),
        };
        self.add(visit, |part| row.text(part + 1))
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let visits = batch.ids(0)?;
        let parts = (1..=self.parts)
            .map(|place| batch.cast(place, &DataType::LargeUtf8, "text"))
            .collect::<Result<Vec<ArrayRef>>>()?;
        for (row, visit) in visits.as_primitive::<Int64Type>().iter().enumerate() {
            self.add(visit, |part| {
                let array = &parts[part];
                Ok(if array.is_valid(row) { array.as_string::<i64>().value(row) } else { "" })
            })?;
        }
        Ok(())
    }
}
