//! To which visit an event belongs: by the visit's id, else by the moment, and within a window.

use super::Outcome;
use super::visits::{Placed, UNKNOWN, VisitIndex};
use super::words::Words;
use crate::error::Result;
use crate::read::delimited::Row;
use crate::read::number::{Number, number_of, parse_id, parse_number, parse_time};
use crate::read::word::Word;
use crate::read::{Batch, is_text};
use arrow_array::cast::AsArray;
use arrow_array::{Array, Int64Array};
use arrow_schema::DataType;

/// A day in microseconds, and the length of a date as text.
const DAY: i64 = 86_400_000_000;
const A_DATE: usize = 10;

/// When an event happened, as it is written, and at the latest: a date alone may be any time of its day.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: i64,
    latest: i64,
}

impl Moment {
    const NONE: Self = Self::new(UNKNOWN);

    const fn new(at: i64) -> Self {
        Self { at, latest: at }
    }

    /// That of a date.
    const fn day(at: i64) -> Self {
        Self { at, latest: at.div_euclid(DAY).saturating_mul(DAY).saturating_add(DAY - 1) }
    }
}

/// Unit of a column of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Dates and times of day; what has a date alone may have happened until the end of that day.
    Calendar,
    /// The same of a column that writes dates as midnights.
    Days,
    /// Minutes since the visit's start.
    Minutes,
}

/// Which of a table's wanted columns say to which visit an event belongs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places {
    /// Visit ids; none where events are placed by their time alone.
    pub visit: Option<usize>,
    /// Subjects, for events without a visit id.
    pub subject: Option<usize>,
    /// Times.
    pub time: Option<(usize, Clock)>,
}

/// Finds the visits of one thread's rows, most of which belong to the visit of the row before.
pub(super) struct Placer<'a> {
    index: &'a VisitIndex,
    places: Places,
    /// The column of visit ids, if nothing else matters.
    plain: Option<usize>,
    last_word: Option<Word>,
    last_place: Placed,
}

/// Not a place: the row has no visit id.
pub(super) const NO_ID: u32 = u32::MAX;
/// Not a place: only [`Placer::of_row`] can tell.
pub(super) const ASK: u32 = u32::MAX - 1;

impl<'a> Placer<'a> {
    pub fn new(index: &'a VisitIndex, places: Places) -> Self {
        let plain = index.window.is_none() && places.subject.is_none();
        let plain = places.visit.filter(|_| plain);
        let last_place = Err(Outcome::UnknownVisit);
        Self { index, places, plain, last_word: None, last_place }
    }

    /// The place of a row whose visit is that of the row before, [`NO_ID`], or [`ASK`] for any other:
    /// a plain number, for rows come by the hundred million.
    #[inline(always)]
    pub fn quick(&self, row: &Row<'_>) -> u32 {
        let Some(column) = self.plain else { return ASK };
        match row.word(column) {
            Some(word) if word.is_empty() => NO_ID,
            word if word.is_some() && word == self.last_word => self.last_place.unwrap_or(ASK),
            _ => ASK,
        }
    }

    pub fn of_row(&mut self, row: &Row<'_>) -> Result<Placed> {
        let Some(column) = self.places.visit else { return self.by_time(row) };
        let word = row.word(column);
        if word.is_some_and(Word::is_empty) {
            if self.places.subject.is_some() {
                return self.by_time(row);
            }
            return Ok(Err(Outcome::NoVisitId));
        }
        if word.is_none() || word != self.last_word {
            self.last_place = self.look_up(row, column, word)?;
            self.last_word = word;
        }
        match self.last_place {
            Ok(place) if self.index.window.is_some() => Ok(self.within(place, self.time_of(row))),
            Err(Outcome::NoVisitId) => self.by_time(row),
            placed => Ok(placed),
        }
    }

    fn look_up(&self, row: &Row<'_>, column: usize, word: Option<Word>) -> Result<Placed> {
        if let Some(words) = &self.index.visit_words {
            let id = words.number(&row.text(column)?);
            return Ok(
                id.map_or(Err(Outcome::NoVisitId), |id| self.index.place_near(id, self.last_place))
            );
        }
        let id = word.and_then(Word::digits).or_else(|| parse_id(row.field(column).trim_ascii()));
        let id = id.ok_or_else(|| row.wrong(column, "a whole number"))?;
        Ok(self.index.place_near(id, self.last_place))
    }

    fn by_time(&self, row: &Row<'_>) -> Result<Placed> {
        let Some(column) = self.places.subject else { return Ok(Err(Outcome::NoVisitId)) };
        let subject = match (&self.index.subject_words, row.field(column).trim_ascii()) {
            (Some(words), _) => words.number(&row.text(column)?),
            (None, []) => None,
            (None, id) => Some(parse_id(id).ok_or_else(|| row.wrong(column, "a whole number"))?),
        };
        Ok(self.at(subject, self.time_of(row)))
    }

    /// The moment of a row; none if it is empty or cannot be read.
    fn time_of(&self, row: &Row<'_>) -> Moment {
        match self.places.time {
            None => Moment::NONE,
            Some((column, clock)) => clock.moment(row.field(column)),
        }
    }

    fn at(&self, subject: Option<i64>, moment: Moment) -> Placed {
        if moment.at == UNKNOWN {
            return Err(Outcome::NoTime);
        }
        let subject = subject.ok_or(Outcome::OutsideVisits)?;
        self.within(self.index.place_at(subject, moment.at, moment.latest)?, moment)
    }

    fn within(&self, place: u32, moment: Moment) -> Placed {
        let Some(window) = &self.index.window else { return Ok(place) };
        let limit = window.limits[place as usize];
        let latest =
            if self.places.time.is_some() { moment.latest } else { window.untimed[place as usize] };
        if latest == UNKNOWN || limit == UNKNOWN {
            Err(Outcome::NoTime)
        } else if latest > limit {
            Err(Outcome::AfterWindow)
        } else {
            Ok(place)
        }
    }

    /// The column without which a row has no visit.
    pub fn needs(&self) -> Option<usize> {
        self.places.visit.filter(|_| self.places.subject.is_none())
    }

    /// The columns of a batch that [`Placer::of_batch`] wants.
    pub fn columns(&self, batch: &Batch<'_>) -> Result<BatchPlaces> {
        let ids = |column: Option<usize>, words: &Option<Words>| -> Result<Option<Int64Array>> {
            let ids = |column| match words {
                Some(words) => words.numbers(batch, column),
                None => batch.ids(column),
            };
            column.map(ids).transpose()
        };
        let times = self
            .places
            .time
            .filter(|_| self.index.window.is_some() || self.places.subject.is_some());
        Ok(BatchPlaces {
            visits: ids(self.places.visit, &self.index.visit_words)?,
            subjects: ids(self.places.subject, &self.index.subject_words)?,
            times: times.map(|(column, clock)| clock.moments(batch, column)).transpose()?,
            last: None,
            place: Err(Outcome::UnknownVisit),
        })
    }

    /// The place of the rows from `row` on that belong together, and where they end.
    pub fn of_rows(&self, columns: &mut BatchPlaces, row: usize) -> (Placed, usize) {
        let placed = self.of_batch(columns, row);
        let end = match (&columns.visits, self.plain) {
            (Some(visits), Some(_)) => end_of_run(visits, row),
            _ => row + 1,
        };
        (placed, end)
    }

    #[inline(always)]
    pub fn of_batch(&self, columns: &mut BatchPlaces, row: usize) -> Placed {
        let visit = columns.visits.as_ref().and_then(|array| whole(array, row));
        let Some(visit) = visit else {
            let Some(subjects) = &columns.subjects else { return Err(Outcome::NoVisitId) };
            return self.at(whole(subjects, row), columns.time(row));
        };
        if columns.last != Some(visit) {
            columns.place = self.index.place_near(visit, columns.place);
            columns.last = Some(visit);
        }
        match columns.place {
            Ok(place) if self.index.window.is_some() => self.within(place, columns.time(row)),
            placed => placed,
        }
    }
}

/// The columns of a batch that say to which visit an event belongs.
pub(super) struct BatchPlaces {
    visits: Option<Int64Array>,
    subjects: Option<Int64Array>,
    times: Option<Vec<Moment>>,
    last: Option<i64>,
    place: Placed,
}

impl BatchPlaces {
    fn time(&self, row: usize) -> Moment {
        self.times.as_ref().map_or(Moment::NONE, |times| times[row])
    }
}

/// Where the ids that are the same as that of `row`, or null as it is, end.
fn end_of_run(ids: &Int64Array, row: usize) -> usize {
    let values = ids.values();
    let same = |&other: &usize| match ids.nulls() {
        // What stands in place of a null is any number, and mostly the same.
        Some(nulls) if nulls.is_null(row) => nulls.is_null(other),
        Some(nulls) => values[other] == values[row] && nulls.is_valid(other),
        None => values[other] == values[row],
    };
    (row + 1..ids.len()).take_while(same).last().map_or(row, |last| last) + 1
}

#[inline]
fn whole(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

impl Clock {
    fn moment(self, text: &[u8]) -> Moment {
        let text = text.trim_ascii();
        match self {
            Self::Calendar if text.len() > A_DATE => {
                parse_time(text).map_or(Moment::NONE, Moment::new)
            }
            Self::Calendar | Self::Days => parse_time(text).map_or(Moment::NONE, Moment::day),
            Self::Minutes => minutes(parse_number(text)),
        }
    }

    /// The moments of a column of times or minutes, or of text.
    fn moments(self, batch: &Batch<'_>, column: usize) -> Result<Vec<Moment>> {
        if is_text(batch.columns[column].data_type()) {
            let texts = batch.cast(column, &DataType::LargeUtf8, "text")?;
            let texts = texts.as_string::<i64>().iter();
            return Ok(texts
                .map(|text| self.moment(text.unwrap_or_default().as_bytes()))
                .collect());
        }
        match self {
            Self::Calendar | Self::Days => {
                let times = batch.times(column)?;
                let found = batch.columns[column].data_type();
                let dates =
                    self == Self::Days || matches!(found, DataType::Date32 | DataType::Date64);
                let moment = if dates { Moment::day } else { Moment::new };
                Ok(times.iter().map(|time| time.map_or(Moment::NONE, moment)).collect())
            }
            Self::Minutes => {
                let numbers = batch.floats(column, "minutes")?;
                Ok(numbers
                    .iter()
                    .map(|n| n.map_or(Moment::NONE, |n| minutes(number_of(n))))
                    .collect())
            }
        }
    }
}

fn minutes(number: Number) -> Moment {
    match number {
        // A scaled minute is 60 microseconds.
        Number::Scaled(scaled) => Moment::new(scaled * 60),
        _ => Moment::NONE,
    }
}
