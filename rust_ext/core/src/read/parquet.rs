//! Parquet: the wanted columns of one row group at a time.

use super::caught::caught;
use super::find_column;
use super::{Batch, Shared, Sink, Unit, damaged, io_error, name_of, undecodable};
use crate::error::{Error, Result};
use arrow_array::ArrayRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Small enough that its arrays are taken from the heap's own pages again and again.
const BATCH: usize = 8 << 10;

/// A Parquet file whose footer has been read.
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// The wanted columns' places among the file's, ascending, and for each wanted one which it is.
    places: Vec<usize>,
    order: Vec<usize>,
}

impl ParquetFile {
    /// Reads the footer; fails if a wanted column is missing.
    pub fn open(path: &Path, columns: &[String]) -> Result<Self> {
        let file = File::open(path).map_err(|error| io_error(path, error))?;
        let load = || ArrowReaderMetadata::load(&file, ArrowReaderOptions::default());
        let metadata = caught(load)
            .map_err(|panic| undecodable(path, &panic))?
            .map_err(|error| damaged(path, error.to_string()))?;
        let groups = metadata.metadata().row_groups().iter().map(|group| group.num_rows());
        if groups.fold(0, i64::wrapping_add) != metadata.metadata().file_metadata().num_rows() {
            return Err(damaged(path, "a footer whose numbers of rows contradict each other"));
        }
        let there: Vec<String> =
            metadata.schema().fields().iter().map(|field| field.name().clone()).collect();
        let wanted = columns
            .iter()
            .map(|name| find_column(&name_of(path), &there, name))
            .collect::<Result<Vec<usize>>>()?;
        let mut places = wanted.clone();
        places.sort_unstable();
        places.dedup();
        let order = wanted.iter().map(|at| places.partition_point(|place| place < at)).collect();
        Ok(Self { path: path.to_owned(), metadata, places, order })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One unit for each row group of this file, which is number `file`.
    pub fn units(&self, file: usize) -> Vec<Unit> {
        let mut first_row = 2;
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        groups
            .map(|(group, meta)| {
                let unit = Unit::RowGroup { file, group, first_row };
                first_row += meta.num_rows().max(0) as u64;
                unit
            })
            .collect()
    }

    /// Feeds one row group.
    pub fn read<S: Sink>(
        &self,
        columns: &[String],
        group: usize,
        mut first_row: u64,
        shared: &Shared,
        sink: &mut S,
    ) -> Result<()> {
        let path = &self.path;
        let file = File::open(path).map_err(|error| io_error(path, error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let meta = builder.metadata().row_group(group);
        let bytes = meta.compressed_size().max(0) as u64;
        let end = first_row + meta.num_rows().max(0) as u64;
        let mask = ProjectionMask::roots(builder.parquet_schema(), self.places.iter().copied());
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
                self.order.iter().map(|&place| batch.column(place).clone()).collect();
            sink.batch(&Batch { table: &table, names: columns, columns: &arrays, first_row })?;
            first_row += batch.num_rows() as u64;
        }
        // The decoder ends quietly at a damaged page header: rows would be missing.
        if first_row != end {
            return Err(damaged(path, "fewer rows in a row group than its footer says"));
        }
        shared.advance(bytes);
        Ok(())
    }
}
