//! Rows to the order of visits: tables come by subject, but a subject's visits in any order.

/// How far back the items of a visit are put where they belong at once.
const NEAR: usize = 1 << 14;

/// How many items may be moved for each that there is: as much as sorting them costs.
const MOVES: usize = 16;

/// Puts visits in order as they come, as long as that is quicker than a sort in the end.
#[derive(Default)]
pub(super) struct Settler {
    moved: usize,
    gave_up: bool,
}

impl Settler {
    /// Moves the items from `start` on, of one visit, behind those of earlier visits, and of the same.
    /// In a table in no order it gives up, and [`sort_settled`] does it all.
    pub fn settle<T>(&mut self, items: &mut [T], start: usize, visit_of: impl Fn(&T) -> u64) {
        if self.gave_up {
            return;
        }
        let (Some(last), Some(first)) = (items[..start].last(), items.get(start)) else { return };
        let visit = visit_of(first);
        if visit_of(last) <= visit {
            return;
        }
        let near = start.saturating_sub(NEAR);
        let place = near + items[near..start].partition_point(|item| visit_of(item) <= visit);
        self.moved += start - place;
        self.gave_up = (place == near && near > 0) || self.moved > MOVES * items.len() + NEAR;
        if !self.gave_up {
            let more = items.len() - start;
            items[place..].rotate_right(more);
        }
    }
}

/// Sorts items by `key_of`, which goes by visit first; the visits mostly are in order already.
pub(super) fn sort_settled<T>(
    items: &mut [T],
    visit_of: impl Fn(&T) -> u64,
    key_of: impl Fn(&T) -> u64,
) {
    if items.is_sorted_by_key(&key_of) {
        return;
    }
    if items.is_sorted_by_key(&visit_of) {
        let visits = items.chunk_by_mut(|a, b| visit_of(a) == visit_of(b));
        visits.for_each(|visit| visit.sort_unstable_by_key(&key_of));
    } else {
        items.sort_unstable_by_key(key_of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn visits_that_settle_are_in_order(visits in prop::collection::vec((0_u64..20, 1_usize..5), 0..60)) {
            let (mut items, mut settler) = (Vec::new(), Settler::default());
            for &(visit, count) in &visits {
                let start = items.len();
                items.extend((0..count as u64).map(|item| (visit, item)));
                settler.settle(&mut items, start, |item| item.0);
            }
            prop_assert!(!settler.gave_up);
            prop_assert!(items.is_sorted_by_key(|item| item.0));
            let mut sorted = items.clone();
            sorted.sort_unstable();
            sort_settled(&mut items, |item| item.0, |item| item.0 * 100 + item.1);
            prop_assert_eq!(items, sorted);
        }
    }

    /// Rows one by one: of a visit far back, of visits at random, and of two visits in turns.
    #[test]
    fn a_table_in_no_order_is_sorted_in_the_end() {
        let many = 8 * NEAR as u64;
        let orders: [Vec<u64>; 3] = [
            (1..=many).chain([0]).collect(),
            (0..many).map(|row| row * 7919 % many).collect(),
            (0..many).map(|row| row % 2).collect(),
        ];
        for mut order in orders {
            let (mut items, mut settler) = (Vec::new(), Settler::default());
            for &visit in &order {
                items.push(visit);
                let start = items.len() - 1;
                settler.settle(&mut items, start, |&item| item);
            }
            assert!(settler.gave_up);
            assert!(settler.moved <= MOVES * items.len() + 2 * NEAR);
            sort_settled(&mut items, |&item| item, |&item| item);
            order.sort_unstable();
            assert_eq!(items, order);
        }
    }
}
