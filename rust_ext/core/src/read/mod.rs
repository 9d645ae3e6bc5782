//! Tables from disk (csv, gzipped csv, Parquet) and Arrow streams: by named columns, in bounded memory.
//!
//! A table is cut into units of work (a gzip file, a stretch of a csv file, a row group), which as
//! many threads as asked for take in order. Each thread feeds a [`Sink`] of its own; sinks are merged
//! by whoever asked, so that the result cannot depend on which thread took what.

mod batch;
mod caught;
mod cells;
mod chunk;
mod cut;
pub mod delimited;
mod gzip;
mod hybrid;
#[cfg(feature = "isal")]
mod isal;
pub mod number;
mod pages;
mod parquet;
#[cfg(not(feature = "isal"))]
mod portable;
mod simd;
mod spans;
mod stream;
pub mod table;
mod text;
pub mod word;

use crate::error::{Error, Result};
pub use batch::{Batch, is_text};
use caught::caught;
use cut::{Cut, cut};
use delimited::Row;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
pub use stream::Stream;

/// A table: its files (in order) and the columns that are wanted of them.
#[derive(Debug, Clone)]
pub struct Table {
    /// The files; all have the wanted columns.
    pub files: Vec<PathBuf>,
    /// Names of the wanted columns.
    pub columns: Vec<String>,
}

/// Where rows come from.
pub enum Input {
    /// Files, which can be read again.
    Files(Table),
    /// A stream, which can be read once.
    Stream(Stream),
}

impl From<&Table> for Input {
    fn from(table: &Table) -> Self {
        Self::Files(table.clone())
    }
}

/// Takes the rows of a table.
pub trait Sink: Send {
    /// One row of text.
    ///
    /// # Errors
    /// For a row that must stop the reading.
    fn row(&mut self, row: Row<'_>) -> Result<()>;

    /// A batch of columns, in the order in which they were asked for.
    ///
    /// # Errors
    /// For a batch that must stop the reading.
    fn batch(&mut self, batch: &Batch<'_>) -> Result<()>;

    /// The column without which a row is of no use: where it is null, rows may be passed over.
    fn needs(&self) -> Option<usize> {
        None
    }

    /// Told how many rows were passed over.
    fn passed_over(&mut self, _rows: usize) {}
}

/// How much work may be done at once, and whom to tell.
pub struct Run<'a> {
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Bytes of text that are held and read at a time; no result depends on it.
    pub block: usize,
    /// Called now and then from the calling thread with (bytes done, bytes in all); `false` stops.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

/// Between the parts of a name (a code and its version, a lab and its unit).
pub const SEPARATOR: u8 = 0x1f;

/// What a part of a name has to be, and whether it is.
pub(crate) const NAME: &str = "text without U+001F or NUL";

pub(crate) fn is_name(text: &[u8]) -> bool {
    memchr::memchr2(SEPARATOR, 0, text).is_none()
}

/// Positions in a block are 32 bits wide, with room for a long row.
const MOST_BYTES: usize = 1 << 30;

/// A piece of a table that one thread reads.
enum Unit {
    Gzip(PathBuf),
    Text { file: usize, chunk: u64 },
    RowGroup { file: usize, group: usize, first_row: u64 },
}

/// What the threads share.
struct Shared {
    units: Vec<Unit>,
    texts: Vec<text::TextFile>,
    parquets: Vec<parquet::ParquetFile>,
    next: AtomicUsize,
    stop: AtomicBool,
    done: AtomicU64,
    block: usize,
}

/// What a thread keeps from unit to unit, so that memory is not asked for anew.
#[derive(Default)]
struct Scratch {
    marks: delimited::Marks,
    bytes: Vec<u8>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Leaves a unit unread, and lets go of who waits for its end.
    fn pass_over(&self, unit: &Unit) {
        if let Unit::Text { file, chunk } = unit {
            self.texts[*file].lose(*chunk);
        }
    }

    /// The error of a unit whose reader panicked; who waits for that unit's end is let go.
    fn give_up(&self, unit: &Unit, panic: &str) -> Error {
        let path = match unit {
            Unit::Gzip(path) => path,
            Unit::Text { file, chunk } => self.texts[*file].lose(*chunk),
            Unit::RowGroup { file, .. } => self.parquets[*file].path(),
        };
        undecodable(path, panic)
    }
}

/// Reads the whole of `input` into sinks made by `new`, one for each thread.
///
/// # Errors
/// The error of the earliest row that has one, [`Error::Stopped`] if `run.progress` said so.
pub fn scan<S: Sink>(
    input: impl Into<Input>,
    run: &mut Run<'_>,
    new: impl Fn() -> S + Sync,
) -> Result<Vec<S>> {
    match input.into() {
        Input::Files(table) => scan_files(&table, run, new),
        Input::Stream(stream) => stream.scan(run, new),
    }
}

fn scan_files<S: Sink>(
    table: &Table,
    run: &mut Run<'_>,
    new: impl Fn() -> S + Sync,
) -> Result<Vec<S>> {
    let block = run.block.clamp(64, MOST_BYTES);
    let Cut { units, texts, parquets, total } = cut(table, block as u64)?;
    let threads = run.threads.clamp(1, units.len().max(1));
    // A lone gzip file keeps a second thread busy with inflating it.
    let spare = run.threads > threads;
    let shared = Shared {
        units,
        texts,
        parquets,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        block,
    };
    let far = || (shared.done.load(Ordering::Relaxed), total);
    on_threads(threads, run.progress, &shared.stop, far, new, |sink| {
        work(&shared, table, spare, sink)
    })
}

/// Does `work` on each of `threads`, with a sink of its own; meanwhile tells how `far` it is.
fn on_threads<S: Sink>(
    threads: usize,
    progress: &mut dyn FnMut(u64, u64) -> bool,
    stop: &AtomicBool,
    far: impl Fn() -> (u64, u64),
    new: impl Fn() -> S + Sync,
    work: impl Fn(&mut S) -> std::result::Result<(), Failure> + Sync,
) -> Result<Vec<S>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (new, work, sender) = (&new, &work, sender.clone());
            scope.spawn(move || {
                let mut sink = new();
                let outcome = work(&mut sink);
                let _ = sender.send((outcome, sink));
            });
        }
        drop(sender);
        let (mut sinks, mut failure) = (Vec::with_capacity(threads), None);
        while sinks.len() < threads {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok((outcome, sink)) => {
                    sinks.push(sink);
                    failure = earlier(failure, outcome.err());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let (done, total) = far();
                    // Told to stop, it is not asked again: it might have forgotten why.
                    if !stop.load(Ordering::Relaxed) && !progress(done, total) {
                        stop.store(true, Ordering::Relaxed);
                        failure = earlier(failure, Some((0, Error::Stopped)));
                    }
                }
                // A thread panicked: so does the end of this scope.
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(sinks),
        }
    })
}

type Failure = (usize, Error);

fn earlier(a: Option<Failure>, b: Option<Failure>) -> Option<Failure> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Takes units until there are none. A failure carries its unit's number, so that the earliest can
/// be told from the others: whoever fails stops nobody before it.
fn work<S: Sink>(
    shared: &Shared,
    table: &Table,
    spare: bool,
    sink: &mut S,
) -> std::result::Result<(), Failure> {
    let mut scratch = Scratch::default();
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(unit) = shared.units.get(number) else { return Ok(()) };
        if shared.stopped() {
            shared.pass_over(unit);
            return Ok(());
        }
        let outcome = caught(|| match unit {
            Unit::Gzip(path) => {
                gzip::read(path, &table.columns, shared, spare, &mut scratch.marks, sink)
            }
            Unit::Text { file, chunk } => {
                shared.texts[*file].read(*chunk, shared, &mut scratch, sink)
            }
            Unit::RowGroup { file, group, first_row } => {
                shared.parquets[*file].read(&table.columns, *group, *first_row, shared, sink)
            }
        })
        .unwrap_or_else(|panic| Err(shared.give_up(unit, &panic)));
        if let Err(error) = outcome {
            // No further units; those before this one are already taken and will be finished.
            shared.next.store(usize::MAX / 2, Ordering::Relaxed);
            return Err((number, error));
        }
    }
}

/// The place of column `name`: the exact spelling first, else in any case (MIMIC-III writes capitals).
///
/// # Errors
/// [`Error::Column`] if there is none, [`Error::Twice`] if there are two.
pub fn find_column(table: &str, columns: &[String], name: &str) -> Result<usize> {
    let called = |same: fn(&str, &str) -> bool| {
        let mut places = (0..columns.len()).filter(move |&place| same(&columns[place], name));
        (places.next(), places.next())
    };
    let found = match called(|column, name| column == name) {
        (None, _) => called(str::eq_ignore_ascii_case),
        exact => exact,
    };
    let (table, column) = (table.to_owned(), name.to_owned());
    match found {
        (Some(place), None) => Ok(place),
        (Some(_), Some(_)) => Err(Error::Twice { table, column }),
        (None, _) => Err(Error::Column { table, column, got: columns.to_vec() }),
    }
}

/// The name by which messages call a file.
#[must_use]
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn io_error(path: &Path, source: std::io::Error) -> Error {
    Error::Io { table: path.display().to_string(), source }
}

fn damaged(path: &Path, got: impl Into<String>) -> Error {
    Error::Damaged { table: name_of(path), got: got.into() }
}

fn undecodable(path: &Path, panic: &str) -> Error {
    damaged(path, format!("bytes that cannot be decoded ({panic})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    /// A sink with a bug.
    struct Broken(Vec<u8>);

    impl Sink for Broken {
        fn row(&mut self, row: Row<'_>) -> Result<()> {
            self.0.truncate(self.0[row.number as usize] as usize);
            Ok(())
        }

        fn batch(&mut self, _: &Batch<'_>) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_in_any_thread_is_an_error() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let folder = Scratch::new(&std::env::temp_dir(), "panic")?;
        let text = format!("a,b\n{}", "1,2\n".repeat(200));
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text.as_bytes())?;
        for (name, bytes) in [("t.csv", text.into_bytes()), ("t.csv.gz", packed.finish()?)] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes)?;
            let table = Table { files: vec![path], columns: vec!["a".to_owned()] };
            for threads in 1..4 {
                let mut run = Run { threads, block: 64, progress: &mut |_, _| true };
                let outcome = scan(&table, &mut run, || Broken(vec![100; 100]));
                let got = outcome.err().and_then(|error| error.report().got).unwrap_or_default();
                assert!(got.contains("index out of bounds"), "{name}, {threads} threads: {got}");
            }
        }
        Ok(())
    }

    #[test]
    fn who_is_stopped_with_a_stretch_in_hand_lets_go_of_who_waits_for_it()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let folder = Scratch::new(&std::env::temp_dir(), "waiting")?;
        let path = folder.path().join("t.csv");
        std::fs::write(&path, format!("a,b\n{}", "1,2\n".repeat(250)))?;
        let table = Table { files: vec![path], columns: vec!["a".to_owned()] };
        let Cut { units, texts, parquets, .. } = cut(&table, 64)?;
        let (next, stop, done) = (AtomicUsize::new(1), AtomicBool::new(false), AtomicU64::new(0));
        let shared = Shared { units, texts, parquets, next, stop, done, block: 64 };
        std::thread::scope(|scope| {
            // It has stretch 1, and will wait for the end of stretch 0.
            let waiting = scope.spawn(|| work(&shared, &table, false, &mut Slow));
            while shared.next.load(Ordering::Relaxed) == 1 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            shared.stop.store(true, Ordering::Relaxed);
            shared.next.store(0, Ordering::Relaxed);
            assert!(work(&shared, &table, false, &mut Slow).is_ok());
            // Told to stop before it waited, it has nothing to wait for.
            assert!(matches!(waiting.join(), Ok(Err((1, Error::Stopped)) | Ok(()))));
        });
        Ok(())
    }

    /// A sink that takes its time, so that the reading is asked more than once whether to go on.
    struct Slow;

    impl Sink for Slow {
        fn row(&mut self, _: Row<'_>) -> Result<()> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        }

        fn batch(&mut self, _: &Batch<'_>) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_said_stop_is_not_asked_again() -> std::io::Result<()> {
        let folder = Scratch::new(&std::env::temp_dir(), "stop")?;
        let path = folder.path().join("t.csv");
        std::fs::write(&path, format!("a,b\n{}", "1,2\n".repeat(250)))?;
        let table = Table { files: vec![path], columns: vec!["a".to_owned()] };
        let mut asked = 0;
        let mut stop = |_, _| {
            asked += 1;
            false
        };
        let outcome =
            scan(&table, &mut Run { threads: 1, block: 1 << 20, progress: &mut stop }, || Slow);
        assert!(matches!(outcome, Err(Error::Stopped)));
        assert_eq!(asked, 1);
        Ok(())
    }
}
