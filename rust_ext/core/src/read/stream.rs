//! Arrow streams: batches that others make, in pieces that as many threads as asked for take in turn.

use super::delimited::find_column;
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
                sink.batch(&Batch { table, names: &names, columns: &columns, first_row }).map_err(
                    |error| {
                        lock(&pieces).ended = true;
                        (piece.number, error)
                    },
                )?;
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
                self.batch = self.batches.next().transpose().map_err(|error| {
                    self.ended = true;
                    (self.number, Error::Stream { table: name.into(), got: error.to_string() })
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
