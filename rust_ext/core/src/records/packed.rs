//! Partial sums, packed small, and their merging into visits.

use super::ValueRecords;
use super::exact::mean;

/// Visit (28 bits), lab (20 bits), count (16 bits), and the scaled sum of that many values.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub key: u64,
    pub sum: i64,
}

pub(super) const COUNT_BITS: u32 = 16;
pub(super) const LAB_BITS: u32 = 20;
pub(super) const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
pub(super) const LAB_MASK: u64 = (1 << LAB_BITS) - 1;

impl Packed {
    pub fn new(visit: u32, lab: u32, count: u32, sum: i64) -> Self {
        let pair = (u64::from(visit) << LAB_BITS) | u64::from(lab);
        Self { key: (pair << COUNT_BITS) | u64::from(count), sum }
    }

    pub fn pair(self) -> u64 {
        self.key >> COUNT_BITS
    }

    pub fn count(self) -> u64 {
        self.key & COUNT_MASK
    }
}

/// The sum of some values that do not fit [`Packed`]: `sum * 10^exponent`.
#[derive(Clone, Copy)]
pub(super) struct Odd {
    pub pair: u64,
    pub exponent: i16,
    pub count: u64,
    pub sum: i128,
}

/// Merges the threads' sorted records into visits.
pub(super) fn combine(
    mut packed: Vec<&[Packed]>,
    mut odd: Vec<&[Odd]>,
    visits: usize,
) -> ValueRecords {
    let most = packed.iter().map(|records| records.len()).sum::<usize>()
        + odd.iter().map(|records| records.len()).sum::<usize>();
    let mut records = ValueRecords {
        offsets: Vec::with_capacity(visits + 1),
        labs: Vec::with_capacity(most),
        values: Vec::with_capacity(most),
        ..ValueRecords::default()
    };
    let mut others = Vec::new();
    records.offsets.push(0);
    loop {
        let packed_pairs =
            packed.iter().filter_map(|rest| rest.first().map(|record| record.pair()));
        let odd_pairs = odd.iter().filter_map(|rest| rest.first().map(|record| record.pair));
        let Some(pair) = packed_pairs.chain(odd_pairs).min() else { break };
        let (mut sum, mut count) = (0_i128, 0_u64);
        for rest in &mut packed {
            while let [first, tail @ ..] = rest
                && first.pair() == pair
            {
                sum += i128::from(first.sum);
                count += first.count();
                *rest = tail;
            }
        }
        others.clear();
        for rest in &mut odd {
            while let [first, tail @ ..] = rest
                && first.pair == pair
            {
                others.push((first.exponent, first.sum));
                count += first.count;
                *rest = tail;
            }
        }
        let visit = (pair >> LAB_BITS) as usize;
        records.offsets.resize(visit + 1, records.labs.len() as i64);
        records.labs.push((pair & LAB_MASK) as i32);
        records.values.push(mean(sum, count, &others));
    }
    records.offsets.resize(visits + 1, records.labs.len() as i64);
    records
}
