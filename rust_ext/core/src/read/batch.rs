//! Arrow batches as sinks see them: whole columns, brought to the wanted type loudly.

use super::number::parse_id;
use crate::error::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, LargeStringArray, TimestampMicrosecondArray,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, TimeUnit};
use std::ops::Range;

/// A batch of Arrow columns and where it stands in its table.
pub struct Batch<'a> {
    /// Name of the file or stream.
    pub table: &'a str,
    /// Names of the columns.
    pub names: &'a [String],
    /// The columns, all of one length.
    pub columns: &'a [ArrayRef],
    /// Number of the first row, counted as in text: the first row of a table is 2.
    pub first_row: u64,
    /// Which rows these are, counted from the first one, if some in between were passed over.
    pub kept: Option<&'a [Range<usize>]>,
}

impl Batch<'_> {
    /// Column `place` as another type; a value that does not fit is an error.
    ///
    /// # Errors
    /// [`Error::Type`].
    pub fn cast(&self, place: usize, to: &DataType, want: &'static str) -> Result<ArrayRef> {
        let array = &self.columns[place];
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(array, to, &options).map_err(|_| self.other_type(place, want))
    }

    /// Column `place` as whole numbers, from integers, whole floats (NaN is null) or decimals, or text.
    ///
    /// # Errors
    /// [`Error::Value`] for the first cell that is none, [`Error::Type`] for another type.
    pub fn ids(&self, place: usize) -> Result<Int64Array> {
        let array = &self.columns[place];
        let want = "a whole number";
        let found = array.data_type();
        if is_text(found) || found.is_decimal() {
            let texts = self.cast(place, &DataType::LargeUtf8, "text")?;
            let ids = texts.as_string::<i64>().iter().enumerate().map(|(row, text)| {
                match text.map_or("", str::trim) {
                    "" => Ok(None),
                    text => parse_id(text.as_bytes())
                        .map(Some)
                        .ok_or_else(|| self.wrong(place, row, want, text)),
                }
            });
            return ids.collect();
        }
        if found.is_floating() {
            let floats = self.cast(place, &DataType::Float64, want)?;
            let ids =
                floats.as_primitive::<Float64Type>().iter().enumerate().map(|(row, value)| {
                    match value.filter(|value| !value.is_nan()) {
                        None => Ok(None),
                        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
                            Ok(Some(value as i64))
                        }
                        Some(value) => Err(self.wrong(place, row, want, &value.to_string())),
                    }
                });
            return ids.collect();
        }
        // A date is no id, though it is kept as a number of days.
        if !holds(found, |inner| inner.is_integer() || inner.is_null()) {
            return Err(self.other_type(place, want));
        }
        Ok(self.cast(place, &DataType::Int64, want)?.as_primitive::<Int64Type>().clone())
    }

    /// Column `place` as real numbers, from numbers of any type.
    ///
    /// # Errors
    /// [`Error::Type`] if it holds none.
    pub fn floats(&self, place: usize, want: &'static str) -> Result<Float64Array> {
        if !holds(self.columns[place].data_type(), |inner| inner.is_numeric() || inner.is_null()) {
            return Err(self.other_type(place, want));
        }
        Ok(self.cast(place, &DataType::Float64, want)?.as_primitive::<Float64Type>().clone())
    }

    /// Column `place` as text, however it is kept.
    ///
    /// # Errors
    /// [`Error::Type`] if it holds lists or the like.
    pub fn texts(&self, place: usize) -> Result<LargeStringArray> {
        if self.columns[place].data_type().is_nested() {
            return Err(self.other_type(place, "text"));
        }
        Ok(self.cast(place, &DataType::LargeUtf8, "text")?.as_string::<i64>().clone())
    }

    /// Column `place` as microseconds since 1970. A number is no time, whatever it counts.
    ///
    /// # Errors
    /// [`Error::Type`] if it holds no dates or times.
    pub fn times(&self, place: usize) -> Result<TimestampMicrosecondArray> {
        let want = "times";
        let found = self.columns[place].data_type();
        let dated = matches!(
            found,
            DataType::Null | DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
        );
        if !dated {
            return Err(self.other_type(place, want));
        }
        let times = self.cast(place, &DataType::Timestamp(TimeUnit::Microsecond, None), want)?;
        Ok(times.as_primitive::<TimestampMicrosecondType>().clone())
    }

    fn other_type(&self, place: usize, want: &'static str) -> Error {
        let got = self.columns[place].data_type().to_string();
        Error::Type { table: self.table.to_owned(), column: self.names[place].clone(), want, got }
    }

    /// The error that cell `row` of column `place` is not `want`.
    #[must_use]
    pub fn wrong(&self, place: usize, row: usize, want: &'static str, got: &str) -> Error {
        let number = self.number(row);
        Error::value(self.table, &self.names[place], number, want, got.as_bytes())
    }

    /// The number of row `row` of these in its table.
    #[must_use]
    pub fn number(&self, row: usize) -> u64 {
        let mut stretches = self.kept.into_iter().flatten();
        let mut left = row;
        let stretch = stretches.find(|stretch| {
            let inside = left < stretch.len();
            left -= if inside { 0 } else { stretch.len() };
            inside
        });
        self.first_row + (stretch.map_or(0, |stretch| stretch.start) + left) as u64
    }

    /// The first cell of column `place` as a person reads it.
    #[must_use]
    pub fn shown(&self, place: usize) -> String {
        let text = self.cast(place, &DataType::LargeUtf8, "text").ok();
        let text = text.as_ref().map(|text| text.as_string::<i64>());
        let known = text.filter(|text| !text.is_empty() && text.is_valid(0));
        known.map(|text| text.value(0).to_owned()).unwrap_or_default()
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len())
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether cells of this type are text that has to be parsed.
#[must_use]
pub fn is_text(data_type: &DataType) -> bool {
    holds(data_type, |inner| {
        matches!(inner, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    })
}

/// Whether cells are of such a type, by a dictionary or not.
fn holds(data_type: &DataType, such: fn(&DataType) -> bool) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => such(values),
        plain => such(plain),
    }
}
