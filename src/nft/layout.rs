//! Reading an admin's table: which of the daemon's sets it has and how they are declared, and whether
//! its rules queue packets to the daemon.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{
    NftError,
    query::{self, GETTABLE, SET_COUNT, SUBSYSTEM, be64},
    transaction::Netlink,
    wire::{self, ACK, Attributes, DUMP, REQUEST, be32},
};
use crate::{
    prefix::Family,
    ruleset::{FlowKey, Options, Remembered, Set, Shape, TableFamily, full},
    snapshot::{Kind, SetName, Sets},
};

// linux/netfilter/nf_tables.h
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSET: u16 = SUBSYSTEM | 10;
const TABLE_HANDLE: u16 = 4;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const QUEUE_NUM: u16 = 1;
const QUEUE_TOTAL: u16 = 2;
const QUEUE_FLAGS: u16 = 3;
const TARGET_NAME: u16 = 1;
const TARGET_INFO: u16 = 3;
const BYPASS: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_TIMEOUT: u16 = 11;
const SET_HANDLE: u16 = 16;
const FLAG_INTERVAL: u32 = 0x4;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_DYNAMIC: u32 = 0x20;
const FLAG_CONCAT: u32 = 0x80;
/// Flags of a set that can be filled; constant sets, maps and the like cannot.
const FLAGS: u32 = FLAG_INTERVAL | FLAG_TIMEOUT | FLAG_DYNAMIC;

/// What an admin's table was seen to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Included {
    /// The table, as `inet filter`.
    pub table: String,
    /// Its handle; `None` when there is no such table.
    pub handle: Option<u64>,
    /// The sets that are filled, and how they are declared.
    pub sets: BTreeMap<SetName, Shape>,
    /// Handles of these sets: a new one means that somebody made the set again.
    pub handles: BTreeMap<SetName, u64>,
    /// Elements of these sets, where the kernel tells (NFTA_SET_COUNT, seen in 6.18): another number
    /// than after the last change means that somebody else changed the set.
    pub counts: BTreeMap<SetName, u32>,
    /// Sets of remembered verdicts.
    pub recent: Vec<Set>,
    /// A rule of the table queues packets to the daemon.
    pub asks: bool,
    /// Sets with a name of the daemon's that cannot be filled, and rules that are dangerous: each in words.
    pub problems: Vec<String>,
}

impl Included {
    /// What of `sets` this table does not enforce, each in words.
    pub fn missing(&self, sets: &Sets) -> Vec<String> {
        let mut out = Vec::new();
        let mut blind = 0;
        for (name, content) in sets
            .iter()
            .filter(|(name, _)| !self.sets.contains_key(name))
        {
            match name {
                _ if self.cannot_see(name.family()) => blind += content.len(),
                SetName::Class { .. } => out.push(format!(
                    "{} has no set {name} that can be filled: its {} elements are not enforced",
                    self.table,
                    content.len()
                )),
                SetName::Coarse { .. } if self.has_prefilter(name.family()) => out.push(format!(
                    "{} has only one of the prefilter's sets of IPv{}, {name} is missing: what it would let \
                     through is not enforced",
                    self.table,
                    digit(name.family()),
                )),
                // No prefilter at all is a choice, and costs only time.
                SetName::Coarse { .. } => {}
                // Without it the snapshot is built as if the rule were not there.
                SetName::Resolvers { .. } => {}
            }
        }
        if blind > 0 {
            out.push(format!(
                "{} sees one IP version only: {blind} elements of the other are not enforced",
                self.table
            ));
        }
        out
    }

    fn cannot_see(&self, family: Family) -> bool {
        let of = self.table.split(' ').next().unwrap_or_default();
        !TableFamily::of(of).sees(family)
    }

    fn has_prefilter(&self, family: Family) -> bool {
        [Kind::Hosts, Kind::Nets].iter().any(|kind| {
            self.sets.contains_key(&SetName::Coarse {
                kind: *kind,
                family,
            })
        })
    }
}

/// Looks at the table that `options` name.
pub(super) fn look(netlink: &Netlink, options: &Options) -> Result<Included, NftError> {
    let family = options.include.unwrap_or(TableFamily::Inet);
    let mut seen = Included {
        table: format!("{} {}", family.as_str(), options.table),
        ..Included::default()
    };
    let mut attributes = Vec::new();
    wire::put(
        &mut attributes,
        1,
        format!("{}\0", options.table).as_bytes(),
    );
    let number = number(Some(family));
    let what = format!("table {}", seen.table);
    let ask = |kind, flags, each: &mut dyn FnMut(Attributes<'_>)| {
        query::request_in(netlink, number, (kind, flags), &attributes, &what, each)
    };
    let found = ask(GETTABLE, REQUEST | ACK, &mut |table| {
        seen.handle = Some(table.get(TABLE_HANDLE).and_then(be64).unwrap_or(0));
    });
    match found {
        Err(NftError::Refused {
            errno: Errno::ENOENT,
            ..
        }) => return Ok(seen),
        other => other?,
    }
    let names: BTreeMap<String, SetName> = full().into_iter().map(|n| (n.to_string(), n)).collect();
    let recent: BTreeMap<String, Set> = recent().map(|set| (set.to_string(), set)).collect();
    ask(GETSET, REQUEST | DUMP, &mut |set| {
        // Kernels before the filter by table show every table of the family.
        if set.get(1).map(wire::text).as_deref() != Some(&options.table) {
            return;
        }
        let Some(text) = set.get(SET_NAME).map(wire::text) else {
            return;
        };
        let flags = set.get(SET_FLAGS).and_then(be32).unwrap_or(0);
        if let Some(name) = names.get(&text) {
            match shape(*name, set, flags) {
                Ok(shape) => {
                    seen.sets.insert(*name, shape);
                    let handle = set.get(SET_HANDLE).and_then(be64).unwrap_or(0);
                    seen.handles.insert(*name, handle);
                    let count = set.get(SET_COUNT).and_then(be32);
                    seen.counts.extend(count.map(|count| (*name, count)));
                }
                Err(why) => seen.problems.push(format!(
                    "set {text} of {} cannot be filled: {why}",
                    seen.table
                )),
            }
        } else if let Some(set) = recent.get(&text)
            && flags & FLAG_TIMEOUT != 0
        {
            seen.recent.push(*set);
        }
    })?;
    let queues = u32::from(options.queue_first)
        ..u32::from(options.queue_first) + u32::from(options.queue_count);
    ask(GETRULE, REQUEST | DUMP, &mut |rule| {
        if rule.get(1).map(wire::text).as_deref() != Some(&options.table) {
            return;
        }
        let Some(queue) = queue_of(rule) else { return };
        if queue.first < queues.end && queues.start < queue.first + queue.count {
            seen.asks = true;
            if !queue.bypass {
                let chain = rule.get(RULE_CHAIN).map(wire::text).unwrap_or_default();
                seen.problems.push(format!(
                    "a rule in chain {chain} of {} queues without `bypass`: without a daemon its packets are lost",
                    seen.table
                ));
            }
        }
    })?;
    Ok(seen)
}

/// The family's number for netlink (linux/netfilter.h).
pub(super) fn number(family: Option<TableFamily>) -> u8 {
    match family {
        None | Some(TableFamily::Inet) => query::INET,
        Some(TableFamily::Ip) => 2,
        Some(TableFamily::Ip6) => 10,
    }
}

/// How a set is declared, or why it cannot be filled.
fn shape(name: SetName, set: Attributes<'_>, flags: u32) -> Result<Shape, String> {
    // nft's numbers: ipv4_addr 7, ipv6_addr 8, inet_proto 12, inet_service 13; six bits a part.
    let (number, bytes) = match name.family() {
        Family::V4 => (7, 4),
        Family::V6 => (8, 16),
    };
    let (number, bytes, more) = match name.kind() {
        kind if kind.has_ports() => (
            number << 12 | 12 << 6 | 13,
            bytes + 8,
            " . inet_proto . inet_service",
        ),
        _ => (number, bytes, ""),
    };
    let get = |kind| set.get(kind).and_then(be32);
    if get(SET_KEY_LEN) != Some(bytes) || get(SET_KEY_TYPE).is_some_and(|key| key != number) {
        let family = digit(name.family());
        return Err(format!("its type must be ipv{family}_addr{more}"));
    }
    // The kernel's word for an interval set of several parts.
    let concat = match name.kind() {
        kind if kind.is_flows() => FLAG_CONCAT,
        _ => 0,
    };
    if flags & !(FLAGS | concat) != 0 {
        return Err("it is a map, constant, or has flags that feedgate does not know".into());
    }
    if set.get(SET_TIMEOUT).and_then(be64).is_some_and(|t| t > 0) {
        return Err("it has a default timeout, by which elements would vanish".into());
    }
    let shape = Shape {
        interval: flags & FLAG_INTERVAL != 0,
        timeout: flags & FLAG_TIMEOUT != 0,
        dynamic: flags & FLAG_DYNAMIC != 0,
    };
    if name.kind().is_interval() && !shape.interval {
        return Err("it needs `flags interval`".into());
    }
    if name.kind() == Kind::Ports && shape.interval {
        return Err("it must not have `flags interval`".into());
    }
    if matches!(name, SetName::Coarse { .. }) && name.kind() == Kind::Hosts && shape.interval {
        return Err("a prefilter of blocks must not have `flags interval`".into());
    }
    Ok(shape)
}

struct Queue {
    first: u32,
    count: u32,
    bypass: bool,
}

/// Where a rule queues packets to: the native expression, or the xt target NFQUEUE.
fn queue_of(rule: Attributes<'_>) -> Option<Queue> {
    rule.nested(RULE_EXPRESSIONS)?.find_map(|(_, expression)| {
        let expression = Attributes(expression);
        let data = expression.nested(EXPR_DATA)?;
        match expression.get(EXPR_NAME).map(wire::text)?.as_str() {
            "queue" => Some(Queue {
                first: be16(data.get(QUEUE_NUM)?)?.into(),
                count: data.get(QUEUE_TOTAL).and_then(be16).unwrap_or(1).into(),
                bypass: data.get(QUEUE_FLAGS).and_then(be16).unwrap_or(0) & BYPASS != 0,
            }),
            "target" if data.get(TARGET_NAME).map(wire::text)? == "NFQUEUE" => {
                let info = data.get(TARGET_INFO)?;
                let word = |at: usize| {
                    let bytes = info.get(at..)?.first_chunk()?;
                    Some(u16::from_ne_bytes(*bytes))
                };
                Some(Queue {
                    first: word(0)?.into(),
                    count: word(2).unwrap_or(1).max(1).into(),
                    bypass: word(4).unwrap_or(0) & BYPASS != 0,
                })
            }
            _ => None,
        }
    })
}

/// All sets of remembered verdicts.
fn recent() -> impl Iterator<Item = Set> {
    [Family::V4, Family::V6].into_iter().flat_map(|family| {
        [Remembered::Allow, Remembered::Deny]
            .into_iter()
            .flat_map(move |verdict| {
                FlowKey::ALL.map(|key| Set::Recent {
                    verdict,
                    key,
                    family,
                })
            })
    })
}

fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}
