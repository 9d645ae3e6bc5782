//! Partial sums, packed small, and their merging into visits.

use super::ValueRecords;
use super::exact::{mean, mean_scaled};
use crate::memory::zeros;
use std::ops::Range;

/// Visit (28 bits), lab (20 bits), count (16 bits), and the scaled sum of that many values.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub key: u64,
    pub sum: i64,
}

pub(super) const COUNT_BITS: u32 = 16;
pub(super) const LAB_BITS: u32 = 20;
const _: () = assert!(crate::keys::MOST_KEYS == 1 << LAB_BITS);
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

    pub fn visit(self) -> u64 {
        self.key >> (COUNT_BITS + LAB_BITS)
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

/// Stretches of visits that each thread merges, one after the other.
const TURNS: usize = 16;

/// Merges the threads' sorted records into visits, on so many threads.
///
/// The last visits come first, and records are let go of as they are merged: memory never has to hold
/// both all records and all that is made of them.
pub(super) fn combine(
    packed: &mut [Vec<Packed>],
    odd: &[&[Odd]],
    visits: usize,
    threads: usize,
) -> ValueRecords {
    let most = packed.iter().map(Vec::len).sum::<usize>()
        + odd.iter().map(|records| records.len()).sum::<usize>();
    let (mut labs, mut values) = (zeros(most), zeros(most));
    let mut offsets = vec![0; visits + 1];
    let borders = borders(packed, visits, threads * TURNS);
    let (mut room, mut made) = (most, Vec::new());
    for turn in borders.windows(2).rev().collect::<Vec<_>>().chunks(threads) {
        let stretches = turn.iter().map(|border| Stretch::new(packed, odd, border));
        let stretches: Vec<Stretch<'_>> = stretches.collect();
        std::thread::scope(|scope| {
            let (mut labs, mut values) = (&mut labs[..room], &mut values[..room]);
            let mut counts = &mut offsets[1..];
            let mut at_work = Vec::new();
            for stretch in stretches {
                let start = labs.len() - stretch.records();
                let merging = Merging {
                    counts: counts.split_off_mut(stretch.first as usize..).unwrap_or_default(),
                    labs: labs.split_off_mut(start..).unwrap_or_default(),
                    values: values.split_off_mut(start..).unwrap_or_default(),
                    stretch,
                };
                at_work.push((start, scope.spawn(|| merging.run())));
                room = start;
            }
            for (start, thread) in at_work {
                let pairs = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                made.push(start..start + pairs);
            }
        });
        let first = turn.last().map_or(0, |border| border[0] << LAB_BITS);
        for records in &mut *packed {
            records.truncate(records.partition_point(|record| record.pair() < first));
            records.shrink_to_fit();
        }
    }
    close_gaps(&mut labs, &mut values, made.into_iter().rev());
    let mut total = 0;
    for offset in &mut offsets {
        total += *offset;
        *offset = total;
    }
    ValueRecords { offsets, labs, values, ..ValueRecords::default() }
}

/// Moves what stands in `filled`, ascending ranges, together at the front.
fn close_gaps(
    labs: &mut Vec<i32>,
    values: &mut Vec<f64>,
    filled: impl Iterator<Item = Range<usize>>,
) {
    let mut end = 0;
    for range in filled {
        let (start, length) = (end, range.len());
        if range.start > start {
            labs.copy_within(range.clone(), start);
            values.copy_within(range, start);
        }
        end = start + length;
    }
    labs.truncate(end);
    values.truncate(end);
}

/// Visits between which about equally many records lie, from 0 to `visits`.
fn borders(packed: &[Vec<Packed>], visits: usize, parts: usize) -> Vec<u64> {
    let longest = packed.iter().max_by_key(|records| records.len());
    let longest = longest.map(Vec::as_slice).unwrap_or_default();
    let mut borders = vec![0];
    for part in 1..parts {
        borders.extend(longest.get(longest.len() * part / parts).map(|r| r.pair() >> LAB_BITS));
    }
    borders.push(visits as u64);
    borders
}

fn between<T>(sorted: &[T], from: u64, to: u64, pair: impl Fn(&T) -> u64) -> &[T] {
    let start = sorted.partition_point(|record| pair(record) < from);
    &sorted[start..][..sorted[start..].partition_point(|record| pair(record) < to)]
}

/// What is left of the records of the visits from `first` on, up to another.
struct Stretch<'a> {
    packed: Vec<&'a [Packed]>,
    odd: Vec<&'a [Odd]>,
    first: u64,
}

impl<'a> Stretch<'a> {
    fn new(packed: &'a [Vec<Packed>], odd: &[&'a [Odd]], border: &[u64]) -> Self {
        let (from, to) = (border[0] << LAB_BITS, border[1] << LAB_BITS);
        let packed = packed.iter().map(|all| between(all, from, to, |record| record.pair()));
        let odd = odd.iter().map(|all| between(all, from, to, |record| record.pair));
        Self {
            packed: packed.filter(|records| !records.is_empty()).collect(),
            odd: odd.filter(|records| !records.is_empty()).collect(),
            first: border[0],
        }
    }

    fn records(&self) -> usize {
        self.packed.iter().map(|records| records.len()).sum::<usize>()
            + self.odd.iter().map(|records| records.len()).sum::<usize>()
    }

    /// The first pair of those left.
    fn next(&self) -> Option<u64> {
        let packed = self.packed.iter().filter_map(|rest| rest.first().map(|r| r.pair()));
        packed.chain(self.odd.iter().filter_map(|rest| rest.first().map(|r| r.pair))).min()
    }

    /// Takes the records that begin with `pair`, the next one, and are each the only one of their
    /// pair: nearly all are, as threads read other rows, and those of a visit mostly stand together.
    fn alone(&mut self, pair: u64) -> &'a [Packed] {
        let begins = |rest: &&[Packed]| rest.first().is_some_and(|record| record.pair() == pair);
        let Some(place) = self.packed.iter().position(begins) else { return &[] };
        let list = std::mem::take(&mut self.packed[place]);
        let until = self.next().unwrap_or(u64::MAX);
        let same = |two: &[Packed]| two[1].pair() >= until || two[0].pair() == two[1].pair();
        let length = match list.windows(2).position(same) {
            _ if pair >= until => 0,
            Some(at) if list[at].pair() == list[at + 1].pair() => at,
            Some(at) => at + 1,
            None => list.len(),
        };
        let (alone, left) = list.split_at(length);
        self.packed[place] = left;
        alone
    }
}

/// The merging of a stretch of visits.
struct Merging<'a> {
    stretch: Stretch<'a>,
    /// Labs of each visit of the stretch.
    counts: &'a mut [i64],
    labs: &'a mut [i32],
    values: &'a mut [f64],
}

impl Merging<'_> {
    /// How many (visit, lab) pairs there are.
    fn run(mut self) -> usize {
        let mut made = 0;
        while let Some(pair) = self.stretch.next() {
            let alone = self.stretch.alone(pair);
            if alone.is_empty() {
                self.merge(pair, made);
                made += 1;
            } else {
                self.copy(alone, made);
                made += alone.len();
            }
        }
        made
    }

    /// Puts records that are each the only one of their pair where the pairs from `made` on go.
    fn copy(&mut self, alone: &[Packed], made: usize) {
        let places = self.labs[made..].iter_mut().zip(&mut self.values[made..]);
        for (record, (lab, value)) in alone.iter().zip(places) {
            self.counts[(record.visit() - self.stretch.first) as usize] += 1;
            *lab = (record.pair() & LAB_MASK) as i32;
            *value = mean_scaled(record.sum, record.count());
        }
    }

    /// Merges all records of a pair, and puts it at `place`.
    fn merge(&mut self, pair: u64, place: usize) {
        let (mut sum, mut count, mut others) = (0_i128, 0_u64, Vec::new());
        for rest in &mut self.stretch.packed {
            while let [first, tail @ ..] = rest
                && first.pair() == pair
            {
                sum += i128::from(first.sum);
                count += first.count();
                *rest = tail;
            }
        }
        for rest in &mut self.stretch.odd {
            while let [first, tail @ ..] = rest
                && first.pair == pair
            {
                others.push((first.exponent, first.sum));
                count += first.count;
                *rest = tail;
            }
        }
        self.counts[((pair >> LAB_BITS) - self.stretch.first) as usize] += 1;
        self.labs[place] = (pair & LAB_MASK) as i32;
        self.values[place] = mean(sum, count, &others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Records of any number of threads, of which some share visits and pairs, and some have the
        /// same pair twice.
        #[test]
        fn equals_a_map(
            lists in prop::collection::vec(prop::collection::vec((0_u32..12, 0_u32..3, -9_i64..9), 0..30), 1..4),
            odd in prop::collection::vec((0_u64..12, 0_u64..3, -9_i128..9), 0..4),
            threads in 1_usize..4,
        ) {
            let mut oracle = BTreeMap::<(u64, u64), (i64, i64)>::new();
            let mut add = |pair: u64, sum: i64| {
                let (all, count) = oracle.entry((pair >> LAB_BITS, pair & LAB_MASK)).or_default();
                (*all, *count) = (*all + sum * 1_000_000, *count + 1);
            };
            let of_list = |list: &Vec<(u32, u32, i64)>| {
                let packed = |&(visit, lab, sum)| Packed::new(visit, lab, 1, sum * 1_000_000);
                let mut packed: Vec<Packed> = list.iter().map(packed).collect();
                packed.sort_by_key(|record| record.pair());
                packed
            };
            let mut packed: Vec<Vec<Packed>> = lists.iter().map(of_list).collect();
            packed.iter().flatten().for_each(|record| add(record.pair(), record.sum / 1_000_000));
            let of_odd = |&(visit, lab, sum)| {
                Odd { pair: visit << LAB_BITS | lab, exponent: 0, count: 1, sum }
            };
            let mut odd: Vec<Odd> = odd.iter().map(of_odd).collect();
            odd.sort_by_key(|record| record.pair);
            odd.iter().for_each(|record| add(record.pair, record.sum as i64));
            let got = combine(&mut packed, &[&odd], 12, threads);
            let visits = got.offsets.windows(2).zip(0_u64..);
            let owner = visits.flat_map(|(ends, visit)| (ends[0]..ends[1]).map(move |_| visit));
            let pairs = owner.zip(got.labs.iter().map(|&lab| lab as u64)).zip(got.values);
            let mean = |(sum, count)| sum as f64 / (count * 1_000_000) as f64;
            let wanted = oracle.into_iter().map(|(pair, sums)| (pair, mean(sums)));
            prop_assert_eq!(pairs.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        }
    }
}
