//! Parquet row groups of plain numbers: columns page by page, and of most of them only rows of use.
//!
//! The `parquet` crate finds, checks and decompresses pages. Its own way from there to arrays is made
//! for every type and nesting; and it passes rows over by filters that cost more than they save.

use super::chunk::{Column, DAMAGED, Result, open};
use arrow_array::ArrayRef;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_schema::DataType;
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use std::ops::Range;
use std::sync::Arc;

/// Some columns of a row group, so many rows at a time.
pub struct Pages {
    columns: Vec<Box<dyn Column>>,
    /// The one of them without which a row is of no use.
    needed: Option<usize>,
    left: usize,
    batch: usize,
}

/// The next rows.
pub struct Picked {
    /// The columns, of the rows that are of use.
    pub columns: Vec<ArrayRef>,
    /// Which rows these are, ascending; `None` if all.
    pub kept: Option<Vec<Range<usize>>>,
    /// How many rows there are, with those of no use.
    pub rows: usize,
}

impl Pages {
    /// Opens the columns with these places and types; `None` if one of them is not of plain numbers
    /// in the usual encodings.
    ///
    /// # Errors
    /// What is wrong with a first page.
    pub fn open<R: ChunkReader + 'static>(
        file: &Arc<R>,
        group: &RowGroupMetaData,
        columns: impl Iterator<Item = (usize, DataType)>,
        needed: Option<usize>,
        batch: usize,
    ) -> Result<Option<Self>> {
        let left = usize::try_from(group.num_rows()).map_err(|_| DAMAGED)?;
        let columns: Vec<(usize, DataType)> = columns.collect();
        // Before any page is read in vain.
        if !columns.iter().all(|(place, data_type)| {
            (data_type.is_integer() || data_type.is_floating()) && is_plain(group.column(*place))
        }) {
            return Ok(None);
        }
        let open = |(place, data_type)| {
            let chunk = group.column(place);
            match data_type {
                DataType::Int64 => open::<Int64Type, R>(file, chunk, Type::INT64, left),
                DataType::Int32 => open::<Int32Type, R>(file, chunk, Type::INT32, left),
                DataType::Float64 => open::<Float64Type, R>(file, chunk, Type::DOUBLE, left),
                DataType::Float32 => open::<Float32Type, R>(file, chunk, Type::FLOAT, left),
                _ => Ok(None),
            }
        };
        let columns = columns.into_iter().map(open).collect::<Result<Option<Vec<_>>>>()?;
        Ok(columns.map(|columns| Self { columns, needed, left, batch }))
    }

    fn pick(&mut self, rows: usize) -> Result<Picked> {
        let Some(needed) = self.needed else {
            let columns = self.columns.iter_mut().map(|column| column.next(rows));
            return Ok(Picked { columns: columns.collect::<Result<_>>()?, kept: None, rows });
        };
        let (ids, kept) = self.columns[needed].known(rows)?;
        let columns = self.columns.iter_mut().enumerate().map(|(place, column)| {
            if place == needed { Ok(Arc::clone(&ids)) } else { column.pick(&kept, rows) }
        });
        Ok(Picked { columns: columns.collect::<Result<_>>()?, kept: Some(kept), rows })
    }
}

impl Iterator for Pages {
    type Item = Result<Picked>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.left.min(self.batch);
        self.left -= rows;
        if rows > 0 {
            return Some(self.pick(rows));
        }
        self.columns.iter_mut().find_map(|column| column.end().err()).map(Err)
    }
}

/// Whether a column is not nested, and has no encodings but those that are read here.
fn is_plain(chunk: &ColumnChunkMetaData) -> bool {
    let column = chunk.column_descr();
    let usual = |encoding| {
        let dictionary = matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
        // The old packing of levels is named by writers that have no levels to pack.
        dictionary || matches!(encoding, Encoding::PLAIN | Encoding::RLE | OLD_LEVELS)
    };
    column.max_rep_level() == 0 && column.max_def_level() <= 1 && chunk.encodings().all(usual)
}

#[expect(deprecated, reason = "to know it where it is met")]
const OLD_LEVELS: Encoding = Encoding::BIT_PACKED;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::{Float64Array, Int32Array, Int64Array, RecordBatch};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use proptest::prelude::*;

    type Failure = Box<dyn std::error::Error>;

    /// A file of three columns whose nulls come in stretches and alone.
    fn written(
        ids: &[Option<i64>],
        properties: WriterProperties,
    ) -> std::result::Result<Bytes, Failure> {
        let items =
            ids.iter().enumerate().map(|(row, id)| id.map_or(7, |id| id as i32) + row as i32 % 5);
        let values = (0..ids.len()).map(|row| (row % 3 > 0).then_some(row as f64 / 8.0));
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("id", Arc::new(Int64Array::from(ids.to_vec())), true),
            ("item", Arc::new(Int32Array::from_iter_values(items)), false),
            ("value", Arc::new(values.collect::<Float64Array>()), true),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(bytes.into())
    }

    /// The rows of all row groups and their places, by way of `Pages`, and how many were passed over.
    fn picked(
        file: &Bytes,
        needed: Option<usize>,
        batch: usize,
    ) -> std::result::Result<(Vec<(usize, Row)>, usize), Failure> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone())?;
        let types: Vec<DataType> =
            reader.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        let (mut rows, mut passed_over, mut at) = (Vec::new(), 0, 0);
        for group in reader.metadata().row_groups() {
            let columns = types.iter().cloned().enumerate();
            let pages = Pages::open(&Arc::new(file.clone()), group, columns, needed, batch)?;
            for picked in pages.ok_or("these are plain columns")? {
                let picked = picked?;
                let found = rows_of(&picked.columns);
                passed_over += picked.rows - found.len();
                let kept = picked.kept.unwrap_or_else(|| std::iter::once(0..picked.rows).collect());
                let places = kept.into_iter().flatten().map(|place| at + place);
                rows.extend(places.zip(found));
                at += picked.rows;
            }
        }
        Ok((rows, passed_over))
    }

    type Row = (Option<i64>, Option<i32>, Option<u64>);

    fn rows_of(columns: &[ArrayRef]) -> Vec<Row> {
        let ids = columns[0].as_primitive::<Int64Type>().iter();
        let items = columns[1].as_primitive::<Int32Type>().iter();
        let values = columns[2].as_primitive::<Float64Type>().iter();
        let rows = ids.zip(items).zip(values);
        rows.map(|((id, item), value)| (id, item, value.map(f64::to_bits))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn equals_the_crates_own_way(
            stretches in prop::collection::vec((prop::option::of(0_i64..40), 1_usize..30), 1..40),
            dictionary in any::<bool>(), second in any::<bool>(), page in 1_usize..60,
            group in 20_usize..400, batch in 1_usize..50, room in 1_usize..300,
        ) {
            let ids: Vec<Option<i64>> =
                stretches.iter().flat_map(|&(id, count)| std::iter::repeat_n(id, count)).collect();
            let version = if second { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(dictionary)
                .set_encoding(Encoding::PLAIN)
                // A full dictionary is followed by plain pages.
                .set_dictionary_page_size_limit(room)
                .set_data_page_row_count_limit(page)
                .set_write_batch_size(1 + page / 2)
                .set_max_row_group_row_count(Some(group))
                .build();
            let failed = |error: Failure| TestCaseError::fail(error.to_string());
            let file = written(&ids, properties).map_err(failed)?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone())
                .and_then(|reader| reader.build())
                .map_err(|error| failed(error.into()))?;
            let mut all = Vec::new();
            for batch in reader {
                all.extend(rows_of(batch.map_err(|error| failed(error.into()))?.columns()));
            }
            let mut all: Vec<(usize, Row)> = all.into_iter().enumerate().collect();
            let (rows, passed_over) = picked(&file, None, batch).map_err(failed)?;
            prop_assert_eq!((&rows, passed_over), (&all, 0));
            let (rows, passed_over) = picked(&file, Some(0), batch).map_err(failed)?;
            prop_assert_eq!(passed_over, ids.iter().filter(|id| id.is_none()).count());
            all.retain(|(_, row)| row.0.is_some());
            prop_assert_eq!(rows, all);
        }
    }
}
