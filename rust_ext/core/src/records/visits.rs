//! The visits that are known: by their ids, and by the stays of subjects.

use super::Outcome;
use super::words::Words;
use crate::error::{Error, Result};
use hashbrown::HashMap;

/// A visit's place, or why there is none.
pub(super) type Placed = std::result::Result<u32, Outcome>;

/// Most visits that one set of records can hold.
pub const MOST_VISITS: usize = 1 << 28;

/// The place of a visit that is known, and not asked for.
const LEFT_OUT: u32 = u32::MAX;

/// A moment that is not known; moments are microseconds since 1970, or since the visit's start.
pub const UNKNOWN: i64 = i64::MIN;

/// Where each visit stands: visit id to its place among the visits.
#[derive(Debug)]
pub struct VisitIndex {
    places: HashMap<i64, u32>,
    /// The same the other way round.
    ids: Vec<i64>,
    left_out: usize,
    stays: HashMap<i64, Vec<Stay>>,
    pub(super) window: Option<Window>,
    /// What tables of events call visits and subjects, if not by their numbers.
    pub(super) visit_words: Option<Words>,
    pub(super) subject_words: Option<Words>,
}

#[derive(Debug, Clone, Copy)]
struct Stay {
    start: i64,
    end: i64,
    place: u32,
}

/// Events that count: for each visit, those up to a moment.
#[derive(Debug, Clone)]
pub struct Window {
    /// For each visit the last moment that counts; `i64::MAX` where all do.
    pub limits: Vec<i64>,
    /// For each visit the moment of events that have none of their own.
    pub untimed: Vec<i64>,
}

impl VisitIndex {
    /// An index of `ids`, each at its own place. `None` if an id stands twice or there are too many.
    #[must_use]
    pub fn new(ids: &[i64]) -> Option<Self> {
        let places: HashMap<i64, u32> = ids.iter().copied().zip(0..).collect();
        let whole = places.len() == ids.len() && ids.len() <= MOST_VISITS;
        whole.then(|| Self {
            places,
            ids: ids.to_vec(),
            left_out: 0,
            stays: HashMap::new(),
            window: None,
            visit_words: None,
            subject_words: None,
        })
    }

    /// The same, that knows these visits, too, but only to say that they are left out.
    #[must_use]
    pub fn with_left_out(mut self, ids: &[i64]) -> Self {
        for &id in ids {
            self.places.entry(id).or_insert(LEFT_OUT);
        }
        self.left_out += ids.len();
        self
    }

    /// The same, that also finds the visit of a subject at a moment between its start and its end: those
    /// of the visits, then of those that are left out.
    ///
    /// # Errors
    /// [`Error::Shape`] unless each visit has a subject, a start and an end.
    pub fn with_stays(mut self, subjects: &[i64], starts: &[i64], ends: &[i64]) -> Result<Self> {
        if [subjects.len(), starts.len(), ends.len()] != [self.len() + self.left_out; 3] {
            return Err(Error::Shape(
                "a subject, a start and an end of each visit are wanted".into(),
            ));
        }
        let known = self.len();
        for (((&subject, &start), &end), place) in subjects.iter().zip(starts).zip(ends).zip(0..) {
            if start != UNKNOWN && end != UNKNOWN {
                let place = if place < known { place as u32 } else { LEFT_OUT };
                self.stays.entry(subject).or_default().push(Stay { start, end, place });
            }
        }
        for stays in self.stays.values_mut() {
            stays.sort_by_key(|stay| (stay.start, stay.place));
        }
        Ok(self)
    }

    /// The same, where only the events within a window count.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the window is as long as there are visits.
    pub fn with_window(mut self, window: Window) -> Result<Self> {
        if [window.limits.len(), window.untimed.len()] != [self.len(); 2] {
            return Err(Error::Shape("a limit for each visit is wanted".into()));
        }
        self.window = Some(window);
        Ok(self)
    }

    /// The same, for tables that name visits and subjects by words, if there are such.
    #[must_use]
    pub fn with_words(mut self, visits: Option<Words>, subjects: Option<Words>) -> Self {
        (self.visit_words, self.subject_words) = (visits, subjects);
        self
    }

    /// The place of visit `id`.
    #[inline]
    fn place(&self, id: i64) -> Placed {
        self.places.get(&id).map_or(Err(Outcome::UnknownVisit), |&place| asked_for(place))
    }

    /// The same, looked for first near `last`: tables mostly are in the order of visits, and the whole
    /// index does not fit a processor's caches.
    #[inline]
    pub(super) fn place_near(&self, id: i64, last: Placed) -> Placed {
        const NEAR: usize = 8;
        let last = last.unwrap_or(0) as usize;
        let start = last.saturating_sub(NEAR).min(self.ids.len());
        let end = (last + NEAR).min(self.ids.len());
        match self.ids[start..end].iter().position(|&other| other == id) {
            Some(place) => Ok((start + place) as u32),
            None => self.place(id),
        }
    }

    /// The visit of `subject` that encloses a moment between `earliest` and `latest`; of several, the one
    /// that began last.
    pub(super) fn place_at(&self, subject: i64, earliest: i64, latest: i64) -> Placed {
        let stays = self.stays.get(&subject).map_or(&[][..], Vec::as_slice);
        let begun = stays.partition_point(|stay| stay.start <= latest);
        let found = stays[..begun].iter().rev().find(|stay| earliest <= stay.end);
        found.map_or(Err(Outcome::OutsideVisits), |stay| asked_for(stay.place))
    }

    /// Number of visits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no visit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

fn asked_for(place: u32) -> Placed {
    if place == LEFT_OUT { Err(Outcome::LeftOut) } else { Ok(place) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visit_that_began_last_of_those_that_enclose_a_moment() -> Result<()> {
        let index = VisitIndex::new(&[10, 11, 12, 13]).ok_or(Error::Shape("no index".into()))?;
        let index = index.with_stays(&[1, 1, 1, 2], &[0, 5, 20, 0], &[30, 10, UNKNOWN, 9])?;
        let outside = Err(Outcome::OutsideVisits);
        let moments = [(-1, outside), (0, Ok(0)), (5, Ok(1)), (10, Ok(1)), (11, Ok(0))];
        for (moment, place) in moments.into_iter().chain([(31, outside)]) {
            assert_eq!(index.place_at(1, moment, moment), place, "{moment}");
        }
        assert_eq!(index.place_at(3, 5, 5), outside);
        for (day, place) in [((-4, -1), outside), ((-1, 2), Ok(0)), ((29, 32), Ok(0))] {
            assert_eq!(index.place_at(1, day.0, day.1), place, "{day:?}");
        }
        Ok(())
    }

    #[test]
    fn a_visit_that_is_left_out_is_found_by_time_to_say_so() -> Result<()> {
        let index = VisitIndex::new(&[10]).ok_or(Error::Shape("no index".into()))?;
        let index = index.with_left_out(&[11]).with_stays(&[1, 1], &[0, 5], &[30, 10])?;
        for (moment, place) in [(4, Ok(0)), (5, Err(Outcome::LeftOut)), (11, Ok(0))] {
            assert_eq!(index.place_at(1, moment, moment), place, "{moment}");
        }
        Ok(())
    }
}
