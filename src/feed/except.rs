//! A feed's own exceptions (ipset's `nomatch`), taken out of its entries.
//!
//! As in the kernel's hash:net sets, the most specific element decides: an exception makes a hole
//! in wider entries, and an entry inside the hole counts again.

use super::{Entry, Parsed, notes::Interner};
use crate::prefix::{Address, Prefix, RangeSet, subnets4, subnets6};

/// Takes `exceptions` out of the entries that are at least as wide. What is left of an entry keeps
/// its note and, as what it was written as, the whole of it. Entries with a port stay as they are.
pub(super) fn subtract(parsed: &mut Parsed, exceptions: &[Prefix], interner: &mut Interner) {
    let mut by_address = exceptions.to_vec();
    by_address.sort_unstable_by_key(|prefix| (prefix.addr(), prefix.len()));
    by_address.dedup();
    let old = std::mem::take(&mut parsed.entries);
    let ids: Vec<u32> = (0..old.len())
        .map(|index| parsed.notes.id_of_entry(index))
        .collect();
    parsed.notes.clear_ids();
    for (Entry { prefix }, id) in old.into_iter().zip(ids) {
        let holes = inside(&by_address, &prefix);
        if holes.is_empty() {
            push(parsed, prefix, id);
            continue;
        }
        let note = parsed.notes.by_id(id).cloned().unwrap_or_default();
        let written = note.written.as_deref().copied().unwrap_or(prefix.into());
        let tag = note.tag.as_deref().map(str::as_bytes);
        let id = interner.id(&mut parsed.notes, note.score, tag, Some(written));
        for piece in without(&prefix, holes) {
            push(parsed, piece, id);
        }
    }
}

/// The exceptions inside `prefix`, itself included.
fn inside<'a>(by_address: &'a [Prefix], prefix: &Prefix) -> &'a [Prefix] {
    let start = by_address
        .partition_point(|hole| (hole.addr(), hole.len()) < (prefix.addr(), prefix.len()));
    let rest = by_address.get(start..).unwrap_or_default();
    let end = rest.partition_point(|hole| hole.addr() <= prefix.last());
    rest.get(..end).unwrap_or_default()
}

fn without(prefix: &Prefix, holes: &[Prefix]) -> Vec<Prefix> {
    let left4 = left::<u32>(prefix, holes);
    let left6 = left::<u128>(prefix, holes);
    let v4 = left4.ranges().iter().flat_map(|range| subnets4(*range));
    let v6 = left6.ranges().iter().flat_map(|range| subnets6(*range));
    v4.chain(v6).collect()
}

fn left<A: Address>(prefix: &Prefix, holes: &[Prefix]) -> RangeSet<A> {
    RangeSet::of([prefix]).subtract(&RangeSet::of(holes))
}

fn push(parsed: &mut Parsed, prefix: Prefix, id: u32) {
    parsed.notes.set(parsed.entries.len(), id);
    parsed.entries.push(Entry { prefix });
}
