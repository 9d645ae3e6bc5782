//! A visit from HALO's head in plain Rust, code by code, beside what XLA makes of `HaloHead`.
//!
//!     rustc --edition 2024 -O -C target-cpu=native -o /tmp/halo_visit benches/halo_visit.rs
//!     taskset -c 0 python benches/halo_visit.py /tmp/halo_visit
//!
//! `halo_visit FOLDER VISITS FREE TOKENS` reads raw little-endian arrays of float32 that
//! halo_visit.py writes, with z = [h ; x] of WIDTH = FREE + 1 and TOKENS numbers, and writes which
//! tokens are on to `x.u8`. A visit costs the rows of weights of what is not zero: all of h, the
//! hidden units above 0, and the codes that are drawn.

use std::path::Path;
use std::time::Instant;

struct Head {
    /// Weights by input, each row the outputs it leads to; of triangles what is right of the diagonal.
    read_free: Vec<f32>,
    offset_free: Vec<f32>,
    read: Vec<f32>,
    offset: Vec<f32>,
    code: Vec<f32>,
    write_free: Vec<f32>,
    write: Vec<f32>,
    bias: Vec<f32>,
}

impl Head {
    fn new(folder: &Path) -> Self {
        let array = |name| floats(folder, name);
        Self {
            read_free: array("read_free"),
            offset_free: array("offset_free"),
            read: array("read"),
            offset: array("offset"),
            code: array("code"),
            write_free: array("write_free"),
            write: array("write"),
            bias: array("bias"),
        }
    }

    /// Token j is on if its logit, given those before it, is above `threshold[j]`.
    fn sample(&self, h: &[f32], threshold: &[f32], on: &mut [u8]) {
        let tokens = threshold.len();
        let mut free = self.offset_free.clone();
        add_rows(&self.read_free, h, &mut free);
        let mut units = self.offset.clone();
        add_rows(&self.read, h, &mut units);
        free.iter_mut().for_each(|unit| *unit = unit.max(0.0));
        let mut logits = self.bias.clone();
        add_rows(&self.write_free, &free, &mut logits);
        for token in 0..tokens {
            let row = token * tokens;
            if units[token] > 0.0 {
                add(&self.write[row + token..row + tokens], units[token], &mut logits[token..]);
            }
            on[token] = u8::from(logits[token] > threshold[token]);
            if on[token] > 0 {
                add(&self.code[row + token + 1..row + tokens], 1.0, &mut units[token + 1..]);
            }
        }
    }
}

/// Adds to `sums` the rows of `weights` times `inputs`, four rows at a time; zeros cost nothing.
fn add_rows(weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    let row = |place: usize| &weights[place * width..][..width];
    let used: Vec<usize> = (0..inputs.len()).filter(|&place| inputs[place] != 0.0).collect();
    let (fours, rest) = used.as_chunks::<4>();
    for &[a, b, c, d] in fours {
        let rows = row(a).iter().zip(row(b)).zip(row(c).iter().zip(row(d)));
        for (sum, ((wa, wb), (wc, wd))) in sums.iter_mut().zip(rows) {
            *sum += wa * inputs[a] + wb * inputs[b] + (wc * inputs[c] + wd * inputs[d]);
        }
    }
    rest.iter().for_each(|&place| add(row(place), inputs[place], sums));
}

fn add(row: &[f32], times: f32, sums: &mut [f32]) {
    for (sum, weight) in sums.iter_mut().zip(row) {
        *sum += weight * times;
    }
}

fn floats(folder: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(&arguments[0]);
    let [visits, free, tokens]: [usize; 3] =
        std::array::from_fn(|place| arguments[place + 1].parse().unwrap());
    let head = Head::new(folder);
    let (h, threshold) = (floats(folder, "h"), floats(folder, "threshold"));
    let mut on = vec![0; visits * tokens];
    let mut best = f64::INFINITY;
    for _ in 0..50 {
        let start = Instant::now();
        for visit in 0..visits {
            let h = &h[visit * (free + 1)..][..free + 1];
            let threshold = &threshold[visit * tokens..][..tokens];
            head.sample(h, threshold, &mut on[visit * tokens..][..tokens]);
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::fs::write(folder.join("x.u8"), on).unwrap();
    println!("{best}");
}
