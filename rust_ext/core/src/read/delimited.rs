//! Delimited text (RFC 4180): where fields and rows end, found 64 bytes at a time.
//!
//! A quote opens a field only at its start; anywhere else it is a character like any other, so that a
//! stray one (`5" tube`) cannot swallow the rows behind it.

use crate::error::{Error, Result};
use memchr::memchr;
use std::borrow::Cow;

use super::simd::{RowEnd, mark};
use super::spans::{Picks, RowMarks, Work, run};
use super::word::Word;
use super::{NAME, Sink, find_column, is_name};

/// A longer row is refused: real ones have some hundred bytes, and an open quote eats the file.
pub const LONGEST_ROW: usize = 16 << 20;

/// Where every field and row of a stretch of text ends.
#[derive(Debug, Default)]
pub struct Marks {
    /// A bit for every comma and newline outside quotes.
    separators: Vec<u64>,
    rows: Vec<RowEnd>,
}

impl Marks {
    /// Finds the marks of `text`, which begins at the start of a row, and returns how many of its
    /// bytes are whole rows.
    pub fn find(&mut self, text: &[u8]) -> usize {
        mark(text, &mut self.separators, &mut self.rows);
        self.rows.last().map_or(0, |end| end.position as usize + 1)
    }

    /// Forgets all marks.
    pub fn clear(&mut self) {
        self.separators.clear();
        self.rows.clear();
    }

    /// Drops the rows that begin at or after `limit`, and returns how many bytes the others have;
    /// `None` if the last of them is not whole.
    pub fn keep_rows_before(&mut self, limit: usize) -> Option<usize> {
        let last = self.rows.partition_point(|end| (end.position as usize) < limit - 1);
        let end = *self.rows.get(last)?;
        self.rows.truncate(last + 1);
        Some(end.position as usize + 1)
    }

    /// Number of whole rows, blank ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no whole row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first row that is longer than any real one. Short texts, which are nearly all, have none.
    fn first_too_long(&self, text: &[u8]) -> Option<usize> {
        let mut start = 0;
        (text.len() > LONGEST_ROW).then_some(())?;
        self.rows.iter().position(|end| {
            let length = end.position as usize - start;
            start = end.position as usize + 1;
            length > LONGEST_ROW
        })
    }

    /// Feeds every row that is not blank to `sink`. `first` is the number of the first row.
    ///
    /// # Errors
    /// [`Error::Fields`] for a row of another width than the header's, [`Error::RowTooLong`], and
    /// whatever the sink returns.
    pub fn feed<S: Sink>(
        &self,
        text: &[u8],
        layout: &Layout,
        first: u64,
        sink: &mut S,
    ) -> Result<()> {
        run(Feeding { marks: self, text, layout, first, sink })
    }
}

struct Feeding<'a, S> {
    marks: &'a Marks,
    text: &'a [u8],
    layout: &'a Layout,
    first: u64,
    sink: &'a mut S,
}

impl<S: Sink> Work for Feeding<'_, S> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(self, picks: Picks) -> Result<()> {
        let Self { marks, text, layout, first, sink } = self;
        let too_long = marks.first_too_long(text);
        let (mut last, mut number) = (RowEnd::BEFORE, first);
        for &end in &marks.rows[..too_long.unwrap_or(marks.rows.len())] {
            let start = last.position.wrapping_add(1);
            if (end.separators - last.separators) as usize == layout.width {
                let marks = RowMarks::new(&marks.separators, start, picks);
                sink.row(Row { text, marks, number, layout })?;
            } else {
                check_blank(text, last, end, number, layout)?;
            }
            (last, number) = (end, number + 1);
        }
        if too_long.is_some() {
            let (table, row) = (layout.table.clone(), number);
            return Err(Error::RowTooLong { table, row, limit: LONGEST_ROW });
        }
        Ok(())
    }
}

/// An error unless the row from `last` to `end`, which is not as wide as the header, is blank.
#[cold]
fn check_blank(text: &[u8], last: RowEnd, end: RowEnd, row: u64, layout: &Layout) -> Result<()> {
    let start = last.position.wrapping_add(1) as usize;
    if text[start..end.position as usize].trim_ascii().is_empty() {
        return Ok(());
    }
    let got = (end.separators - last.separators) as usize;
    Err(Error::Fields { table: layout.table.clone(), row, want: layout.width, got })
}

/// The header of a file, and which of its columns are wanted.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Name of the file, for messages.
    pub table: String,
    /// Number of columns in the file.
    pub width: usize,
    /// Names of the wanted columns.
    pub names: Vec<String>,
    /// Their places in the file.
    pub places: Vec<usize>,
}

impl Layout {
    /// Finds the columns `names` in the header row `header` (without its newline).
    ///
    /// # Errors
    /// [`Error::Column`] naming the first that is missing.
    pub fn of_header(table: &str, header: &[u8], names: &[String]) -> Result<Self> {
        let header = header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header);
        let columns = fields_of(header);
        let places = names
            .iter()
            .map(|name| find_column(table, &columns, name))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { table: table.to_owned(), width: columns.len(), names: names.to_vec(), places })
    }
}

/// The fields of a header row without its newline.
fn fields_of(header: &[u8]) -> Vec<String> {
    let mut line = header.to_vec();
    line.push(b'\n');
    let mut marks = Marks::default();
    marks.find(&line);
    let width = marks.rows.first().map_or(0, |end| end.separators as usize);
    let row = RowMarks::new(&marks.separators, 0, Picks::NO);
    let field = |place: usize| {
        let (from, to) = row.span(place);
        let text = unquoted(trim_return(&line[from..to]));
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    (0..width).map(field).collect()
}

/// One row; its fields are numbered as the wanted columns are.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    text: &'a [u8],
    marks: RowMarks<'a>,
    /// Row number, counted from 1 at the header.
    pub number: u64,
    /// The file's layout.
    pub layout: &'a Layout,
}

impl<'a> Row<'a> {
    /// Where wanted column `column` begins and ends, without quotes around it.
    #[inline(always)]
    fn span(&self, column: usize) -> (usize, usize) {
        let place = self.layout.places[column];
        let (mut from, mut to) = self.marks.span(place);
        if place + 1 == self.layout.width && self.text[from..to].ends_with(b"\r") {
            to -= 1;
        }
        if let [b'"', .., b'"'] = self.text[from..to] {
            (from, to) = (from + 1, to - 1);
        }
        (from, to)
    }

    /// The bytes of wanted column `column`, without quotes around them.
    #[inline(always)]
    #[must_use]
    pub fn field(&self, column: usize) -> &'a [u8] {
        let (from, to) = self.span(column);
        &self.text[from..to]
    }

    /// The same as a word; `None` if it is too long for one.
    #[inline(always)]
    #[must_use]
    pub fn word(&self, column: usize) -> Option<Word> {
        let place = self.layout.places[column];
        let (from, to) = self.marks.span(place);
        // A carriage return may stand behind the last field, and quotes around any.
        let inner = place + 1 < self.layout.width;
        match Word::of(self.text, from, to) {
            Some(word) if inner && !word.is_quoted() => Some(word),
            None if inner && self.text[from] != b'"' => None,
            _ => self.bare_word(column),
        }
    }

    #[cold]
    fn bare_word(&self, column: usize) -> Option<Word> {
        let (from, to) = self.span(column);
        Word::of(self.text, from, to)
    }

    /// The same as text, with doubled quotes undone.
    ///
    /// # Errors
    /// [`Error::Value`] if it is not UTF-8, or holds a NUL.
    #[inline]
    pub fn text(&self, column: usize) -> Result<Cow<'a, str>> {
        let field = self.field(column);
        let plain = match memchr(b'"', field) {
            None => Cow::Borrowed(field),
            Some(_) => undoubled(field),
        };
        let checked = match plain {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
        };
        checked.filter(|text| !text.contains('\0')).ok_or_else(|| self.wrong(column, "UTF-8 text"))
    }

    /// The field of `column` as a part of a name.
    ///
    /// # Errors
    /// [`Error::Value`] if it is no text, or holds what parts are separated by.
    #[inline]
    pub fn name(&self, column: usize) -> Result<Cow<'a, str>> {
        let text = self.text(column)?;
        if is_name(text.as_bytes()) { Ok(text) } else { Err(self.wrong(column, NAME)) }
    }

    /// The error that the field of `column` is not `want`.
    #[cold]
    #[must_use]
    pub fn wrong(&self, column: usize, want: &'static str) -> Error {
        let name = &self.layout.names[column];
        Error::value(&self.layout.table, name, self.number, want, self.field(column))
    }
}

fn trim_return(field: &[u8]) -> &[u8] {
    field.strip_suffix(b"\r").unwrap_or(field)
}

fn unquoted(field: &[u8]) -> Cow<'_, [u8]> {
    match field {
        [b'"', inner @ .., b'"'] => undoubled(inner),
        _ => Cow::Borrowed(field),
    }
}

fn undoubled(field: &[u8]) -> Cow<'_, [u8]> {
    let mut plain = Vec::with_capacity(field.len());
    let mut after_quote = false;
    for &byte in field {
        after_quote = byte == b'"' && !after_quote;
        if byte != b'"' || after_quote {
            plain.push(byte);
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Batch;
    use proptest::prelude::*;

    /// The same by a plain state machine over characters.
    fn oracle(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
        let (mut quoted, mut chars) = (false, text.chars().peekable());
        let mut start = true;
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    field.push('"');
                    chars.next();
                }
                '"' if quoted => quoted = false,
                '"' if start => quoted = true,
                ',' if !quoted => row.push(std::mem::take(&mut field)),
                '\n' if !quoted => {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                c => field.push(c),
            }
            start = matches!(c, ',' | '\n') && !quoted;
        }
        rows
    }

    /// Keeps all that it is fed.
    #[derive(Default)]
    struct Kept(Vec<Vec<String>>);

    impl Sink for Kept {
        fn row(&mut self, row: Row<'_>) -> Result<()> {
            let columns = 0..row.layout.width;
            for (word, field) in columns.clone().map(|c| (row.word(c), row.field(c))) {
                assert_eq!(word, Word::of(field, 0, field.len()), "{field:?}");
            }
            self.0.push(columns.map(|c| row.text(c).map(Cow::into_owned)).collect::<Result<_>>()?);
            Ok(())
        }

        fn batch(&mut self, _: &Batch<'_>) -> Result<()> {
            Ok(())
        }
    }

    fn rows_of(text: &str, width: usize) -> Result<Vec<Vec<String>>> {
        let names: Vec<String> = (0..width).map(|place| format!("c{place}")).collect();
        let layout = Layout::of_header("t", names.join(",").as_bytes(), &names)?;
        let mut marks = Marks::default();
        marks.find(text.as_bytes());
        let mut kept = Kept::default();
        marks.feed(text.as_bytes(), &layout, 2, &mut kept)?;
        Ok(kept.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn equals_the_oracle(rows in prop::collection::vec(
            prop::collection::vec((any::<bool>(), "[a-c,\"\n]{0,40}"), 3), 1..40)) {
            let mut text = String::new();
            for row in &rows {
                let fields: Vec<String> = row.iter().map(|(quote, field)| {
                    if *quote || field.contains([',', '"', '\n']) || field.is_empty() {
                        format!("\"{}\"", field.replace('"', "\"\""))
                    } else {
                        field.clone()
                    }
                }).collect();
                text.push_str(&fields.join(","));
                text.push('\n');
            }
            let got = rows_of(&text, 3).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(&got, &oracle(&text));
            prop_assert_eq!(got.len(), rows.len());
        }
    }

    #[test]
    fn a_stray_quote_is_a_character() {
        let rows = rows_of("5\" tube,b\nc,\"d\"\n", 2).map_err(|e| e.to_string());
        assert_eq!(
            rows,
            Ok(vec![vec!["5\" tube".into(), "b".into()], vec!["c".into(), "d".into()]])
        );
    }

    #[test]
    fn carriage_returns_and_blank_lines_are_passed_over() {
        let rows = rows_of("a,\"12345678\"\r\n\r\n\nc,d\r\n", 2).map_err(|e| e.to_string());
        let ours = vec![vec!["a".into(), "12345678".into()], vec!["c".into(), "d".into()]];
        assert_eq!(rows, Ok(ours));
    }

    #[test]
    fn a_row_of_another_width_is_named() {
        for (text, row, got) in [("a,b\nc\n", 3, 1), ("a,b,c\n", 2, 3), ("a,b\n\nc,d,\n", 4, 3)] {
            let outcome = rows_of(text, 2).map_err(|error| error.report());
            let report = outcome.err().unwrap_or_default();
            assert_eq!((report.row, report.got), (Some(row), Some(got.to_string())));
        }
    }

    #[test]
    fn columns_are_found_in_any_order_and_case() {
        let names = ["b".to_owned(), "A".to_owned()];
        let layout = Layout::of_header("t", b"\xef\xbb\xbf\"a\",x,b\r", &names);
        assert_eq!(layout.map(|l| l.places).ok(), Some(vec![2, 0]));
        let missing = Layout::of_header("t", b"a,b", &["z".to_owned()]);
        assert!(matches!(missing, Err(Error::Column { column, .. }) if column == "z"));
    }
}
