//! The columns of a batch of values: what names the lab, and the value.

use crate::error::{Error, Result};
use crate::keys::{IntKeys, MOST_KEYS, TextKeys};
use crate::read::number::{Number, UNSCALED, number_of, number_of_single, parse_number, scaled_of};
use crate::read::{Batch, NAME, SEPARATOR, is_name, is_text};
use arrow_array::builder::LargeStringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{Array, Float32Array, Float64Array, Int64Array, LargeStringArray};

/// The names of labs seen so far.
pub(super) enum Labs {
    Ints(IntKeys),
    Texts(TextKeys),
}

/// The columns that name a lab, in a batch.
pub(super) enum LabColumn {
    Ints(Int64Array),
    Texts(Vec<Names>),
}

/// What a row calls its lab.
#[derive(Clone, Copy)]
pub(super) enum LabName<'a> {
    Int(i64),
    Text(&'a [u8]),
}

impl Labs {
    /// The number of `name`, a new one if it was not seen before; for a lab that has a value, as
    /// records must have room for all that are numbered.
    #[inline(always)]
    pub fn number(&mut self, name: LabName<'_>) -> Result<u32> {
        match (self, name) {
            (Self::Ints(keys), LabName::Int(id)) => within(keys.number(id)),
            (Self::Texts(keys), LabName::Text(name)) => within(keys.number(name)),
            _ => Err(Error::Shape("labs are all numbers or all texts".into())),
        }
    }
}

/// A lab's number, for which records must have room.
#[inline(always)]
pub(super) fn within(lab: u32) -> Result<u32> {
    if lab as usize >= MOST_KEYS {
        let limit = MOST_KEYS as u64;
        return Err(Error::TooMany { table: "labs".into(), what: "names", limit });
    }
    Ok(lab)
}

impl LabColumn {
    pub fn new(batch: &Batch<'_>, labs: &Labs, parts: usize) -> Result<Self> {
        match labs {
            Labs::Ints(_) => Ok(Self::Ints(batch.ids(0)?)),
            Labs::Texts(_) => (0..parts)
                .map(|place| Names::of(batch, place))
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

    /// What names the lab of a row, written to `name` if it is text; none if nothing does.
    #[inline(always)]
    pub fn name<'a>(
        &self,
        row: usize,
        batch: &Batch<'_>,
        name: &'a mut Vec<u8>,
    ) -> Result<Option<LabName<'a>>> {
        match self {
            Self::Ints(ids) => Ok(ids.is_valid(row).then(|| LabName::Int(ids.value(row)))),
            Self::Texts(parts) => {
                name.clear();
                for (place, part) in parts.iter().enumerate() {
                    if place > 0 {
                        name.push(SEPARATOR);
                    }
                    name.extend_from_slice(part.part(row, batch)?.trim().as_bytes());
                    if name.is_empty() {
                        return Ok(None);
                    }
                }
                Ok(Some(LabName::Text(name)))
            }
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
    batch.texts(place)
}

/// A column of parts of names.
pub(super) struct Names {
    place: usize,
    texts: LargeStringArray,
    /// Whether a text may be none that a name can have.
    doubtful: bool,
}

impl Names {
    pub fn of(batch: &Batch<'_>, place: usize) -> Result<Self> {
        let texts = texts_of(batch, place)?;
        let ends = texts.value_offsets();
        let (start, end) = (ends[0] as usize, ends[texts.len()] as usize);
        let doubtful = !is_name(&texts.values()[start..end]);
        Ok(Self { place, texts, doubtful })
    }

    /// The text of a row as it stands, empty for null.
    #[inline(always)]
    pub fn text(&self, row: usize) -> &str {
        if self.texts.is_valid(row) { self.texts.value(row) } else { "" }
    }

    /// The same as part of a name.
    #[inline(always)]
    pub fn part(&self, row: usize, batch: &Batch<'_>) -> Result<&str> {
        let text = self.text(row);
        if self.doubtful && !is_name(text.as_bytes()) {
            return Err(batch.wrong(self.place, row, NAME, text));
        }
        Ok(text)
    }
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
        let floats = batch.floats(place, "a number")?;
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
