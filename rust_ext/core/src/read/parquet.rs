//! Parquet: the wanted columns of one row group at a time.

use super::caught::caught;
use super::find_column;
use super::pages::{Pages, Picked};
use super::{Batch, Shared, Sink, Unit, damaged, io_error, name_of, undecodable};
use crate::error::{Error, Result};
use arrow_array::ArrayRef;
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        let (table, meta) = (name_of(&self.path), self.metadata.metadata().row_group(group));
        let end = first_row + meta.num_rows().max(0) as u64;
        let needed = sink.needs().map(|column| self.order[column]);
        for batch in self.batches(group, needed)? {
            if shared.stopped() {
                return Err(Error::Stopped);
            }
            let Picked { columns: picked, kept, rows } = batch?;
            let arrays: Vec<ArrayRef> =
                self.order.iter().map(|&place| Arc::clone(&picked[place])).collect();
            let (table, kept) = (&table, kept.as_deref());
            let batch = Batch { table, names: columns, columns: &arrays, first_row, kept };
            sink.passed_over(rows - batch.len());
            sink.batch(&batch)?;
            first_row += rows as u64;
        }
        // The decoder ends quietly at a damaged page header: rows would be missing.
        if first_row != end {
            return Err(self.damaged("fewer rows in a row group than its footer says"));
        }
        shared.advance(meta.compressed_size().max(0) as u64);
        Ok(())
    }

    /// The wanted columns of a row group, some rows at a time; rows without a value in the column
    /// `needed` are left out where all columns are plain numbers.
    fn batches(&self, group: usize, needed: Option<usize>) -> Result<Batches<'_>> {
        let file = File::open(&self.path).map_err(|error| io_error(&self.path, error))?;
        let file = Arc::new(file);
        let meta = self.metadata.metadata().row_group(group);
        let columns = self.places.iter().map(|&place| self.leaf(place));
        let pages = Pages::open(&file, meta, columns, needed, BATCH);
        if let Some(pages) = pages.map_err(|got| self.damaged(got))? {
            return Ok(Box::new(pages.map(|batch| batch.map_err(|got| self.damaged(got)))));
        }
        let schema = self.metadata.parquet_schema();
        let mask = ProjectionMask::roots(schema, self.places.iter().copied());
        let file = file.try_clone().map_err(|error| io_error(&self.path, error))?;
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(mask)
                .with_batch_size(BATCH)
                .build()
                .map_err(|error| self.damaged(error.to_string()))?;
        Ok(Box::new(reader.map(|batch| match batch {
            Ok(batch) => {
                let (columns, rows) = (batch.columns().to_vec(), batch.num_rows());
                Ok(Picked { columns, kept: None, rows })
            }
            Err(error) => Err(self.damaged(error.to_string())),
        })))
    }

    /// Where a column is among those that nested columns are made of, and its type.
    fn leaf(&self, place: usize) -> (usize, DataType) {
        let schema = self.metadata.parquet_schema();
        let leaf = (0..schema.num_columns()).find(|&at| schema.get_column_root_idx(at) == place);
        (leaf.unwrap_or(place), self.metadata.schema().field(place).data_type().clone())
    }

    fn damaged(&self, got: impl Into<String>) -> Error {
        damaged(&self.path, got)
    }
}

type Batches<'a> = Box<dyn Iterator<Item = Result<Picked>> + 'a>;
