//! What can go wrong with data, each said so that a person can act on it.

use std::io;

/// Everything that stops a reading. Rows that are merely unusable do not: they are counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("{table}: {source}")]
    Io {
        /// Name of the file.
        table: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A column that is needed is not in the header.
    #[error("{table}, column {column}: no such column")]
    Column {
        /// Name of the file.
        table: String,
        /// The column that was wanted.
        column: String,
        /// The columns that are there.
        got: Vec<String>,
    },
    /// A column that is needed is there more than once.
    #[error("{table}, column {column}: want this column once, got it twice")]
    Twice {
        /// Name of the file.
        table: String,
        /// The column that was wanted.
        column: String,
    },
    /// A cell does not hold what its column has to hold.
    #[error("{table}, column {column}, row {row}: want {want}, got {got:?}")]
    Value {
        /// Name of the file.
        table: String,
        /// Name of the column.
        column: String,
        /// Row, counted from 1 at the header.
        row: u64,
        /// What the column holds.
        want: &'static str,
        /// The cell, shortened.
        got: String,
    },
    /// A row with too many or too few fields.
    #[error("{table}, row {row}: want {want} fields, got {got}")]
    Fields {
        /// Name of the file.
        table: String,
        /// Row, counted from 1 at the header.
        row: u64,
        /// Fields in the header.
        want: usize,
        /// Fields in this row.
        got: usize,
    },
    /// A row longer than any real row.
    #[error("{table}, row {row}: want a row of at most {limit} bytes")]
    RowTooLong {
        /// Name of the file.
        table: String,
        /// Row, counted from 1 at the header.
        row: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A quoted field without its end.
    #[error(
        "{table}, row {row}: want a quote at the end of a field, got a quote that is never closed"
    )]
    OpenQuote {
        /// Name of the file.
        table: String,
        /// Row, counted from 1 at the header.
        row: u64,
    },
    /// A file that ends early, or whose bytes contradict its checksum or format.
    #[error("{table}: want a whole file, got {got}")]
    Damaged {
        /// Name of the file.
        table: String,
        /// What was found.
        got: String,
    },
    /// An Arrow stream whose maker fails.
    #[error("{table}: want a stream that can be read, got {got}")]
    Stream {
        /// Name of the stream.
        table: String,
        /// What its maker says.
        got: String,
    },
    /// A file without a header.
    #[error("{table}: want a header and rows, got an empty file")]
    Empty {
        /// Name of the file.
        table: String,
    },
    /// A column of a Parquet file or Arrow stream has a type that cannot be read as wanted.
    #[error("{table}, column {column}: want {want}, got {got}")]
    Type {
        /// Name of the file or stream.
        table: String,
        /// Name of the column.
        column: String,
        /// What can be read.
        want: &'static str,
        /// The type that is there.
        got: String,
    },
    /// More visits, codes or labs than the packed records can number.
    #[error("{table}: want at most {limit} different {what}, got more")]
    TooMany {
        /// Name of the file.
        table: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Arrays that contradict each other, from a caller or a damaged folder.
    #[error("{0}")]
    Shape(String),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The parts of an error, for a caller that shows them in its own way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the file.
    pub table: Option<String>,
    /// Name of the column.
    pub column: Option<String>,
    /// Row, counted from 1 at the header.
    pub row: Option<u64>,
    /// What was wanted.
    pub want: Option<String>,
    /// What was found.
    pub got: Option<String>,
}

impl Error {
    /// Says of a cell that it does not hold what it should; long cells are shortened.
    #[must_use]
    pub fn value(table: &str, column: &str, row: u64, want: &'static str, cell: &[u8]) -> Self {
        const SHOWN: usize = 40;
        let mut got = String::from_utf8_lossy(&cell[..cell.len().min(SHOWN)]).into_owned();
        if cell.len() > SHOWN {
            got.push('…');
        }
        Self::Value { table: table.into(), column: column.into(), row, want, got }
    }

    /// The same error with its row counted from `base` rows further up.
    #[must_use]
    pub fn shifted(mut self, base: u64) -> Self {
        if let Self::Value { row, .. }
        | Self::Fields { row, .. }
        | Self::RowTooLong { row, .. }
        | Self::OpenQuote { row, .. } = &mut self
        {
            *row += base;
        }
        self
    }

    /// Its parts.
    #[must_use]
    pub fn report(&self) -> Report {
        let some = |text: &str| Some(text.to_owned());
        match self {
            Self::Io { table, source } => Report {
                table: some(table),
                want: some("a file that can be read"),
                got: Some(source.to_string()),
                ..Report::default()
            },
            Self::Column { table, column, got } => Report {
                table: some(table),
                column: some(column),
                want: some("this column"),
                got: Some(shortened(&got.join(", "))),
                ..Report::default()
            },
            Self::Twice { table, column } => Report {
                table: some(table),
                column: some(column),
                want: some("this column once"),
                got: some("it twice"),
                ..Report::default()
            },
            Self::Value { table, column, row, want, got } => Report {
                table: some(table),
                column: some(column),
                row: Some(*row),
                want: some(want),
                got: Some(format!("{got:?}")),
            },
            Self::Fields { table, row, want, got } => Report {
                table: some(table),
                row: Some(*row),
                want: Some(format!("{want} fields")),
                got: Some(got.to_string()),
                ..Report::default()
            },
            Self::RowTooLong { table, row, limit } => Report {
                table: some(table),
                row: Some(*row),
                want: Some(format!("a row of at most {limit} bytes")),
                got: some("a longer one (is a quote left open?)"),
                ..Report::default()
            },
            Self::OpenQuote { table, row } => Report {
                table: some(table),
                row: Some(*row),
                want: some("a quote at the end of a field"),
                got: some("a quote that is never closed"),
                ..Report::default()
            },
            Self::Damaged { table, got } => Report {
                table: some(table),
                want: some("a whole file"),
                got: some(got),
                ..Report::default()
            },
            Self::Stream { table, got } => Report {
                table: some(table),
                want: some("a stream that can be read"),
                got: some(got),
                ..Report::default()
            },
            Self::Empty { table } => Report {
                table: some(table),
                want: some("a header and rows"),
                got: some("an empty file"),
                ..Report::default()
            },
            Self::Type { table, column, want, got } => Report {
                table: some(table),
                column: some(column),
                want: some(want),
                got: some(got),
                ..Report::default()
            },
            Self::TooMany { table, what, limit } => Report {
                table: some(table),
                want: Some(format!("at most {limit} different {what}")),
                got: some("more"),
                ..Report::default()
            },
            Self::Shape(text) => Report { got: some(text), ..Report::default() },
            Self::Stopped => Report { got: some("a request to stop"), ..Report::default() },
        }
    }
}

/// A list of names as a person can still read it: a damaged header may be megabytes long.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 500;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
