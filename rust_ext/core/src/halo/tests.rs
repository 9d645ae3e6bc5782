//! The head against its formulas.
#![allow(unsafe_code)]

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

struct Arrays {
    sizes: Sizes,
    layers: [Vec<f32>; LAYERS],
    code_panels: Vec<Vec<f32>>,
    write_panels: Vec<Vec<f32>>,
}

impl Arrays {
    fn new(width: usize, blocks: usize, size: usize, random: &mut Random) -> Self {
        let (free, tokens) = (width - 1, blocks * size);
        let (square, read, written) = (tokens * size, width * tokens, free * tokens);
        let lengths = [width * free, free, read, tokens, square, written, square, tokens];
        let layers = lengths.map(|length| random.floats(length, 1.5));
        let mut panels = || (1..blocks).map(|g| random.floats(g * size * size, 1.5)).collect();
        let (code_panels, write_panels) = (panels(), panels());
        Self { sizes: Sizes { width, tokens, size }, layers, code_panels, write_panels }
    }

    fn head(&self) -> Head<'_> {
        let panels = self.code_panels.iter().chain(&self.write_panels);
        let layers = self.layers.each_ref().map(Vec::as_slice);
        Head::new(layers, &panels.map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// A weight of one of the two triangles.
    fn at(&self, squares: &[f32], panels: &[Vec<f32>], from: usize, to: usize) -> f64 {
        let size = self.sizes.size;
        let weight = match from / size == to / size {
            true => squares[from * size + to % size],
            false => panels[to / size - 1][from * size + to % size],
        };
        f64::from(weight)
    }

    /// One visit from the formulas, token by token.
    fn one(&self, h: &[f32], threshold: &[f32]) -> Vec<u8> {
        let Sizes { width, tokens, .. } = self.sizes;
        let free = width - 1;
        let [read_free, offset_free, read, offset, code, write_free, write, bias] = &self.layers;
        let unit = |offset: &[f32], weights: &[f32], columns: usize, unit: usize| {
            let each = h.iter().enumerate();
            let inputs = each.map(|(k, &h)| f64::from(h) * f64::from(weights[k * columns + unit]));
            f64::from(offset[unit]) + inputs.sum::<f64>()
        };
        let frees: Vec<f64> =
            (0..free).map(|q| unit(offset_free, read_free, free, q).max(0.0)).collect();
        let (mut on, mut units) = (vec![0; tokens], vec![0.0; tokens]);
        for token in 0..tokens {
            let before = (0..token).filter(|&code| on[code] > 0);
            let codes: f64 = before.map(|from| self.at(code, &self.code_panels, from, token)).sum();
            units[token] = (unit(offset, read, tokens, token) + codes).max(0.0);
            let mut logit = f64::from(bias[token]);
            logit += (0..free)
                .map(|q| frees[q] * f64::from(write_free[q * tokens + token]))
                .sum::<f64>();
            logit += (0..=token)
                .map(|from| units[from] * self.at(write, &self.write_panels, from, token))
                .sum::<f64>();
            on[token] = u8::from(logit > f64::from(threshold[token]));
        }
        on
    }
}

#[test]
fn draws_what_the_formulas_say_for_any_company() {
    let mut random = Random(1);
    for (width, blocks, size) in [(1, 1, 1), (5, 3, 7), (9, 4, 16), (17, 2, 33)] {
        let arrays = Arrays::new(width, blocks, size, &mut random);
        let (head, tokens) = (arrays.head(), blocks * size);
        let h = random.floats(37 * width, 2.0);
        let threshold = random.floats(37 * tokens, 6.0);
        let visit = |n: usize| (&h[n * width..][..width], &threshold[n * tokens..][..tokens]);
        let want: Vec<u8> = (0..37).flat_map(|n| arrays.one(visit(n).0, visit(n).1)).collect();
        for threads in [1, 2, 5] {
            let mut on = vec![2; 37 * tokens];
            assert!(head.sample(&h, &threshold, &mut on, threads).is_ok());
            assert_eq!(on, want);
        }
        let mut on = vec![2; 37 * tokens];
        // SAFETY: every processor has what is portable.
        unsafe { head.sample_with::<Portable, 4>(&arrays.sizes, &h, &threshold, &mut on) };
        assert_eq!(on, want);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            let mut on = vec![2; 37 * tokens];
            // SAFETY: the processor has just been seen to have both.
            unsafe { head.sample_avx2(&arrays.sizes, &h, &threshold, &mut on) };
            assert_eq!(on, want);
        }
        let share = want.iter().map(|&on| f64::from(on)).sum::<f64>() / want.len() as f64;
        assert!((0.2..0.8).contains(&share) || tokens == 1, "{share} of the tokens are on");
    }
}

#[test]
fn refuses_arrays_that_do_not_fit() {
    let arrays = Arrays::new(5, 3, 7, &mut Random(2));
    let (h, threshold, mut on) = (vec![0.0; 10], vec![0.0; 42], vec![0; 42]);
    assert!(arrays.head().sample(&h, &threshold, &mut on, 1).is_ok());
    assert!(arrays.head().sample(&h[1..], &threshold, &mut on, 1).is_err());
    assert!(arrays.head().sample(&h, &threshold[1..], &mut on, 1).is_err());
    let mut head = arrays.head();
    head.write_panels.pop();
    assert!(head.sample(&h, &threshold, &mut on, 1).is_err());
    assert!(arrays.head().sample(&[], &[], &mut [], 3).is_ok(), "no visits are none");
}
