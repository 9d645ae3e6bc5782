//! Heads against their formulas.

use super::*;

/// Numbers in (-1/2, 1/2).
struct Random(u64);

impl Random {
    fn floats(&mut self, length: usize, spread: f32) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..length).map(|_| spread * next()).collect()
    }
}

/// That a head draws, for any company, what `one` says of each visit.
fn draws(head: &impl Head, one: impl Fn(&[f32], &[f32]) -> Vec<u8>, random: &mut Random) {
    let Sizes { width, tokens } = head.sizes().unwrap_or(Sizes { width: 0, tokens: 0 });
    assert!(width * tokens > 0, "the arrays fit");
    let h = random.floats(37 * width, 2.0);
    let threshold = random.floats(37 * tokens, 6.0);
    let each = h.chunks(width).zip(threshold.chunks(tokens));
    let want: Vec<u8> = each.flat_map(|(h, threshold)| one(h, threshold)).collect();
    for threads in [1, 2, 5] {
        let mut on = vec![2; 37 * tokens];
        assert!(
            sample(head, Visits { h: &h, threshold: &threshold, on: &mut on }, threads).is_ok()
        );
        assert_eq!(on, want);
    }
    let mut on = vec![2; 37 * tokens];
    let visits = Visits { h: &h, threshold: &threshold, on: &mut on };
    // SAFETY: every processor has what is portable.
    unsafe { head.sample_with::<Portable, 4>(visits) };
    assert_eq!(on, want);
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        let mut on = vec![2; 37 * tokens];
        let visits = Visits { h: &h, threshold: &threshold, on: &mut on };
        // SAFETY: the processor has just been seen to have both.
        unsafe { sample_avx2(head, visits) };
        assert_eq!(on, want);
    }
    let share = want.iter().map(|&on| f64::from(on)).sum::<f64>() / want.len() as f64;
    assert!((0.2..0.8).contains(&share) || tokens == 1, "{share} of the tokens are on");
}

/// A sum of inputs times a column of weights.
fn product(inputs: impl Iterator<Item = f64>, weights: &[f32], columns: usize, at: usize) -> f64 {
    inputs.enumerate().map(|(k, input)| input * f64::from(weights[k * columns + at])).sum()
}

struct HaloArrays {
    width: usize,
    tokens: usize,
    size: usize,
    layers: [Vec<f32>; HALO_LAYERS],
    code_panels: Vec<Vec<f32>>,
    write_panels: Vec<Vec<f32>>,
}

impl HaloArrays {
    fn new(width: usize, blocks: usize, size: usize, random: &mut Random) -> Self {
        let (free, tokens) = (width - 1, blocks * size);
        let (square, read, written) = (tokens * size, width * tokens, free * tokens);
        let lengths = [width * free, free, read, tokens, square, written, square, tokens];
        let layers = lengths.map(|length| random.floats(length, 1.5));
        let mut panels = || (1..blocks).map(|g| random.floats(g * size * size, 1.5)).collect();
        let (code_panels, write_panels) = (panels(), panels());
        Self { width, tokens, size, layers, code_panels, write_panels }
    }

    fn head(&self) -> Halo<'_> {
        let panels = self.code_panels.iter().chain(&self.write_panels);
        let layers = self.layers.each_ref().map(Vec::as_slice);
        Halo::new(layers, &panels.map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// A weight of one of the two triangles.
    fn at(&self, squares: &[f32], panels: &[Vec<f32>], from: usize, to: usize) -> f64 {
        let size = self.size;
        let weight = match from / size == to / size {
            true => squares[from * size + to % size],
            false => panels[to / size - 1][from * size + to % size],
        };
        f64::from(weight)
    }

    /// One visit from the formulas, token by token.
    fn one(&self, h: &[f32], threshold: &[f32]) -> Vec<u8> {
        let (free, tokens) = (self.width - 1, self.tokens);
        let [read_free, offset_free, read, offset, code, write_free, write, bias] = &self.layers;
        let h = || h.iter().map(|&h| f64::from(h));
        let free_unit = |q| f64::from(offset_free[q]) + product(h(), read_free, free, q);
        let frees: Vec<f64> = (0..free).map(|q| free_unit(q).max(0.0)).collect();
        let (mut on, mut units) = (vec![0; tokens], vec![0.0; tokens]);
        for token in 0..tokens {
            let before = (0..token).filter(|&code| on[code] > 0);
            let codes: f64 = before.map(|from| self.at(code, &self.code_panels, from, token)).sum();
            let of_history = f64::from(offset[token]) + product(h(), read, tokens, token);
            units[token] = (of_history + codes).max(0.0);
            let mut logit = f64::from(bias[token]);
            logit += product(frees.iter().copied(), write_free, tokens, token);
            logit += (0..=token)
                .map(|from| units[from] * self.at(write, &self.write_panels, from, token))
                .sum::<f64>();
            on[token] = u8::from(logit > f64::from(threshold[token]));
        }
        on
    }
}

struct BlockArrays {
    hidden: usize,
    size: usize,
    layers: [Vec<f32>; 6],
}

impl BlockArrays {
    fn new(width: usize, hidden: usize, blocks: usize, size: usize, random: &mut Random) -> Self {
        let tokens = blocks * size;
        let (codes, offsets, square) = (tokens * hidden, blocks * hidden, tokens * size);
        let lengths = [width * hidden, codes, offsets, codes, tokens, square];
        Self { hidden, size, layers: lengths.map(|length| random.floats(length, 1.5)) }
    }

    fn head(&self) -> Block<'_> {
        Block::new(self.layers.each_ref().map(Vec::as_slice))
    }

    /// One visit from the formulas, token by token.
    fn one(&self, h: &[f32], threshold: &[f32]) -> Vec<u8> {
        let &Self { hidden, size, .. } = self;
        let [read, code, offset, write, bias, direct] = &self.layers;
        let mut on = vec![0; bias.len()];
        for token in 0..on.len() {
            let block = token / size;
            let is_on = |code: &usize| on[*code] > 0;
            let unit = |unit| {
                let known = product(h.iter().map(|&h| f64::from(h)), read, hidden, unit);
                let codes = (0..block * size).filter(is_on);
                let codes: f64 = codes.map(|from| f64::from(code[from * hidden + unit])).sum();
                (known + codes + f64::from(offset[block * hidden + unit])).max(0.0)
            };
            let write = &write[block * size * hidden..];
            let here = (block * size..token).filter(is_on);
            let here: f64 = here.map(|from| f64::from(direct[from * size + token % size])).sum();
            let logit = f64::from(bias[token])
                + product((0..hidden).map(unit), write, size, token % size)
                + here;
            on[token] = u8::from(logit > f64::from(threshold[token]));
        }
        on
    }
}

#[test]
fn halo_draws_what_the_formulas_say_for_any_company() {
    let mut random = Random(1);
    for (width, blocks, size) in [(1, 1, 1), (5, 3, 7), (9, 4, 16), (17, 2, 33)] {
        let arrays = HaloArrays::new(width, blocks, size, &mut random);
        draws(&arrays.head(), |h, threshold| arrays.one(h, threshold), &mut random);
    }
}

#[test]
fn block_draws_what_the_formulas_say_for_any_company() {
    let mut random = Random(2);
    for (width, hidden, blocks, size) in
        [(1, 1, 1, 1), (5, 6, 3, 7), (9, 40, 4, 16), (17, 5, 2, 33)]
    {
        let arrays = BlockArrays::new(width, hidden, blocks, size, &mut random);
        draws(&arrays.head(), |h, threshold| arrays.one(h, threshold), &mut random);
    }
}

#[test]
fn refuses_arrays_that_do_not_fit() {
    let halo = HaloArrays::new(5, 3, 7, &mut Random(3));
    let (h, threshold, mut on) = (vec![0.0; 10], vec![0.0; 42], vec![0; 42]);
    assert!(sample(&halo.head(), Visits { h: &h, threshold: &threshold, on: &mut on }, 1).is_ok());
    assert!(
        sample(&halo.head(), Visits { h: &h[1..], threshold: &threshold, on: &mut on }, 1).is_err()
    );
    assert!(
        sample(&halo.head(), Visits { h: &h, threshold: &threshold[1..], on: &mut on }, 1).is_err()
    );
    let mut head = halo.head();
    head.write_panels.pop();
    assert!(sample(&head, Visits { h: &h, threshold: &threshold, on: &mut on }, 1).is_err());
    assert!(
        sample(&halo.head(), Visits { h: &[], threshold: &[], on: &mut [] }, 3).is_ok(),
        "no visits are none"
    );
    let block = BlockArrays::new(5, 4, 3, 7, &mut Random(4));
    assert!(sample(&block.head(), Visits { h: &h, threshold: &threshold, on: &mut on }, 1).is_ok());
    let nothing = [0, 84, 12, 84, 21, 147].map(|length| vec![0.0; length]);
    let head = Block::new(nothing.each_ref().map(Vec::as_slice));
    assert!(
        sample(&head, Visits { h: &[], threshold: &threshold, on: &mut on }, 1).is_err(),
        "a width of 0"
    );
    for place in 0..6 {
        let mut layers = block.layers.each_ref().map(Vec::as_slice);
        layers[place] = &layers[place][1..];
        assert!(
            sample(&Block::new(layers), Visits { h: &h, threshold: &threshold, on: &mut on }, 1)
                .is_err()
        );
        layers[place] = &[];
        assert!(
            sample(&Block::new(layers), Visits { h: &h, threshold: &threshold, on: &mut on }, 1)
                .is_err()
        );
    }
}
