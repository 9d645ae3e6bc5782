//! Names seen in the data (codes, lab items), numbered as they come and renumbered by name at the end,
//! so that the numbers do not depend on the order of rows or threads.

use hashbrown::{HashMap, HashTable};
use std::hash::BuildHasher;

/// The largest number of different names in one table.
pub const MOST_KEYS: usize = 1 << 20;

/// Ids this close together are looked up in an array.
const DENSE: usize = 1 << 20;

/// Numbers for whole-number names (MIMIC's `itemid`).
#[derive(Debug, Default, Clone)]
pub struct IntKeys {
    numbers: HashMap<i64, u32>,
    names: Vec<i64>,
    /// From `lowest` on, the number of each name and one more; 0 if it has not been seen.
    dense: Vec<u32>,
    lowest: i64,
}

impl IntKeys {
    /// Numbers for `known`, in this order, and for whatever comes later.
    #[must_use]
    pub fn of(known: &[i64]) -> Self {
        let lowest = known.iter().copied().min().unwrap_or(0);
        let span = known.iter().copied().max().unwrap_or(0).saturating_sub(lowest) as usize;
        let mut keys =
            Self { dense: vec![0; span.saturating_add(1).min(DENSE)], lowest, ..Self::default() };
        for &name in known {
            keys.number(name);
        }
        keys
    }

    /// The number of `name`, a new one if it was not seen before.
    #[inline]
    pub fn number(&mut self, name: i64) -> u32 {
        match self.dense.get(name.wrapping_sub(self.lowest) as usize) {
            Some(&seen) if seen > 0 => seen - 1,
            _ => self.look_up(name),
        }
    }

    #[cold]
    fn look_up(&mut self, name: i64) -> u32 {
        let number = *self.numbers.entry(name).or_insert_with(|| {
            self.names.push(name);
            (self.names.len() - 1) as u32
        });
        if let Some(place) = self.dense.get_mut(name.wrapping_sub(self.lowest) as usize) {
            *place = number + 1;
        }
        number
    }

    /// All names, by their numbers.
    #[must_use]
    pub fn names(&self) -> &[i64] {
        &self.names
    }
}

/// Numbers for names made of one or more texts (code and version, lab name and unit).
#[derive(Debug, Default, Clone)]
pub struct TextKeys {
    table: HashTable<u32>,
    hasher: hashbrown::DefaultHashBuilder,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TextKeys {
    /// The number of `name`, a new one if it was not seen before.
    #[inline]
    pub fn number(&mut self, name: &[u8]) -> u32 {
        let Self { table, hasher, bytes, ends } = self;
        let hash = hasher.hash_one(name);
        if let Some(&number) = table.find(hash, |&number| name_at(bytes, ends, number) == name) {
            return number;
        }
        bytes.extend_from_slice(name);
        ends.push(bytes.len());
        let number = (ends.len() - 1) as u32;
        table.insert_unique(hash, number, |&other| hasher.hash_one(name_at(bytes, ends, other)));
        number
    }

    /// The number of `name` if it was seen.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let same = |&number: &u32| name_at(&self.bytes, &self.ends, number) == name;
        self.table.find(self.hasher.hash_one(name), same).copied()
    }

    /// All names, by their numbers.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len() as u32).map(|number| name_at(&self.bytes, &self.ends, number))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

fn name_at<'a>(bytes: &'a [u8], ends: &[usize], number: u32) -> &'a [u8] {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &bytes[start..ends[number]]
}

/// The names of several threads, sorted and without repetition, and for each thread the new number of
/// each of its names.
pub fn merged<T: Ord + Clone>(threads: &[Vec<T>]) -> (Vec<T>, Vec<Vec<u32>>) {
    let mut all: Vec<T> = threads.iter().flatten().cloned().collect();
    all.sort_unstable();
    all.dedup();
    let renumber = |names: &Vec<T>| {
        names.iter().map(|name| all.partition_point(|other| other < name) as u32).collect()
    };
    let numbers = threads.iter().map(renumber).collect();
    (all, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_names_come_back() {
        let mut keys = TextKeys::default();
        let names: Vec<String> = (0..1000).map(|n| format!("key {}", n % 37)).collect();
        let numbers: Vec<u32> = names.iter().map(|name| keys.number(name.as_bytes())).collect();
        assert_eq!(keys.len(), 37);
        let back: Vec<&[u8]> = keys.names().collect();
        for (name, number) in names.iter().zip(numbers) {
            assert_eq!(back[number as usize], name.as_bytes());
        }
    }

    #[test]
    fn merging_sorts_and_renumbers() {
        let (all, numbers) = merged(&[vec![5, 1], vec![3, 5]]);
        assert_eq!(all, [1, 3, 5]);
        assert_eq!(numbers, [[2, 0], [1, 2]]);
    }
}
