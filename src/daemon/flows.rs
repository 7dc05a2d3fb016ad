//! Established flows of this host that a change of the feeds would touch, for a preview.

use std::time::Instant;

use serde::Serialize;

use super::live::{self, Act};
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
    Conntrack::open()?.list(None, Instant::now() + live::SEARCH, |entry| {
        let Some(hook) = live::hook(entry, &own).filter(|hook| hooks.contains(hook)) else {
            return;
        };
        // No bit of a mark: a flow that is cut already is not touched again.
        let Some(Act::Alert(decision)) = live::act(entry, hook, current, next, 0) else {
            return;
        };
        if crate::policy::decide(
            &current.index,
            &entry.filtered(),
            hook,
            &crate::policy::Endpoint::default(),
        )
        .is_some_and(|now| now.action() == decision.action())
        {
            return;
        }
        touched.count += 1;
        if touched.examples.len() < MAX {
            touched.examples.push(Example {
                flow: text(&entry.filtered()),
                direction: decision.direction,
                action: decision.action(),
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
