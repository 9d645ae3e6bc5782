//! Events to visits: one pass over a table, any row order, same bytes for any number of threads.

mod codes;
mod columns;
mod exact;
mod finding;
mod order;
mod packed;
mod placing;
mod sums;
mod values;
mod visits;
mod words;

pub use codes::{CodeRecords, read_codes};
pub use finding::{find_code, find_value};
pub use placing::{Clock, Places};
pub use values::{ValueRecords, read_values};
pub use visits::{MOST_VISITS, UNKNOWN, VisitIndex, Window};
pub use words::Words;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went into the records.
    Used,
    /// Its visit id is empty.
    NoVisitId,
    /// Its visit is none that is known.
    UnknownVisit,
    /// Its visit is known, and none of those asked for.
    LeftOut,
    /// It is placed by its time, which is empty or cannot be read.
    NoTime,
    /// At its time its subject was in no visit.
    OutsideVisits,
    /// It came later than what counts of its visit.
    AfterWindow,
    /// Its code or lab item is empty.
    NoCode,
    /// Its value is empty.
    NoValue,
    /// Its value is text that is no number.
    NotANumber,
    /// Its value is NaN, infinite or too large.
    NotFinite,
}

impl Outcome {
    /// All outcomes, in the order in which a row is checked.
    pub const ALL: [Self; 11] = [
        Self::Used,
        Self::NoVisitId,
        Self::UnknownVisit,
        Self::LeftOut,
        Self::NoTime,
        Self::OutsideVisits,
        Self::AfterWindow,
        Self::NoCode,
        Self::NoValue,
        Self::NotANumber,
        Self::NotFinite,
    ];

    /// The outcome in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::NoVisitId => "no visit id",
            Self::UnknownVisit => "unknown visit",
            Self::LeftOut => "visit left out by the task",
            Self::NoTime => "no event time",
            Self::OutsideVisits => "outside every visit",
            Self::AfterWindow => "after the window",
            Self::NoCode => "no code",
            Self::NoValue => "no numeric value",
            Self::NotANumber => "value is not a number",
            Self::NotFinite => "value is not finite",
        }
    }
}

impl Outcome {
    /// What a row of this outcome lacks.
    fn want(self) -> &'static str {
        match self {
            Self::UnknownVisit => "the id of a visit that is known",
            Self::NotANumber => "a number",
            Self::NotFinite => "a finite number",
            Self::NoCode => "a code",
            _ => "a row that can be used",
        }
    }

    /// The outcome that these words say.
    #[must_use]
    pub fn of_words(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.words() == words)
    }
}

/// Counts every row read under exactly one outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ledger([u64; Outcome::ALL.len()]);

impl Ledger {
    #[inline]
    fn count(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }

    fn count_many(&mut self, outcome: Outcome, rows: usize) {
        self.0[outcome as usize] += rows as u64;
    }

    fn add(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// Rows with this outcome.
    #[must_use]
    pub fn rows(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// Rows read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.iter().sum()
    }
}
