//! Exact quantiles of each lab over visits.

use crate::error::{Error, Result};
use crate::memory::zeros;

/// Inner cut points of ten bins.
pub const CUTS: usize = 9;

/// A lab's nine cut points, and which of its ten bins hold any value.
pub type Deciles = ([f64; CUTS], [bool; CUTS + 1]);

/// The nine decile cut points of each wanted lab: NumPy's `linear` quantile at 0.1, 0.2 ... 0.9; and
/// which bins between them are filled, a value at a cut point belonging to the bin above.
///
/// `slots[lab]` is the row of the result for that lab, or negative if it is not wanted; `sizes` says
/// how many values each row has. A lab without values gets NaN.
///
/// # Errors
/// [`Error::Shape`] if the arrays contradict each other.
pub fn deciles(
    labs: &[i32],
    values: &[f64],
    slots: &[i32],
    sizes: &[u64],
    threads: usize,
) -> Result<Vec<Deciles>> {
    if labs.len() != values.len() {
        return Err(Error::Shape("as many labs as values are wanted".into()));
    }
    if sizes.iter().fold(0, |all: u64, &size| all.saturating_add(size)) > values.len() as u64 {
        return Err(Error::Shape("no more values are wanted than there are".into()));
    }
    let mut made = vec![([f64::NAN; CUTS], [false; CUTS + 1]); sizes.len()];
    let shares = shares(sizes, threads.max(1));
    std::thread::scope(|scope| {
        let mut at_work = Vec::new();
        for share in &shares {
            at_work.push(scope.spawn(move || of_share(labs, values, slots, share, sizes)));
        }
        for (share, thread) in shares.iter().zip(at_work) {
            let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            for (&slot, deciles) in share.iter().zip(found) {
                made[slot] = deciles;
            }
        }
        Ok(())
    })?;
    Ok(made)
}

/// The slots dealt to so many threads, the largest first to whoever has least.
fn shares(sizes: &[u64], threads: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&slot| std::cmp::Reverse(sizes[slot]));
    let mut shares = vec![(0, Vec::new()); threads];
    for slot in order {
        if let Some(least) = shares.iter_mut().min_by_key(|(values, _)| *values) {
            least.0 += sizes[slot];
            least.1.push(slot);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

fn of_share(
    labs: &[i32],
    values: &[f64],
    slots: &[i32],
    share: &[usize],
    sizes: &[u64],
) -> Result<Vec<Deciles>> {
    let sizes: Vec<usize> = share.iter().map(|&slot| sizes[slot] as usize).collect();
    let mut keys = gathered(labs, values, slots, share, &sizes)?;
    let mut left = keys.as_mut_slice();
    let mut made = Vec::with_capacity(share.len());
    for size in sizes {
        let (column, rest) = left.split_at_mut(size);
        let cuts = cut_points(column);
        made.push((cuts, filled(&cuts, column)));
        left = rest;
    }
    Ok(made)
}

/// The keys of the values of each slot of `share`, slot after slot, and one key more.
fn gathered(
    labs: &[i32],
    values: &[f64],
    slots: &[i32],
    share: &[usize],
    sizes: &[usize],
) -> Result<Vec<i64>> {
    let other = || Error::Shape("slots have other numbers of values than they should".into());
    // Values of others are written, too, to one place behind all: a branch would not be foreseen.
    let place = |slot: &i32| share.iter().position(|&own| usize::try_from(*slot) == Ok(own));
    let place_of: Vec<usize> =
        slots.iter().map(|slot| place(slot).unwrap_or(share.len())).collect();
    let mut next: Vec<(usize, usize)> = Vec::with_capacity(share.len() + 1);
    let mut end = 0;
    for size in sizes {
        next.push((end, 1));
        end += size;
    }
    next.push((end, 0));
    let ends = next[1..].iter().map(|&(start, _)| start);
    let ends: Vec<usize> = ends.collect();
    let mut keys = zeros(end + 1);
    for (&lab, &value) in labs.iter().zip(values) {
        let place = usize::try_from(lab).ok().and_then(|lab| place_of.get(lab));
        let (at, step) = &mut next[*place.ok_or_else(|| no_lab(lab))?];
        *keys.get_mut(*at).ok_or_else(other)? = key(value);
        *at += *step;
    }
    let full = next.iter().zip(&ends).all(|(&(at, _), &end)| at == end);
    if full { Ok(keys) } else { Err(other()) }
}

/// Which bins hold a value. `keys` are as [`cut_points`] has left them, so that a bin's values stand
/// between the ranks of its cut points.
fn filled(cuts: &[f64; CUTS], keys: &[i64]) -> [bool; CUTS + 1] {
    let mut filled = [false; CUTS + 1];
    let Some(last) = keys.len().checked_sub(1) else { return filled };
    let mut from = 0;
    for (place, filled) in filled.iter_mut().enumerate() {
        let to = if place < CUTS { rank(last, place).0 } else { last };
        let none = 0 < place && place < CUTS && cuts[place - 1] == cuts[place];
        *filled = !none && keys[from..=to].iter().any(|&key| bin(cuts, value_of(key)) == place);
        from = to;
    }
    filled
}

/// How many cut points are at or below the value.
#[inline]
pub(crate) fn bin(cuts: &[f64; CUTS], value: f64) -> usize {
    cuts.iter().map(|&cut| usize::from(value >= cut)).sum()
}

/// An integer that is ordered as doubles are (IEEE 754 `totalOrder`), and is its own inverse.
fn key(value: f64) -> i64 {
    flipped(value.to_bits() as i64)
}

fn value_of(key: i64) -> f64 {
    f64::from_bits(flipped(key) as u64)
}

fn flipped(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// How many visits have each lab.
///
/// # Errors
/// [`Error::Shape`] for a lab number that is not below `labs_known`.
pub fn counts(labs: &[i32], labs_known: usize) -> Result<Vec<u64>> {
    let mut counts = vec![0; labs_known];
    for &lab in labs {
        let count = usize::try_from(lab).ok().and_then(|lab| counts.get_mut(lab));
        *count.ok_or_else(|| no_lab(lab))? += 1;
    }
    Ok(counts)
}

fn no_lab(lab: i32) -> Error {
    Error::Shape(format!("there is no lab number {lab}"))
}

fn cut_points(keys: &mut [i64]) -> [f64; CUTS] {
    let mut cuts = [f64::NAN; CUTS];
    if keys.is_empty() {
        return cuts;
    }
    let last = keys.len() - 1;
    let mut ranks: Vec<usize> = (0..CUTS)
        .flat_map(|cut| {
            let (low, _) = rank(last, cut);
            [low, (low + 1).min(last)]
        })
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    select_all(keys, 0, &ranks);
    for (place, cut) in cuts.iter_mut().enumerate() {
        let (low, part) = rank(last, place);
        let (a, b) = (value_of(keys[low]), value_of(keys[(low + 1).min(last)]));
        *cut = lerp(a, b, part);
    }
    cuts
}

/// Where cut point `place` of values up to number `last` stands: NumPy's virtual index (n - 1) q, as
/// a number and the part between it and the next; q in doubles 0.1, 0.2 ...
fn rank(last: usize, place: usize) -> (usize, f64) {
    let index = last as f64 * ((place + 1) as f64 / 10.0);
    let low = index.floor();
    (low as usize, index - low)
}

/// Puts at each of `ranks` (ascending, counted from `first`) what would stand there if `keys` were
/// sorted: the middle one first, then those on either side of it.
fn select_all(keys: &mut [i64], first: usize, ranks: &[usize]) {
    let middle = ranks.len() / 2;
    let Some(&rank) = ranks.get(middle) else { return };
    let (below, _, above) = keys.select_nth_unstable(rank - first);
    select_all(below, first, &ranks[..middle]);
    select_all(above, rank + 1, &ranks[middle + 1..]);
}

/// NumPy's `_lerp`: from the nearer end, so that it is monotonic and exact at both ends.
fn lerp(a: f64, b: f64, t: f64) -> f64 {
    let difference = b - a;
    if t >= 0.5 { b - difference * (1.0 - t) } else { a + difference * t }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_are_ordered_as_doubles(a in any::<f64>(), b in any::<f64>()) {
            prop_assert_eq!(key(a).cmp(&key(b)), a.total_cmp(&b));
            prop_assert_eq!(value_of(key(a)).to_bits(), a.to_bits());
        }

        #[test]
        fn equals_sorting(mut values in prop::collection::vec(-50_i32..50, 1..200)) {
            let mut floats: Vec<i64> = values.iter().map(|&v| key(f64::from(v) / 4.0)).collect();
            let mut bins = [false; CUTS + 1];
            let cuts = cut_points(&mut floats);
            for &value in &values {
                bins[bin(&cuts, f64::from(value) / 4.0)] = true;
            }
            prop_assert_eq!(filled(&cuts, &floats), bins);
            values.sort_unstable();
            for (place, cut) in cuts.iter().enumerate() {
                let index = (values.len() - 1) as f64 * ((place + 1) as f64 / 10.0);
                let low = index.floor() as usize;
                let at = |i: usize| f64::from(values[i.min(values.len() - 1)]) / 4.0;
                prop_assert_eq!(*cut, lerp(at(low), at(low + 1), index - low as f64));
            }
        }
        /// Labs of any size, dealt to threads.
        #[test]
        fn threads_change_nothing(pairs in prop::collection::vec((0_i32..6, -20_i32..20), 0..200)) {
            let labs: Vec<i32> = pairs.iter().map(|pair| pair.0).collect();
            let values: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.1)).collect();
            let slots = [2, -1, 0, 1, -1, 3];
            let of_slot = |slot: i32| {
                let own = pairs.iter().filter(move |pair| slots[pair.0 as usize] == slot);
                own.map(|pair| key(f64::from(pair.1))).collect::<Vec<i64>>()
            };
            let sizes: Vec<u64> = (0..4).map(|slot| of_slot(slot).len() as u64).collect();
            for threads in 1..5 {
                let got = deciles(&labs, &values, &slots, &sizes, threads).ok();
                let got: Vec<String> = got.iter().flatten().map(|made| format!("{made:?}")).collect();
                for (slot, got) in (0..4).zip(&got) {
                    let mut keys = of_slot(slot);
                    let cuts = cut_points(&mut keys);
                    prop_assert_eq!(got, &format!("{:?}", (cuts, filled(&cuts, &keys))));
                }
                prop_assert_eq!(got.len(), 4);
            }
        }
    }

    #[test]
    fn contradictions_are_errors() {
        let of = |sizes: &[u64]| deciles(&[0, 1, 1], &[1.0, 2.0, 3.0], &[0, 1], sizes, 2);
        assert!(of(&[1, 2]).is_ok());
        for sizes in [[2, 1], [1, 1], [0, 3], [1, 9]] {
            assert!(of(&sizes).is_err(), "{sizes:?}");
        }
        assert!(deciles(&[7], &[1.0], &[0], &[1], 1).is_err());
        assert!(deciles(&[-1], &[1.0], &[0], &[1], 1).is_err());
    }
}
