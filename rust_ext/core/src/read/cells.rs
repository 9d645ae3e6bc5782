//! The numbers of Parquet pages, and the rows that they are spread over.

use super::hybrid::{Hybrid, Packed, Run};
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer};
use bytes::{Buf, Bytes};
use std::ops::Range;
use std::sync::Arc;

/// Numbers as Parquet's plain encoding writes them.
pub trait Plain: ArrowPrimitiveType + 'static {
    /// Appends the numbers that `bytes` hold.
    fn extend(values: &mut Vec<Self::Native>, bytes: &[u8]);
}

macro_rules! plain {
    ($($arrow:ty),*) => {$(
        impl Plain for $arrow {
            fn extend(values: &mut Vec<Self::Native>, bytes: &[u8]) {
                let (numbers, _) = bytes.as_chunks();
                values.extend(numbers.iter().map(|&number| Self::Native::from_le_bytes(number)));
            }
        }
    )*};
}
plain!(Int64Type, Int32Type, Float64Type, Float32Type);

/// How many ones there are in a run of ones and zeros, and how many of both.
#[inline(always)]
pub fn ones_of(run: Run<'_>) -> Option<(usize, usize)> {
    match run {
        Run::Same(one @ 0..=1, length) => Some((one as usize * length, length)),
        Run::Same(..) => None,
        Run::Packed(packed) => Some((packed.ones(), packed.length)),
    }
}

/// Appends the stretches of ones of a run that begins `at` a row.
pub fn stretches(run: Run<'_>, at: usize, ones: &mut Vec<Range<usize>>) {
    let mut push = |from: usize, to: usize| match ones.last_mut() {
        Some(last) if last.end == from => last.end = to,
        _ => ones.push(from..to),
    };
    match run {
        Run::Same(0, _) => {}
        Run::Same(_, length) => push(at, at + length),
        Run::Packed(packed) => {
            let mut from = at;
            for (mut bits, count) in packed.bits() {
                let mut place = from;
                while bits != 0 {
                    let (zeros, rest) = (bits.trailing_zeros(), bits >> bits.trailing_zeros());
                    let length = rest.trailing_ones();
                    place += zeros as usize;
                    push(place, place + length as usize);
                    (place, bits) = (place + length as usize, rest >> length);
                }
                from += count;
            }
        }
    }
}

/// The values of a page.
pub enum Values {
    Plain(Bytes),
    /// Places in the dictionary.
    Coded(Hybrid),
}

impl Values {
    /// Appends the next `count` values; `None` if there are not so many.
    #[inline(always)]
    pub fn take<T: Plain>(
        &mut self,
        count: usize,
        dictionary: &[T::Native],
        values: &mut Vec<T::Native>,
    ) -> Option<()> {
        match self {
            Self::Plain(bytes) => {
                let length = count.checked_mul(size_of::<T::Native>())?;
                T::extend(values, bytes.get(..length)?);
                bytes.advance(length);
            }
            Self::Coded(codes) => {
                let mut left = count;
                while left > 0 {
                    let run = codes.next(left)?;
                    left -= run.length();
                    match run {
                        Run::Same(code, length) => {
                            let value = *dictionary.get(code as usize)?;
                            values.resize(values.len() + length, value);
                        }
                        Run::Packed(places) => look_up(places, dictionary, values)?,
                    }
                }
            }
        }
        Some(())
    }

    /// Leaves the next `count` values out; `None` if there are not so many.
    #[inline(always)]
    pub fn pass_over<T: Plain>(&mut self, count: usize) -> Option<()> {
        match self {
            Self::Plain(bytes) => {
                let length = count.checked_mul(size_of::<T::Native>())?;
                bytes.get(..length)?;
                bytes.advance(length);
            }
            Self::Coded(codes) => {
                let mut left = count;
                while left > 0 {
                    left -= codes.next(left)?.length();
                }
            }
        }
        Some(())
    }
}

/// Appends the entries at these places of the dictionary; `None` if it is too short for one.
fn look_up<T: Copy + Default>(
    places: Packed<'_>,
    dictionary: &[T],
    values: &mut Vec<T>,
) -> Option<()> {
    let mut all = true;
    values.extend(places.values().map(|place| {
        let entry = dictionary.get(place as usize);
        all &= entry.is_some();
        entry.copied().unwrap_or_default()
    }));
    all.then_some(())
}

/// Rows as they are taken.
pub struct Cells<T: Plain> {
    values: Vec<T::Native>,
    valid: Option<BooleanBufferBuilder>,
    /// Values that are not spread over rows yet.
    dense: Vec<T::Native>,
}

impl<T: Plain> Cells<T> {
    /// Room for so many rows.
    pub fn new(rows: usize, optional: bool) -> Self {
        let valid = optional.then(|| BooleanBufferBuilder::new(rows));
        Self { values: Vec::with_capacity(rows), valid, dense: Vec::new() }
    }

    /// Takes the rows of `run`.
    #[inline(always)]
    pub fn take(
        &mut self,
        source: &mut Values,
        run: Run<'_>,
        dictionary: &[T::Native],
    ) -> Option<()> {
        let (ones, length) = ones_of(run)?;
        match run {
            Run::Same(..) if ones > 0 => source.take::<T>(length, dictionary, &mut self.values)?,
            Run::Same(..) => self.values.resize(self.values.len() + length, Default::default()),
            Run::Packed(packed) => {
                self.dense.clear();
                source.take::<T>(ones, dictionary, &mut self.dense)?;
                spread(packed, &mut self.dense, &mut self.values);
            }
        }
        match (&mut self.valid, run) {
            (None, _) => {}
            (Some(valid), Run::Same(..)) => valid.append_n(length, ones > 0),
            (Some(valid), Run::Packed(packed)) => {
                valid.append_packed_range(packed.from..packed.from + length, packed.bytes);
            }
        }
        Some(())
    }

    /// The array of all of them.
    pub fn finish(self) -> ArrayRef {
        let nulls = self.valid.map(|mut valid| NullBuffer::new(valid.finish()));
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        Arc::new(PrimitiveArray::<T>::new(self.values.into(), nulls))
    }
}

/// Appends a row for each bit: the next of `dense` where it is one.
#[inline(always)]
fn spread<T: Copy + Default>(rows: Packed<'_>, dense: &mut Vec<T>, values: &mut Vec<T>) {
    dense.push(T::default());
    let mut next = 0;
    for (bits, count) in rows.bits() {
        values.extend((0..count).map(|bit| {
            let value = dense[next];
            next += (bits >> bit & 1) as usize;
            value
        }));
    }
}
