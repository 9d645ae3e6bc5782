//! Coded events (diagnoses, procedures, medications): the set of codes of every visit.

use super::columns::Names;
use super::order::{Settler, sort_settled};
use super::placing::Placer;
use super::visits::Placed;
use super::{Ledger, Outcome, Places, VisitIndex};
use crate::error::Result;
use crate::keys::{TextKeys, merged};
use crate::read::delimited::Row;
use crate::read::word::Word;
use crate::read::{Batch, Input, Run, SEPARATOR, Sink, scan};
use hashbrown::HashMap;

/// For every visit its codes, ascending and unique.
#[derive(Debug, Default)]
pub struct CodeRecords {
    /// Visits + 1 offsets into `codes`.
    pub offsets: Vec<i64>,
    /// Numbers of the codes, in the order of `names`.
    pub codes: Vec<i32>,
    /// The codes' names, sorted; the parts of a name are separated by U+001F.
    pub names: Vec<String>,
    /// What became of every row.
    pub ledger: Ledger,
}

/// Reads a table of codes whose first `parts` columns are the code and further parts of its name.
///
/// # Errors
/// A file, a column or an id that is not as it should be.
pub fn read_codes(
    table: impl Into<Input>,
    parts: usize,
    places: Places,
    index: &VisitIndex,
    run: &mut Run<'_>,
) -> Result<CodeRecords> {
    let mut sinks = scan(table, run, || Codes::new(parts, Placer::new(index, places)))?;
    let mut ledger = Ledger::default();
    let threads: Vec<Vec<String>> = sinks.iter().map(Codes::names).collect();
    let (names, numbers) = merged(&threads);
    let mut pairs = Vec::with_capacity(sinks.iter().map(|sink| sink.pairs.len()).sum());
    std::thread::scope(|scope| {
        for (sink, numbers) in sinks.iter_mut().zip(&numbers) {
            scope.spawn(|| sink.sort(numbers));
        }
    });
    for sink in sinks {
        ledger.add(sink.ledger);
        pairs.extend(sink.pairs);
    }
    // Of as many ascending runs as there are threads, which the stable sort merges.
    pairs.sort();
    pairs.dedup();
    let mut offsets = vec![0];
    for (place, pair) in pairs.iter().enumerate() {
        offsets.resize((pair >> 32) as usize + 1, place as i64);
    }
    offsets.resize(index.len() + 1, pairs.len() as i64);
    let codes = pairs.iter().map(|&pair| pair as u32 as i32).collect();
    Ok(CodeRecords { offsets, codes, names, ledger })
}

/// Visit and code in one number, which sorts as they do.
fn pair(visit: u32, code: u32) -> u64 {
    (u64::from(visit) << 32) | u64::from(code)
}

fn visit_of(pair: u64) -> u64 {
    pair >> 32
}

/// The bytes of a name of one or two short parts, as they stand in the table.
type Short = [Word; 2];

/// One thread's (visit, code) pairs.
pub(super) struct Codes<'a> {
    placer: Placer<'a>,
    parts: usize,
    keys: TextKeys,
    /// The numbers of names whose parts are as short as words: most are, and come again and again.
    short: HashMap<Short, u32>,
    name: Vec<u8>,
    /// As `pair` makes them.
    pairs: Vec<u64>,
    /// Where the pairs of the current visit begin.
    start: usize,
    settler: Settler,
    pub(super) ledger: Ledger,
}

impl<'a> Codes<'a> {
    pub(super) fn new(parts: usize, placer: Placer<'a>) -> Self {
        Self {
            placer,
            parts,
            keys: TextKeys::default(),
            short: HashMap::new(),
            name: Vec::new(),
            pairs: Vec::new(),
            start: 0,
            settler: Settler::default(),
            ledger: Ledger::default(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.keys.names().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[inline(always)]
    fn push(&mut self, visit: u32, code: u32) {
        if self.pairs.last().is_some_and(|&last| visit_of(last) != u64::from(visit)) {
            self.settle();
        }
        self.pairs.push(pair(visit, code));
    }

    fn settle(&mut self) {
        self.settler.settle(&mut self.pairs, self.start, |&pair| visit_of(pair));
        self.start = self.pairs.len();
    }

    /// Gives the codes other numbers and sorts all pairs.
    fn sort(&mut self, numbers: &[u32]) {
        self.settle();
        for both in &mut self.pairs {
            *both = pair(visit_of(*both) as u32, numbers[*both as u32 as usize]);
        }
        sort_settled(&mut self.pairs, |&pair| visit_of(pair), |&pair| pair);
    }

    /// Takes one event; the parts of its name come from `part`, and are `short` if they may be.
    #[inline(always)]
    fn add<T: AsRef<str>>(
        &mut self,
        placed: Placed,
        short: Option<Short>,
        part: impl FnMut(usize) -> Result<T>,
    ) -> Result<()> {
        let seen = short.and_then(|short| self.short.get(&short));
        let outcome = match (placed, seen) {
            (Err(outcome), _) => outcome,
            (Ok(place), Some(&number)) => {
                self.push(place, number);
                Outcome::Used
            }
            (Ok(place), None) => self.add_new(place, short, part)?,
        };
        self.ledger.count(outcome);
        Ok(())
    }

    fn add_new<T: AsRef<str>>(
        &mut self,
        place: u32,
        short: Option<Short>,
        mut part: impl FnMut(usize) -> Result<T>,
    ) -> Result<Outcome> {
        self.name.clear();
        for number in 0..self.parts {
            if number > 0 {
                self.name.push(SEPARATOR);
            }
            self.name.extend_from_slice(part(number)?.as_ref().trim().as_bytes());
            if self.name.is_empty() {
                return Ok(Outcome::NoCode);
            }
        }
        let number = self.keys.number(&self.name);
        if let Some(short) = short {
            self.short.insert(short, number);
        }
        self.push(place, number);
        Ok(Outcome::Used)
    }

    fn short(&self, word: impl Fn(usize) -> Option<Word>) -> Option<Short> {
        match self.parts {
            1 => Some([word(0)?, Word::default()]),
            2 => Some([word(0)?, word(1)?]),
            _ => None,
        }
    }
}

impl Sink for Codes<'_> {
    fn row(&mut self, row: Row<'_>) -> Result<()> {
        let placed = self.placer.of_row(&row)?;
        let short = self.short(|part| row.word(part));
        self.add(placed, short, |part| row.name(part))
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        let mut places = self.placer.columns(batch)?;
        let parts = (0..self.parts).map(|place| Names::of(batch, place));
        let parts = parts.collect::<Result<Vec<Names>>>()?;
        for row in 0..batch.len() {
            let placed = self.placer.of_batch(&mut places, row);
            let text = |part: usize| parts[part].text(row);
            let short = self.short(|part| Word::of(text(part).as_bytes(), 0, text(part).len()));
            self.add(placed, short, |part| parts[part].part(row, batch))?;
        }
        Ok(())
    }
}
