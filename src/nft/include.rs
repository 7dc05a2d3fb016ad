//! Mode include: fills sets of an admin's table, and nothing else there.
//!
//! Never creates or removes a table, chain, rule or set. What is in a set with one of the daemon's
//! names is the daemon's: it is flushed when the set is filled for the first time.

use std::{
    collections::BTreeSet,
    ffi::CString,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use nftnl::MsgType;

use super::{
    Applied, NftError, QueueKind, TableState,
    layout::{self, Included},
    message::RawMessage,
    transaction::{Netlink, Transaction},
};
use crate::{
    prefix::Family,
    ruleset::{Options, Set, TableFamily, open_prefilter},
    snapshot::{Content, Delta, Kind, SetName, Sets},
};

/// The admin's table.
pub(super) struct Include {
    family: TableFamily,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As it was seen last: before it was filled, or right after the last change.
    seen: Included,
    filled: bool,
}

impl Include {
    pub(super) fn new(family: TableFamily) -> Self {
        Self {
            family,
            state: Mutex::default(),
        }
    }

    /// The table as it was seen last.
    pub(super) fn seen(&self) -> Included {
        self.lock().seen.clone()
    }

    pub(super) fn queue_kind(&self) -> QueueKind {
        if self.lock().seen.asks {
            QueueKind::Native
        } else {
            QueueKind::Missing
        }
    }

    /// Absent, or there; never foreign, since the configuration names it.
    pub(super) fn table_state(
        &self,
        netlink: &Netlink,
        options: &Options,
    ) -> Result<TableState, NftError> {
        let now = layout::look(netlink, options)?;
        let state = match now.handle {
            Some(_) => TableState::Ours,
            None => TableState::Absent,
        };
        let mut known = self.lock();
        if !known.filled {
            known.seen = now;
        }
        Ok(state)
    }

    /// True when the table or a set of it was made again, appeared, went or was changed by somebody
    /// else. Rules may have changed all the same: what is seen of them is taken over.
    pub(super) fn reloaded(&self, netlink: &Netlink, options: &Options) -> Result<bool, NftError> {
        let now = layout::look(netlink, options)?;
        let mut known = self.lock();
        if known.filled && is_same(&known.seen, &now) {
            known.seen = now;
            return Ok(false);
        }
        Ok(true)
    }

    /// Puts the whole content into the sets that are there, in one transaction.
    pub(super) fn fill(
        &self,
        netlink: &Netlink,
        options: &Options,
        sets: &Sets,
    ) -> Result<Applied, NftError> {
        let start = Instant::now();
        let seen = layout::look(netlink, options)?;
        let mut messages = self.messages(options)?;
        let mut elements = 0;
        for name in seen.sets.keys() {
            elements += messages.replace(&seen, *name, sets);
        }
        messages.forget(&seen);
        messages.commit(netlink)?;
        let elapsed = start.elapsed();
        self.remember(netlink, options)?;
        Ok(Applied { elements, elapsed })
    }

    /// Brings the sets from what they hold to `sets`; fills them anew when somebody made them again.
    pub(super) fn apply(
        &self,
        netlink: &Netlink,
        options: &Options,
        delta: &Delta,
        sets: &Sets,
    ) -> Result<Applied, NftError> {
        let start = Instant::now();
        if self.reloaded(netlink, options)? {
            return self.fill(netlink, options, sets);
        }
        let seen = self.seen();
        let mut messages = self.messages(options)?;
        let mut elements = 0;
        let turned: BTreeSet<SetName> = delta
            .created
            .iter()
            .chain(&delta.dropped)
            .flat_map(|name| with_its_pair(*name))
            .collect();
        for name in turned.iter().filter(|name| seen.sets.contains_key(name)) {
            elements += messages.replace(&seen, *name, sets);
        }
        for (name, change) in &delta.changed {
            if turned.contains(name) || !seen.sets.contains_key(name) {
                continue;
            }
            elements += change.removed.len() + change.added.len();
            messages.elements(&seen, MsgType::Del, *name, &change.removed);
            messages.elements(&seen, MsgType::Add, *name, &change.added);
        }
        messages.forget(&seen);
        messages.commit(netlink)?;
        let elapsed = start.elapsed();
        self.remember(netlink, options)?;
        Ok(Applied { elements, elapsed })
    }

    /// Leaves the sets as an include defines them: empty, the prefilter open. False without a table.
    pub(super) fn empty(&self, netlink: &Netlink, options: &Options) -> Result<bool, NftError> {
        self.fill(netlink, options, &Sets::default())?;
        Ok(self.seen().handle.is_some())
    }

    fn messages(&self, options: &Options) -> Result<Messages, NftError> {
        let table = CString::new(options.table.as_str())
            .map_err(|_| NftError::Build(options.table.clone()))?;
        Ok(Messages {
            table,
            family: layout::number(Some(self.family)).into(),
            transaction: Transaction::new(),
            last: None,
        })
    }

    /// Takes the table as it is now for what the last change left.
    fn remember(&self, netlink: &Netlink, options: &Options) -> Result<(), NftError> {
        let seen = layout::look(netlink, options)?;
        *self.lock() = State { seen, filled: true };
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same(a: &Included, b: &Included) -> bool {
    (a.handle, &a.handles, &a.counts, &a.sets) == (b.handle, &b.handles, &b.counts, &b.sets)
}

/// The two sets of a prefilter open and close together.
fn with_its_pair(name: SetName) -> Vec<SetName> {
    match name {
        SetName::Class { .. } | SetName::Resolvers { .. } => vec![name],
        SetName::Coarse { family, .. } => pair(family),
    }
}

fn pair(family: Family) -> Vec<SetName> {
    [Kind::Hosts, Kind::Nets]
        .map(|kind| SetName::Coarse { kind, family })
        .to_vec()
}

/// A transaction being written. Its last message asks for an answer, since none may follow that would
/// tell of its end: it would touch the admin's table. So one message is always held back.
struct Messages {
    table: CString,
    family: u16,
    transaction: Transaction,
    last: Option<(RawMessage, MsgType, String)>,
}

impl Messages {
    /// Flushes a set and fills it; gives the number of elements.
    fn replace(&mut self, seen: &Included, name: SetName, sets: &Sets) -> usize {
        self.flush(Set::Addresses(name));
        let content = open_prefilter(sets, name);
        self.elements(seen, MsgType::Add, name, &content);
        content.len()
    }

    fn elements(&mut self, seen: &Included, kind: MsgType, name: SetName, content: &Content) {
        let interval = seen.sets.get(&name).is_some_and(|shape| shape.interval);
        let table = self.table.clone();
        let mut from = 0;
        let emit = |message: &RawMessage, count: usize| {
            let label = format!("elements {from} to {} of {name}", from + count - 1);
            from += count;
            self.push(message.clone(), kind, label);
        };
        RawMessage::content_as(&table, Set::Addresses(name), content, interval, emit);
    }

    /// Verdicts that were remembered may be outdated.
    fn forget(&mut self, seen: &Included) {
        for set in &seen.recent {
            self.flush(*set);
        }
    }

    fn flush(&mut self, set: Set) {
        let message = RawMessage::all_elements(&self.table, set);
        self.push(message, MsgType::Del, format!("elements of {set}"));
    }

    fn push(&mut self, message: RawMessage, kind: MsgType, label: String) {
        let message = message.in_family(self.family);
        if let Some((message, kind, label)) = self.last.replace((message, kind, label)) {
            write(&mut self.transaction, &message, kind, label);
        }
    }

    fn commit(mut self, netlink: &Netlink) -> Result<(), NftError> {
        let Some((message, kind, label)) = self.last else {
            return Ok(());
        };
        write(&mut self.transaction, &message.acknowledged(), kind, label);
        self.transaction.commit_last(netlink)
    }
}

fn write(transaction: &mut Transaction, message: &RawMessage, kind: MsgType, label: String) {
    match kind {
        MsgType::Add => transaction.add(message, label),
        MsgType::Del => transaction.delete(message, label),
    }
}
