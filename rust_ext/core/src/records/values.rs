//! Lab events: the exact mean of every (visit, lab), in one pass and in memory that grows with the
//! number of such pairs, not with rows.

use super::columns::{LabColumn, Labs, Numbers, numbers_of, within};
use super::packed::combine;
use super::placing::{ASK, NO_ID, Placer};
use super::sums::Sums;
use super::{Ledger, Outcome, Places, VisitIndex};
use crate::error::Result;
use crate::keys::{IntKeys, TextKeys, merged};
use crate::read::delimited::Row;
use crate::read::number::{Number, UNSCALED, parse_id, parse_number};
use crate::read::word::Word;
use crate::read::{Batch, Input, Run, SEPARATOR, Sink, scan};
use std::ops::Range;

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
        sink.sums.flush();
        ledger.add(sink.ledger);
    }
    let (names, numbers) = renamed(&sinks);
    within(names.len().saturating_sub(1) as u32)?;
    std::thread::scope(|scope| {
        for (sink, numbers) in sinks.iter_mut().zip(&numbers) {
            scope.spawn(|| {
                sink.sums.renumber(numbers);
                sink.sums.compact();
            });
        }
    });
    let mut packed: Vec<_> =
        sinks.iter_mut().map(|sink| std::mem::take(&mut sink.sums.packed)).collect();
    let odd: Vec<_> = sinks.iter().map(|sink| sink.sums.odd.as_slice()).collect();
    let mut records = combine(&mut packed, &odd, index.len(), threads);
    (records.names, records.ledger) = (names, ledger);
    Ok(records)
}

/// One thread's records.
pub(super) struct Values<'a> {
    placer: Placer<'a>,
    labs: Labs,
    /// Columns that name the lab; the value is the next one.
    parts: usize,
    pub(super) ledger: Ledger,
    sums: Sums,
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
            sums: Sums::new(threads),
            name: Vec::new(),
        }
    }

    /// Takes the rows of a batch that are of one visit.
    fn add_rows(
        &mut self,
        visit: u32,
        rows: Range<usize>,
        batch: &Batch<'_>,
        labs: &LabColumn,
        numbers: &Numbers,
    ) -> Result<()> {
        self.sums.turn_to(visit);
        match (labs.ids(), numbers.all_scaled(), &mut self.labs) {
            // As nearly all rows of the largest tables are, which come by the hundred million.
            (Some(ids), Some(scaled), Labs::Ints(keys)) => {
                let mut used = 0;
                for (row, (&id, &scaled)) in
                    rows.clone().zip(ids[rows.clone()].iter().zip(&scaled[rows]))
                {
                    if scaled == UNSCALED {
                        let outcome = self.sums.add(numbers.get(row), || Ok(keys.number(id)))?;
                        self.ledger.count(outcome);
                    } else {
                        self.sums.add_scaled(keys.number(id), scaled);
                        used += 1;
                    }
                }
                self.ledger.count_many(Outcome::Used, used);
                // Looked at once for all rows: what went wrong with too many is thrown away.
                within(keys.names().len().saturating_sub(1) as u32)?;
            }
            _ => {
                for row in rows {
                    let outcome = match labs.name(row, batch, &mut self.name)? {
                        None => Outcome::NoCode,
                        Some(name) => self.sums.add(numbers.get(row), || self.labs.number(name))?,
                    };
                    self.ledger.count(outcome);
                }
            }
        }
        Ok(())
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
        // Each with its own end, not to ask for the kind of name again: rows come by the million.
        match &mut self.labs {
            Labs::Ints(keys) => {
                let Some(id) = id_of(row)? else { return Ok(Outcome::NoCode) };
                self.sums.turn_to(visit);
                self.sums.add(number, || within(keys.number(id)))
            }
            Labs::Texts(keys) => {
                let name = text_of(row, self.parts, &mut self.name)?;
                let Some(name) = name else { return Ok(Outcome::NoCode) };
                self.sums.turn_to(visit);
                self.sums.add(number, || within(keys.number(name)))
            }
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

    fn needs(&self) -> Option<usize> {
        self.placer.needs()
    }

    fn passed_over(&mut self, rows: usize) {
        self.ledger.count_many(Outcome::NoVisitId, rows);
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let mut places = self.placer.columns(batch)?;
        let labs = LabColumn::new(batch, &self.labs, self.parts)?;
        let numbers = numbers_of(batch, self.parts)?;
        let mut row = 0;
        while row < batch.len() {
            let (placed, end) = self.placer.of_rows(&mut places, row);
            match placed {
                Err(outcome) => self.ledger.count_many(outcome, end - row),
                Ok(place) => self.add_rows(place, row..end, batch, &labs, &numbers)?,
            }
            row = end;
        }
        Ok(())
    }
}

/// The first column of a row as a whole number; none if it is empty.
#[inline(always)]
fn id_of(row: &Row<'_>) -> Result<Option<i64>> {
    if let Some(id) = row.word(0).and_then(Word::digits) {
        return Ok(Some(id));
    }
    match row.field(0).trim_ascii() {
        [] => Ok(None),
        id => parse_id(id).map(Some).ok_or_else(|| row.wrong(0, "a whole number")),
    }
}

/// The first columns of a row as a name, written to `name`; none if the first is empty.
#[inline(always)]
fn text_of<'a>(row: &Row<'_>, parts: usize, name: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>> {
    name.clear();
    for column in 0..parts {
        if column > 0 {
            name.push(SEPARATOR);
        }
        name.extend_from_slice(row.name(column)?.trim().as_bytes());
        if name.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some(name))
}

/// The names in use, ascending, and for each thread which of them each of its labs is.
fn renamed(sinks: &[Values<'_>]) -> (Vec<String>, Vec<Vec<u64>>) {
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
    let of_thread = |(used, numbers): (&Vec<bool>, &Vec<_>)| {
        // Numbers were given to the used labs only, in the order of the thread's own numbers.
        let mut next = numbers.iter().map(|&number| u64::from(number));
        used.iter().map(|&used| used.then(|| next.next()).flatten().unwrap_or(0)).collect()
    };
    let numbers = used.iter().zip(&numbers).map(of_thread).collect();
    (names, numbers)
}

impl Values<'_> {
    fn labs_used(&self) -> Vec<bool> {
        self.sums.used(match &self.labs {
            Labs::Ints(keys) => keys.names().len(),
            Labs::Texts(keys) => keys.len(),
        })
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::MOST_KEYS;
    use crate::read::Stream;
    use arrow_array::{
        ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray,
    };
    use arrow_schema::ArrowError;
    use std::sync::Arc;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    /// Rows of (lab, value, visit) as a stream; all of visit 1 and of value 1 but for `nothing`.
    fn stream(labs: ArrayRef, nothing: usize) -> std::result::Result<Stream, ArrowError> {
        let values = (0..labs.len()).map(|row| (row >= nothing).then_some(1.0));
        let batch = RecordBatch::try_from_iter([
            ("lab", labs.clone()),
            ("value", Arc::new(values.collect::<Float64Array>())),
            ("visit", Arc::new(Int64Array::from(vec![1; labs.len()]))),
        ])?;
        let schema = batch.schema();
        let columns = ["lab", "value", "visit"].map(str::to_owned).to_vec();
        let batches = Box::new(RecordBatchIterator::new([Ok(batch)], schema));
        Ok(Stream::new("events".into(), columns, batches))
    }

    fn read(
        labs: ArrayRef,
        nothing: usize,
        known: Option<&[i64]>,
    ) -> std::result::Result<Result<ValueRecords>, ArrowError> {
        let index = VisitIndex::new(&[1]).ok_or(ArrowError::ComputeError("no index".into()))?;
        let places = Places { visit: Some(2), ..Places::default() };
        let mut run = Run { threads: 1, block: 1 << 20, progress: &mut |_, _| true };
        let stream = stream(labs, nothing)?;
        Ok(read_values(Input::Stream(stream), 1, places, &index, known, &mut run))
    }

    #[test]
    fn as_many_labs_as_records_can_number_and_no_more() -> Outcome {
        // A name without a value takes no room.
        for (rows, nothing) in [(MOST_KEYS, 0), (MOST_KEYS + 1, 0), (MOST_KEYS + 9, 9)] {
            let (used, fits) = (rows - nothing, rows - nothing <= MOST_KEYS);
            let numbers = 0..rows as i64;
            let texts = StringArray::from_iter_values(numbers.clone().map(|lab| lab.to_string()));
            let ints = Int64Array::from_iter_values(numbers);
            for got in
                [read(Arc::new(texts), nothing, None)?, read(Arc::new(ints), nothing, Some(&[99]))?]
            {
                let said = got.map(|records| records.labs.len()).map_err(|error| error.to_string());
                let want = "labs: want at most 1048576 different names, got more";
                assert_eq!(said, if fits { Ok(used) } else { Err(want.to_owned()) });
            }
        }
        Ok(())
    }

    #[test]
    fn what_parts_of_names_are_separated_by_is_in_no_name() -> Outcome {
        let labs = StringArray::from_iter_values(["glucose", "glu\u{1f}cose"]);
        let said = read(Arc::new(labs), 0, None)?.map(drop);
        let said = said.map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(said.starts_with("events, column lab, row 3: want text without U+001F"), "{said}");
        Ok(())
    }
}
