//! Floats side by side, by the widest instructions that a function was compiled for.

/// Its functions are inlined into ones that were compiled for the instructions they are made of, and
/// take pointers to `SIZE` floats, of which only those of a mask are touched where there is one.
pub trait Vector: Copy {
    /// How many floats.
    const SIZE: usize;
    /// The first few of them.
    type Mask: Copy;
    /// The first `count`, at most `SIZE`.
    unsafe fn mask(count: usize) -> Self::Mask;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Zeros outside the mask.
    unsafe fn load_some(from: *const f32, mask: Self::Mask) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_some(self, to: *mut f32, mask: Self::Mask);
    /// `self` + weight x input.
    unsafe fn plus(self, weight: Self, input: Self) -> Self;
}

const PORTABLE: usize = 8;

/// What any processor can do.
#[derive(Clone, Copy)]
pub struct Portable([f32; PORTABLE]);

impl Vector for Portable {
    const SIZE: usize = PORTABLE;
    type Mask = usize;
    #[inline(always)]
    unsafe fn mask(count: usize) -> usize {
        count
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; PORTABLE])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as many floats as the trait asks for.
        Self(unsafe { from.cast::<[f32; PORTABLE]>().read() })
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, mask: usize) -> Self {
        // SAFETY: none but the first `mask` are read.
        Self(std::array::from_fn(|i| if i < mask { unsafe { *from.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as many floats as the trait asks for.
        unsafe { to.cast::<[f32; PORTABLE]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, mask: usize) {
        for (i, value) in self.0.into_iter().enumerate().take(mask) {
            // SAFETY: none but the first `mask` are written.
            unsafe { to.add(i).write(value) }
        }
    }
    #[inline(always)]
    unsafe fn plus(self, weight: Self, input: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + weight.0[i] * input.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    impl Vector for __m512 {
        const SIZE: usize = 16;
        type Mask = __mmask16;
        #[inline(always)]
        unsafe fn mask(count: usize) -> __mmask16 {
            ((1_u32 << count) - 1) as u16
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see the trait, as for all below.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_some(from: *const f32, mask: __mmask16) -> Self {
            unsafe { _mm512_maskz_loadu_ps(mask, from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn store_some(self, to: *mut f32, mask: __mmask16) {
            unsafe { _mm512_mask_storeu_ps(to, mask, self) }
        }
        #[inline(always)]
        unsafe fn plus(self, weight: Self, input: Self) -> Self {
            unsafe { _mm512_fmadd_ps(weight, input, self) }
        }
    }

    impl Vector for __m256 {
        const SIZE: usize = 8;
        type Mask = __m256i;
        #[inline(always)]
        unsafe fn mask(count: usize) -> __m256i {
            let lane = |i: usize| if i < count { -1 } else { 0 };
            let lanes: [i32; 8] = std::array::from_fn(lane);
            // SAFETY: see the trait, as for all below.
            unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_some(from: *const f32, mask: __m256i) -> Self {
            unsafe { _mm256_maskload_ps(from, mask) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn store_some(self, to: *mut f32, mask: __m256i) {
            unsafe { _mm256_maskstore_ps(to, mask, self) }
        }
        #[inline(always)]
        unsafe fn plus(self, weight: Self, input: Self) -> Self {
            unsafe { _mm256_fmadd_ps(weight, input, self) }
        }
    }
}
