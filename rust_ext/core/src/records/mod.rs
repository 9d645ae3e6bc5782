//! Events to visits: one pass over a table, any row order, same bytes for any number of threads.

mod codes;
mod columns;
mod exact;
mod packed;
mod values;

pub use codes::{CodeRecords, read_codes};
pub use values::{ValueRecords, read_values};

use hashbrown::HashMap;

/// Where each visit stands: visit id to its place among the visits.
#[derive(Debug)]
pub struct VisitIndex {
    places: HashMap<i64, u32>,
}

/// Most visits that one set of records can hold.
pub const MOST_VISITS: usize = 1 << 28;

impl VisitIndex {
    /// An index of `ids`, each at its own place. `None` if an id stands twice or there are too many.
    #[must_use]
    pub fn new(ids: &[i64]) -> Option<Self> {
        let places: HashMap<i64, u32> = ids.iter().copied().zip(0..).collect();
        (places.len() == ids.len() && ids.len() <= MOST_VISITS).then_some(Self { places })
    }

    /// The place of visit `id`.
    #[inline]
    #[must_use]
    pub fn place(&self, id: i64) -> Option<u32> {
        self.places.get(&id).copied()
    }

    /// Number of visits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no visit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went into the records.
    Used,
    /// Its visit id is empty.
    NoVisitId,
    /// Its visit is none of those asked for.
    UnknownVisit,
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
    pub const ALL: [Self; 7] = [
        Self::Used,
        Self::NoVisitId,
        Self::UnknownVisit,
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
            Self::NoCode => "no code",
            Self::NoValue => "no numeric value",
            Self::NotANumber => "value is not a number",
            Self::NotFinite => "value is not finite",
        }
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
