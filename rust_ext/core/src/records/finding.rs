//! The first row of some outcome, for who wants to see it. A pass of its own, so that the pass that
//! counts stays fast: sinks run as always, and are asked after each row whether they counted one.

use super::codes::Codes;
use super::placing::Placer;
use super::values::Values;
use super::{Ledger, Outcome, Places, VisitIndex};
use crate::error::Result;
use crate::read::delimited::Row;
use crate::read::{Batch, Run, Sink, Table, scan};
use arrow_array::ArrayRef;

/// Looks for the first row of `outcome` in a table as `read_codes` reads it.
///
/// # Errors
/// [`crate::Error::Value`], which names that row, and whatever `read_codes` returns.
pub fn find_code(
    table: &Table,
    parts: usize,
    places: Places,
    index: &VisitIndex,
    outcome: Outcome,
    run: &mut Run<'_>,
) -> Result<()> {
    let place = if outcome == Outcome::NoCode { Some(0) } else { placed_by(places, outcome) };
    scan(table, run, || Finder::new(Codes::new(parts, Placer::new(index, places)), outcome, place))
        .map(drop)
}

/// Looks for the first row of `outcome` in a table as `read_values` reads it, labs being texts.
///
/// # Errors
/// [`crate::Error::Value`], which names that row, and whatever `read_values` returns.
pub fn find_value(
    table: &Table,
    parts: usize,
    places: Places,
    index: &VisitIndex,
    outcome: Outcome,
    run: &mut Run<'_>,
) -> Result<()> {
    let threads = run.threads.max(1);
    let place = match outcome {
        Outcome::NoValue | Outcome::NotANumber | Outcome::NotFinite => Some(parts),
        Outcome::NoCode => Some(0),
        _ => placed_by(places, outcome),
    };
    let new = || Values::new(parts, Placer::new(index, places), None, threads);
    scan(table, run, || Finder::new(new(), outcome, place)).map(drop)
}

/// The column to which a row owes that outcome of its placing.
fn placed_by(places: Places, outcome: Outcome) -> Option<usize> {
    match outcome {
        Outcome::NoTime | Outcome::OutsideVisits | Outcome::AfterWindow => {
            places.time.map(|(column, _)| column).or(places.visit)
        }
        _ => places.visit,
    }
}

trait Counting: Sink {
    fn ledger(&self) -> &Ledger;
}

impl Counting for Codes<'_> {
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Counting for Values<'_> {
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// A sink that fails at the first row that the sink within counts under `wanted`.
struct Finder<S> {
    sink: S,
    wanted: Outcome,
    /// The column to be shown.
    place: usize,
}

impl<S: Counting> Finder<S> {
    fn new(sink: S, wanted: Outcome, place: Option<usize>) -> Self {
        Self { sink, wanted, place: place.unwrap_or_default() }
    }

    fn found(&self) -> u64 {
        self.sink.ledger().rows(self.wanted)
    }
}

impl<S: Counting> Sink for Finder<S> {
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        let before = self.found();
        self.sink.row(row)?;
        if self.found() > before {
            return Err(row.wrong(self.place, self.wanted.want()));
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let before = self.found();
        self.sink.batch(batch)?;
        if self.found() == before {
            return Ok(());
        }
        // It is in here: the same rows once more, one by one.
        for row in 0..batch.len() {
            let (before, first_row) = (self.found(), batch.number(row));
            let columns: Vec<ArrayRef> =
                batch.columns.iter().map(|column| column.slice(row, 1)).collect();
            let one = Batch { columns: &columns, first_row, kept: None, ..*batch };
            self.sink.batch(&one)?;
            if self.found() > before {
                return Err(one.wrong(self.place, 0, self.wanted.want(), &one.shown(self.place)));
            }
        }
        Ok(())
    }
}
