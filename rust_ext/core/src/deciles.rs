//! Exact quantiles of each lab over visits.

use crate::error::{Error, Result};
use std::sync::{Mutex, PoisonError};

/// Inner cut points of ten bins.
pub const CUTS: usize = 9;

/// The nine decile cut points of each wanted lab: NumPy's `linear` quantile at 0.1, 0.2 ... 0.9.
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
) -> Result<Vec<[f64; CUTS]>> {
    if labs.len() != values.len() {
        return Err(Error::Shape("as many labs as values are wanted".into()));
    }
    let mut columns = vec![Vec::new(); wanted];
    for (lab, count) in counts(labs, slots.len())?.into_iter().enumerate() {
        if let Some(column) = column_of(&mut columns, slots[lab]) {
            *column = Vec::with_capacity(count as usize);
        }
    }
    for (&lab, &value) in labs.iter().zip(values) {
        if let Some(column) = column_of(&mut columns, slots[lab as usize]) {
            column.push(key(value));
        }
    }
    let mut cuts = vec![[f64::NAN; CUTS]; wanted];
    let work = Mutex::new(columns.iter_mut().zip(&mut cuts));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, wanted.max(1)) {
            scope.spawn(|| {
                let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some((column, cuts)) = next() {
                    *cuts = cut_points(column);
                }
            });
        }
    });
    Ok(cuts)
}

fn column_of(columns: &mut [Vec<i64>], slot: i32) -> Option<&mut Vec<i64>> {
    usize::try_from(slot).ok().and_then(|slot| columns.get_mut(slot))
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
