//! Cuts the address space where what covers it changes.
//!
//! Prefixes nest or are disjoint, so those around an address are a stack. Stacks with the same marks
//! are one state: a million entries of a few feeds make a few states, and each is thought about once.

use std::{cmp::Reverse, collections::HashMap};

use crate::prefix::{Address, Range};

/// A prefix and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marked<A> {
    pub(super) range: Range<A>,
    pub(super) mark: u32,
}

/// The marks of a stack, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State(u32);

/// All states seen so far.
#[derive(Debug, Default)]
pub(super) struct States {
    /// The state below and the mark on top of it.
    list: Vec<(Option<State>, u32)>,
    numbers: HashMap<(Option<State>, u32), State>,
    last: Option<((Option<State>, u32), State)>,
}

impl States {
    /// The marks of a state, the innermost first.
    pub(super) fn marks(&self, state: State) -> impl Iterator<Item = u32> + '_ {
        let mut next = Some(state);
        std::iter::from_fn(move || {
            let at = usize::try_from(next?.0).ok()?;
            let (below, mark) = self.list.get(at)?;
            next = *below;
            Some(*mark)
        })
    }

    fn on_top(&mut self, below: Option<State>, mark: u32) -> State {
        let key = (below, mark);
        // Neighbours mostly are of the same feed.
        if let Some((last, state)) = self.last
            && last == key
        {
            return state;
        }
        let next = State(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        let state = *self.numbers.entry(key).or_insert_with(|| {
            self.list.push(key);
            next
        });
        self.last = Some((key, state));
        state
    }
}

impl State {
    /// A number from 0, for tables of answers.
    pub(super) fn number(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A piece of the address space within which nothing begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<A> {
    pub(super) range: Range<A>,
    pub(super) state: State,
    /// It is a single address that something names by itself: the state of what is around it, if anything.
    pub(super) host: Option<Option<State>>,
}

/// Calls `each` for every piece that something covers, in order.
pub(super) fn sweep<A: Address>(
    mut items: Vec<Marked<A>>,
    states: &mut States,
    mut each: impl FnMut(&States, Piece<A>),
) {
    items.sort_unstable_by_key(|item| (item.range.first, Reverse(item.range.last), item.mark));
    // Last address and state of each prefix that is open.
    let mut open: Vec<Open<A>> = Vec::new();
    let mut at: Option<A> = None;
    for item in &items {
        while let Some(top) = open.pop_if(|top| top.range.last < item.range.first) {
            at = close(&open, top, at, states, &mut each);
        }
        if let (Some(top), Some(first), Some(last)) = (open.last(), at, item.range.first.prev())
            && first <= last
        {
            let range = Range { first, last };
            each(states, piece(&open, top, range));
        }
        at = Some(item.range.first);
        let state = states.on_top(open.last().map(|top| top.state), item.mark);
        open.push(Open {
            range: item.range,
            state,
        });
    }
    while let Some(top) = open.pop() {
        at = close(&open, top, at, states, &mut each);
    }
}

#[derive(Clone, Copy)]
struct Open<A> {
    range: Range<A>,
    state: State,
}

/// Gives what is left of a prefix that ends, and the address after it.
fn close<A: Address>(
    open: &[Open<A>],
    top: Open<A>,
    at: Option<A>,
    states: &States,
    each: &mut impl FnMut(&States, Piece<A>),
) -> Option<A> {
    let last = top.range.last;
    match at {
        Some(first) if first <= last => {
            each(states, piece(open, &top, Range { first, last }));
            last.next()
        }
        other => other,
    }
}

fn piece<A: Address>(open: &[Open<A>], top: &Open<A>, range: Range<A>) -> Piece<A> {
    let around = || {
        let around = open.iter().rev().find(|open| !open.range.is_host());
        around.map(|open| open.state)
    };
    Piece {
        range,
        state: top.state,
        host: top.range.is_host().then(around),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Prefixes at the top of the space, where "one past the end" does not exist.
    fn items() -> impl Strategy<Value = Vec<Marked<u32>>> {
        let item = (0u32..64, 26u8..=32, 0u32..3).prop_map(|(low, len, mark)| {
            let first = (u32::MAX - 63 + low).masked(len);
            let last = first.filled(len);
            let range = Range { first, last };
            Marked { range, mark }
        });
        proptest::collection::vec(item, 0..12)
    }

    proptest! {
        #[test]
        fn a_piece_has_the_marks_of_a_scan(items in items()) {
            let mut pieces: Vec<(Range<u32>, Vec<u32>)> = Vec::new();
            sweep(items.clone(), &mut States::default(), |states, piece| {
                let mut marks: Vec<u32> = states.marks(piece.state).collect();
                marks.sort_unstable();
                pieces.push((piece.range, marks));
            });
            let mut seen = BTreeSet::new();
            for (range, marks) in pieces {
                for addr in range.first..=range.last {
                    prop_assert!(seen.insert(addr), "twice: {}", addr);
                    let holds = |item: &&Marked<u32>| item.range.first <= addr && addr <= item.range.last;
                    let mut scan: Vec<u32> = items.iter().filter(holds).map(|item| item.mark).collect();
                    scan.sort_unstable();
                    prop_assert_eq!(&marks, &scan);
                }
            }
            let all: BTreeSet<u32> = items.iter().flat_map(|item| item.range.first..=item.range.last).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
