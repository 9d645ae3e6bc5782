//! Exact quantiles of each lab over visits.

use crate::error::{Error, Result};

/// Inner cut points of ten bins.
pub const CUTS: usize = 9;

/// A lab's nine cut points, and which of its ten bins hold any value.
pub type Deciles = ([f64; CUTS], [bool; CUTS + 1]);

/// The nine decile cut points of each wanted lab: NumPy's `linear` quantile at 0.1, 0.2 ... 0.9; and
/// which bins between them are filled, a value at a cut point belonging to the bin above.
///
/// `slots[lab]` is the row of the result for that lab, or negative if it is not wanted; `slots` rows
/// are 0..`wanted`. A lab without values gets NaN.
///
/// # Errors
/// [`Error::Shape`] if the arrays contradict each other.
pub fn deciles(
    labs: &[i32],
    values: &[f64],
    slots: &[i32],
    wanted: usize,
    threads: usize,
) -> Result<Vec<Deciles>> {
    if labs.len() != values.len() {
        return Err(Error::Shape("as many labs as values are wanted".into()));
    }
    let mut sizes = vec![0_u64; wanted];
    for (lab, count) in counts(labs, slots.len())?.into_iter().enumerate() {
        if let Some(size) = usize::try_from(slots[lab]).ok().and_then(|slot| sizes.get_mut(slot)) {
            *size += count;
        }
    }
    let mut made = vec![([f64::NAN; CUTS], [false; CUTS + 1]); wanted];
    let shares = shares(&sizes, threads.max(1));
    std::thread::scope(|scope| {
        let mut at_work = Vec::new();
        for share in &shares {
            let sizes = &sizes;
            at_work.push(scope.spawn(move || of_share(labs, values, slots, share, sizes)));
        }
        for (share, thread) in shares.iter().zip(at_work) {
            let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (&slot, deciles) in share.iter().zip(found) {
                made[slot] = deciles;
            }
        }
    });
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
) -> Vec<Deciles> {
    const OTHERS: u32 = u32::MAX;
    let mine = |slot: i32| share.iter().position(|&own| usize::try_from(slot) == Ok(own));
    let place_of: Vec<u32> =
        slots.iter().map(|&slot| mine(slot).map_or(OTHERS, |place| place as u32)).collect();
    let mut columns: Vec<Vec<i64>> =
        share.iter().map(|&slot| Vec::with_capacity(sizes[slot] as usize)).collect();
    for (&lab, &value) in labs.iter().zip(values) {
        if let Some(column) = columns.get_mut(place_of[lab as usize] as usize) {
            column.push(key(value));
        }
    }
    let deciles = |mut column: Vec<i64>| {
        let cuts = cut_points(&mut column);
        (cuts, filled(&cuts, &column))
    };
    columns.into_iter().map(deciles).collect()
}

fn filled(cuts: &[f64; CUTS], keys: &[i64]) -> [bool; CUTS + 1] {
    let mut filled = [false; CUTS + 1];
    for &key in keys {
        filled[bin(cuts, value_of(key))] = true;
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
        *count.ok_or_else(|| Error::Shape(format!("there is no lab number {lab}")))? += 1;
    }
    Ok(counts)
}

fn cut_points(keys: &mut [i64]) -> [f64; CUTS] {
    let mut cuts = [f64::NAN; CUTS];
    if keys.is_empty() {
        return cuts;
    }
    let last = keys.len() - 1;
    // NumPy: virtual index (n - 1) q, q in doubles as np.linspace-free literals 0.1, 0.2 ...
    let virtual_index = |cut: usize| last as f64 * ((cut + 1) as f64 / 10.0);
    let mut ranks: Vec<usize> = (0..CUTS)
        .flat_map(|cut| {
            let low = virtual_index(cut).floor() as usize;
            [low, (low + 1).min(last)]
        })
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    select_all(keys, 0, &ranks);
    for (place, cut) in cuts.iter_mut().enumerate() {
        let index = virtual_index(place);
        let low = index.floor() as usize;
        let (a, b) = (value_of(keys[low]), value_of(keys[(low + 1).min(last)]));
        *cut = lerp(a, b, index - low as f64);
    }
    cuts
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
            let cuts = cut_points(&mut floats);
            values.sort_unstable();
            for (place, cut) in cuts.iter().enumerate() {
                let index = (values.len() - 1) as f64 * ((place + 1) as f64 / 10.0);
                let low = index.floor() as usize;
                let at = |i: usize| f64::from(values[i.min(values.len() - 1)]) / 4.0;
                prop_assert_eq!(*cut, lerp(at(low), at(low + 1), index - low as f64));
            }
        }
    }
}
