//! Lab events: the exact mean of every (visit, lab), in one pass and in memory that grows with the
//! number of such pairs, not with rows.

use super::columns::{LabColumn, Labs, SEPARATOR, numbers_of};
use super::packed::{COUNT_BITS, COUNT_MASK, LAB_BITS, LAB_MASK, Odd, Packed, combine};
use super::{Ledger, Outcome, VisitIndex};
use crate::error::{Error, Result};
use crate::keys::{IntKeys, MOST_KEYS, TextKeys, merged};
use crate::read::delimited::Row;
use crate::read::number::{Number, parse_id, parse_number};
use crate::read::{Batch, Run, Sink, Table, scan};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

/// For every visit its labs, ascending, and each one's mean.
#[derive(Debug, Default)]
pub struct ValueRecords {
    /// Visits + 1 offsets into `labs` and `values`.
    pub offsets: Vec<i64>,
    /// Numbers of the labs, in the order of `names`.
    pub labs: Vec<i32>,
    /// Mean of the values.
    pub values: Vec<f64>,
    /// The labs' names, sorted; the parts of a name are separated by U+001F.
    pub names: Vec<String>,
    /// What became of every row.
    pub ledger: Ledger,
}

/// Reads a table of values whose columns are: visit id, one or more that name the lab, value.
///
/// `known` are lab ids that may occur, ascending (from a dictionary): not needed, but with them the
/// records come out sorted. With `Some`, labs are whole numbers; with `None`, texts.
///
/// # Errors
/// A file, a column or an id that is not as it should be.
pub fn read_values(
    table: &Table,
    index: &VisitIndex,
    known: Option<&[i64]>,
    run: &mut Run<'_>,
) -> Result<ValueRecords> {
    let threads = run.threads.max(1);
    let mut sinks = scan(table, run, || Values::new(table.columns.len(), index, known, threads))?;
    let mut ledger = Ledger::default();
    for sink in &mut sinks {
        sink.flush();
        ledger.add(sink.ledger);
    }
    let names = rename(&mut sinks);
    if names.len() > MOST_KEYS {
        let limit = MOST_KEYS as u64;
        return Err(Error::TooMany { table: "labs".into(), what: "labs", limit });
    }
    std::thread::scope(|scope| {
        for sink in &mut sinks {
            scope.spawn(|| sink.compact());
        }
    });
    let packed = sinks.iter().map(|sink| sink.packed.as_slice()).collect();
    let odd = sinks.iter().map(|sink| sink.odd.as_slice()).collect();
    let mut records = combine(packed, odd, index.len());
    (records.names, records.ledger) = (names, ledger);
    Ok(records)
}

/// Packed records held before equal ones are merged; more than an ordered MIMIC-IV ever needs.
const COMPACT_AT: usize = 24 << 20;

/// One thread's records.
struct Values<'a> {
    index: &'a VisitIndex,
    labs: Labs,
    value_column: usize,
    ledger: Ledger,
    /// The visit id of the last row, and its place; rows of a visit mostly come together.
    last_id: Vec<u8>,
    last_place: Option<u32>,
    /// Sums and counts of the current visit by lab, and a bit for each lab that has any.
    visit: u32,
    sums: Vec<(i64, u32)>,
    touched: Vec<u64>,
    packed: Vec<Packed>,
    odd: Vec<Odd>,
    compact_at: usize,
    name: Vec<u8>,
}

impl<'a> Values<'a> {
    fn new(columns: usize, index: &'a VisitIndex, known: Option<&[i64]>, threads: usize) -> Self {
        let labs = match known {
            Some(known) => {
                let mut keys = IntKeys::default();
                for &id in known {
                    keys.number(id);
                }
                Labs::Ints(keys)
            }
            None => Labs::Texts(TextKeys::default()),
        };
        Self {
            index,
            labs,
            value_column: columns - 1,
            ledger: Ledger::default(),
            last_id: Vec::new(),
            last_place: None,
            visit: 0,
            sums: Vec::new(),
            touched: Vec::new(),
            packed: Vec::new(),
            odd: Vec::new(),
            compact_at: COMPACT_AT / threads,
            name: Vec::new(),
        }
    }

    #[inline]
    fn add(&mut self, visit: u32, lab: u32, number: Number) -> Outcome {
        match number {
            Number::Scaled(value) => self.add_scaled(visit, lab, value),
            Number::Decimal(mantissa, exponent) => {
                let pair = (u64::from(visit) << LAB_BITS) | u64::from(lab);
                self.odd.push(Odd { pair, exponent, count: 1, sum: i128::from(mantissa) });
                if self.odd.len() >= self.compact_at {
                    self.flush();
                    self.compact();
                }
            }
            Number::Empty => return Outcome::NoValue,
            Number::NotFinite => return Outcome::NotFinite,
            Number::Text => return Outcome::NotANumber,
        }
        Outcome::Used
    }

    #[inline]
    fn add_scaled(&mut self, visit: u32, lab: u32, value: i64) {
        if visit != self.visit {
            self.flush();
            self.visit = visit;
        }
        let lab = lab as usize;
        if lab >= self.sums.len() {
            self.sums.resize((lab + 1).next_multiple_of(64), (0, 0));
            self.touched.resize(self.sums.len() / 64, 0);
        }
        let (sum, count) = &mut self.sums[lab];
        *sum += value;
        *count += 1;
        self.touched[lab / 64] |= 1 << (lab % 64);
        if u64::from(*count) == COUNT_MASK {
            self.flush();
        }
    }

    /// Packs the current visit's sums, labs ascending.
    fn flush(&mut self) {
        for (word, bits) in self.touched.iter_mut().enumerate() {
            while *bits != 0 {
                let lab = word * 64 + bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                let (sum, count) = std::mem::take(&mut self.sums[lab]);
                self.packed.push(Packed::new(self.visit, lab as u32, count, sum));
            }
        }
        if self.packed.len() >= self.compact_at {
            self.compact();
        }
    }

    /// Sorts the records and merges equal ones; next time when there are twice as many.
    fn compact(&mut self) {
        if !self.packed.is_sorted_by_key(|record| record.pair()) {
            self.packed.sort_unstable_by_key(|record| record.pair());
        }
        self.packed.dedup_by(|next, kept| {
            let count = kept.count() + next.count();
            let same = kept.pair() == next.pair() && count <= COUNT_MASK;
            if same {
                kept.key = (kept.pair() << COUNT_BITS) | count;
                kept.sum += next.sum;
            }
            same
        });
        self.odd.sort_unstable_by_key(|record| (record.pair, record.exponent));
        self.odd.dedup_by(|next, kept| {
            let same = (kept.pair, kept.exponent) == (next.pair, next.exponent);
            if same {
                kept.count += next.count;
                kept.sum += next.sum;
            }
            same
        });
        let most = self.packed.len().max(self.odd.len());
        self.compact_at = self.compact_at.max(2 * most);
    }

    fn place_of(&mut self, row: &Row<'_>) -> Result<std::result::Result<u32, Outcome>> {
        let id = row.field(0);
        if id.is_empty() {
            return Ok(Err(Outcome::NoVisitId));
        }
        if id != self.last_id {
            let number = parse_id(id.trim_ascii()).ok_or_else(|| row.wrong(0, "a whole number"))?;
            self.last_place = self.index.place(number);
            self.last_id.clear();
            self.last_id.extend_from_slice(id);
        }
        Ok(self.last_place.ok_or(Outcome::UnknownVisit))
    }

    fn lab_of(&mut self, row: &Row<'_>) -> Result<Option<u32>> {
        if row.field(1).is_empty() {
            return Ok(None);
        }
        match &mut self.labs {
            Labs::Ints(keys) => match parse_id(row.field(1).trim_ascii()) {
                Some(id) => Ok(Some(keys.number(id))),
                None => Err(row.wrong(1, "a whole number")),
            },
            Labs::Texts(keys) => {
                self.name.clear();
                for column in 1..self.value_column {
                    if column > 1 {
                        self.name.push(SEPARATOR);
                    }
                    self.name.extend_from_slice(row.text(column)?.trim().as_bytes());
                }
                Ok(Some(keys.number(&self.name)))
            }
        }
    }

    fn outcome(&mut self, row: &Row<'_>) -> Result<Outcome> {
        let visit = match self.place_of(row)? {
            Ok(visit) => visit,
            Err(outcome) => return Ok(outcome),
        };
        let number = parse_number(row.field(self.value_column));
        match self.lab_of(row)? {
            Some(lab) => Ok(self.add(visit, lab, number)),
            None => Ok(Outcome::NoCode),
        }
    }
}

impl Sink for Values<'_> {
    #[inline]
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        let outcome = self.outcome(&row)?;
        self.ledger.count(outcome);
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let visits = batch.ids(0)?;
        let labs = LabColumn::new(batch, &self.labs, self.value_column)?;
        let numbers = numbers_of(batch, self.value_column)?;
        let (mut last, mut place) = (None, None);
        for (row, visit) in visits.as_primitive::<Int64Type>().iter().enumerate() {
            let outcome = 'outcome: {
                let Some(visit) = visit else { break 'outcome Outcome::NoVisitId };
                if last != Some(visit) {
                    (last, place) = (Some(visit), self.index.place(visit));
                }
                let Some(place) = place else { break 'outcome Outcome::UnknownVisit };
                match labs.number(row, &mut self.labs, &mut self.name) {
                    Some(lab) => self.add(place, lab, numbers.get(row)),
                    None => Outcome::NoCode,
                }
            };
            self.ledger.count(outcome);
        }
        Ok(())
    }
}

/// Gives all threads' labs common numbers, ascending by name, and returns the names in use.
fn rename(sinks: &mut [Values<'_>]) -> Vec<String> {
    let used: Vec<Vec<bool>> = sinks.iter().map(Values::labs_used).collect();
    let ints = sinks.iter().all(|sink| matches!(sink.labs, Labs::Ints(_)));
    let (names, numbers) = if ints {
        let threads: Vec<Vec<(i64, String)>> =
            sinks.iter().zip(&used).map(|(s, u)| s.int_names(u)).collect();
        let (names, numbers) = merged(&threads);
        (names.into_iter().map(|(_, name)| name).collect(), numbers)
    } else {
        let threads: Vec<Vec<String>> =
            sinks.iter().zip(&used).map(|(s, u)| s.text_names(u)).collect();
        merged(&threads)
    };
    for ((sink, used), numbers) in sinks.iter_mut().zip(&used).zip(&numbers) {
        // Numbers were given to the used labs only, in the order of the thread's own numbers.
        let mut next = numbers.iter();
        let table: Vec<u64> = used
            .iter()
            .map(|&used| if used { next.next().map_or(0, |&n| u64::from(n)) } else { 0 })
            .collect();
        sink.renumber(&table);
    }
    names
}

impl Values<'_> {
    fn labs_used(&self) -> Vec<bool> {
        let count = match &self.labs {
            Labs::Ints(keys) => keys.names().len(),
            Labs::Texts(keys) => keys.len(),
        };
        let mut used = vec![false; count];
        let packed = self.packed.iter().map(|record| record.pair());
        for pair in packed.chain(self.odd.iter().map(|record| record.pair)) {
            used[(pair & LAB_MASK) as usize] = true;
        }
        used
    }

    fn int_names(&self, used: &[bool]) -> Vec<(i64, String)> {
        let Labs::Ints(keys) = &self.labs else { return Vec::new() };
        let used = keys.names().iter().zip(used).filter(|&(_, &used)| used);
        used.map(|(&id, _)| (id, id.to_string())).collect()
    }

    fn text_names(&self, used: &[bool]) -> Vec<String> {
        let Labs::Texts(keys) = &self.labs else { return Vec::new() };
        let used = keys.names().zip(used).filter(|&(_, &used)| used);
        used.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn renumber(&mut self, numbers: &[u64]) {
        let new = |pair: u64| (pair & !LAB_MASK) | numbers[(pair & LAB_MASK) as usize];
        for record in &mut self.packed {
            record.key = (new(record.pair()) << COUNT_BITS) | record.count();
        }
        for record in &mut self.odd {
            record.pair = new(record.pair);
        }
    }
}
