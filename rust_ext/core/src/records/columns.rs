//! The columns of a batch of values: what names the lab, and the value.

use crate::error::Result;
use crate::keys::{IntKeys, TextKeys};
use crate::read::number::{Number, number_of, number_of_single, parse_number};
use crate::read::{Batch, is_text};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, Float32Array, Float64Array, Int64Array, LargeStringArray};
use arrow_schema::DataType;

/// Between the parts of a name.
pub const SEPARATOR: u8 = 0x1f;

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
                .map(|place| texts_of(batch, place))
                .collect::<Result<_>>()
                .map(Self::Texts),
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
    Floats(Float64Array),
    Singles(Float32Array),
    Texts(LargeStringArray),
}

/// A column of text.
pub(super) fn texts_of(batch: &Batch<'_>, place: usize) -> Result<LargeStringArray> {
    let texts = batch.cast(place, &DataType::LargeUtf8, "text")?;
    Ok(texts.as_string::<i64>().clone())
}

pub(super) fn numbers_of(batch: &Batch<'_>, place: usize) -> Result<Numbers> {
    if is_text(batch.columns[place].data_type()) {
        texts_of(batch, place).map(Numbers::Texts)
    } else if let Some(singles) = batch.columns[place].as_primitive_opt::<Float32Type>() {
        Ok(Numbers::Singles(singles.clone()))
    } else {
        let floats = batch.cast(place, &DataType::Float64, "a number")?;
        Ok(Numbers::Floats(floats.as_primitive::<Float64Type>().clone()))
    }
}

impl Numbers {
    #[inline]
    pub fn get(&self, row: usize) -> Number {
        match self {
            Self::Floats(array) if array.is_valid(row) => number_of(array.value(row)),
            Self::Singles(array) if array.is_valid(row) => number_of_single(array.value(row)),
            Self::Texts(array) if array.is_valid(row) => parse_number(array.value(row).as_bytes()),
            _ => Number::Empty,
        }
    }
}
