//! Ids that are words, and the numbers that stand for them.

use crate::error::{Error, Result};
use crate::keys::TextKeys;
use crate::read::{Batch, is_text};
use arrow_array::{Array, Int64Array};

/// The number of a word that is no id: no visit and no subject has it.
const NOBODY: i64 = i64::MIN;

/// For every id as it is written the number that stands for it.
#[derive(Debug, Default)]
pub struct Words {
    keys: TextKeys,
    numbers: Vec<i64>,
}

impl Words {
    /// The words and numbers that stand in the first two columns of some batches.
    ///
    /// # Errors
    /// [`Error::Type`] for other columns, [`Error::Shape`] for a word that stands there twice.
    pub fn new<'a>(batches: impl IntoIterator<Item = Batch<'a>>) -> Result<Self> {
        let mut words = Self::default();
        for batch in batches {
            for (word, &number) in batch.texts(0)?.iter().zip(batch.ids(1)?.values()) {
                if words.keys.number(word.unwrap_or_default().as_bytes()) as usize
                    != words.numbers.len()
                {
                    return Err(Error::Shape("an id stands for two numbers".into()));
                }
                words.numbers.push(number);
            }
        }
        Ok(words)
    }

    /// The number of a word; none for blanks, and for the NaN that pandas leaves where nothing is.
    pub(super) fn number(&self, word: &str) -> Option<i64> {
        let word = as_whole(word.trim());
        let known = || self.keys.find(word.as_bytes()).map(|key| self.numbers[key as usize]);
        (!word.is_empty() && word != "NaN").then(|| known().unwrap_or(NOBODY))
    }

    /// The numbers of a column of words, some of which may be whole numbers.
    pub(super) fn numbers(&self, batch: &Batch<'_>, column: usize) -> Result<Int64Array> {
        if !is_text(batch.columns[column].data_type()) {
            let ids = batch.ids(column)?;
            let number = |id: i64| self.number(&id.to_string());
            return Ok(ids.iter().map(|id| id.and_then(number)).collect());
        }
        let texts = batch.texts(column)?;
        let mut last = ("", None);
        let number = |text| {
            // Tables mostly are in the order of visits.
            if text != last.0 {
                last = (text, self.number(text));
            }
            last.1
        };
        Ok((0..texts.len())
            .map(|row| if texts.is_valid(row) { texts.value(row) } else { "" })
            .map(number)
            .collect())
    }
}

/// A word without the `.0` that pandas leaves behind whole numbers.
fn as_whole(word: &str) -> &str {
    match word.split_once('.') {
        Some((whole, zeros))
            if zeros.bytes().all(|byte| byte == b'0')
                && !whole.trim_start_matches('-').is_empty()
                && whole.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            whole
        }
        _ => word,
    }
}
