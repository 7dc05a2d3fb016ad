//! The kernel's nf_tables: installs the ruleset, applies deltas, removes the table, reads counters.
//!
//! Every change is one transaction. Knows nothing of feeds beyond the sets it is given.

mod element;
mod expression;
mod include;
mod install;
mod layout;
mod message;
mod probe;
mod query;
#[cfg(test)]
mod tests;
mod transaction;
mod watch;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use caps::Capability;
use nftnl::{Chain, ChainType, Hook as NftHook, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::errno::Errno;

use crate::{
    config::Hook,
    lacks, netlink as wire,
    ruleset::{self, Counter, Options, Ruleset, Set},
    snapshot::{Content, Delta, SetName, Sets},
};
use include::Include;
pub use layout::Included;
use message::{RawMessage, SetMessage};
pub use probe::Abilities;
pub use query::{Count, TableState};
use transaction::{Netlink, Transaction};
use watch::Membership;
pub use watch::{Change, Notice, Program, Watch};

/// The listener leaves its group during transactions of this many elements and more: below, what it
/// costs is less than a blind moment is worth.
const LARGE: usize = 2_000;

/// What went wrong between the daemon and nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// A system call on the netlink socket.
    #[error("{step}: {source}{}", socket_hint(source))]
    Socket {
        /// What was being done.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a message; nothing of the transaction took effect.
    #[error("the kernel refused {what}: {}{}{}", errno.desc(), more_hint(*more), errno_hint(*errno))]
    Refused {
        /// The message.
        what: String,
        /// The kernel's answer.
        errno: Errno,
        /// Further refused messages of the same transaction.
        more: usize,
    },
    /// No answer in time.
    #[error(
        "the kernel did not answer a transaction; `nft list tables` shows whether nf_tables is stuck"
    )]
    NoAnswer,
    /// The kernel's answers did not fit the receive buffer (ENOBUFS): an error among them may be lost.
    #[error(
        "answers to {what} did not fit the receive buffer: whether it took effect is unknown, so the table is to be loaded again"
    )]
    AnswersLost {
        /// What was asked for.
        what: String,
    },
    /// Others change nf_tables faster than it can be read.
    #[error(
        "{what} changed each time while the kernel listed them; another program changes nf_tables all the time"
    )]
    Interrupted {
        /// What was asked for.
        what: String,
    },
    /// Somebody else's table has the name.
    #[error(
        "table inet {table} exists and is not feedgate's ({why}): it was left untouched. \
         Remove it with `nft delete table inet {table}`, or set another name under [nftables] table"
    )]
    Foreign {
        /// Table name.
        table: String,
        /// How it was recognised.
        why: String,
    },
    /// The name holds a NUL byte, or memory ran out.
    #[error("cannot build a message for table {0}")]
    Build(String),
}

fn socket_hint(error: &io::Error) -> String {
    let hint = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            return format!(" ({})", lacks::capabilities(&[Capability::CAP_NET_ADMIN]));
        }
        Some(Errno::EMSGSIZE) => {
            " (it does not fit the send buffer; feeds with fewer entries make it smaller)"
        }
        Some(Errno::ENOBUFS | Errno::ENOMEM) => {
            " (the kernel has no memory for it; nothing of it took effect)"
        }
        Some(errno) => {
            return lacks::descriptors(errno).map_or_else(String::new, |few| format!(" ({few})"));
        }
        None => "",
    };
    hint.to_owned()
}

fn more_hint(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more)")
    }
}

fn errno_hint(errno: Errno) -> String {
    let hint = match errno {
        Errno::EPERM => {
            let missing = lacks::missing(&[Capability::CAP_NET_ADMIN]);
            let why = missing.unwrap_or_else(|| "nobody else may own the table".to_owned());
            return format!(" ({why})");
        }
        Errno::EBUSY => " (a rule, map or chain still refers to it)",
        Errno::ENOMEM | Errno::ENOBUFS => " (the kernel has no memory for it)",
        Errno::EOPNOTSUPP => " (the kernel lacks this feature of nf_tables)",
        Errno::ENOENT => " (a table, chain or set of it is gone, or a kernel module is missing)",
        Errno::EEXIST => " (it overlaps with an element that is there)",
        Errno::ENFILE => " (the set is full: its declared size is too small)",
        _ => "",
    };
    hint.to_owned()
}

/// How packets get from a rule to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// The native `queue` expression (CONFIG_NFT_QUEUE).
    Native,
    /// The xt `NFQUEUE` target through nft_compat.
    Compat,
    /// Neither: deny sets are enforced, nothing is attributed.
    Missing,
}

impl QueueKind {
    /// For status and log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native queue expression",
            Self::Compat => "xt NFQUEUE target through nft_compat",
            Self::Missing => {
                "none: the kernel has neither CONFIG_NFT_QUEUE nor xt_NFQUEUE with nft_compat"
            }
        }
    }
}

/// What a transaction did.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// Elements sent.
    pub elements: usize,
    /// From building the messages to the kernel's answer.
    pub elapsed: Duration,
}

/// The daemon's table in the kernel.
pub struct Kernel {
    netlink: Netlink,
    options: Options,
    table: CString,
    queue: QueueKind,
    abilities: Abilities,
    /// The kernel knows owned tables that outlive their owner (6.9), and this one is the daemon's.
    can_own: bool,
    /// The listener's place in its group, once there is one.
    membership: Option<Arc<Membership>>,
    /// The generation before the last installation of the whole table.
    installed_after: Cell<Option<u32>>,
    /// The generation of our last transaction, as long as all since the last installation of the whole
    /// table were ours.
    own_generation: Cell<Option<u32>>,
    /// The table is the admin's.
    include: Option<Include>,
}

impl Kernel {
    /// Opens the kernel's nf_tables and finds out how packets can be queued.
    pub fn open(options: Options) -> Result<Self, NftError> {
        let table = CString::new(options.table.as_str())
            .map_err(|_| NftError::Build(options.table.clone()))?;
        let netlink = Netlink::open()?;
        let include = options.include.map(Include::new);
        let queue = match include {
            Some(_) => QueueKind::Missing,
            None => probe::queue(&netlink, options.queue_first)?,
        };
        let abilities = probe::abilities(&netlink)?;
        let can_own = include.is_none() && abilities.persist;
        Ok(Self {
            include,
            netlink,
            options,
            table,
            queue,
            abilities,
            can_own,
            membership: None,
            installed_after: Cell::new(None),
            own_generation: Cell::new(None),
        })
    }

    /// How packets are queued on this kernel.
    pub fn queue_kind(&self) -> QueueKind {
        match &self.include {
            Some(include) => include.queue_kind(),
            None => self.queue,
        }
    }

    /// What else this kernel's nf_tables knows.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// True when the table is this daemon's alone while it lives: others' changes end in EPERM, also
    /// `nft flush ruleset` passes it by. The table outlives the daemon, and is anybody's then.
    ///
    /// Never OWNER without PERSIST: the kernel would delete the table, and with it all protection,
    /// together with the daemon's socket. `nft delete table inet feedgate`, the emergency exit, needs
    /// a dead daemon then (`kill -9` is enough); without an owner a living daemon would put the
    /// table back within a second, so there is no exit past a living daemon either way, and a refusal
    /// says so at once. For a daemon that hangs, `owner = false` keeps the exit in one step.
    pub fn owns(&self) -> bool {
        self.can_own && self.options.owner
    }

    /// The options the table is built from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Takes other options; the next [`Kernel::install`] uses them. The table name cannot change.
    pub fn set_options(&mut self, options: Options) {
        self.options = Options {
            table: self.options.table.clone(),
            include: self.options.include,
            ..options
        };
    }

    /// Whether the table is there, and whose it is.
    pub fn table_state(&self) -> Result<TableState, NftError> {
        if let Some(include) = &self.include {
            return include.table_state(&self.netlink, &self.options);
        }
        query::table_state(&self.netlink, &self.options.table)
    }

    /// Mode include: what the admin's table was seen to have, and what is wrong with it.
    pub fn included(&self) -> Option<Included> {
        self.include.as_ref().map(Include::seen)
    }

    /// Mode include: true when the table or one of its sets is not the one that was filled.
    pub fn reloaded(&self) -> Result<bool, NftError> {
        match &self.include {
            Some(include) => include.reloaded(&self.netlink, &self.options),
            None => Ok(false),
        }
    }

    /// Takes the kernel from the sets before `delta` to `sets`, and forgets remembered verdicts.
    pub fn apply(&self, delta: &Delta, sets: &Sets) -> Result<Applied, NftError> {
        if let Some(include) = &self.include {
            return include.apply(&self.netlink, &self.options, delta, sets);
        }
        let start = Instant::now();
        let ruleset = self.ruleset(sets);
        let created = delta
            .created
            .iter()
            .filter_map(|name| Some((*name, sets.get(*name)?)));
        let mut transaction = Transaction::new();
        let mut elements = self.create(&mut transaction, created)?;
        if delta.created.iter().any(|name| name.kind().is_interval()) {
            // In force before a rule relies on them, see `replace`.
            self.commit(transaction, elements)?;
            transaction = Transaction::new();
        }
        for (name, change) in &delta.changed {
            elements += change.removed.len() + change.added.len();
            let after = sets.get(*name).map_or(0, Content::len);
            if Delta::replaces(change, after) {
                let all = RawMessage::all_elements(&self.table, Set::Addresses(*name));
                transaction.delete(&all, format!("all elements of {name}"));
            } else {
                self.elements(&mut transaction, MsgType::Del, *name, &change.removed);
            }
            self.elements(&mut transaction, MsgType::Add, *name, &change.added);
        }
        if delta.reshapes() {
            self.rules(&mut transaction, &ruleset, true);
        }
        for name in &delta.dropped {
            let set = Set::Addresses(*name);
            let message =
                SetMessage::new(&self.table, set, 0).ok_or_else(|| self.cannot_build())?;
            transaction.delete(&message, format!("set {set}"));
        }
        for set in ruleset
            .sets
            .iter()
            .filter(|set| matches!(set, Set::Recent { .. }))
        {
            transaction.delete(
                &RawMessage::all_elements(&self.table, *set),
                format!("elements of {set}"),
            );
        }
        self.commit(transaction, elements)?;
        Ok(Applied {
            elements,
            elapsed: start.elapsed(),
        })
    }

    /// Starts to listen for what others do to the table, unless nobody else can do anything to it.
    ///
    /// A listener in any network namespace makes nf_tables write a message of 8 KiB for each element
    /// that anybody on this host loads, so an owner goes without.
    pub fn watch(&mut self) -> Result<Watch, NftError> {
        let watch = Watch::open(&self.options.table, self.netlink.port())?;
        if !self.owns() {
            watch.membership().join()?;
        }
        self.membership = Some(watch.membership());
        Ok(watch)
    }

    /// True when the whole table was installed after the kernel's `generation` began.
    pub fn replaced_since(&self, generation: u32) -> bool {
        // Generations wrap around.
        self.installed_after
            .get()
            .is_some_and(|at| at.wrapping_sub(generation) < u32::MAX / 2)
    }

    /// True when nobody but us has changed anything in nf_tables, in whatever table, since the whole
    /// table was installed.
    ///
    /// # Errors
    /// When the kernel does not tell its generation.
    pub fn is_alone(&self) -> Result<bool, NftError> {
        Ok(self.own_generation.get() == Some(query::generation(&self.netlink)?))
    }

    /// True when sets and rules are all there. Elements are only counted, where the kernel tells their
    /// number: listing a large interval set takes minutes.
    pub fn is_whole(&self, sets: &Sets) -> Result<bool, NftError> {
        if self.table_state()? != TableState::Ours {
            return Ok(false);
        }
        let ruleset = self.ruleset(sets);
        let names: BTreeSet<String> = ruleset.sets.iter().map(ToString::to_string).collect();
        let there = query::counts(&self.netlink, &self.table)?;
        if !there.keys().eq(names.iter())
            || !sets
                .iter()
                .all(|(name, content)| fits(&there, name, content))
        {
            return Ok(false);
        }
        let is_rule = |statements: &&Vec<ruleset::Statement>| {
            let mut all = statements.iter();
            all.any(|s| !expression::compile(s, self.queue).is_empty())
        };
        let rules: BTreeMap<String, usize> = ruleset
            .chains
            .iter()
            .map(|chain| {
                (
                    chain.name.clone(),
                    chain.rules.iter().filter(is_rule).count(),
                )
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        Ok(query::rules(&self.netlink, &self.table)? == rules)
    }

    /// Sends a transaction; the listener leaves its group for a large one, and looks afterwards
    /// whether somebody else changed anything meanwhile.
    fn commit(&self, transaction: Transaction, elements: usize) -> Result<(), NftError> {
        let before = query::generation(&self.netlink)?;
        let large = elements >= LARGE;
        if let Some(membership) = &self.membership {
            if large || self.owns() {
                membership.leave()?;
            } else {
                membership.join()?;
            }
        }
        let result = transaction.commit(&self.netlink, &self.table);
        // Whoever came in between makes the next number another one.
        let expected = before.wrapping_add(u32::from(result.is_ok()));
        if let Some(membership) = &self.membership
            && large
            && !self.owns()
        {
            membership.join()?;
            if query::generation(&self.netlink).ok() != Some(expected) {
                membership.missed();
            }
        }
        if self.own_generation.get() == Some(before) {
            self.own_generation.set(Some(expected));
        }
        result
    }

    /// Stops asking the daemon: the queue rules leave, the deny sets stay in force.
    pub fn stop_asking(&mut self, sets: &Sets) -> Result<(), NftError> {
        if self.include.is_some() {
            // The rules are the admin's, and have `bypass`.
            return Ok(());
        }
        self.queue = QueueKind::Missing;
        let mut transaction = Transaction::new();
        self.rules(&mut transaction, &self.ruleset(sets), true);
        transaction.commit(&self.netlink, &self.table)
    }

    /// Removes the table if it is ours; says whether it was there. In mode include: empties its sets.
    pub fn remove(&self) -> Result<bool, NftError> {
        if let Some(include) = &self.include {
            return include.empty(&self.netlink, &self.options);
        }
        let state = self.table_state()?;
        self.may_touch(&state)?;
        match state {
            TableState::Ours => {
                let mut transaction = Transaction::new();
                transaction.delete(
                    &RawMessage::table(&self.table),
                    format!("table inet {}", self.options.table),
                );
                // The last answer cannot come from the table that is gone.
                transaction.commit_last(&self.netlink)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// # Errors
    /// [`NftError::Foreign`] when the table is another's.
    pub(crate) fn may_touch(&self, state: &TableState) -> Result<(), NftError> {
        match state.refusal() {
            None => Ok(()),
            Some(why) => Err(NftError::Foreign {
                table: self.options.table.clone(),
                why,
            }),
        }
    }

    /// The table's counters.
    pub fn counters(&self) -> Result<BTreeMap<Counter, Count>, NftError> {
        query::counters(
            &self.netlink,
            layout::number(self.options.include),
            &self.table,
        )
    }

    /// The ruleset for these sets, as the kernel has it.
    pub fn ruleset(&self, sets: &Sets) -> Ruleset {
        let present: BTreeSet<SetName> = sets.names().collect();
        ruleset::build(&self.options, &present)
    }

    fn create_set(&self, transaction: &mut Transaction, set: Set, id: u32) -> Result<(), NftError> {
        let message = SetMessage::new(&self.table, set, id).ok_or_else(|| self.cannot_build())?;
        transaction.add(&message, format!("set {set}"));
        if !set.constants().is_empty() {
            transaction.add(
                &RawMessage::constants(&self.table, set),
                format!("elements of {set}"),
            );
        }
        Ok(())
    }

    fn elements(
        &self,
        transaction: &mut Transaction,
        kind: MsgType,
        name: SetName,
        content: &Content,
    ) {
        let mut from = 0;
        RawMessage::content(
            &self.table,
            Set::Addresses(name),
            content,
            |message, count| {
                let label = format!("elements {from} to {} of {name}", from + count - 1);
                from += count;
                match kind {
                    MsgType::Add => transaction.add(message, label),
                    MsgType::Del => transaction.delete(message, label),
                }
            },
        );
    }

    fn chains(&self, transaction: &mut Transaction, ruleset: &Ruleset, kept: &BTreeSet<String>) {
        let table = Table::new(&self.table, ProtoFamily::Inet);
        for chain in ruleset
            .chains
            .iter()
            .filter(|chain| !kept.contains(&chain.name))
        {
            transaction.add(&nft_chain(&table, chain), format!("chain {}", chain.name));
        }
    }

    /// Fills the chains; `again`: empties them first.
    fn rules(&self, transaction: &mut Transaction, ruleset: &Ruleset, again: bool) {
        let table = Table::new(&self.table, ProtoFamily::Inet);
        if again {
            for chain in &ruleset.chains {
                let handle = nft_chain(&table, chain);
                transaction.delete(
                    &Rule::new(&handle),
                    format!("rules of chain {}", chain.name),
                );
            }
        }
        for chain in &ruleset.chains {
            let handle = nft_chain(&table, chain);
            for statements in &chain.rules {
                let mut rule = Rule::new(&handle);
                let mut empty = true;
                for expr in statements
                    .iter()
                    .flat_map(|s| expression::compile(s, self.queue))
                {
                    rule.add_expr(&expr);
                    empty = false;
                }
                // A queue statement without a queue is no rule at all.
                if !empty {
                    let text: Vec<String> = statements.iter().map(ToString::to_string).collect();
                    transaction.add(
                        &rule,
                        format!("rule \"{}\" in chain {}", text.join(" "), chain.name),
                    );
                }
            }
        }
    }

    fn cannot_build(&self) -> NftError {
        NftError::Build(self.options.table.clone())
    }
}

/// True when the set may hold `content`, by what the kernel tells of it.
fn fits(there: &BTreeMap<String, Option<u32>>, name: SetName, content: &Content) -> bool {
    let Some(Some(count)) = there.get(&name.to_string()) else {
        return true;
    };
    if name.kind().is_interval() {
        // Kernels count the ends of ranges differently.
        return *count > 0 || content.is_empty();
    }
    usize::try_from(*count) == Ok(content.len())
}

fn nft_chain<'a>(table: &'a Table, chain: &ruleset::Chain) -> Chain<'a> {
    let name = CString::new(chain.name.as_str()).unwrap_or_default();
    let mut nft = Chain::new(&name, table);
    if let Some(base) = chain.base {
        let hook = match base.hook {
            Hook::Output => NftHook::Out,
            Hook::Input => NftHook::In,
            Hook::Forward => NftHook::Forward,
        };
        nft.set_hook(hook, base.priority);
        nft.set_type(if base.route {
            ChainType::Route
        } else {
            ChainType::Filter
        });
        nft.set_policy(Policy::Accept);
    }
    nft
}
