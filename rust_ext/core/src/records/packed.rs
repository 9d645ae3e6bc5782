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

/// Merges the threads' sorted records into visits; each thread takes a stretch of visits.
pub(super) fn combine(
    packed: &[&[Packed]],
    odd: &[&[Odd]],
    visits: usize,
    threads: usize,
) -> ValueRecords {
    let most = packed.iter().map(|records| records.len()).sum::<usize>()
        + odd.iter().map(|records| records.len()).sum::<usize>();
    let (mut labs, mut values) = (vec![0; most], vec![0.0; most]);
    let mut offsets = vec![0; visits + 1];
    let made = std::thread::scope(|scope| {
        let (mut labs, mut values) = (labs.as_mut_slice(), values.as_mut_slice());
        let (mut counts, mut threads_at_work) = (&mut offsets[1..], Vec::new());
        for stretch in stretches(packed, visits, threads).windows(2) {
            let (from, to) = (stretch[0] << LAB_BITS, stretch[1] << LAB_BITS);
            let packed: Vec<&[Packed]> =
                packed.iter().map(|all| between(all, from, to, |record| record.pair())).collect();
            let odd: Vec<&[Odd]> =
                odd.iter().map(|all| between(all, from, to, |record| record.pair)).collect();
            let room = packed.iter().map(|records| records.len()).sum::<usize>()
                + odd.iter().map(|records| records.len()).sum::<usize>();
            let merging = Merging {
                packed,
                odd,
                first: stretch[0],
                counts: counts
                    .split_off_mut(..(stretch[1] - stretch[0]) as usize)
                    .unwrap_or_default(),
                labs: labs.split_off_mut(..room).unwrap_or_default(),
                values: values.split_off_mut(..room).unwrap_or_default(),
            };
            threads_at_work.push((room, scope.spawn(|| merging.run())));
        }
        let ends = threads_at_work.into_iter().map(|(room, thread)| {
            (room, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        ends.collect::<Vec<_>>()
    });
    let (mut end, mut from) = (0, 0);
    for (room, filled) in made {
        if end < from {
            labs.copy_within(from..from + filled, end);
            values.copy_within(from..from + filled, end);
        }
        (end, from) = (end + filled, from + room);
    }
    labs.truncate(end);
    values.truncate(end);
    let mut total = 0;
    for offset in &mut offsets {
        total += *offset;
        *offset = total;
    }
    ValueRecords { offsets, labs, values, ..ValueRecords::default() }
}

/// Visits between which about equally many records lie: one more than threads, from 0 to `visits`.
fn stretches(packed: &[&[Packed]], visits: usize, threads: usize) -> Vec<u64> {
    let longest = packed.iter().max_by_key(|records| records.len()).copied().unwrap_or_default();
    let mut borders = vec![0];
    for thread in 1..threads {
        borders.extend(longest.get(longest.len() * thread / threads).map(|r| r.pair() >> LAB_BITS));
    }
    borders.push(visits as u64);
    borders
}

fn between<T>(sorted: &[T], from: u64, to: u64, pair: impl Fn(&T) -> u64) -> &[T] {
    let start = sorted.partition_point(|record| pair(record) < from);
    &sorted[start..][..sorted[start..].partition_point(|record| pair(record) < to)]
}

/// The merging of a stretch of visits.
struct Merging<'a> {
    packed: Vec<&'a [Packed]>,
    odd: Vec<&'a [Odd]>,
    first: u64,
    /// Labs of each visit of the stretch.
    counts: &'a mut [i64],
    labs: &'a mut [i32],
    values: &'a mut [f64],
}

impl Merging<'_> {
    /// How many (visit, lab) pairs there are.
    fn run(mut self) -> usize {
        let (mut made, mut others) = (0, Vec::new());
        loop {
            let packed = self.packed.iter().filter_map(|rest| rest.first().map(|r| r.pair()));
            let odd = self.odd.iter().filter_map(|rest| rest.first().map(|r| r.pair));
            let Some(pair) = packed.chain(odd).min() else { return made };
            let (mut sum, mut count) = (0_i128, 0_u64);
            for rest in &mut self.packed {
                while let [first, tail @ ..] = rest
                    && first.pair() == pair
                {
                    sum += i128::from(first.sum);
                    count += first.count();
                    *rest = tail;
                }
            }
            others.clear();
            for rest in &mut self.odd {
                while let [first, tail @ ..] = rest
                    && first.pair == pair
                {
                    others.push((first.exponent, first.sum));
                    count += first.count;
                    *rest = tail;
                }
            }
            self.counts[((pair >> LAB_BITS) - self.first) as usize] += 1;
            self.labs[made] = (pair & LAB_MASK) as i32;
            self.values[made] = mean(sum, count, &others);
            made += 1;
        }
    }
}
