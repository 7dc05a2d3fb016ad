//! The difference between two snapshots' sets: old + delta = new.

use std::collections::BTreeMap;

use super::{Content, SetName, Sets};

/// Elements to add to or remove from a set; the same shape as a set's content.
pub type Elements = Content;

/// What changes in one set that exists before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDelta {
    /// Leaves first: the kernel refuses overlapping intervals.
    pub removed: Elements,
    /// Comes after.
    pub added: Elements,
}

/// How the kernel's sets get from one snapshot to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Sets that only exist afterwards, with all their elements.
    pub created: Vec<SetName>,
    /// Sets that only existed before.
    pub dropped: Vec<SetName>,
    /// Sets whose elements change.
    pub changed: BTreeMap<SetName, SetDelta>,
}

impl Delta {
    /// The difference; `None` when nothing changes.
    pub fn between(old: &Sets, new: &Sets) -> Option<Self> {
        let mut delta = Self::default();
        for (name, content) in new.iter() {
            match old.get(name) {
                None => delta.created.push(name),
                Some(before) => {
                    if let Some(change) = diff(before, content) {
                        delta.changed.insert(name, change);
                    }
                }
            }
        }
        delta.dropped = old
            .names()
            .filter(|name| new.get(*name).is_none())
            .collect();
        (!delta.is_empty()).then_some(delta)
    }

    /// True when the list of sets changes, and so the rules that name them.
    pub fn reshapes(&self) -> bool {
        !self.created.is_empty() || !self.dropped.is_empty()
    }

    /// True when nothing in a set of `after` elements stays and it pays to empty it at once.
    pub fn replaces(change: &SetDelta, after: usize) -> bool {
        change.removed.len() >= MIN_REPLACED && change.added.len() == after
    }

    /// Elements added and removed in sets that stay.
    pub fn changed_elements(&self) -> (usize, usize) {
        self.changed.values().fold((0, 0), |(added, removed), set| {
            (added + set.added.len(), removed + set.removed.len())
        })
    }

    /// Elements added and removed in all, with those of sets that come and go.
    pub fn elements(&self, old: &Sets, new: &Sets) -> (usize, usize) {
        let whole = |sets: &Sets, names: &[SetName]| -> usize {
            names
                .iter()
                .filter_map(|name| sets.get(*name))
                .map(Content::len)
                .sum()
        };
        let (added, removed) = self.changed_elements();
        (
            added + whole(new, &self.created),
            removed + whole(old, &self.dropped),
        )
    }

    /// Calls `take` for what leaves (`true`) and for what comes, set by set; also of sets that come and go.
    pub(super) fn each<'a>(
        &'a self,
        old: &'a Sets,
        new: &'a Sets,
        mut take: impl FnMut(SetName, &'a Content, bool),
    ) {
        for (name, change) in &self.changed {
            take(*name, &change.removed, true);
            take(*name, &change.added, false);
        }
        for (sets, names, leaves) in [(old, &self.dropped, true), (new, &self.created, false)] {
            for name in names {
                if let Some(content) = sets.get(*name) {
                    take(*name, content, leaves);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.created.is_empty() && self.dropped.is_empty() && self.changed.is_empty()
    }
}

fn diff(old: &Content, new: &Content) -> Option<SetDelta> {
    let (removed, added) = match (old, new) {
        (Content::V4(old), Content::V4(new)) => {
            let (removed, added) = merge(old, new);
            (Content::V4(removed), Content::V4(added))
        }
        (Content::V6(old), Content::V6(new)) => {
            let (removed, added) = merge(old, new);
            (Content::V6(removed), Content::V6(added))
        }
        (Content::Ports4(old), Content::Ports4(new)) => {
            let (removed, added) = merge(old, new);
            (Content::Ports4(removed), Content::Ports4(added))
        }
        (Content::Ports6(old), Content::Ports6(new)) => {
            let (removed, added) = merge(old, new);
            (Content::Ports6(removed), Content::Ports6(added))
        }
        (Content::Flows4(old), Content::Flows4(new)) => {
            let (removed, added) = merge(old, new);
            (Content::Flows4(removed), Content::Flows4(added))
        }
        (Content::Flows6(old), Content::Flows6(new)) => {
            let (removed, added) = merge(old, new);
            (Content::Flows6(removed), Content::Flows6(added))
        }
        // A set's name fixes its family and kind.
        _ => return None,
    };
    (!removed.is_empty() || !added.is_empty()).then_some(SetDelta { removed, added })
}

/// Of a hundred elements, at least this many stay, or all of them leave and come: the kernel empties a set
/// in a fraction of the time that it takes to look each element up.
const MIN_PERCENT_KEPT: usize = 1;
/// In a smaller set each element is looked up all the same: what is not there then is told.
const MIN_REPLACED: usize = 10_000;

/// (Leaves old, comes with new), of two sorted lists.
fn merge<T: Ord + Copy>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    let (removed, added) = differences(old, new);
    let kept = old.len() - removed.len();
    let few = kept > 0 && kept * 100 < old.len() * MIN_PERCENT_KEPT;
    if few && old.len() >= MIN_REPLACED {
        return (old.to_vec(), new.to_vec());
    }
    (removed, added)
}

/// One pass over two sorted lists: (only in old, only in new).
fn differences<T: Ord + Copy>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (
        old.iter().copied().peekable(),
        new.iter().copied().peekable(),
    );
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => removed.extend(old.next()),
            (_, Some(_)) => added.extend(new.next()),
            (Some(_), None) => removed.extend(old.next()),
            (None, None) => return (removed, added),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        feed::Scope,
        prefix::{Family, Range, RangeSet},
        snapshot::{Class, Kind},
    };

    const NAMES: [SetName; 2] = [
        SetName::Class {
            class: Class::Deny,
            scope: Scope::Both,
            kind: Kind::Nets,
            family: Family::V4,
        },
        SetName::Class {
            class: Class::Watch,
            scope: Scope::Out,
            kind: Kind::Nets,
            family: Family::V4,
        },
    ];

    fn sets() -> impl Strategy<Value = Sets> {
        let ranges = || proptest::collection::vec((0u32..60, 0u32..6), 0..8);
        [ranges(), ranges()].prop_map(|lists| {
            let mut sets = Sets::default();
            for (name, list) in NAMES.into_iter().zip(lists) {
                let list = list
                    .into_iter()
                    .map(|(a, len)| Range {
                        first: a,
                        last: a + len,
                    })
                    .collect();
                sets.put(name, Content::V4(RangeSet::new(list).ranges().to_vec()));
            }
            sets
        })
    }

    fn apply(old: &Sets, delta: &Delta, new: &Sets) -> Sets {
        let mut out = old.clone();
        for name in &delta.dropped {
            out.0.remove(name);
        }
        for name in &delta.created {
            out.0.insert(*name, new.get(*name).unwrap().clone());
        }
        for (name, change) in &delta.changed {
            let (Some(Content::V4(ranges)), Content::V4(removed), Content::V4(added)) =
                (out.0.get_mut(name), &change.removed, &change.added)
            else {
                unreachable!()
            };
            ranges.retain(|range| !removed.contains(range));
            for range in added {
                // What the kernel checks: no overlap with what is there.
                assert!(
                    ranges
                        .iter()
                        .all(|r| r.last < range.first || range.last < r.first)
                );
                ranges.push(*range);
            }
            ranges.sort();
        }
        out
    }

    #[test]
    fn what_hardly_stays_is_replaced() {
        let count = u32::try_from(MIN_REPLACED).unwrap();
        let put = |from: u32, kept: bool| {
            let list = (0..count).map(|i| Range {
                first: from + 4 * i,
                last: from + 4 * i + 1,
            });
            let one = kept.then_some(Range { first: 1, last: 1 });
            let mut sets = Sets::default();
            let list: Vec<_> = one.into_iter().chain(list).collect();
            sets.put(NAMES[0], Content::V4(list));
            sets
        };
        let change = |old: &Sets, new: &Sets| {
            let delta = Delta::between(old, new).unwrap();
            delta.changed[&NAMES[0]].clone()
        };
        for kept in [false, true] {
            let all = change(&put(1_000, kept), &put(1_002, kept));
            assert!(Delta::replaces(&all, MIN_REPLACED + usize::from(kept)));
        }
        let some = change(&put(1_000, false), &put(1_400, false));
        assert!(!Delta::replaces(&some, MIN_REPLACED));
    }

    proptest! {
        #[test]
        fn old_plus_delta_is_new(old in sets(), new in sets()) {
            match Delta::between(&old, &new) {
                None => prop_assert_eq!(&old, &new),
                Some(delta) => {
                    prop_assert_ne!(&old, &new);
                    prop_assert_eq!(apply(&old, &delta, &new), new);
                }
            }
        }
    }
}
