//! Gzipped text: inflated on a thread of its own when there is one to spare.

use super::delimited::{LONGEST_ROW, Layout, Marks};
#[cfg(feature = "isal")]
use super::isal::{Checks, End, Inflater};
#[cfg(not(feature = "isal"))]
use super::portable::{Checks, End, Inflater};
use super::text::{Broken, header_of};
use super::{Shared, Sink, damaged, io_error, name_of};
use crate::error::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Room before each block for the row that the block before it broke off.
const ROOM: usize = 16 << 10;
const BLOCKS_AHEAD: usize = 4;

/// Feeds all rows of a gzip file.
pub fn read<S: Sink>(
    path: &Path,
    columns: &[String],
    shared: &Shared,
    spare: bool,
    marks: &mut Marks,
    sink: &mut S,
) -> Result<()> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    let mut inflater = Inflater::new(Counted { file, shared });
    let mut rows = Rows::new(path, columns);
    if !spare {
        let mut block = Block::default();
        while block.fill(&mut inflater, shared.block, path)? {
            rows.take(&mut block, marks, sink)?;
        }
        return rows.finish(marks, sink);
    }
    std::thread::scope(|scope| {
        let (full, filled) = bounded::<Result<Block>>(BLOCKS_AHEAD);
        let (give_back, empty) = bounded::<Block>(BLOCKS_AHEAD + 1);
        scope.spawn(move || inflate(&mut inflater, path, shared.block, &full, &empty));
        for block in filled {
            let mut block = block?;
            rows.take(&mut block, marks, sink)?;
            let _ = give_back.try_send(block);
        }
        rows.finish(marks, sink)
    })
}

/// Sends blocks until the end, an error, or until nobody listens.
fn inflate(
    source: &mut Inflater<impl Read>,
    path: &Path,
    size: usize,
    full: &Sender<Result<Block>>,
    empty: &Receiver<Block>,
) {
    loop {
        let mut block = empty.try_recv().unwrap_or_default();
        let message = match block.fill(source, size, path) {
            Ok(false) => return,
            Ok(true) => Ok(block),
            Err(error) => Err(error),
        };
        let last = message.is_err();
        if full.send(message).is_err() || last {
            return;
        }
    }
}

/// Inflated text behind some free room, and the members that end in it.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    ends: Vec<End>,
}

impl Block {
    /// False at the end of the stream.
    fn fill(&mut self, source: &mut Inflater<impl Read>, size: usize, path: &Path) -> Result<bool> {
        self.ends.clear();
        self.bytes.resize(ROOM + size, 0);
        let filled = source.fill(&mut self.bytes[ROOM..], &mut self.ends);
        let length = filled.map_err(|error| gzip_error(path, error))?;
        self.bytes.truncate(ROOM + length);
        Ok(length > 0 || !self.ends.is_empty())
    }
}

fn gzip_error(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, "a gzip stream that ends early"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            damaged(path, format!("a damaged gzip stream ({error})"))
        }
        io::ErrorKind::Other if error.to_string() == STOP => Error::Stopped,
        _ => io_error(path, error),
    }
}

const STOP: &str = "equipoise: stop";

/// The compressed file; counts what was read of it and breaks off when all should stop.
struct Counted<'a> {
    file: File,
    shared: &'a Shared,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shared.stopped() {
            return Err(io::Error::other(STOP));
        }
        let read = self.file.read(buffer)?;
        self.shared.advance(read as u64);
        Ok(read)
    }
}

/// Cuts a stream of blocks into rows.
struct Rows<'a> {
    path: &'a Path,
    columns: &'a [String],
    layout: Option<Layout>,
    checks: Checks,
    /// The row that the last block broke off.
    rest: Vec<u8>,
    next_row: u64,
}

impl<'a> Rows<'a> {
    fn new(path: &'a Path, columns: &'a [String]) -> Self {
        let checks = Checks::default();
        Self { path, columns, layout: None, checks, rest: Vec::new(), next_row: 1 }
    }

    /// Checks the text of a block and feeds its whole rows.
    fn take<S: Sink>(&mut self, block: &mut Block, marks: &mut Marks, sink: &mut S) -> Result<()> {
        let checked = self.checks.take(&block.bytes[ROOM..], &block.ends);
        checked.map_err(|error| gzip_error(self.path, error))?;
        self.feed(&mut block.bytes, marks, sink)
    }

    /// Feeds the whole rows of `block`, whose first `ROOM` bytes are free.
    fn feed<S: Sink>(
        &mut self,
        block: &mut Vec<u8>,
        marks: &mut Marks,
        sink: &mut S,
    ) -> Result<()> {
        let start = if self.rest.len() <= ROOM {
            let start = ROOM - self.rest.len();
            block[start..ROOM].copy_from_slice(&self.rest);
            start
        } else {
            block.splice(..ROOM, self.rest.iter().copied());
            0
        };
        let mut text = &block[start..];
        if self.layout.is_none() {
            if memchr::memchr(b'\n', text).is_none() && text.len() <= LONGEST_ROW {
                self.rest = text.to_vec();
                return Ok(());
            }
            text = &text[self.take_header(text)?..];
        }
        let Some(layout) = &self.layout else { return Ok(()) };
        let whole = marks.find(text);
        marks.feed(&text[..whole], layout, self.next_row, sink)?;
        self.next_row += marks.len() as u64;
        self.rest.clear();
        self.rest.extend_from_slice(&text[whole..]);
        if self.rest.len() > LONGEST_ROW {
            return Err(Broken::TooLong.error(self.path, self.next_row));
        }
        Ok(())
    }

    fn take_header(&mut self, text: &[u8]) -> Result<usize> {
        let end = memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1);
        let mut head = text[..end].to_vec();
        let (header, body) = header_of(self.path, &mut head)?;
        self.layout = Some(Layout::of_header(&name_of(self.path), header, self.columns)?);
        self.next_row = 2;
        Ok(body.min(text.len()))
    }

    /// Feeds a last row that has no newline.
    fn finish<S: Sink>(&mut self, marks: &mut Marks, sink: &mut S) -> Result<()> {
        if self.layout.is_none() && self.rest.trim_ascii().is_empty() {
            return Err(Error::Empty { table: name_of(self.path) });
        }
        if self.rest.is_empty() {
            return Ok(());
        }
        let mut block = vec![0; ROOM];
        block.push(b'\n');
        self.feed(&mut block, marks, sink)?;
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Broken::OpenQuote.error(self.path, self.next_row))
        }
    }
}
