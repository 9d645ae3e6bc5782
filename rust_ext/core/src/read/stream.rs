//! Arrow streams: batches that others make, in pieces that as many threads as asked for take in turn.

use super::caught::caught;
use super::find_column;
use super::{Batch, Failure, Run, Sink, on_threads};
use crate::error::{Error, Result};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows of a piece: what a sink converts at a time, so that one huge batch does not double itself.
const PIECE: usize = 64 << 10;

/// A stream of Arrow batches and the columns that are wanted of it.
pub struct Stream {
    name: String,
    columns: Vec<String>,
    batches: Box<dyn RecordBatchReader + Send>,
}

impl Stream {
    /// A stream that messages call `name`.
    #[must_use]
    pub fn new(
        name: String,
        columns: Vec<String>,
        batches: Box<dyn RecordBatchReader + Send>,
    ) -> Self {
        Self { name, columns, batches }
    }

    /// Feeds the whole stream to sinks made by `new`, one for each thread.
    pub(super) fn scan<S: Sink>(
        self,
        run: &mut Run<'_>,
        new: impl Fn() -> S + Sync,
    ) -> Result<Vec<S>> {
        let schema = self.batches.schema();
        let there: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let places = self.columns.iter().map(|column| find_column(&self.name, &there, column));
        let places = places.collect::<Result<Vec<usize>>>()?;
        let (name, names) = (self.name, self.columns);
        let pieces = Mutex::new(Pieces::new(self.batches));
        let (stop, rows) = (AtomicBool::new(false), AtomicU64::new(0));
        let far = || (rows.load(Ordering::Relaxed), 0);
        on_threads(run.threads.max(1), run.progress, &stop, far, new, |sink| {
            while !stop.load(Ordering::Relaxed) {
                let Some(piece) = lock(&pieces).next(&name)? else { break };
                let columns: Vec<ArrayRef> =
                    places.iter().map(|&place| piece.rows.column(place).clone()).collect();
                let (table, first_row) = (name.as_str(), piece.first_row);
                let batch =
                    Batch { table, names: &names, columns: &columns, first_row, kept: None };
                let outcome = caught(|| sink.batch(&batch)).unwrap_or_else(|panic| {
                    let got = format!("values that cannot be read ({panic})");
                    Err(Error::Stream { table: name.clone(), got })
                });
                outcome.map_err(|error| {
                    lock(&pieces).ended = true;
                    (piece.number, error)
                })?;
                rows.fetch_add(piece.rows.num_rows() as u64, Ordering::Relaxed);
            }
            Ok(())
        })
    }
}

fn lock(pieces: &Mutex<Pieces>) -> MutexGuard<'_, Pieces> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left of a stream.
struct Pieces {
    batches: Box<dyn RecordBatchReader + Send>,
    batch: Option<RecordBatch>,
    number: usize,
    first_row: u64,
    ended: bool,
}

struct Piece {
    rows: RecordBatch,
    number: usize,
    first_row: u64,
}

impl Pieces {
    fn new(batches: Box<dyn RecordBatchReader + Send>) -> Self {
        Self { batches, batch: None, number: 0, first_row: 2, ended: false }
    }

    fn next(&mut self, name: &str) -> std::result::Result<Option<Piece>, Failure> {
        while !self.ended {
            let Some(batch) = self.batch.take() else {
                let made = caught(|| self.batches.next().transpose());
                let made = made.map_err(|panic| format!("a batch that cannot be read ({panic})"));
                let made = made.and_then(|made| made.map_err(|error| error.to_string()));
                self.batch = made.map_err(|got| {
                    self.ended = true;
                    (self.number, Error::Stream { table: name.into(), got })
                })?;
                self.ended = self.batch.is_none();
                continue;
            };
            let rows = batch.slice(0, batch.num_rows().min(PIECE));
            if rows.num_rows() == 0 {
                continue;
            }
            let (number, first_row) = (self.number, self.first_row);
            let left = batch.num_rows() - rows.num_rows();
            self.batch = (left > 0).then(|| batch.slice(rows.num_rows(), left));
            self.number += 1;
            self.first_row += rows.num_rows() as u64;
            return Ok(Some(Piece { rows, number, first_row }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::delimited::Row;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, RecordBatchIterator};
    use arrow_schema::{ArrowError, DataType, Field, Schema};
    use std::sync::Arc;

    /// Takes values that are their own row numbers; fails at a null.
    struct Taker(Vec<i64>);

    impl Sink for Taker {
        fn row(&mut self, _: Row<'_>) -> Result<()> {
            Err(Error::Shape("a row of text".into()))
        }

        fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
            let values = batch.columns[0].as_primitive::<Int64Type>();
            for (place, value) in values.iter().enumerate() {
                let value = value.ok_or_else(|| batch.wrong(0, place, "a number", ""))?;
                assert_eq!(value as u64, batch.number(place));
                self.0.push(value);
            }
            assert!(values.len() <= PIECE);
            Ok(())
        }
    }

    fn stream(column: &str, nulls: &[i64], breaks: bool) -> Stream {
        let schema = Arc::new(Schema::new(vec![Field::new("Row", DataType::Int64, true)]));
        let (mut batches, mut next) = (Vec::new(), 2);
        for rows in [1, 0, 3 * PIECE as i64 + 5, 7, 0] {
            let cells = (next..next + rows).map(|row| (!nulls.contains(&row)).then_some(row));
            let column = Arc::new(cells.collect::<Int64Array>());
            batches.push(RecordBatch::try_new(schema.clone(), vec![column]));
            next += rows;
        }
        if breaks {
            batches.push(Err(ArrowError::ComputeError("cut".into())));
        }
        let batches = Box::new(RecordBatchIterator::new(batches, schema));
        Stream::new("events".into(), vec![column.into()], batches)
    }

    fn scan(stream: Stream, threads: usize) -> Result<Vec<i64>> {
        let mut run = Run { threads, block: 1, progress: &mut |_, _| true };
        let sinks = stream.scan(&mut run, || Taker(Vec::new()))?;
        let mut rows: Vec<i64> = sinks.into_iter().flat_map(|sink| sink.0).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    #[test]
    fn every_row_comes_once_and_knows_its_number() -> Result<()> {
        for threads in 1..4 {
            let rows = scan(stream("row", &[], false), threads)?;
            assert!(rows.into_iter().eq(2..3 * PIECE as i64 + 15));
        }
        Ok(())
    }

    #[test]
    fn the_earliest_bad_row_is_named() {
        let first = PIECE as i64 + 100;
        for threads in 1..4 {
            let said = scan(stream("Row", &[first, first + 3, first + 99_000], true), threads);
            let wanted = format!("events, column Row, row {first}: want a number, got \"\"");
            assert_eq!(said.map_err(|error| error.to_string()), Err(wanted));
        }
    }

    #[test]
    fn what_the_maker_says_and_what_is_missing() {
        let said = |stream| scan(stream, 2).map_err(|error| error.to_string()).err();
        let cut = "events: want a stream that can be read, got Compute error: cut";
        assert_eq!(said(stream("row", &[], true)).as_deref(), Some(cut));
        let missing = "events, column item: no such column";
        assert_eq!(said(stream("item", &[], false)).as_deref(), Some(missing));
    }

    #[test]
    fn who_is_told_to_stop_stops() {
        let mut run = Run { threads: 1, block: 1, progress: &mut |_, _| false };
        let slow = || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            Taker(Vec::new())
        };
        let outcome = stream("row", &[], false).scan(&mut run, slow);
        assert!(matches!(outcome, Err(Error::Stopped)));
    }
}
