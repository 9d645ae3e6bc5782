//! Block-NADE.
//!
//! The formulas are those of `equipoise.generator.nade`, whose arrays these are. Hidden
//! units to logits is a product for all visits, block by block; of the codes only those that are
//! drawn cost rows of weights.

use super::product::add_rows;
use super::vector::Vector;
use super::{Head, Sizes, Visits, layer, relu};

/// Weights of width D and H hidden units, the tokens V in G blocks of B.
pub struct Block<'a> {
    /// D x H.
    pub read: &'a [f32],
    /// V x H: what a code does to the hidden units of later blocks.
    pub code: &'a [f32],
    /// G x H.
    pub offset: &'a [f32],
    /// G x H x B.
    pub write: &'a [f32],
    /// V.
    pub bias: &'a [f32],
    /// G x B x B; what is not right of the diagonal means nothing.
    pub direct: &'a [f32],
}

impl<'a> Block<'a> {
    /// The fields in their order; H is how long the rows of `code` are.
    pub fn new([read, code, offset, write, bias, direct]: [&'a [f32]; 6]) -> Self {
        Self { read, code, offset, write, bias, direct }
    }
}

impl Head for Block<'_> {
    fn sizes(&self) -> Option<Sizes> {
        let tokens = self.bias.len();
        let (hidden, size) = (self.code.len().checked_div(tokens)?, self.direct.len() / tokens);
        let blocks = tokens.checked_div(size)?;
        let width = self.read.len().checked_div(hidden)?;
        let fits = blocks * size == tokens
            && self.read.len() == width * hidden
            && self.code.len() == tokens * hidden
            && self.offset.len() == blocks * hidden
            && self.write.len() == hidden * tokens
            && self.direct.len() == tokens * size;
        fits.then_some(Sizes { width, tokens })
    }

    #[inline(always)]
    unsafe fn sample_with<V: Vector, const DOWN: usize>(&self, visits: Visits<'_>) {
        let Visits { h, threshold, on } = visits;
        let tokens = self.bias.len();
        let (hidden, size) = (self.code.len() / tokens, self.direct.len() / tokens);
        let visits = on.len() / tokens;
        let width = self.read.len() / hidden;
        // SAFETY: V is there.
        let mut early =
            unsafe { layer::<V, DOWN>(visits, h, width, self.read, &vec![0.0; hidden]) };
        let mut units = vec![0.0; early.len()];
        for (block, offset) in self.offset.chunks_exact(hidden).enumerate() {
            for (units, early) in units.chunks_mut(hidden).zip(early.chunks(hidden)) {
                for ((unit, early), offset) in units.iter_mut().zip(early).zip(offset) {
                    *unit = relu(early + offset);
                }
            }
            let start = block * size;
            let write = &self.write[start * hidden..][..size * hidden];
            let bias = &self.bias[start..][..size];
            // SAFETY: V is there.
            let mut logits = unsafe { layer::<V, DOWN>(visits, &units, hidden, write, bias) };
            for (visit, logits) in logits.chunks_mut(size).enumerate() {
                let tokens = visit * tokens + start..visit * tokens + start + size;
                let (threshold, on) = (&threshold[tokens.clone()], &mut on[tokens]);
                let early = &mut early[visit * hidden..][..hidden];
                // SAFETY: V is there.
                unsafe { self.settle::<V>(start, logits, threshold, on, early) };
            }
        }
    }
}

impl Block<'_> {
    /// Settles the tokens of one visit's block from `start` on, one after another; `early`, what
    /// codes do to later blocks, gets what its codes do.
    #[inline(always)]
    unsafe fn settle<V: Vector>(
        &self,
        start: usize,
        logits: &mut [f32],
        threshold: &[f32],
        on: &mut [u8],
        early: &mut [f32],
    ) {
        let (size, hidden) = (logits.len(), early.len());
        for token in 0..size {
            on[token] = u8::from(logits[token] > threshold[token]);
            if on[token] > 0 {
                let code = start + token;
                // From the vector on that holds the token: what is before it is settled.
                let from = token / V::SIZE * V::SIZE;
                let direct = &self.direct[code * size..][from..size];
                // SAFETY: V is there.
                unsafe {
                    add_rows::<V, 1>([direct], [1.0], &mut logits[from..]);
                    add_rows::<V, 1>([&self.code[code * hidden..][..hidden]], [1.0], early);
                }
            }
        }
    }
}
