//! NAT64 and 6to4, wired: once a minute it is looked which IPv6 forms of IPv4 addresses are in use, and
//! the kernel's sets hold IPv4 entries in these too.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use nix::errno::Errno;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, core::Core, engine::lock, glance::blocking};
use crate::{
    host::transition::{self, Sign},
    prefix::{Form, Forms, Prefix, WELL_KNOWN},
    snapshot::Transition,
    store::Store,
};

/// How often it is looked.
const TURN: Duration = Duration::from_secs(60);
/// A resolver that takes longer is asked again at the next turn.
const RESOLVE: Duration = Duration::from_secs(5);

/// The forms that are in use, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InUse {
    signs: BTreeMap<Form, Sign>,
    /// What the resolver answered last.
    answered: Vec<Form>,
    /// The last look at the routes failed, and that was told.
    failed: bool,
}

/// A form in use, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// `NAT64 64:ff9b::/96`
    pub form: Form,
    /// What shows that it is in use.
    pub sign: Sign,
}

impl InUse {
    pub(super) fn shown(&self) -> Vec<Shown> {
        let rows = self.signs.iter();
        rows.map(|(form, sign)| Shown {
            form: *form,
            sign: *sign,
        })
        .collect()
    }

    /// In words; `None` without any.
    pub(super) fn words(&self) -> Option<String> {
        let words: Vec<String> = self
            .signs
            .iter()
            .map(|(form, sign)| format!("{form} ({})", sign.as_str()))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Looks once a minute, for ever.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut timer = interval(TURN);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let asks = blocking(|| !lock(&shared.core).nat64().is_empty() && transition::has_ipv6());
        let answer = match asks {
            true => transition::ask_resolver(RESOLVE).await,
            false => None,
        };
        let shared = Arc::clone(shared);
        let _ = tokio::task::spawn_blocking(move || turn(&shared, answer)).await;
    }
}

fn turn(shared: &Shared, answer: Option<Vec<Form>>) {
    // Outside the lock: a router has a million routes.
    let candidates = lock(&shared.core).candidates();
    let found = transition::look(&candidates);
    let mut core = lock(&shared.core);
    if core.closed || core.candidates() != candidates {
        return;
    }
    if let Some(answer) = answer {
        core.take_answer(answer, &shared.store);
    }
    if !core.take_signs(found) {
        return;
    }
    // Flows of a form that is in use from now on may have begun unseen.
    core.path.search_all.store(true, Ordering::Relaxed);
    let _busy = core.busy();
    if let Err(e) = core.sync() {
        tracing::error!("{e}");
    }
}

impl Core {
    /// The forms that may be in use, but for 6to4: the prefixes of the configuration and the well-known
    /// one, or none where the configuration has none.
    fn nat64(&self) -> Vec<Form> {
        let prefixes = &self.config.nftables.nat64_prefixes;
        let well_known = well_known().filter(|_| !prefixes.is_empty());
        let forms = prefixes.iter().filter_map(|prefix| Form::nat64(*prefix));
        forms.chain(well_known).collect()
    }

    /// What the feeds' IPv4 entries are read and copied as.
    pub(super) fn transition(&self) -> Transition {
        let known = || {
            self.nat64()
                .into_iter()
                .chain(well_known())
                .chain(Form::six_to_four())
        };
        let in_use = self.in_use.signs.keys().copied();
        Transition {
            read: Forms::new(known().chain(in_use.clone()).collect()),
            spared: Forms::new(known().collect()),
            in_use: Forms::new(in_use.collect()),
        }
    }

    /// What the resolver said in an earlier run holds until it says something else.
    pub(super) fn recall_transition(&mut self, store: &Store) {
        let stored = store.nat64().into_iter();
        self.in_use.answered = stored.filter_map(Form::nat64).collect();
        self.look_at_transition();
    }

    fn take_answer(&mut self, answer: Vec<Form>, store: &Store) {
        if self.in_use.answered == answer {
            return;
        }
        let prefixes: Vec<Prefix> = answer.iter().map(Form::prefix).collect();
        self.in_use.answered = answer;
        if let Err(e) = store.save_nat64(&prefixes) {
            tracing::warn!(
                "a restart will not know the NAT64 prefix until the resolver says it: {e}"
            );
        }
    }

    /// The forms that routes and addresses may show to be in use.
    fn candidates(&self) -> Vec<Form> {
        self.nat64()
            .into_iter()
            .chain(Form::six_to_four())
            .collect()
    }

    /// Looks which forms are in use.
    pub(super) fn look_at_transition(&mut self) {
        let found = transition::look(&self.candidates());
        self.take_signs(found);
    }

    /// Takes what routes and addresses show; true when other forms are in use than before.
    fn take_signs(&mut self, found: Result<BTreeMap<Form, Sign>, Errno>) -> bool {
        let nat64 = self.nat64();
        let mut signs = BTreeMap::new();
        if !nat64.is_empty() {
            let answered = self.in_use.answered.iter();
            signs.extend(answered.map(|form| (*form, Sign::Resolver)));
        }
        match found {
            Ok(found) => {
                signs.extend(found);
                self.in_use.failed = false;
            }
            Err(e) => {
                if !std::mem::replace(&mut self.in_use.failed, true) {
                    tracing::warn!(
                        "cannot list the routes to NAT64 prefixes: {e}; name yours in nftables.nat64-prefixes"
                    );
                }
                // What was in use still is, as far as is known.
                let candidates = self.candidates();
                let known = self.in_use.signs.iter();
                let known = known.filter(|(form, _)| candidates.contains(form));
                signs.extend(known.map(|(form, sign)| (*form, *sign)));
            }
        }
        let is_named = |form: &&Form| Some(**form) != well_known();
        let named = nat64.iter().filter(is_named);
        signs.extend(named.map(|form| (*form, Sign::Configured)));
        let changed = self.in_use.signs.keys().ne(signs.keys());
        self.in_use.signs = signs;
        if changed {
            match self.in_use.words() {
                Some(words) => tracing::info!("IPv4 entries also hold in {words}"),
                None => tracing::info!("IPv4 entries hold in no IPv6 form: none is in use"),
            }
        }
        changed
    }
}

fn well_known() -> Option<Form> {
    Form::nat64(WELL_KNOWN.parse().ok()?)
}
