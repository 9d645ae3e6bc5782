//! Lab events: the exact mean of every (visit, lab), in one pass and in memory that grows with the
//! number of such pairs, not with rows.

use super::columns::{LabColumn, Labs, SEPARATOR, numbers_of};
use super::packed::{COUNT_BITS, COUNT_MASK, LAB_BITS, LAB_MASK, Odd, Packed, combine};
use super::placing::{ASK, NO_ID, Placer};
use super::{Ledger, Outcome, Places, VisitIndex};
use crate::error::{Error, Result};
use crate::keys::{IntKeys, MOST_KEYS, TextKeys, merged};
use crate::read::delimited::Row;
use crate::read::number::{Number, parse_id, parse_number};
use crate::read::word::Word;
use crate::read::{Batch, Input, Run, Sink, scan};

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

/// Reads a table of values whose columns are: `parts` that name the lab, the value, and those that
/// `places` names.
///
/// `known` are lab ids that may occur, ascending (from a dictionary): not needed, but with them the
/// records come out sorted. With `Some`, labs are whole numbers; with `None`, texts.
///
/// # Errors
/// A file, a column or an id that is not as it should be.
pub fn read_values(
    table: impl Into<Input>,
    parts: usize,
    places: Places,
    index: &VisitIndex,
    known: Option<&[i64]>,
    run: &mut Run<'_>,
) -> Result<ValueRecords> {
    let threads = run.threads.max(1);
    let mut sinks =
        scan(table, run, || Values::new(parts, Placer::new(index, places), known, threads))?;
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
    let mut packed: Vec<_> =
        sinks.iter_mut().map(|sink| std::mem::take(&mut sink.packed)).collect();
    let odd: Vec<_> = sinks.iter().map(|sink| sink.odd.as_slice()).collect();
    let mut records = combine(&mut packed, &odd, index.len(), threads);
    (records.names, records.ledger) = (names, ledger);
    Ok(records)
}

/// Packed records held before equal ones are merged; more than an ordered MIMIC-IV ever needs.
const COMPACT_AT: usize = 24 << 20;

/// One thread's records.
pub(super) struct Values<'a> {
    placer: Placer<'a>,
    labs: Labs,
    /// Columns that name the lab; the value is the next one.
    parts: usize,
    pub(super) ledger: Ledger,
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
    pub(super) fn new(
        parts: usize,
        placer: Placer<'a>,
        known: Option<&[i64]>,
        threads: usize,
    ) -> Self {
        let labs = match known {
            Some(known) => Labs::Ints(IntKeys::of(known)),
            None => Labs::Texts(TextKeys::default()),
        };
        Self {
            placer,
            labs,
            parts,
            ledger: Ledger::default(),
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

    #[inline(always)]
    fn lab_of(&mut self, row: &Row<'_>) -> Result<Option<u32>> {
        match &mut self.labs {
            Labs::Ints(keys) => {
                if let Some(id) = row.word(0).and_then(Word::digits) {
                    return Ok(Some(keys.number(id)));
                }
                match row.field(0).trim_ascii() {
                    [] => Ok(None),
                    id => match parse_id(id) {
                        Some(id) => Ok(Some(keys.number(id))),
                        None => Err(row.wrong(0, "a whole number")),
                    },
                }
            }
            Labs::Texts(keys) => {
                self.name.clear();
                for column in 0..self.parts {
                    if column > 0 {
                        self.name.push(SEPARATOR);
                    }
                    self.name.extend_from_slice(row.text(column)?.trim().as_bytes());
                    if self.name.is_empty() {
                        return Ok(None);
                    }
                }
                Ok(Some(keys.number(&self.name)))
            }
        }
    }

    #[inline(always)]
    fn number_of(&self, row: &Row<'_>) -> Number {
        match row.word(self.parts).and_then(Word::scaled) {
            Some(scaled) => Number::Scaled(scaled),
            None => parse_number(row.field(self.parts)),
        }
    }

    #[inline(always)]
    fn outcome(&mut self, row: &Row<'_>) -> Result<Outcome> {
        let visit = match self.placer.quick(row) {
            NO_ID => return Ok(Outcome::NoVisitId),
            ASK => match self.placer.of_row(row)? {
                Ok(visit) => visit,
                Err(outcome) => return Ok(outcome),
            },
            visit => visit,
        };
        let number = self.number_of(row);
        match self.lab_of(row)? {
            Some(lab) => Ok(self.add(visit, lab, number)),
            None => Ok(Outcome::NoCode),
        }
    }
}

impl Sink for Values<'_> {
    #[inline(always)]
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        let outcome = self.outcome(&row)?;
        self.ledger.count(outcome);
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let mut places = self.placer.columns(batch)?;
        let labs = LabColumn::new(batch, &self.labs, self.parts)?;
        let numbers = numbers_of(batch, self.parts)?;
        for row in 0..batch.len() {
            let outcome = match self.placer.of_batch(&mut places, row) {
                Err(outcome) => outcome,
                Ok(place) => match labs.number(row, &mut self.labs, &mut self.name) {
                    Some(lab) => self.add(place, lab, numbers.get(row)),
                    None => Outcome::NoCode,
                },
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
