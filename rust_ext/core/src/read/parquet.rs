//! Parquet: the wanted columns of one row group at a time.

use super::delimited::find_column;
use super::{Batch, Shared, Sink, Unit, damaged, io_error, name_of};
use crate::error::{Error, Result};
use arrow_array::ArrayRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;

const BATCH: usize = 64 << 10;

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, error.to_string()))
}

/// One unit for each row group; fails here if a wanted column is missing.
pub fn units(path: &Path, columns: &[String]) -> Result<Vec<Unit>> {
    let builder = open(path)?;
    places(&builder, path, columns)?;
    let mut first_row = 2;
    let groups = builder.metadata().row_groups().iter().enumerate();
    Ok(groups
        .map(|(group, meta)| {
            let unit = Unit::RowGroup { file: path.to_owned(), group, first_row };
            first_row += meta.num_rows().max(0) as u64;
            unit
        })
        .collect())
}

/// The place of each wanted column among the file's top-level columns.
fn places(
    builder: &ParquetRecordBatchReaderBuilder<File>,
    path: &Path,
    columns: &[String],
) -> Result<Vec<usize>> {
    let there: Vec<String> =
        builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    columns.iter().map(|name| find_column(&name_of(path), &there, name)).collect()
}

/// Feeds one row group.
pub fn read<S: Sink>(
    path: &Path,
    columns: &[String],
    group: usize,
    mut first_row: u64,
    shared: &Shared,
    sink: &mut S,
) -> Result<()> {
    let builder = open(path)?;
    let places = places(&builder, path, columns)?;
    let bytes = builder.metadata().row_group(group).compressed_size().max(0) as u64;
    let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
    let mut sorted = places.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let order: Vec<usize> = places.iter().map(|p| sorted.partition_point(|s| s < p)).collect();
    let reader = builder
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_batch_size(BATCH)
        .build()
        .map_err(|error| damaged(path, error.to_string()))?;
    let table = name_of(path);
    for batch in reader {
        if shared.stopped() {
            return Err(Error::Stopped);
        }
        let batch = batch.map_err(|error| damaged(path, error.to_string()))?;
        let arrays: Vec<ArrayRef> =
            order.iter().map(|&place| batch.column(place).clone()).collect();
        sink.batch(&Batch { table: &table, names: columns, columns: &arrays, first_row })?;
        first_row += batch.num_rows() as u64;
    }
    shared.advance(bytes);
    Ok(())
}
