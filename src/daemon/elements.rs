//! `sets.nft` in the state folder: the last good elements, for an include at boot. Beside it the
//! exceptions of the host, for `feedgate nft load`.
//!
//! Rendered and written off the lock, at most once a minute and when the daemon stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{Shared, core::Core, engine::lock, glance::Glance};
use crate::{
    ruleset::{self, MAX_ELEMENTS, Options, Shape, TableFamily, full},
    snapshot::{SetName, Snapshot},
};

/// The shortest time between two files.
const PAUSE: Duration = Duration::from_secs(60);

/// What was written last.
#[derive(Debug, Default)]
pub(super) struct Written {
    snapshot: Weak<Snapshot>,
    sets: BTreeMap<SetName, Shape>,
    at: Option<Instant>,
    failed: bool,
}

/// Writes the file if the kernel holds something else than it; `now`: also within the pause.
pub(super) fn keep(shared: &Shared, now: bool) {
    let mut written = lock(&shared.elements);
    if !now && written.at.is_some_and(|at| at.elapsed() < PAUSE) {
        return;
    }
    let (Some((options, snapshot, sets)), exceptions) = ({
        let core = lock(&shared.core);
        (good(&core), core.host_exceptions())
    }) else {
        return;
    };
    if Weak::ptr_eq(&written.snapshot, &Arc::downgrade(&snapshot)) && written.sets == sets {
        return;
    }
    let start = Instant::now();
    let text = text(&options, &snapshot, &sets);
    let saved = shared.store.save_exceptions(&exceptions);
    match saved.and_then(|()| shared.store.save_elements(&text)) {
        Ok(()) => {
            tracing::debug!("sets.nft: {} bytes in {:?}", text.len(), start.elapsed());
            written.failed = false;
        }
        Err(e) if !written.failed => {
            tracing::warn!("the elements for an include at boot are not stored: {e}");
            written.failed = true;
        }
        Err(_) => {}
    }
    written.at = Some(Instant::now());
    if !written.failed {
        written.snapshot = Arc::downgrade(&snapshot);
        written.sets = sets;
    }
}

/// What the kernel holds, if that is good enough to begin with after a boot.
fn good(core: &Core) -> Option<(Options, Arc<Snapshot>, BTreeMap<SetName, Shape>)> {
    if core.inherited || core.broken.is_some() || core.applied.is_none() || core.canary.is_some() {
        return None;
    }
    // Who is locked out switches the host off and on again: what nobody confirmed must not be there then.
    if core.arming.has_pending() {
        return None;
    }
    let snapshot = core.path.view.previous_or_current();
    let waiting = core
        .feeds
        .values()
        .any(|feed| feed.config.enabled && feed.data.is_none());
    // An older file is better than an empty one.
    if snapshot.sets.elements() == 0 && waiting {
        return None;
    }
    let sets = sets(core);
    (!sets.is_empty()).then(|| (core.kernel.options().clone(), snapshot, sets))
}

/// The sets to write: those of `nft/base.nft`, or those that the admin's table has.
fn sets(core: &Core) -> BTreeMap<SetName, Shape> {
    match core.kernel.included() {
        Some(seen) => seen.sets,
        None => full()
            .into_iter()
            .map(|name| (name, Shape::usual(name)))
            .collect(),
    }
}

fn text(options: &Options, snapshot: &Snapshot, sets: &BTreeMap<SetName, Shape>) -> String {
    ruleset::elements(
        (options.include.unwrap_or(TableFamily::Inet), &options.table),
        &snapshot.sets,
        sets,
        options.include.is_none(),
        MAX_ELEMENTS,
    )
}

/// For `nft print`: the rules that the kernel has of the daemon's, and with `elements` what they hold.
pub(super) fn print(glance: &Glance, elements: bool) -> String {
    let (snapshot, options) = (&glance.snapshot, &glance.options);
    let (mut out, there) = match &glance.included {
        Some(seen) => (
            format!(
                "# mode include: the rules of table {} are yours; the daemon fills its sets {}\n",
                seen.table,
                super::include::sets(seen).join(", ")
            ),
            seen.sets.clone(),
        ),
        None => {
            let names: BTreeSet<SetName> = snapshot.sets.names().collect();
            (
                ruleset::build(options, &names).to_string(),
                names
                    .into_iter()
                    .map(|name| (name, Shape::usual(name)))
                    .collect(),
            )
        }
    };
    for form in &glance.table.ipv4_forms {
        out.push_str(&format!(
            "# IPv4 entries also hold in {} ({})\n",
            form.form,
            form.sign.as_str()
        ));
    }
    if elements {
        out.push_str(&text(options, snapshot, &there));
    }
    out
}
