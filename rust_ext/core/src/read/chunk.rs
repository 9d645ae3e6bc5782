//! One column of a row group, decoded page by page into an Arrow array.

use super::cells::{Cells, Plain, Values, ones_of, stretches};
use super::hybrid::{Hybrid, Run};
use arrow_array::{ArrayRef, PrimitiveArray};
use bytes::{Buf, Bytes};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, SerializedPageReader};
use std::ops::Range;
use std::sync::Arc;

/// What is said of a page that does not hold what its header promises.
pub const DAMAGED: &str = "a page with fewer or other values than it should have";

/// The error is what is wrong with a page.
pub type Result<T> = std::result::Result<T, String>;

/// The numbers of a column, row after row.
pub trait Column {
    /// The next `rows` rows.
    fn next(&mut self, rows: usize) -> Result<ArrayRef>;

    /// The numbers of the next `rows` rows that have one, and which of them do.
    fn known(&mut self, rows: usize) -> Result<(ArrayRef, Vec<Range<usize>>)>;

    /// Those of the next `rows` rows that are `kept`, which are ascending stretches.
    fn pick(&mut self, kept: &[Range<usize>], rows: usize) -> Result<ArrayRef>;

    /// An error unless all rows were read.
    fn end(&mut self) -> Result<()>;
}

/// Opens a column; `None` if it is not of the `physical` type, or its levels are of an old kind.
pub fn open<T: Plain, R: ChunkReader + 'static>(
    file: &Arc<R>,
    chunk: &ColumnChunkMetaData,
    physical: Type,
    rows: usize,
) -> Result<Option<Box<dyn Column>>> {
    if chunk.column_type() != physical {
        return Ok(None);
    }
    let pages = SerializedPageReader::new(Arc::clone(file), chunk, rows, None)
        .map_err(|error| error.to_string())?;
    let optional = chunk.column_descr().max_def_level() == 1;
    let mut chunk = Chunk::<T, R> { pages, optional, dictionary: Vec::new(), page: None };
    match chunk.turn()? {
        Turned::OldLevels => return Ok(None),
        Turned::Rows(rows) => chunk.page = Some(rows),
        Turned::End => {}
    }
    Ok(Some(Box::new(chunk)))
}

struct Chunk<T: Plain, R: ChunkReader> {
    pages: SerializedPageReader<R>,
    optional: bool,
    dictionary: Vec<T::Native>,
    page: Option<Rows>,
}

impl<T: Plain, R: ChunkReader> Column for Chunk<T, R> {
    fn next(&mut self, rows: usize) -> Result<ArrayRef> {
        let mut into = Cells::<T>::new(rows, self.optional);
        self.take(rows, &mut into)?;
        Ok(into.finish())
    }

    fn known(&mut self, rows: usize) -> Result<(ArrayRef, Vec<Range<usize>>)> {
        let (mut values, mut known, mut at) = (Vec::with_capacity(rows), Vec::new(), 0);
        self.walk(rows, |page, dictionary, rows| {
            page.walk(rows, |source, run| {
                let (ones, length) = ones_of(run)?;
                stretches(run, at, &mut known);
                at += length;
                source.take::<T>(ones, dictionary, &mut values)
            })
        })?;
        Ok((Arc::new(PrimitiveArray::<T>::new(values.into(), None)), known))
    }

    fn pick(&mut self, kept: &[Range<usize>], rows: usize) -> Result<ArrayRef> {
        let count = kept.iter().map(|rows| rows.len()).sum();
        let mut into = Cells::<T>::new(count, self.optional);
        let mut at = 0;
        for stretch in kept {
            self.pass_over(stretch.start - at)?;
            self.take(stretch.len(), &mut into)?;
            at = stretch.end;
        }
        self.pass_over(rows - at)?;
        Ok(into.finish())
    }

    fn end(&mut self) -> Result<()> {
        let over = self.page.as_ref().is_none_or(|page| page.left == 0)
            && matches!(self.turn()?, Turned::End);
        if over { Ok(()) } else { Err("more rows in a column than its footer says".to_owned()) }
    }
}

impl<T: Plain, R: ChunkReader> Chunk<T, R> {
    /// The next page with rows; a dictionary on the way is kept.
    fn turn(&mut self) -> Result<Turned> {
        loop {
            match self.pages.get_next_page().map_err(|error| error.to_string())? {
                None => return Ok(Turned::End),
                Some(page) if self.optional && has_old_levels(&page) => {
                    return Ok(Turned::OldLevels);
                }
                Some(Page::DictionaryPage { buf, num_values, .. }) => {
                    self.dictionary.clear();
                    T::extend(&mut self.dictionary, &buf);
                    if self.dictionary.len() != num_values as usize {
                        return Err(DAMAGED.to_owned());
                    }
                }
                Some(page) => {
                    let rows = Rows::of(page, self.optional).ok_or(DAMAGED)?;
                    if rows.left > 0 {
                        return Ok(Turned::Rows(rows));
                    }
                }
            }
        }
    }

    /// Does `work` on the next `rows` rows, a page's at a time.
    fn walk(
        &mut self,
        rows: usize,
        mut work: impl FnMut(&mut Rows, &[T::Native], usize) -> Option<()>,
    ) -> Result<()> {
        let mut left = rows;
        while left > 0 {
            if self.page.as_ref().is_none_or(|page| page.left == 0) {
                self.page = match self.turn()? {
                    Turned::Rows(rows) => Some(rows),
                    Turned::End => return Err("fewer rows in a column than its footer says".into()),
                    Turned::OldLevels => return Err("levels of two kinds in a column".into()),
                };
            }
            let Some(page) = &mut self.page else { return Err(DAMAGED.to_owned()) };
            let rows = page.left.min(left);
            (page.left, left) = (page.left - rows, left - rows);
            work(page, &self.dictionary, rows).ok_or(DAMAGED)?;
        }
        Ok(())
    }

    fn take(&mut self, rows: usize, into: &mut Cells<T>) -> Result<()> {
        self.walk(rows, |page, dictionary, rows| {
            page.walk(rows, |source, run| into.take(source, run, dictionary))
        })
    }

    fn pass_over(&mut self, rows: usize) -> Result<()> {
        self.walk(rows, |page, _, rows| {
            page.walk(rows, |source, run| source.pass_over::<T>(ones_of(run)?.0))
        })
    }
}

/// What the next page turned out to be.
enum Turned {
    Rows(Rows),
    /// One whose levels are packed as they were before 2013.
    OldLevels,
    End,
}

fn has_old_levels(page: &Page) -> bool {
    matches!(page, Page::DataPage { def_level_encoding, .. } if *def_level_encoding != Encoding::RLE)
}

/// What is left of a page.
struct Rows {
    left: usize,
    /// Whether each row has a value; `None` if all have.
    levels: Option<Hybrid>,
    values: Values,
}

impl Rows {
    fn of(page: Page, optional: bool) -> Option<Self> {
        let (left, encoding) = (page.num_values() as usize, page.encoding());
        let (levels, mut values) = match page {
            Page::DataPage { mut buf, .. } if optional => {
                let length = buf.try_get_u32_le().ok()? as usize;
                let levels = (length <= buf.len()).then(|| buf.split_to(length))?;
                (levels, buf)
            }
            Page::DataPageV2 { mut buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let start = rep_levels_byte_len as usize;
                let end = start.checked_add(def_levels_byte_len as usize)?;
                let levels = (end <= buf.len()).then(|| buf.split_to(end))?;
                (levels.slice(start..), buf)
            }
            page => (Bytes::new(), page.buffer().clone()),
        };
        let levels = if optional { Some(Hybrid::new(levels, 1)?) } else { None };
        let values = match encoding {
            Encoding::PLAIN => Values::Plain(values),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                // A page of nulls only may have no byte at all.
                let width = values.try_get_u8().unwrap_or(0);
                Values::Coded(Hybrid::new(values, width.into())?)
            }
            _ => return None,
        };
        Some(Self { left, levels, values })
    }

    /// Does `work` on the next `rows` rows, which have a value where a run has a one.
    #[inline(always)]
    fn walk(
        &mut self,
        rows: usize,
        mut work: impl FnMut(&mut Values, Run<'_>) -> Option<()>,
    ) -> Option<()> {
        let Some(levels) = &mut self.levels else {
            return work(&mut self.values, Run::Same(1, rows));
        };
        let mut left = rows;
        while left > 0 {
            let run = levels.next(left)?;
            left -= run.length();
            work(&mut self.values, run)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No writer of today makes such pages.
    #[test]
    fn levels_of_old_are_known_by_their_name() {
        #[expect(deprecated, reason = "to know it where it is met")]
        let kinds = [(Encoding::RLE, false), (Encoding::BIT_PACKED, true)];
        for (def_level_encoding, old) in kinds {
            let page = Page::DataPage {
                buf: Bytes::new(),
                num_values: 1,
                encoding: Encoding::PLAIN,
                def_level_encoding,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            assert_eq!(has_old_levels(&page), old);
        }
    }
}
