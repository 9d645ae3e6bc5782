//! Exact quantiles of each lab over visits.

use crate::error::{Error, Result};

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
        if let Some(column) =
            usize::try_from(slots[lab]).ok().and_then(|slot| columns.get_mut(slot))
        {
            *column = Vec::with_capacity(count as usize);
        }
    }
    for (&lab, &value) in labs.iter().zip(values) {
        if let Some(column) =
            usize::try_from(slots[lab as usize]).ok().and_then(|s| columns.get_mut(s))
        {
            column.push(value);
        }
    }
    let mut cuts = vec![[f64::NAN; CUTS]; wanted];
    let share = wanted.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for (columns, cuts) in columns.chunks_mut(share).zip(cuts.chunks_mut(share)) {
            scope.spawn(|| {
                for (column, cuts) in columns.iter_mut().zip(cuts) {
                    *cuts = cut_points(column);
                }
            });
        }
    });
    Ok(cuts)
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

fn cut_points(values: &mut [f64]) -> [f64; CUTS] {
    let mut cuts = [f64::NAN; CUTS];
    if values.is_empty() {
        return cuts;
    }
    let (last, mut sorted_below) = (values.len() - 1, 0);
    for (place, cut) in cuts.iter_mut().enumerate() {
        // NumPy: virtual index (n - 1) q, q in doubles as np.linspace-free literals 0.1, 0.2 ...
        let virtual_index = last as f64 * ((place + 1) as f64 / 10.0);
        let low = virtual_index.floor() as usize;
        let high = (low + 1).min(last);
        let (a, b) =
            (select(values, &mut sorted_below, low), select(values, &mut sorted_below, high));
        *cut = lerp(a, b, virtual_index - low as f64);
    }
    cuts
}

/// The `rank`-th smallest value, given that ranks only grow from call to call.
fn select(values: &mut [f64], sorted_below: &mut usize, rank: usize) -> f64 {
    if rank >= *sorted_below {
        let from = *sorted_below;
        values[from..].select_nth_unstable_by(rank - from, f64::total_cmp);
        *sorted_below = rank + 1;
    }
    values[rank]
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
        fn equals_sorting(mut values in prop::collection::vec(-50_i32..50, 1..200)) {
            let mut floats: Vec<f64> = values.iter().map(|&v| f64::from(v) / 4.0).collect();
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
