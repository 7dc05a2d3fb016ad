//! The whole table in one go: into a kernel without it, or over one that is there without a gap.

use std::{collections::BTreeSet, ffi::CString, time::Instant};

use nftnl::{Chain, MsgType, ProtoFamily, Rule, Table};

use super::{
    Applied, Kernel, NftError, TableState,
    message::{CounterMessage, RawMessage},
    query,
    transaction::Transaction,
};
use crate::{
    config::Hook,
    ruleset::{self, Counter, Ruleset, Set},
    snapshot::{Content, Delta, SetName, Sets},
};

impl Kernel {
    /// Puts the whole table with all elements into the kernel, in place of an earlier one of ours.
    pub fn install(&self, sets: &Sets) -> Result<Applied, NftError> {
        if let Some(include) = &self.include {
            return include.fill(&self.netlink, &self.options, sets);
        }
        let state = self.table_state()?;
        self.may_touch(&state)?;
        match state {
            TableState::Absent => self.load(sets, Over::Nothing, &Sets::default()),
            _ => self.replace(sets).or_else(|e| {
                tracing::warn!(
                    "the table that is there cannot be filled anew, so it is replaced: {e}"
                );
                self.load(sets, Over::Replaced, &Sets::default())
            }),
        }
    }

    /// Puts the whole table with all elements into the kernel after somebody else changed it. Where it
    /// is `damaged`, in the shortest time, since it may not enforce; else without a gap.
    ///
    /// # Errors
    /// As of [`Kernel::install`].
    pub fn reinstall(&self, sets: &Sets, damaged: bool) -> Result<Applied, NftError> {
        if damaged && self.include.is_none() && self.table_state()? == TableState::Ours {
            return self.load(sets, Over::Replaced, &Sets::default());
        }
        self.install(sets)
    }

    /// Fills a table that is there anew, without a gap.
    ///
    /// An interval set answers only some time after the switch to the transaction that made it: new
    /// kernels build what they look up in at the very end (seen on 6.18: 207 of 418,000 packets to a
    /// denied network over 8 restarts). So the denied ranges are put into covers first, which the new
    /// rules ask too, and the prefilter comes last.
    pub(super) fn replace(&self, sets: &Sets) -> Result<Applied, NftError> {
        let start = Instant::now();
        let covers = sets.covers();
        if covers.is_empty() {
            return self.load(sets, Over::InPlace, &covers);
        }
        let mut transaction = Transaction::new();
        let there = query::sets(&self.netlink, &self.table)?;
        let is_there = |name: SetName| there.contains(&name.to_string());
        let mut elements = 0;
        // Of a daemon that was killed between two steps. Rules may ask them, so they cannot be made anew.
        for (name, content) in covers.iter().filter(|(name, _)| is_there(*name)) {
            let all = RawMessage::all_elements(&self.table, Set::Addresses(name));
            transaction.delete(&all, format!("all elements of {name}"));
            elements += content.len();
            self.elements(&mut transaction, MsgType::Add, name, content);
        }
        let new = covers.iter().filter(|(name, _)| !is_there(*name));
        elements += self.create(&mut transaction, new)?;
        self.commit(transaction, elements)?;
        let between = sets.without_prefilter().with(&covers);
        elements += self.load(&between, Over::InPlace, &covers)?.elements;
        if let Some(delta) = Delta::between(&between, sets) {
            elements += self.apply(&delta, sets)?.elements;
        }
        Ok(Applied {
            elements,
            elapsed: start.elapsed(),
        })
    }

    /// Loads everything in one transaction, except the sets of `there`, which are there already.
    pub(super) fn load(&self, sets: &Sets, over: Over, there: &Sets) -> Result<Applied, NftError> {
        let start = Instant::now();
        let before = query::generation(&self.netlink)?;
        let ruleset = self.ruleset(sets);
        let mut transaction = Transaction::new();
        let mut kept = BTreeSet::new();
        match over {
            Over::Nothing => self.add_table(&mut transaction),
            Over::Replaced => {
                transaction.delete(&RawMessage::table(&self.table), "old table");
                self.add_table(&mut transaction);
            }
            Over::InPlace => kept = self.clear(&mut transaction, &ruleset, there)?,
        }
        for counter in Counter::ALL {
            let message =
                CounterMessage::new(&self.table, counter).ok_or_else(|| self.cannot_build())?;
            transaction.add(&message, format!("counter {}", counter.as_str()));
        }
        for (id, set) in (1..).zip(ruleset.sets.iter().filter(|set| !set.is_addresses())) {
            self.create_set(&mut transaction, *set, id)?;
        }
        let new = sets.iter().filter(|(name, _)| there.get(*name).is_none());
        let elements = self.create(&mut transaction, new)?;
        self.chains(&mut transaction, &ruleset, &kept);
        self.rules(&mut transaction, &ruleset, false);
        // Whoever changes something from here on is seen by the number after it.
        self.own_generation.set(Some(before));
        self.commit(transaction, elements)
            .inspect_err(|_| self.own_generation.set(None))?;
        self.installed_after.set(Some(before));
        Ok(Applied {
            elements,
            elapsed: start.elapsed(),
        })
    }

    /// Makes sets with their elements; returns how many elements.
    pub(super) fn create<'a>(
        &self,
        transaction: &mut Transaction,
        sets: impl Iterator<Item = (SetName, &'a Content)>,
    ) -> Result<usize, NftError> {
        let mut elements = 0;
        // Above the numbers of the sets that are not addresses.
        for (id, (name, content)) in (1_000..).zip(sets) {
            self.create_set(transaction, Set::Addresses(name), id)?;
            elements += content.len();
            self.elements(transaction, MsgType::Add, name, content);
        }
        Ok(elements)
    }

    fn add_table(&self, transaction: &mut Transaction) {
        let table = if self.owns() {
            RawMessage::owned_table(&self.table)
        } else {
            RawMessage::table(&self.table)
        };
        transaction.add(&table, format!("table inet {}", self.options.table));
    }

    /// Empties the table that is there and keeps its base chains; says which chains are left.
    ///
    /// A new base chain would stand in front of the old one at its hook. A packet between the two at
    /// the switch would have passed the new one while it was still empty, and the old one when it is
    /// empty already (seen: 95 of 437,000 packets to a denied address over 8 restarts).
    fn clear(
        &self,
        transaction: &mut Transaction,
        ruleset: &Ruleset,
        there: &Sets,
    ) -> Result<BTreeSet<String>, NftError> {
        let flags = query::flags(&self.netlink, &self.table)?.unwrap_or(0);
        // An orphan can be adopted; flags that never were there cannot be added.
        if self.owns() && flags & (query::FLAG_OWNER | query::FLAG_PERSIST) == query::FLAG_PERSIST {
            self.add_table(transaction);
        }
        let nft_table = Table::new(&self.table, ProtoFamily::Inet);
        let mut kept = BTreeSet::new();
        let mut old = Vec::new();
        for (name, place) in query::chains(&self.netlink, &self.table)? {
            let name_c = CString::new(name.as_str()).unwrap_or_default();
            let chain = Chain::new(&name_c, &nft_table);
            transaction.delete(&Rule::new(&chain), format!("rules of chain {name}"));
            if ruleset
                .chains
                .iter()
                .any(|c| c.name == name && wanted_place(c) == place)
            {
                kept.insert(name);
            } else {
                old.push((name, chain));
            }
        }
        let stay: BTreeSet<String> = there.names().map(|name| name.to_string()).collect();
        for name in query::sets(&self.netlink, &self.table)?.difference(&stay) {
            let name_c = CString::new(name.as_str()).unwrap_or_default();
            transaction.delete(
                &RawMessage::set(&self.table, &name_c),
                format!("old set {name}"),
            );
        }
        for (name, chain) in old {
            transaction.delete(&chain, format!("old chain {name}"));
        }
        Ok(kept)
    }
}

/// What is there when everything is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// No table.
    Nothing,
    /// A table of ours, whose base chains stay.
    InPlace,
    /// A table of ours, which is deleted first.
    Replaced,
}

/// Where a chain belongs, in the kernel's numbers.
fn wanted_place(chain: &ruleset::Chain) -> Option<query::Place> {
    let base = chain.base?;
    // linux/netfilter.h, enum nf_inet_hooks.
    let hook = match base.hook {
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
    };
    Some((
        hook,
        base.priority,
        if base.route { "route" } else { "filter" }.to_owned(),
    ))
}
