//! HALO's fine head.
//!
//! The formulas are those of `equipoise.generator.triangle`, whose arrays these are. Of its two
//! triangles of weights only the codes that are drawn cost rows of the first, and only the units
//! above 0 rows of the second; what comes from before a block of codes is a product for all visits.

use super::product::{Rows, RowsMut, add_product, add_rows};
use super::vector::Vector;
use super::{Head, Sizes, Visits, layer, relu};

/// Arrays of the head beside its panels.
pub const HALO_LAYERS: usize = 8;

/// Weights of D x V and Q = D - 1 free units, the tokens V in G blocks of B.
pub struct Halo<'a> {
    /// D x Q.
    pub read_free: &'a [f32],
    /// Q.
    pub offset_free: &'a [f32],
    /// D x V.
    pub read: &'a [f32],
    /// V.
    pub offset: &'a [f32],
    /// G x B x B; what is not right of the diagonal means nothing.
    pub code: &'a [f32],
    /// Q x V.
    pub write_free: &'a [f32],
    /// G x B x B; what is left of the diagonal means nothing.
    pub write: &'a [f32],
    /// V.
    pub bias: &'a [f32],
    /// Of each block but the first, gB x B: what codes before it do to its units.
    pub code_panels: Vec<&'a [f32]>,
    /// The same of units and logits.
    pub write_panels: Vec<&'a [f32]>,
}

impl<'a> Halo<'a> {
    /// The fields in their order; `panels` are those of codes, then those of units.
    pub fn new(layers: [&'a [f32]; HALO_LAYERS], panels: &[&'a [f32]]) -> Self {
        let [read_free, offset_free, read, offset, code, write_free, write, bias] = layers;
        let (code_panels, write_panels) = panels.split_at(panels.len() / 2);
        Self {
            read_free,
            offset_free,
            read,
            offset,
            code,
            write_free,
            write,
            bias,
            code_panels: code_panels.to_vec(),
            write_panels: write_panels.to_vec(),
        }
    }

    /// What h alone gives the units, and the logits through the free units, both visits x V.
    #[inline(always)]
    unsafe fn of_history<V: Vector, const DOWN: usize>(
        &self,
        h: &[f32],
        visits: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let free = self.offset_free.len();
        let width = free + 1;
        // SAFETY: V is there.
        unsafe {
            let units = layer::<V, DOWN>(visits, h, width, self.read, self.offset);
            let mut frees = layer::<V, DOWN>(visits, h, width, self.read_free, self.offset_free);
            frees.iter_mut().for_each(|unit| *unit = relu(*unit));
            (units, layer::<V, DOWN>(visits, &frees, free, self.write_free, self.bias))
        }
    }
}

impl Head for Halo<'_> {
    fn sizes(&self) -> Option<Sizes> {
        let (free, tokens, blocks) =
            (self.offset_free.len(), self.bias.len(), self.write_panels.len() + 1);
        let (width, size) = (free + 1, tokens / blocks);
        let panels = |panels: &[&[f32]]| {
            panels.len() + 1 == blocks
                && panels.iter().zip(1..).all(|(panel, g)| panel.len() == g * size * size)
        };
        let fits = size * blocks == tokens
            && self.read_free.len() == width * free
            && self.read.len() == width * tokens
            && self.offset.len() == tokens
            && self.code.len() == tokens * size
            && self.write_free.len() == free * tokens
            && self.write.len() == tokens * size
            && panels(&self.code_panels)
            && panels(&self.write_panels);
        fits.then_some(Sizes { width, tokens })
    }

    #[inline(always)]
    unsafe fn sample_with<V: Vector, const DOWN: usize>(&self, visits: Visits<'_>) {
        let Visits { h, threshold, on } = visits;
        let tokens = self.bias.len();
        let size = tokens / (self.write_panels.len() + 1);
        let visits = on.len() / tokens;
        // SAFETY: V is there.
        let (mut units, mut logits) = unsafe { self.of_history::<V, DOWN>(h, visits) };
        let mut drawn = vec![Vec::new(); visits];
        let mut early = vec![0.0; size];
        for start in (0..tokens).step_by(size) {
            let block = start / size;
            if block > 0 {
                let before = Rows { values: &units, stride: tokens };
                let mut sums = RowsMut { values: &mut logits[start..], stride: tokens };
                let panel = self.write_panels[block - 1];
                // SAFETY: V is there.
                unsafe { add_product::<V, DOWN>(visits, &before, panel, start, &mut sums) };
            }
            let square = start * size..(start + size) * size;
            let squares = (&self.code[square.clone()], &self.write[square]);
            for (visit, drawn) in drawn.iter_mut().enumerate() {
                let columns = visit * tokens + start..visit * tokens + start + size;
                early.copy_from_slice(&units[columns.clone()]);
                for &code in drawn.iter() {
                    let row = &self.code_panels[block - 1][code * size..][..size];
                    // SAFETY: V is there.
                    unsafe { add_rows::<V, 1>([row], [1.0], &mut early) };
                }
                let mut visit = Visit {
                    early: &mut early,
                    units: &mut units[columns.clone()],
                    logits: &mut logits[columns.clone()],
                    threshold: &threshold[columns.clone()],
                    on: &mut on[columns],
                };
                // SAFETY: V is there.
                unsafe { visit.settle::<V>(squares) };
                drawn.extend((0..size).filter(|&code| visit.on[code] > 0).map(|code| start + code));
            }
        }
    }
}

/// A block of one visit.
struct Visit<'a> {
    /// The units so far; those that are settled are of no use any more.
    early: &'a mut [f32],
    /// Their final values, at least 0.
    units: &'a mut [f32],
    logits: &'a mut [f32],
    threshold: &'a [f32],
    on: &'a mut [u8],
}

impl Visit<'_> {
    /// Settles unit and token, token by token, with the squares of codes and units.
    #[inline(always)]
    unsafe fn settle<V: Vector>(&mut self, (code, write): (&[f32], &[f32])) {
        let size = self.early.len();
        for token in 0..size {
            // From the vector on that holds the token: what is before it is settled.
            let from = token / V::SIZE * V::SIZE;
            let row = token * size + from..(token + 1) * size;
            let unit = relu(self.early[token]);
            self.units[token] = unit;
            if unit != 0.0 {
                // SAFETY: V is there.
                unsafe {
                    add_rows::<V, 1>([&write[row.clone()]], [unit], &mut self.logits[from..])
                };
            }
            self.on[token] = u8::from(self.logits[token] > self.threshold[token]);
            if self.on[token] > 0 {
                // SAFETY: V is there.
                unsafe { add_rows::<V, 1>([&code[row]], [1.0], &mut self.early[from..]) };
            }
        }
    }
}
