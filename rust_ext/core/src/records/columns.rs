//! The columns of a batch of values: what names the lab, and the value.

use crate::error::Result;
use crate::keys::{IntKeys, TextKeys};
use crate::read::number::{Number, UNSCALED, number_of, number_of_single, parse_number, scaled_of};
use crate::read::{Batch, NAME, SEPARATOR, is_name, is_text};
use arrow_array::builder::LargeStringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type};
use arrow_array::{Array, Float32Array, Float64Array, Int64Array, LargeStringArray};
use arrow_schema::DataType;

/// The names of labs seen so far.
pub(super) enum Labs {
    Ints(IntKeys),
    Texts(TextKeys),
}

/// The columns that name a lab, in a batch.
pub(super) enum LabColumn {
    Ints(Int64Array),
    Texts(Vec<LargeStringArray>),
}

impl LabColumn {
    pub fn new(batch: &Batch<'_>, labs: &Labs, parts: usize) -> Result<Self> {
        match labs {
            Labs::Ints(_) => Ok(Self::Ints(batch.ids(0)?)),
            Labs::Texts(_) => (0..parts)
                .map(|place| names_of(batch, place))
                .collect::<Result<_>>()
                .map(Self::Texts),
        }
    }

    /// The lab of every row as a whole number, if each has one.
    pub fn ids(&self) -> Option<&[i64]> {
        match self {
            Self::Ints(ids) if ids.null_count() == 0 => Some(ids.values()),
            _ => None,
        }
    }

    #[inline(always)]
    pub fn number(&self, row: usize, labs: &mut Labs, name: &mut Vec<u8>) -> Option<u32> {
        match (self, labs) {
            (Self::Ints(ids), Labs::Ints(keys)) => {
                ids.is_valid(row).then(|| keys.number(ids.value(row)))
            }
            (Self::Texts(parts), Labs::Texts(keys)) => {
                name.clear();
                for (place, part) in parts.iter().enumerate() {
                    if place > 0 {
                        name.push(SEPARATOR);
                    }
                    if part.is_valid(row) {
                        let text = part.value(row).trim();
                        name.extend_from_slice(text.as_bytes());
                    }
                    if place == 0 && name.is_empty() {
                        return None;
                    }
                }
                Some(keys.number(name))
            }
            _ => None,
        }
    }
}

/// The value column of a batch.
pub(super) enum Numbers {
    /// The values, and those of them scaled that allow it, else [`UNSCALED`].
    Floats(Float64Array, Vec<i64>),
    Singles(Float32Array),
    Texts(LargeStringArray),
}

/// A column of text.
pub(super) fn texts_of(batch: &Batch<'_>, place: usize) -> Result<LargeStringArray> {
    if let Some(numbers) = batch.columns[place].as_primitive_opt::<Int64Type>() {
        return Ok(texts_of_integers(numbers));
    }
    let texts = batch.cast(place, &DataType::LargeUtf8, "text")?;
    Ok(texts.as_string::<i64>().clone())
}

/// A column of parts of names.
pub(super) fn names_of(batch: &Batch<'_>, place: usize) -> Result<LargeStringArray> {
    let texts = texts_of(batch, place)?;
    if is_name(texts.values()) {
        return Ok(texts);
    }
    // Somewhere; what stands between the rows of a slice does not count.
    for (row, text) in texts.iter().enumerate() {
        let text = text.unwrap_or_default();
        if !is_name(text.as_bytes()) {
            return Err(batch.wrong(place, row, NAME, text));
        }
    }
    Ok(texts)
}

/// Integers as text; few different ones follow each other, as versions of codes do.
fn texts_of_integers(numbers: &Int64Array) -> LargeStringArray {
    let mut texts = LargeStringBuilder::with_capacity(numbers.len(), numbers.len());
    let (mut last, mut text) = (None, String::new());
    for number in numbers {
        if number != last {
            text = number.map(|number| number.to_string()).unwrap_or_default();
            last = number;
        }
        texts.append_option(number.map(|_| &text));
    }
    texts.finish()
}

pub(super) fn numbers_of(batch: &Batch<'_>, place: usize) -> Result<Numbers> {
    if is_text(batch.columns[place].data_type()) {
        texts_of(batch, place).map(Numbers::Texts)
    } else if let Some(singles) = batch.columns[place].as_primitive_opt::<Float32Type>() {
        Ok(Numbers::Singles(singles.clone()))
    } else {
        let floats = batch.cast(place, &DataType::Float64, "a number")?;
        let floats = floats.as_primitive::<Float64Type>().clone();
        let mut scaled = scaled_of(floats.values());
        if let Some(nulls) = floats.nulls() {
            (!nulls.inner()).set_indices().for_each(|null| scaled[null] = UNSCALED);
        }
        Ok(Numbers::Floats(floats, scaled))
    }
}

impl Numbers {
    /// The value of every row, scaled or [`UNSCALED`], if there are such.
    pub fn all_scaled(&self) -> Option<&[i64]> {
        match self {
            Self::Floats(_, scaled) => Some(scaled),
            _ => None,
        }
    }

    #[inline(always)]
    pub fn get(&self, row: usize) -> Number {
        match self {
            Self::Floats(_, scaled) if scaled[row] != UNSCALED => Number::Scaled(scaled[row]),
            Self::Floats(array, _) if array.is_valid(row) => number_of(array.value(row)),
            Self::Singles(array) if array.is_valid(row) => number_of_single(array.value(row)),
            Self::Texts(array) if array.is_valid(row) => parse_number(array.value(row).as_bytes()),
            _ => Number::Empty,
        }
    }
}
