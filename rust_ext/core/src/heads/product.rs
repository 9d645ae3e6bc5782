//! Sums of weighted rows: of one row of inputs as fast as memory gives the weights, of many as fast
//! as the processor multiplies.
//!
//! Every sum is added up in the order of its inputs, so that it does not depend on how many rows of
//! inputs there are.

use super::vector::Vector;
use std::ops::Range;

/// Vectors of a tile of sums that stays in registers: this many beside each other.
const ACROSS: usize = 3;
/// Inputs after which a tile of sums goes back to memory: with `ACROSS` their weights fill half of
/// the first cache.
const DEPTH: usize = 128;

/// Rows of floats, `stride` apart, which begin where the slice begins.
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

impl Rows<'_> {
    fn from(&self, row: usize, column: usize) -> Rows<'_> {
        Rows { values: &self.values[row * self.stride + column..], stride: self.stride }
    }
}

/// The same, to be changed.
pub struct RowsMut<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

impl RowsMut<'_> {
    fn from(&mut self, row: usize, column: usize) -> RowsMut<'_> {
        RowsMut { values: &mut self.values[row * self.stride + column..], stride: self.stride }
    }
}

/// Adds inputs x weights to the sums, for so many rows; `weights` has `depth` rows without gaps.
/// `DOWN` rows of inputs share a tile.
///
/// # Safety
/// The instructions of `V` must be there.
#[inline(always)]
pub unsafe fn add_product<V: Vector, const DOWN: usize>(
    rows: usize,
    inputs: &Rows<'_>,
    weights: &[f32],
    depth: usize,
    sums: &mut RowsMut<'_>,
) {
    if rows == 0 || depth == 0 || weights.is_empty() {
        return;
    }
    let columns = weights.len() / depth;
    assert_eq!(columns * depth, weights.len(), "weights have whole rows");
    assert!(inputs.values.len() >= (rows - 1) * inputs.stride + depth, "inputs have all rows");
    assert!(sums.values.len() >= (rows - 1) * sums.stride + columns, "sums have all rows");
    assert!(sums.stride >= columns || rows == 1, "sums lie apart");
    let tiled = rows / DOWN * DOWN;
    let mut packed = Vec::new();
    for column in (0..columns).step_by(ACROSS * V::SIZE).take_while(|_| tiled > 0) {
        let width = (columns - column).min(ACROSS * V::SIZE);
        for (part, weights) in weights.chunks(DEPTH * columns).enumerate() {
            pack(weights, columns, column..column + width, V::SIZE, &mut packed);
            for row in (0..tiled).step_by(DOWN) {
                let inputs = inputs.from(row, part * DEPTH);
                let mut sums = sums.from(row, column);
                // SAFETY: the asserted lengths hold so many rows and columns, and V is there.
                unsafe {
                    match width.div_ceil(V::SIZE) {
                        1 => add_tile::<V, DOWN, 1>(&inputs, &packed, &mut sums, width),
                        2 => add_tile::<V, DOWN, 2>(&inputs, &packed, &mut sums, width),
                        _ => add_tile::<V, DOWN, ACROSS>(&inputs, &packed, &mut sums, width),
                    }
                }
            }
        }
    }
    for row in tiled..rows {
        let inputs = &inputs.from(row, 0).values[..depth];
        let sums = &mut sums.from(row, 0).values[..columns];
        // SAFETY: V is there.
        unsafe { add_weighted::<V>(inputs, weights, sums) };
    }
}

/// Some columns of rows without gaps, each row filled up with zeros to whole vectors: side by side
/// they do not drive each other out of the cache, as rows can that are far from each other.
#[inline(always)]
fn pack(weights: &[f32], columns: usize, some: Range<usize>, vector: usize, packed: &mut Vec<f32>) {
    let filling = some.len().next_multiple_of(vector) - some.len();
    packed.clear();
    for row in weights.chunks_exact(columns) {
        packed.extend_from_slice(&row[some.clone()]);
        packed.extend(std::iter::repeat_n(0.0, filling));
    }
}

/// Adds to `DOWN` rows of `width` sums, which take `ACROSS` vectors each.
///
/// # Safety
/// There must be so many rows of sums and of inputs, these as long as `packed` has rows, and V.
#[inline(always)]
unsafe fn add_tile<V: Vector, const DOWN: usize, const ACROSS: usize>(
    inputs: &Rows<'_>,
    packed: &[f32],
    sums: &mut RowsMut<'_>,
    width: usize,
) {
    // SAFETY: see above.
    unsafe {
        let (input, sum) = (inputs.values.as_ptr(), sums.values.as_mut_ptr());
        let mask = V::mask(width - (ACROSS - 1) * V::SIZE);
        let mut total = [[V::splat(0.0); ACROSS]; DOWN];
        for (r, total) in total.iter_mut().enumerate() {
            *total = load(sum.add(r * sums.stride), mask);
        }
        for (k, weights) in packed.chunks_exact(ACROSS * V::SIZE).enumerate() {
            let mut weight = [V::splat(0.0); ACROSS];
            for (i, weight) in weight.iter_mut().enumerate() {
                *weight = V::load(weights.as_ptr().add(i * V::SIZE));
            }
            for (r, total) in total.iter_mut().enumerate() {
                let input = V::splat(*input.add(r * inputs.stride + k));
                for (total, weight) in total.iter_mut().zip(weight) {
                    *total = total.plus(weight, input);
                }
            }
        }
        for (r, total) in total.into_iter().enumerate() {
            store(total, sum.add(r * sums.stride), mask);
        }
    }
}

/// Vectors beside each other, the last one masked.
#[inline(always)]
unsafe fn load<V: Vector, const ACROSS: usize>(from: *const f32, mask: V::Mask) -> [V; ACROSS] {
    // SAFETY: the caller has seen that they are there, and V.
    unsafe {
        let mut loaded = [V::load_some(from.add((ACROSS - 1) * V::SIZE), mask); ACROSS];
        for (i, loaded) in loaded.iter_mut().enumerate().take(ACROSS - 1) {
            *loaded = V::load(from.add(i * V::SIZE));
        }
        loaded
    }
}

#[inline(always)]
unsafe fn store<V: Vector, const ACROSS: usize>(from: [V; ACROSS], to: *mut f32, mask: V::Mask) {
    // SAFETY: the caller has seen that there is room, and V.
    unsafe {
        for (i, vector) in from.into_iter().enumerate().take(ACROSS - 1) {
            vector.store(to.add(i * V::SIZE));
        }
        from[ACROSS - 1].store_some(to.add((ACROSS - 1) * V::SIZE), mask);
    }
}

/// Adds rows of weights times their inputs, four rows at a time; inputs of 0 cost nothing.
///
/// # Safety
/// The instructions of `V` must be there.
#[inline(always)]
pub unsafe fn add_weighted<V: Vector>(inputs: &[f32], weights: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    let row = |place: usize| &weights[place * columns..][..columns];
    // Without a branch, for no one can guess which they are.
    let (mut places, mut used) = (vec![0; inputs.len()], 0);
    for (place, &input) in inputs.iter().enumerate() {
        places[used] = place;
        used += usize::from(input != 0.0);
    }
    let (fours, rest) = places[..used].as_chunks::<4>();
    // SAFETY: V is there.
    unsafe {
        for &[a, b, c, d] in fours {
            let rows = [row(a), row(b), row(c), row(d)];
            add_rows::<V, 4>(rows, [inputs[a], inputs[b], inputs[c], inputs[d]], sums);
        }
        for &place in rest {
            add_rows::<V, 1>([row(place)], [inputs[place]], sums);
        }
    }
}

/// Adds each of the rows times its input, one after another.
///
/// # Safety
/// The instructions of `V` must be there.
#[inline(always)]
pub unsafe fn add_rows<V: Vector, const K: usize>(
    rows: [&[f32]; K],
    inputs: [f32; K],
    sums: &mut [f32],
) {
    let columns = sums.len();
    assert!(rows.iter().all(|row| row.len() == columns), "rows are as long as the sums");
    let whole = columns / V::SIZE * V::SIZE;
    // SAFETY: whole vectors are within the rows, as is what the mask leaves of the last.
    unsafe {
        let mut input = [V::splat(0.0); K];
        for (input, value) in input.iter_mut().zip(inputs) {
            *input = V::splat(value);
        }
        let sum = sums.as_mut_ptr();
        for column in (0..whole).step_by(V::SIZE) {
            let mut total = V::load(sum.add(column));
            for (row, input) in rows.iter().zip(input) {
                total = total.plus(V::load(row.as_ptr().add(column)), input);
            }
            total.store(sum.add(column));
        }
        if whole < columns {
            let mask = V::mask(columns - whole);
            let mut total = V::load_some(sum.add(whole), mask);
            for (row, input) in rows.iter().zip(input) {
                total = total.plus(V::load_some(row.as_ptr().add(whole), mask), input);
            }
            total.store_some(sum.add(whole), mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::vector::Portable;
    use proptest::prelude::*;

    fn floats(length: usize) -> impl Strategy<Value = Vec<f32>> {
        let some = prop_oneof![Just(0.0), -2.0_f32..2.0];
        proptest::collection::vec(some, length)
    }

    proptest! {
        #[test]
        fn equals_a_row_at_a_time_to_the_last_bit(
            (rows, depth, columns, inputs, weights, sums) in (1_usize..23, 1_usize..300, 1_usize..70)
                .prop_flat_map(|(rows, depth, columns)| (
                    Just(rows),
                    Just(depth),
                    Just(columns),
                    floats(rows * (depth + 1)),
                    floats(depth * columns),
                    floats(rows * (columns + 2)),
                ))
        ) {
            let inputs = Rows { values: &inputs, stride: depth + 1 };
            let (mut all, mut each) = (sums.clone(), sums.clone());
            let mut to = RowsMut { values: &mut all, stride: columns + 2 };
            // SAFETY: every processor has what is portable.
            unsafe { add_product::<Portable, 4>(rows, &inputs, &weights, depth, &mut to) };
            for row in 0..rows {
                let inputs = &inputs.from(row, 0).values[..depth];
                let sums = &mut each[row * (columns + 2)..][..columns];
                // SAFETY: see above.
                unsafe { add_weighted::<Portable>(inputs, &weights, sums) };
            }
            prop_assert_eq!(&all, &each);
            for row in 0..rows {
                for column in 0..columns {
                    let place = row * (columns + 2) + column;
                    let want: f64 = (0..depth)
                        .map(|k| {
                            let input = inputs.values[row * (depth + 1) + k];
                            f64::from(input) * f64::from(weights[k * columns + column])
                        })
                        .sum();
                    prop_assert!((f64::from(all[place] - sums[place]) - want).abs() < 1e-3);
                }
            }
        }
    }
}
