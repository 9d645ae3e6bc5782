//! Small tables (patients, admissions, dictionaries), read whole into typed Arrow columns.

use super::delimited::Row;
use super::number::{parse_id, parse_time};
use super::{Batch, Run, Sink, Table, is_text, scan};
use crate::error::{Error, Result};
use arrow_array::builder::{
    Float64Builder, Int64Builder, LargeStringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use std::path::PathBuf;
use std::sync::Arc;

/// What a column of a small table holds. An empty cell is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers; null is refused.
    Id,
    /// Whole numbers.
    Integer,
    /// Real numbers; text that is none is refused.
    Float,
    /// UTF-8 text.
    Text,
    /// Dates or dates with times, without a time zone, in microseconds.
    Time,
}

impl Kind {
    fn arrow(self) -> DataType {
        match self {
            Self::Id | Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::LargeUtf8,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }

    fn want(self) -> &'static str {
        match self {
            Self::Id | Self::Integer => "a whole number",
            Self::Float => "a number",
            Self::Text => "UTF-8 text",
            Self::Time => "a time such as 2180-05-06 22:23:00",
        }
    }
}

enum Column {
    Integer(Int64Builder),
    Float(Float64Builder),
    Text(LargeStringBuilder),
    Time(TimestampMicrosecondBuilder),
}

struct Columns {
    kinds: Vec<Kind>,
    columns: Vec<Column>,
}

/// Reads the table's wanted columns, in file order.
///
/// # Errors
/// A file, a column or a cell that is not as it should be.
pub fn read_table(table: &Table, kinds: &[Kind], run: &mut Run<'_>) -> Result<RecordBatch> {
    if kinds.len() != table.columns.len() {
        return Err(Error::Shape("one kind for each column is wanted".into()));
    }
    let mut one = Run { threads: 1, block: run.block, progress: run.progress };
    let sinks = scan(table, &mut one, || Columns::new(kinds))?;
    let columns = sinks.into_iter().flat_map(|sink| sink.columns);
    let arrays: Vec<ArrayRef> = columns.map(Column::finish).collect();
    let fields = table.columns.iter().zip(kinds);
    let schema: Vec<Field> =
        fields.map(|(name, kind)| Field::new(name, kind.arrow(), *kind != Kind::Id)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema)), arrays)
        .map_err(|error| Error::Shape(error.to_string()))
}

/// The number of the row at `place` (from 0) of a file, as messages count rows: blank lines of text have a
/// number, too, and no place. None if there is no such row of text.
///
/// # Errors
/// A file that is not as it should be.
pub fn row_number(file: PathBuf, place: u64, run: &mut Run<'_>) -> Result<Option<u64>> {
    let table = Table { files: vec![file], columns: vec![] };
    match scan(&table, run, || Countdown(place)) {
        Err(Error::Value { row, .. }) => Ok(Some(row)),
        outcome => outcome.map(|_| None),
    }
}

/// Fails at the row that it counts down to.
struct Countdown(u64);

impl Sink for Countdown {
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        if self.0 == 0 {
            return Err(Error::value("", "", row.number, "", b""));
        }
        self.0 -= 1;
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        Err(Error::value("", "", batch.first_row + self.0, "", b""))
    }
}

impl Columns {
    fn new(kinds: &[Kind]) -> Self {
        let column = |kind: &Kind| match kind {
            Kind::Id | Kind::Integer => Column::Integer(Int64Builder::new()),
            Kind::Float => Column::Float(Float64Builder::new()),
            Kind::Text => Column::Text(LargeStringBuilder::new()),
            Kind::Time => Column::Time(TimestampMicrosecondBuilder::new()),
        };
        Self { kinds: kinds.to_vec(), columns: kinds.iter().map(column).collect() }
    }
}

impl Sink for Columns {
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        for (place, (column, kind)) in self.columns.iter_mut().zip(&self.kinds).enumerate() {
            let text = row.text(place)?;
            let text = text.trim();
            if !column.push(text) || (*kind == Kind::Id && text.is_empty()) {
                return Err(row.wrong(place, kind.want()));
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        for (place, (column, kind)) in self.columns.iter_mut().zip(&self.kinds).enumerate() {
            let array = &batch.columns[place];
            match kind {
                Kind::Integer if *array.data_type() == DataType::Boolean => {
                    column.extend(&batch.cast(place, &DataType::Int64, kind.want())?);
                }
                Kind::Id | Kind::Integer => {
                    let ids = batch.ids(place)?;
                    if *kind == Kind::Id && ids.null_count() > 0 {
                        let row = (0..ids.len()).find(|&row| ids.is_null(row)).unwrap_or_default();
                        return Err(batch.wrong(place, row, kind.want(), ""));
                    }
                    column.extend(&(Arc::new(ids) as ArrayRef));
                }
                Kind::Float | Kind::Time | Kind::Text if is_text(array.data_type()) => {
                    let texts = batch.cast(place, &DataType::LargeUtf8, "text")?;
                    for (row, text) in texts.as_string::<i64>().iter().enumerate() {
                        let text = text.unwrap_or_default().trim();
                        if text.contains('\0') || !column.push(text) {
                            return Err(batch.wrong(place, row, kind.want(), text));
                        }
                    }
                }
                Kind::Time => column.extend(&(Arc::new(batch.times(place)?) as ArrayRef)),
                Kind::Float => {
                    column.extend(&(Arc::new(batch.floats(place, kind.want())?) as ArrayRef))
                }
                Kind::Text => column.extend(&(Arc::new(batch.texts(place)?) as ArrayRef)),
            }
        }
        Ok(())
    }
}

impl Column {
    /// Appends a cell; false if it does not hold what the column does.
    fn push(&mut self, text: &str) -> bool {
        let bytes = text.as_bytes();
        match self {
            _ if text.is_empty() => self.push_null(),
            Self::Text(builder) => builder.append_value(text),
            Self::Integer(builder) => match parse_id(bytes) {
                Some(value) => builder.append_value(value),
                None => return false,
            },
            Self::Float(builder) => match text.parse() {
                Ok(value) => builder.append_value(value),
                Err(_) => return false,
            },
            Self::Time(builder) => match parse_time(bytes) {
                Some(value) => builder.append_value(value),
                None => return false,
            },
        }
        true
    }

    fn push_null(&mut self) {
        match self {
            Self::Integer(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Time(builder) => builder.append_null(),
        }
    }

    /// Appends an array of this column's own type.
    fn extend(&mut self, array: &ArrayRef) {
        match self {
            Self::Integer(builder) => builder.extend(array.as_primitive::<Int64Type>()),
            Self::Float(builder) => builder.extend(array.as_primitive::<Float64Type>()),
            Self::Text(builder) => builder.extend(array.as_string::<i64>()),
            Self::Time(builder) => builder.extend(array.as_primitive::<TimestampMicrosecondType>()),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Integer(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
        }
    }
}
