//! Sums and counts by visit and lab, as rows come.

use super::Outcome;
use super::order::{Settler, sort_settled};
use super::packed::{COUNT_BITS, COUNT_MASK, LAB_BITS, LAB_MASK, Odd, Packed};
use crate::error::Result;
use crate::memory::reserved;
use crate::read::number::Number;

/// Records that wait for equal ones to be merged: more than an ordered MIMIC-IV ever has.
const COMPACT_AT: usize = 24 << 20;

/// One thread's sums.
pub(super) struct Sums {
    /// Sums and counts of the current visit by lab, and a bit for each lab that has any.
    visit: u32,
    labs: Vec<(i64, u32)>,
    touched: Vec<u64>,
    /// A bit for each lab of the visits before.
    used: Vec<u64>,
    /// Sums of the visits before; ascending once compacted.
    pub packed: Vec<Packed>,
    pub odd: Vec<Odd>,
    settler: Settler,
    compact_at: usize,
}

impl Sums {
    /// Sums of one of so many threads, which share the room for records.
    pub fn new(threads: usize) -> Self {
        let compact_at = COMPACT_AT / threads;
        Self {
            visit: 0,
            labs: Vec::new(),
            touched: Vec::new(),
            used: Vec::new(),
            packed: reserved(compact_at),
            odd: Vec::new(),
            settler: Settler::default(),
            compact_at,
        }
    }

    /// From here on values are of `visit`.
    #[inline(always)]
    pub fn turn_to(&mut self, visit: u32) {
        if visit != self.visit {
            self.flush();
            self.visit = visit;
        }
    }

    /// Adds a value of the current visit; only what is one needs its lab's number.
    #[inline(always)]
    pub fn add(&mut self, number: Number, lab: impl FnOnce() -> Result<u32>) -> Result<Outcome> {
        match number {
            Number::Scaled(value) => self.add_scaled(lab()?, value),
            Number::Decimal(mantissa, exponent) => self.add_odd(lab()?, mantissa, exponent),
            Number::Empty => return Ok(Outcome::NoValue),
            Number::NotFinite => return Ok(Outcome::NotFinite),
            Number::Text => return Ok(Outcome::NotANumber),
        }
        Ok(Outcome::Used)
    }

    /// The same for a scaled value.
    #[inline(always)]
    pub fn add_scaled(&mut self, lab: u32, value: i64) {
        let lab = lab as usize;
        if lab >= self.labs.len() {
            self.make_room(lab);
        }
        let (sum, count) = &mut self.labs[lab];
        *sum += value;
        *count += 1;
        self.touched[lab / 64] |= 1 << (lab % 64);
        if u64::from(*count) == COUNT_MASK {
            self.flush();
        }
    }

    #[cold]
    fn make_room(&mut self, lab: usize) {
        self.labs.resize((lab + 1).next_multiple_of(64), (0, 0));
        self.touched.resize(self.labs.len() / 64, 0);
        self.used.resize(self.touched.len(), 0);
    }

    #[cold]
    fn add_odd(&mut self, lab: u32, mantissa: i64, exponent: i16) {
        let pair = (u64::from(self.visit) << LAB_BITS) | u64::from(lab);
        self.odd.push(Odd { pair, exponent, count: 1, sum: i128::from(mantissa) });
        if self.odd.len() >= self.compact_at {
            self.flush();
            self.compact();
        }
    }

    /// Packs the current visit's sums, labs ascending.
    pub fn flush(&mut self) {
        let start = self.packed.len();
        for (word, bits) in self.touched.iter_mut().enumerate() {
            self.used[word] |= *bits;
            while *bits != 0 {
                let lab = word * 64 + bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                let (sum, count) = std::mem::take(&mut self.labs[lab]);
                self.packed.push(Packed::new(self.visit, lab as u32, count, sum));
            }
        }
        self.settler.settle(&mut self.packed, start, |record| record.visit());
        if self.packed.len() >= self.compact_at {
            self.compact();
        }
    }

    /// Sorts the records and merges equal ones; next time when there are twice as many.
    pub fn compact(&mut self) {
        // Where a table is in order there is nothing to do.
        if !self.packed.is_sorted_by(|a, b| a.pair() < b.pair()) {
            sort_settled(&mut self.packed, |record| record.visit(), |record| record.pair());
            self.packed.dedup_by(|next, kept| {
                let count = kept.count() + next.count();
                let same = kept.pair() == next.pair() && count <= COUNT_MASK;
                if same {
                    kept.key = (kept.pair() << COUNT_BITS) | count;
                    kept.sum += next.sum;
                }
                same
            });
        }
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

    /// For each of `labs` labs whether it has a value; ask after [`Sums::flush`].
    pub fn used(&self, labs: usize) -> Vec<bool> {
        let bit =
            |lab: usize| self.used.get(lab / 64).is_some_and(|bits| bits >> (lab % 64) & 1 > 0);
        let mut used: Vec<bool> = (0..labs).map(bit).collect();
        self.odd.iter().for_each(|record| used[(record.pair & LAB_MASK) as usize] = true);
        used
    }

    /// Gives the labs other numbers.
    pub fn renumber(&mut self, numbers: &[u64]) {
        if (0..).zip(numbers).all(|(old, &new)| old == new) {
            return;
        }
        let new = |pair: u64| (pair & !LAB_MASK) | numbers[(pair & LAB_MASK) as usize];
        for record in &mut self.packed {
            record.key = (new(record.pair()) << COUNT_BITS) | record.count();
        }
        for record in &mut self.odd {
            record.pair = new(record.pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Visits in any order, met again and again, and labs renumbered.
        #[test]
        fn equals_a_sorted_map(rows in prop::collection::vec((0_u32..9, 0_u32..200, -50_i64..50), 0..300)) {
            let mut sums = Sums::new(1);
            let mut oracle = BTreeMap::<(u32, u32), (i64, u64)>::new();
            for &(visit, lab, value) in &rows {
                sums.turn_to(visit);
                prop_assert!(matches!(sums.add(Number::Scaled(value), || Ok(lab)), Ok(Outcome::Used)));
                let (sum, count) = oracle.entry((visit, 199 - lab)).or_default();
                (*sum, *count) = (*sum + value, *count + 1);
            }
            sums.flush();
            prop_assert!(sums.packed.is_sorted_by_key(|record| record.visit()));
            sums.renumber(&(0..200).rev().collect::<Vec<_>>());
            sums.compact();
            let got = sums.packed.iter().map(|record| {
                let lab = (record.pair() & LAB_MASK) as u32;
                ((record.visit() as u32, lab), (record.sum, record.count()))
            });
            prop_assert_eq!(got.collect::<Vec<_>>(), oracle.into_iter().collect::<Vec<_>>());
        }
    }
}
