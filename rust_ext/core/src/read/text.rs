//! Plain text files, cut into stretches that threads read side by side.
//!
//! Where a row begins cannot be told from the middle of a file: a newline may stand inside quotes. So
//! a thread marks its stretch from a guess, then learns from the thread before it where that one's
//! last row ended, and marks again in the rare case that the guess was wrong. Only then are rows fed.

use super::delimited::{LONGEST_ROW, Layout, Marks};
use super::{Scratch, Shared, Sink, damaged, io_error, name_of};
use crate::error::{Error, Result};
use memchr::memchr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Read beyond a stretch for the end of its last row.
const MARGIN: u64 = 4 << 10;

/// A csv file whose header is known.
pub struct TextFile {
    path: PathBuf,
    layout: Layout,
    body: u64,
    length: u64,
    /// Bytes of a stretch.
    block: u64,
    /// Where each stretch's first row begins, as far as it is known yet.
    borders: Mutex<Vec<Option<Border>>>,
    known: Condvar,
}

#[derive(Clone, Copy)]
enum Border {
    Row {
        position: u64,
        number: u64,
    },
    /// The thread that should have found it failed.
    Lost,
}

impl TextFile {
    pub fn open(path: &Path, columns: &[String], block: u64) -> Result<Self> {
        let file = File::open(path).map_err(|error| io_error(path, error))?;
        let length = file.metadata().map_err(|error| io_error(path, error))?.len();
        let mut head = Vec::new();
        BufReader::new(file.take(LONGEST_ROW as u64))
            .read_until(b'\n', &mut head)
            .map_err(|error| io_error(path, error))?;
        let (header, body) = header_of(path, &mut head)?;
        let layout = Layout::of_header(&name_of(path), header, columns)?;
        let body = (body as u64).min(length);
        let mut borders = vec![None; (length - body).div_ceil(block) as usize + 1];
        borders[0] = Some(Border::Row { position: body, number: 2 });
        let (borders, known) = (Mutex::new(borders), Condvar::new());
        Ok(Self { path: path.to_owned(), layout, body, length, block, borders, known })
    }

    /// Number of stretches.
    pub fn chunks(&self) -> u64 {
        self.lock().len() as u64 - 1
    }

    /// Feeds the rows that begin in stretch `chunk`.
    pub fn read<S: Sink>(
        &self,
        chunk: u64,
        shared: &Shared,
        scratch: &mut Scratch,
        sink: &mut S,
    ) -> Result<()> {
        let Scratch { marks, bytes } = scratch;
        let room = std::mem::take(bytes);
        let marked =
            if shared.stopped() { Err(Error::Stopped) } else { self.mark(chunk, marks, room) };
        let border = match &marked {
            Ok(stretch) if stretch.broken.is_none() => Border::Row {
                position: stretch.start + stretch.whole as u64,
                number: stretch.number + marks.len() as u64,
            },
            _ => Border::Lost,
        };
        self.tell(chunk, border);
        let stretch = marked?;
        marks.feed(stretch.rows(), &self.layout, stretch.number, sink)?;
        if let Some(broken) = stretch.broken {
            return Err(broken.error(&self.path, stretch.number + marks.len() as u64));
        }
        *bytes = stretch.bytes;
        shared.advance(self.block);
        Ok(())
    }

    /// Says that the end of stretch `chunk` will not be known, and returns the file's path.
    pub fn lose(&self, chunk: u64) -> &Path {
        self.tell(chunk, Border::Lost);
        &self.path
    }

    fn tell(&self, chunk: u64, border: Border) {
        self.lock()[chunk as usize + 1].get_or_insert(border);
        self.known.notify_all();
    }

    fn mark(&self, chunk: u64, marks: &mut Marks, room: Vec<u8>) -> Result<Stretch> {
        let from = self.body + chunk * self.block;
        let to = (from + self.block).min(self.length);
        // The byte before the stretch tells whether a row begins with the stretch.
        let mut stretch = Stretch::open(&self.path, from - 1, to + MARGIN, self.length, room)?;
        let newline = memchr(b'\n', &stretch.bytes);
        stretch.start = newline.map_or(to, |place| from + place as u64);
        stretch.mark(to, marks)?;
        let Border::Row { position, number } = self.wait_for(chunk) else {
            return Err(Error::Stopped);
        };
        stretch.number = number;
        if stretch.start != position {
            stretch.start = position;
            stretch.mark(to, marks)?;
        }
        Ok(stretch)
    }

    fn wait_for(&self, chunk: u64) -> Border {
        let mut borders = self.lock();
        loop {
            if let Some(border) = borders[chunk as usize] {
                return border;
            }
            borders = self.known.wait(borders).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Border>>> {
        self.borders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The header (without its newline) and where the rows begin, in the first bytes of a table.
pub fn header_of<'a>(path: &Path, head: &'a mut Vec<u8>) -> Result<(&'a [u8], usize)> {
    if head.trim_ascii().is_empty() {
        return Err(Error::Empty { table: name_of(path) });
    }
    if memchr(b'\n', head).is_none() {
        if head.len() >= LONGEST_ROW {
            return Err(Broken::TooLong.error(path, 1));
        }
        head.push(b'\n');
    }
    let end = memchr(b'\n', head).unwrap_or(head.len());
    let header = &head[..end];
    Ok((header.strip_suffix(b"\r").unwrap_or(header), end + 1))
}

/// Why a row is not whole.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    /// A quote is open at the end of the file.
    OpenQuote,
    /// It is longer than any real row.
    TooLong,
}

impl Broken {
    /// The error that row `row` is not whole.
    pub fn error(self, path: &Path, row: u64) -> Error {
        let table = name_of(path);
        match self {
            Self::OpenQuote => Error::OpenQuote { table, row },
            Self::TooLong => Error::RowTooLong { table, row, limit: LONGEST_ROW },
        }
    }
}

/// A stretch of a file that is being marked.
struct Stretch {
    file: File,
    path: PathBuf,
    length: u64,
    /// Position of `bytes` in the file.
    base: u64,
    bytes: Vec<u8>,
    /// Position and number of the first row, and bytes of the rows that begin in the stretch.
    start: u64,
    number: u64,
    whole: usize,
    /// What is wrong with the row behind them. From a wrong guess of the start it says nothing.
    broken: Option<Broken>,
}

impl Stretch {
    /// Reads into `bytes`, whatever they were before.
    fn open(path: &Path, base: u64, to: u64, length: u64, mut bytes: Vec<u8>) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| io_error(path, error))?;
        file.seek(SeekFrom::Start(base)).map_err(|error| io_error(path, error))?;
        bytes.clear();
        bytes.reserve((to - base) as usize + 1);
        let path = path.to_owned();
        let (start, number, whole, broken) = (0, 0, 0, None);
        let mut stretch = Self { file, path, length, base, bytes, start, number, whole, broken };
        stretch.extend_to(to)?;
        Ok(stretch)
    }

    fn rows(&self) -> &[u8] {
        let start = (self.start - self.base) as usize;
        &self.bytes[start.min(self.bytes.len())..][..self.whole]
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Marks the rows that begin at or after `start` and before `to`, reading on until they are whole.
    fn mark(&mut self, to: u64, marks: &mut Marks) -> Result<()> {
        (self.whole, self.broken) = (0, None);
        marks.clear();
        if self.start >= to {
            return Ok(());
        }
        let (skipped, limit) = ((self.start - self.base) as usize, (to - self.start) as usize);
        loop {
            let found = marks.find(&self.bytes[skipped..]);
            if let Some(whole) = marks.keep_rows_before(limit) {
                self.whole = whole;
                return Ok(());
            }
            if self.end() >= self.length {
                self.broken = Some(Broken::OpenQuote);
            } else if self.bytes.len() - skipped > LONGEST_ROW + limit {
                self.broken = Some(Broken::TooLong);
            }
            if self.broken.is_some() {
                self.whole = found;
                return Ok(());
            }
            self.extend_to(self.end() + self.bytes.len() as u64)?;
        }
    }

    fn extend_to(&mut self, to: u64) -> Result<()> {
        let wanted = to.min(self.length).saturating_sub(self.end());
        let got = self.file.by_ref().take(wanted).read_to_end(&mut self.bytes);
        let got = got.map_err(|error| io_error(&self.path, error))? as u64;
        if got < wanted {
            return Err(damaged(&self.path, "fewer bytes than its size (is it being written?)"));
        }
        if self.end() == self.length && self.bytes.last().is_some_and(|&byte| byte != b'\n') {
            self.bytes.push(b'\n');
        }
        Ok(())
    }
}
