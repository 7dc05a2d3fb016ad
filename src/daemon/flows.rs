//! Established flows of this host that a change of the feeds would touch, for a preview.

use std::time::Instant;

use serde::Serialize;

use super::{
    judge::First,
    live::{self, Act, Change},
};
use crate::{
    config::Hook,
    conntrack::{Conntrack, ConntrackError},
    feed::{Action, Direction, Indicator},
    host::addresses,
    packet::Flow,
    snapshot::Snapshot,
};

/// Most flows that are shown.
const MAX: usize = 20;

/// The flows that the next snapshot lists and the one in force does not, or does otherwise.
#[derive(Debug, Default, Serialize)]
pub(super) struct Touched {
    /// How many.
    count: usize,
    /// The first few.
    examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
struct Example {
    flow: String,
    direction: Direction,
    action: Action,
    /// Its source, which is not looked up here, decides.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    depends: bool,
    indicator: Indicator,
}

/// The flows in conntrack that `next` would alert or cut and `current` does not.
pub(super) fn touched(
    current: &Snapshot,
    next: &Snapshot,
    hooks: &[Hook],
) -> Result<Touched, ConntrackError> {
    let own = addresses::local();
    let mut touched = Touched::default();
    let change = Change::new(current, current, next);
    Conntrack::open()?.list(None, Instant::now() + live::SEARCH, |entry| {
        let Some(hook) = live::hook(entry, &own).filter(|hook| hooks.contains(hook)) else {
            return;
        };
        // No bit of a mark: a flow that is cut already is not touched again.
        let (first, depends) = match change.act(entry, hook, 0) {
            Some(Act::Alert(first)) => (first, false),
            Some(Act::Judge(first)) => (first, true),
            Some(Act::Release) | None => return,
        };
        let Some(decision) = first.leading().cloned() else {
            return;
        };
        let now = First::of(&current.index, &entry.filtered(), hook);
        let now = now.as_ref().and_then(First::leading);
        if !depends && now.is_some_and(|now| now.action() == decision.action()) {
            return;
        }
        touched.count += 1;
        if touched.examples.len() < MAX {
            touched.examples.push(Example {
                flow: text(&entry.filtered()),
                direction: decision.direction,
                action: decision.action(),
                depends,
                indicator: decision.hit.indicator,
            });
        }
    })?;
    Ok(touched)
}

fn text(flow: &Flow) -> String {
    match (flow.src_port(), flow.dst_port()) {
        (Some(spt), Some(dpt)) => {
            format!("{} {}:{spt} -> {}:{dpt}", flow.proto, flow.src, flow.dst)
        }
        _ => format!("{} {} -> {}", flow.proto, flow.src, flow.dst),
    }
}
