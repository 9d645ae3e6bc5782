//! Fine heads: visits drawn exactly, for one patient as for hundreds.
//!
//! Token j of a visit is on, 1, iff its logit given those before it is above its threshold. What
//! every visit needs is a product for all of them at once, as fast as the processor multiplies;
//! of what only some codes or hidden units do, only their rows of weights are read.
#![allow(unsafe_code)]

mod block;
mod halo;
mod product;
#[cfg(test)]
mod tests;
mod vector;

pub use block::Block;
pub use halo::{HALO_LAYERS, Halo};

use crate::{Error, Result};
use product::{Rows, RowsMut, add_product};
use std::thread;
use vector::{Portable, Vector};

/// Visits that are worth a thread.
const SHARE: usize = 16;

/// The layers of a head.
pub trait Head: Sync {
    /// None if the arrays do not fit each other.
    fn sizes(&self) -> Option<Sizes>;

    /// See `sample`; `DOWN` visits share a tile of a product.
    ///
    /// # Safety
    /// The instructions of `V` must be there. Arrays that do not fit make it panic.
    unsafe fn sample_with<V: Vector, const DOWN: usize>(&self, visits: Visits<'_>);
}

/// Of a head.
pub struct Sizes {
    /// What is known before a visit has so many numbers.
    pub width: usize,
    /// Tokens of a visit.
    pub tokens: usize,
}

/// Some visits: `h` has rows of a head's width, `threshold` and `on` of its tokens.
pub struct Visits<'a> {
    /// What is known before each.
    pub h: &'a [f32],
    /// What a logit must be above.
    pub threshold: &'a [f32],
    /// What is drawn: 1 or 0.
    pub on: &'a mut [u8],
}

/// Draws visits.
///
/// A visit does not depend on the others, nor on the number of threads.
///
/// # Errors
/// If the arrays do not fit each other.
pub fn sample(head: &impl Head, visits: Visits<'_>, threads: usize) -> Result<()> {
    let Visits { h, threshold, on } = visits;
    let misfit = || Error::Shape("a head whose arrays do not fit each other".to_owned());
    let Sizes { width, tokens } =
        head.sizes().filter(|sizes| sizes.width > 0 && sizes.tokens > 0).ok_or_else(misfit)?;
    let visits = on.len() / tokens;
    if on.len() != visits * tokens || threshold.len() != on.len() || h.len() != visits * width {
        return Err(Error::Shape(format!("visits that do not fit a head of {tokens} tokens")));
    }
    // Whole tiles, so that no thread has rows left over.
    let share = visits.div_ceil(threads.max(1)).next_multiple_of(SHARE).max(SHARE);
    let parts = h.chunks(share * width).zip(threshold.chunks(share * tokens));
    let parts = parts.zip(on.chunks_mut(share * tokens));
    let mut parts = parts.map(|((h, threshold), on)| Visits { h, threshold, on });
    let first = parts.next();
    thread::scope(|scope| {
        for visits in parts {
            scope.spawn(|| sample_here(head, visits));
        }
        if let Some(visits) = first {
            sample_here(head, visits);
        }
    });
    Ok(())
}

/// What visits are drawn with, which the last bits of a logit depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Those that every processor has.
    Portable,
}

impl Instructions {
    /// The best that this processor has.
    #[must_use]
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Their name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

fn sample_here(head: &impl Head, visits: Visits<'_>) {
    // SAFETY: the processor has just been seen to have them.
    match Instructions::here() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { sample_avx512(head, visits) },
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { sample_avx2(head, visits) },
        _ => unsafe { head.sample_with::<Portable, 4>(visits) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sample_avx512(head: &impl Head, visits: Visits<'_>) {
    // SAFETY: the caller has seen that the instructions are there.
    unsafe { head.sample_with::<std::arch::x86_64::__m512, 8>(visits) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sample_avx2(head: &impl Head, visits: Visits<'_>) {
    // SAFETY: the caller has seen that the instructions are there.
    unsafe { head.sample_with::<std::arch::x86_64::__m256, 4>(visits) };
}

/// At least 0, and not a number where it was none: what XLA makes of that is no code.
fn relu(unit: f32) -> f32 {
    if unit < 0.0 { 0.0 } else { unit }
}

/// Inputs x weights + offset, for so many rows of inputs, which are `depth` long.
#[inline(always)]
unsafe fn layer<V: Vector, const DOWN: usize>(
    rows: usize,
    inputs: &[f32],
    depth: usize,
    weights: &[f32],
    offset: &[f32],
) -> Vec<f32> {
    let mut sums = offset.repeat(rows);
    let inputs = Rows { values: inputs, stride: depth };
    let mut to = RowsMut { values: &mut sums, stride: offset.len() };
    // SAFETY: V is there.
    unsafe { add_product::<V, DOWN>(rows, &inputs, weights, depth, &mut to) };
    sums
}
