//! Ids that are words, and the numbers that stand for them.

use crate::error::{Error, Result};
use crate::keys::TextKeys;
use crate::read::Batch;
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

    /// The number of a word; none for blanks.
    pub(super) fn number(&self, word: &str) -> Option<i64> {
        let word = word.trim();
        let known = || self.keys.find(word.as_bytes()).map(|key| self.numbers[key as usize]);
        (!word.is_empty()).then(|| known().unwrap_or(NOBODY))
    }

    /// The numbers of a column of words.
    pub(super) fn numbers(&self, batch: &Batch<'_>, column: usize) -> Result<Int64Array> {
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
