//! Reading from nf_tables: is the table there and whose is it, its counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    time::Duration,
};

use nix::errno::Errno;

use super::{
    NftError,
    transaction::Netlink,
    wire::{self, ACK, Attributes, DUMP, REQUEST, be32},
};
use crate::ruleset::{Counter, TABLE_COMMENT};

// linux/netfilter/nf_tables.h and nfnetlink.h
pub(super) const SUBSYSTEM: u16 = 10 << 8;
pub(super) const GETTABLE: u16 = SUBSYSTEM | 1;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSET: u16 = SUBSYSTEM | 10;
const GETGEN: u16 = SUBSYSTEM | 16;
const GETOBJ: u16 = SUBSYSTEM | 19;
pub(super) const SET_COUNT: u16 = 20;
const TABLE_FLAGS: u16 = 2;
const TABLE_USERDATA: u16 = 6;
const TABLE_OWNER: u16 = 7;
pub(super) const FLAG_OWNER: u32 = 2;
pub(super) const FLAG_PERSIST: u32 = 4;
const OBJ_TABLE: u16 = 1;
const OBJ_NAME: u16 = 2;
const OBJ_TYPE: u16 = 3;
const OBJ_DATA: u16 = 4;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
pub(super) const INET: u8 = 1;
/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;
/// The number of each request; answers to earlier ones are thrown away before it.
const SEQ: u32 = 1;
const ANSWER: Duration = Duration::from_secs(10);
/// A list that changes while it is read is asked for again, so many times at most.
const ATTEMPTS: usize = 50;

/// What is in the kernel under the table's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// Nothing.
    Absent,
    /// A table that feedgate made.
    Ours,
    /// A running program's, as a running feedgate's is; with the port of its netlink socket.
    Owned(u32),
    /// Somebody else's, and how that shows.
    Foreign(String),
}

impl TableState {
    /// Why the table must be left alone; `None` when it need not be.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Absent | Self::Ours => None,
            Self::Owned(port) => Some(format!(
                "a running program owns it, netlink port {port}, mostly that is its pid"
            )),
            Self::Foreign(why) => Some(why.clone()),
        }
    }
}

/// A counter's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

pub(super) fn table_state(netlink: &Netlink, table: &str) -> Result<TableState, NftError> {
    let mut attributes = Vec::new();
    wire::put(&mut attributes, 1, format!("{table}\0").as_bytes());
    let mut state = TableState::Absent;
    request(
        netlink,
        GETTABLE,
        REQUEST | ACK,
        &attributes,
        &format!("table inet {table}"),
        |found| {
            state = owner(found, netlink.port());
        },
    )
    .or_else(|e| match e {
        NftError::Refused {
            errno: Errno::ENOENT,
            ..
        } => Ok(()),
        e => Err(e),
    })?;
    Ok(state)
}

/// A table that lost its owner but persists has no owner flag any more: the comment tells whose it was.
fn owner(table: Attributes<'_>, own_port: u32) -> TableState {
    let flags = table.get(TABLE_FLAGS).and_then(be32).unwrap_or(0);
    if flags & FLAG_OWNER != 0
        && let Some(port) = table.get(TABLE_OWNER).and_then(be32)
        && port != own_port
    {
        return TableState::Owned(port);
    }
    match table.get(TABLE_USERDATA).map(comment) {
        Some(Some(comment)) if comment == TABLE_COMMENT => TableState::Ours,
        _ => TableState::Foreign(format!("it lacks the comment \"{TABLE_COMMENT}\"")),
    }
}

/// libnftnl's user data: one byte type (0: comment), one byte length, a terminated text.
fn comment(data: &[u8]) -> Option<String> {
    let (head, text) = data.split_first_chunk::<2>()?;
    let [0, len] = *head else { return None };
    text.get(..len.into()).map(wire::text)
}

pub(super) fn counters(
    netlink: &Netlink,
    family: u8,
    table: &CStr,
) -> Result<BTreeMap<Counter, Count>, NftError> {
    let mut attributes = Vec::new();
    wire::put(&mut attributes, OBJ_TABLE, table.to_bytes_with_nul());
    wire::put(&mut attributes, OBJ_TYPE, &1u32.to_be_bytes());
    let mut counts = BTreeMap::new();
    request_in(
        netlink,
        family,
        (GETOBJ, REQUEST | DUMP),
        &attributes,
        "counters",
        |object| {
            if object.get(OBJ_TABLE).map(wire::text).as_deref() != table.to_str().ok() {
                return;
            }
            let name = object.get(OBJ_NAME).map(wire::text);
            let counter = Counter::ALL
                .into_iter()
                .find(|c| Some(c.as_str()) == name.as_deref());
            if let (Some(counter), Some(data)) = (counter, object.nested(OBJ_DATA)) {
                let number = |kind| data.get(kind).and_then(be64).unwrap_or(0);
                counts.insert(
                    counter,
                    Count {
                        packets: number(COUNTER_PACKETS),
                        bytes: number(COUNTER_BYTES),
                    },
                );
            }
        },
    )?;
    Ok(counts)
}

/// The number of the kernel's current generation: each transaction of anybody begins the next.
pub(super) fn generation(netlink: &Netlink) -> Result<u32, NftError> {
    let mut id = None;
    request(netlink, GETGEN, REQUEST | ACK, &[], "the generation", |a| {
        id = a.get(1).and_then(be32);
    })?;
    id.ok_or(NftError::NoAnswer)
}

/// The names of the table's sets.
pub(super) fn sets(netlink: &Netlink, table: &CStr) -> Result<BTreeSet<String>, NftError> {
    let mut names = BTreeSet::new();
    dump(netlink, GETSET, table, "sets", |set| {
        names.extend(set.get(2).map(wire::text));
    })?;
    Ok(names)
}

/// How many elements each of the table's sets has, where the kernel tells (NFTA_SET_COUNT, seen in 6.18).
pub(super) fn counts(
    netlink: &Netlink,
    table: &CStr,
) -> Result<BTreeMap<String, Option<u32>>, NftError> {
    let mut counts = BTreeMap::new();
    dump(netlink, GETSET, table, "sets", |set| {
        let count = set.get(SET_COUNT).and_then(be32);
        counts.extend(set.get(2).map(|name| (wire::text(name), count)));
    })?;
    Ok(counts)
}

/// The table's flags; `None` when it is not there.
pub(super) fn flags(netlink: &Netlink, table: &CStr) -> Result<Option<u32>, NftError> {
    let mut flags = None;
    dump(netlink, GETTABLE, table, "tables", |table| {
        flags = Some(table.get(TABLE_FLAGS).and_then(be32).unwrap_or(0));
    })?;
    Ok(flags)
}

/// Where a base chain is: hook number, priority, type.
pub(super) type Place = (u32, i32, String);

/// The table's chains, base chains with their place.
pub(super) fn chains(
    netlink: &Netlink,
    table: &CStr,
) -> Result<BTreeMap<String, Option<Place>>, NftError> {
    let mut chains = BTreeMap::new();
    dump(netlink, GETCHAIN, table, "chains", |chain| {
        let Some(name) = chain.get(3).map(wire::text) else {
            return;
        };
        let place = chain.nested(4).and_then(|hook| {
            let priority = i32::from_be_bytes(*hook.get(2)?.first_chunk()?);
            Some((
                hook.get(1).and_then(be32)?,
                priority,
                chain.get(7).map(wire::text)?,
            ))
        });
        chains.insert(name, place);
    })?;
    Ok(chains)
}

/// How many rules each chain of the table has that has any.
pub(super) fn rules(netlink: &Netlink, table: &CStr) -> Result<BTreeMap<String, usize>, NftError> {
    let mut counts = BTreeMap::new();
    dump(netlink, GETRULE, table, "rules", |rule| {
        if let Some(chain) = rule.get(2).map(wire::text) {
            *counts.entry(chain).or_default() += 1;
        }
    })?;
    Ok(counts)
}

/// Lists what belongs to the table; its name is attribute 1 of all requests and answers.
fn dump(
    netlink: &Netlink,
    kind: u16,
    table: &CStr,
    what: &str,
    mut each: impl FnMut(Attributes<'_>),
) -> Result<(), NftError> {
    let mut attributes = Vec::new();
    wire::put(&mut attributes, 1, table.to_bytes_with_nul());
    request(netlink, kind, REQUEST | DUMP, &attributes, what, |object| {
        if object.get(1) == Some(table.to_bytes_with_nul()) {
            each(object);
        }
    })
}

/// Sends one request and calls `each` with the attributes of every answer, once all have come. A list
/// that changed while the kernel wrote it is asked for again.
fn request(
    netlink: &Netlink,
    kind: u16,
    flags: u16,
    attributes: &[u8],
    what: &str,
    each: impl FnMut(Attributes<'_>),
) -> Result<(), NftError> {
    request_in(netlink, INET, (kind, flags), attributes, what, each)
}

/// The same about tables of one family.
pub(super) fn request_in(
    netlink: &Netlink,
    family: u8,
    (kind, flags): (u16, u16),
    attributes: &[u8],
    what: &str,
    mut each: impl FnMut(Attributes<'_>),
) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let message = wire::request(kind, flags, SEQ, &[family, 0, 0, 0], attributes);
        netlink.drain();
        netlink.send(&[&message])?;
        let (answers, interrupted) = answers(netlink, what)?;
        if !interrupted {
            answers.iter().for_each(|answer| each(Attributes(answer)));
            return Ok(());
        }
    }
    Err(NftError::Interrupted {
        what: what.to_owned(),
    })
}

/// The attributes of each answer to a request, and whether what they list changed meanwhile.
fn answers(netlink: &Netlink, what: &str) -> Result<(Vec<Vec<u8>>, bool), NftError> {
    let mut buffer = vec![0; 1 << 16];
    let mut answers = Vec::new();
    let mut interrupted = false;
    loop {
        let bytes = netlink
            .receive(&mut buffer, ANSWER)?
            .ok_or(NftError::NoAnswer)?;
        for answer in wire::messages(bytes).filter(|m| m.seq == SEQ) {
            interrupted |= answer.flags & wire::DUMP_INTERRUPTED != 0;
            match answer.errno() {
                Some(0) => return Ok((answers, interrupted)),
                // The object that the dump had come to is gone.
                Some(errno) if Errno::from_raw(errno) == Errno::EINTR => {
                    return Ok((answers, true));
                }
                Some(errno) => {
                    let errno = Errno::from_raw(errno);
                    return Err(NftError::Refused {
                        what: what.to_owned(),
                        errno,
                        more: 0,
                    });
                }
                None if answer.kind == wire::DONE => return Ok((answers, interrupted)),
                None => answers.push(answer.attributes(NFGEN).0.to_vec()),
            }
        }
    }
}

pub(super) fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|b| u64::from_be_bytes(*b))
}
