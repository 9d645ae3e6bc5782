//! A table's files to units of work.

use super::{Table, Unit, damaged, io_error, name_of, parquet, text};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A table cut into units, the files that they are of, and bytes in all.
#[derive(Default)]
pub struct Cut {
    pub units: Vec<Unit>,
    pub texts: Vec<text::TextFile>,
    pub parquets: Vec<parquet::ParquetFile>,
    pub total: u64,
}

/// Cuts `table` into units; stretches of text have `block` bytes.
pub fn cut(table: &Table, block: u64) -> Result<Cut> {
    let mut cut = Cut::default();
    for path in &table.files {
        cut.total += std::fs::metadata(path).map_err(|error| io_error(path, error))?.len();
        match Format::of(path)? {
            Format::Gzip => cut.units.push(Unit::Gzip(path.clone())),
            Format::Parquet => {
                let file = parquet::ParquetFile::open(path, &table.columns)?;
                cut.units.extend(file.units(cut.parquets.len()));
                cut.parquets.push(file);
            }
            Format::Text => {
                let file = text::TextFile::open(path, &table.columns, block)?;
                let number = cut.texts.len();
                cut.units
                    .extend((0..file.chunks()).map(|chunk| Unit::Text { file: number, chunk }));
                cut.texts.push(file);
            }
        }
    }
    Ok(cut)
}

/// What a file holds, told by its first bytes rather than by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Gzip,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| io_error(path, error))?;
        let mut magic = Vec::with_capacity(4);
        file.by_ref().take(4).read_to_end(&mut magic).map_err(|error| io_error(path, error))?;
        let ends = |suffix: &str| path.to_string_lossy().to_ascii_lowercase().ends_with(suffix);
        match magic.as_slice() {
            [] => Err(Error::Empty { table: name_of(path) }),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            b"PAR1" => Ok(Self::Parquet),
            _ if ends(".gz") => Err(damaged(path, "bytes that are not gzip")),
            _ if ends(".parquet") => Err(damaged(path, "bytes that are not Parquet")),
            _ => Ok(Self::Text),
        }
    }
}
