//! Partial sums, packed small, and their merging into visits.

use super::ValueRecords;
use super::exact::mean;
use std::ops::Range;

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
    let (mut labs, mut values) = (vec![0; most], vec![0.0; most]);
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

/// The records of the visits from `first` on, up to another.
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
    fn run(self) -> usize {
        let Stretch { packed: mut lists, odd: mut odd_lists, first } = self.stretch;
        let (mut made, mut others) = (0, Vec::new());
        loop {
            let packed = lists.iter().filter_map(|rest| rest.first().map(|r| r.pair()));
            let odd = odd_lists.iter().filter_map(|rest| rest.first().map(|r| r.pair));
            let Some(pair) = packed.chain(odd).min() else { return made };
            let (mut sum, mut count) = (0_i128, 0_u64);
            for rest in &mut lists {
                while let [first, tail @ ..] = rest
                    && first.pair() == pair
                {
                    sum += i128::from(first.sum);
                    count += first.count();
                    *rest = tail;
                }
            }
            others.clear();
            for rest in &mut odd_lists {
                while let [first, tail @ ..] = rest
                    && first.pair == pair
                {
                    others.push((first.exponent, first.sum));
                    count += first.count;
                    *rest = tail;
                }
            }
            self.counts[((pair >> LAB_BITS) - first) as usize] += 1;
            self.labs[made] = (pair & LAB_MASK) as i32;
            self.values[made] = mean(sum, count, &others);
            made += 1;
        }
    }
}
