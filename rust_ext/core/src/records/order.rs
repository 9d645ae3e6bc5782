//! Rows to the order of visits: tables come by subject, but a subject's visits in any order.

use std::ops::Range;

/// How far back the items of a visit are put where they belong at once.
const NEAR: usize = 1 << 14;

/// Moves the items from `start` on, of one visit, behind those of earlier visits, and returns where the
/// visit's items stand if it was met before. `None` if that is too far back, as in a table in no order:
/// it is then not worth while to go on, and [`sort_settled`] does it all.
pub(super) fn settle<T>(
    items: &mut [T],
    start: usize,
    visit_of: impl Fn(&T) -> u64,
) -> Option<Range<usize>> {
    let nothing = start..start;
    let (Some(last), Some(first)) = (items[..start].last(), items.get(start)) else {
        return Some(nothing);
    };
    let visit = visit_of(first);
    if visit_of(last) < visit {
        return Some(nothing);
    }
    let near = start.saturating_sub(NEAR);
    if near > 0 && visit_of(&items[near]) >= visit {
        return None;
    }
    let place = near + items[near..start].partition_point(|item| visit_of(item) < visit);
    let more = items.len() - start;
    items[place..].rotate_right(more);
    let same = items[place..].iter().take_while(|item| visit_of(item) == visit).count();
    Some(if same > more { place..place + same } else { nothing })
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
            let mut items = Vec::new();
            for &(visit, count) in &visits {
                let start = items.len();
                items.extend((0..count as u64).map(|item| (visit, item)));
                let again = settle(&mut items, start, |item| item.0);
                prop_assert!(items[again.unwrap_or(0..0)].iter().all(|item| item.0 == visit));
            }
            prop_assert!(items.is_sorted_by_key(|item| item.0));
            let mut sorted = items.clone();
            sorted.sort_unstable();
            sort_settled(&mut items, |item| item.0, |item| item.0 * 100 + item.1);
            prop_assert_eq!(items, sorted);
        }
    }

    #[test]
    fn a_visit_far_back_is_sorted_in_the_end() {
        let far = 2 * NEAR as u64;
        let mut items: Vec<u64> = (1..=far).chain([0]).collect();
        assert_eq!(settle(&mut items, far as usize, |&item| item), None);
        sort_settled(&mut items, |&item| item, |&item| item);
        assert_eq!(items, (0..=far).collect::<Vec<_>>());
    }
}
