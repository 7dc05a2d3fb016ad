//! Notices what others do to our table: a member of the notification group of nf_tables.
//!
//! Knows which changes are our own by the port of the socket that made them. Repairs nothing.
//!
//! As long as anybody on the host is a member, in whatever network namespace, the kernel writes a
//! message of 8 KiB for each element of each change, in every namespace: a load of a million elements
//! takes 8 GiB of kernel memory then and several times as long (measured on 6.18). So
//! [`Membership::leave`] during our own large loads, and for good where the table is owned.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockProtocol, recv, setsockopt, sockopt},
};

use super::{
    NftError,
    wire::{self, be32},
};
use crate::{netlink_socket, ruleset::Set};

// linux/netfilter/nfnetlink.h and nf_tables.h
const GROUP: libc::c_int = 7;
const SUBSYSTEM: u16 = 10;
const NEWGEN: u16 = 15;
const GEN_ID: u16 = 1;
const GEN_PID: u16 = 2;
const GEN_NAME: u16 = 3;
/// The table of a chain, rule, set, element list or object, and a table's own name.
const TABLE: u16 = 1;
const INET: u8 = 1;
/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;
/// Room for what others change at once: a flush of 200,000 elements and its author fit. The kernel uses
/// it only while notifications wait; what does not fit is noticed as lost.
const RECEIVE_BUFFER: usize = 32 << 20;

/// A program as nf_tables names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its process (of a program with threads: the thread), as the first pid namespace counts.
    pub pid: u32,
    /// Its name, at most 15 printable ASCII characters, others replaced: it is the program's own choice.
    pub name: String,
}

/// `nft pid 812`
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pid {}", self.name, self.pid)
    }
}

/// One transaction of somebody else that touched our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was seen.
    pub seen: Instant,
    /// The generation it began.
    pub generation: u32,
    /// The gravest thing it did: `table deleted`, `rule of chain ask4 deleted`, ...
    pub what: String,
    /// Who did it, where the kernel says so.
    pub who: Option<Program>,
}

/// What the listener has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody changed our table.
    Change(Change),
    /// More was changed at once than the listener's buffer holds (ENOBUFS): what it was and who did it
    /// is lost, so the content of the table is not to be trusted.
    Lost {
        /// When the first of it was seen.
        seen: Instant,
        /// The gravest of what still fitted, when that was about our table.
        what: Option<String>,
    },
    /// Nobody listened while somebody changed something, or the table went unseen: look for yourself.
    Unsure,
}

/// The listener; for a thread of its own.
pub struct Watch {
    membership: Arc<Membership>,
    collector: Collector,
    buffer: Box<[u8]>,
}

impl Watch {
    /// Listens for changes of `table` that do not come from the socket with port `own_port`, once
    /// [`Membership::join`] was called.
    pub(super) fn open(table: &str, own_port: u32) -> Result<Self, NftError> {
        let fail = |step: &str| {
            let step = step.to_owned();
            |e: Errno| NftError::Socket {
                step,
                source: e.into(),
            }
        };
        let socket = netlink_socket::open(SockProtocol::NetlinkNetFilter)
            .map_err(fail("opening a socket for nf_tables notifications"))?;
        netlink_socket::bind_any(&socket)
            .map_err(fail("binding the socket for nf_tables notifications"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .map_err(fail("enlarging the buffer for nf_tables notifications"))?;
        let membership = Membership {
            socket,
            joined: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
        };
        Ok(Self {
            membership: Arc::new(membership),
            collector: Collector::new(table, own_port),
            buffer: vec![0; 1 << 16].into_boxed_slice(),
        })
    }

    pub(super) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership)
    }

    /// Waits at most `limit` for something to tell.
    ///
    /// # Errors
    /// When the socket fails; lost notifications are no error but [`Notice::Unsure`].
    pub fn next(&mut self, limit: Duration) -> Result<Vec<Notice>, NftError> {
        let fail = |e: Errno| NftError::Socket {
            step: "listening for nf_tables notifications".to_owned(),
            source: e.into(),
        };
        let mut notices = Vec::new();
        if self.membership.unsure.swap(false, Ordering::AcqRel) {
            notices.push(Notice::Unsure);
        }
        let socket = &self.membership.socket;
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail(e)),
        }
        let seen = Instant::now();
        let mut lost = false;
        loop {
            match recv(socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default();
                    let changes = self.collector.take(bytes, Instant::now());
                    notices.extend(changes.into_iter().map(Notice::Change));
                }
                Err(Errno::EAGAIN) => {
                    if lost {
                        let what = self.collector.forget();
                        notices.push(Notice::Lost { seen, what });
                    }
                    return Ok(notices);
                }
                Err(Errno::EINTR) => {}
                // What waited before the overflow is still there to be read, without its end.
                Err(Errno::ENOBUFS) => lost = true,
                Err(e) => return Err(fail(e)),
            }
        }
    }
}

/// The listener's place in the notification group, which its socket can leave for a while.
pub(super) struct Membership {
    pub(super) socket: OwnedFd,
    joined: AtomicBool,
    unsure: AtomicBool,
}

impl Membership {
    /// Nothing is heard until [`Membership::join`]; loads are as fast as without a listener.
    pub(super) fn leave(&self) -> Result<(), NftError> {
        if !self.joined.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.set(libc::NETLINK_DROP_MEMBERSHIP)
    }

    /// Hears what happens from now on.
    pub(super) fn join(&self) -> Result<(), NftError> {
        if self.joined.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.set(libc::NETLINK_ADD_MEMBERSHIP)
    }

    /// Somebody else changed something while nobody listened.
    pub(super) fn missed(&self) {
        self.unsure.store(true, Ordering::Release);
    }

    fn set(&self, option: libc::c_int) -> Result<(), NftError> {
        let group = GROUP;
        let len = libc::socklen_t::try_from(size_of_val(&group)).unwrap_or(4);
        // SAFETY: the descriptor is open, and the kernel reads `len` bytes of a live integer.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const group).cast(),
                len,
            )
        };
        if done == 0 {
            return Ok(());
        }
        Err(NftError::Socket {
            step: "joining or leaving the notification group of nf_tables".to_owned(),
            source: io::Error::last_os_error(),
        })
    }
}

/// Puts the notifications of a transaction together: its last one says who made it.
struct Collector {
    table: String,
    own_port: u32,
    gravest: Option<Damage>,
}

/// Gravest last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Added(String),
    Deleted(String),
    DeletedSet(String),
    DeletedChain(String),
    DeletedTable,
}

impl Collector {
    fn new(table: &str, own_port: u32) -> Self {
        Self {
            table: table.to_owned(),
            own_port,
            gravest: None,
        }
    }

    /// Takes one datagram; gives the transactions that end in it and touched the table.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in wire::messages(bytes) {
            if message.kind >> 8 != SUBSYSTEM || message.port == self.own_port {
                continue;
            }
            let kind = message.kind & 0xff;
            if kind == NEWGEN {
                changes.extend(self.end(&message, now));
            } else if message.payload.first() == Some(&INET) {
                let damage = self.damage(kind, message.attributes(NFGEN));
                self.gravest = self.gravest.take().max(damage);
            }
        }
        changes
    }

    /// The end of the transaction under way is missing: gives what is known of it.
    fn forget(&mut self) -> Option<String> {
        self.gravest.take().map(|damage| damage.to_string())
    }

    fn end(&mut self, message: &wire::Message<'_>, now: Instant) -> Option<Change> {
        let damage = self.gravest.take()?;
        let attributes = message.attributes(NFGEN);
        let name = attributes.get(GEN_NAME).map(wire::text);
        let pid = attributes.get(GEN_PID).and_then(be32);
        Some(Change {
            seen: now,
            generation: attributes.get(GEN_ID).and_then(be32)?,
            what: damage.to_string(),
            who: name.zip(pid).map(|(name, pid)| Program {
                pid,
                name: name
                    .chars()
                    .take(15)
                    .map(|c| if c.is_ascii_graphic() { c } else { '?' })
                    .collect(),
            }),
        })
    }

    fn damage(&self, kind: u16, attributes: wire::Attributes<'_>) -> Option<Damage> {
        // Somebody's large load has a message for each element: no allocation for those.
        if attributes.get(TABLE)?.strip_suffix(&[0])? != self.table.as_bytes() {
            return None;
        }
        let name = |number| attributes.get(number).map_or_else(String::new, wire::text);
        Some(match kind {
            0 => Damage::Added("table".into()),
            2 => Damage::DeletedTable,
            3 => Damage::Added(format!("chain {}", name(3))),
            5 => Damage::DeletedChain(name(3)),
            6 => Damage::Added(format!("rule of chain {}", name(2))),
            8 => Damage::Deleted(format!("rule of chain {}", name(2))),
            9 => Damage::Added(format!("set {}", name(2))),
            11 => Damage::DeletedSet(name(2)),
            // Verdicts that are remembered for a minute are nobody's protection.
            12 | 14 if name(2).starts_with(Set::RECENT_PREFIX) => return None,
            12 => Damage::Added(format!("elements of set {}", name(2))),
            14 => Damage::Deleted(format!("elements of set {}", name(2))),
            20 => Damage::Deleted(format!("counter {}", name(2))),
            _ => return None,
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(what) => write!(f, "{what} added"),
            Self::Deleted(what) => write!(f, "{what} deleted"),
            Self::DeletedSet(name) => write!(f, "set {name} deleted"),
            Self::DeletedChain(name) => write!(f, "chain {name} deleted"),
            Self::DeletedTable => f.write_str("table deleted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, port: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            wire::put(&mut body, *kind, value);
        }
        let mut message = wire::request(SUBSYSTEM << 8 | kind, 0, 0, &[INET, 0, 0, 0], &body);
        message[12..16].copy_from_slice(&port.to_ne_bytes());
        message
    }

    fn generation(number: u32, port: u32) -> Vec<u8> {
        let (id, pid) = (number.to_be_bytes(), 812u32.to_be_bytes());
        message(NEWGEN, port, &[(1, &id), (2, &pid), (3, b"nft\0")])
    }

    fn collector() -> Collector {
        Collector::new("feedgate", 7)
    }

    #[test]
    fn the_gravest_change_of_a_transaction_is_told_with_its_author() {
        let table: (u16, &[u8]) = (1, b"feedgate\0");
        let bytes = [
            message(8, 9, &[table, (2, b"ask4\0")]),
            message(2, 9, &[table]),
            message(12, 9, &[table, (2, b"deny_hosts4\0")]),
            generation(3, 9),
        ]
        .concat();
        let now = Instant::now();
        let found = collector().take(&bytes, now);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "table deleted");
        assert_eq!(found[0].generation, 3);
        assert_eq!(found[0].who.as_ref().unwrap().to_string(), "nft pid 812");
    }

    #[test]
    fn our_own_changes_other_tables_and_remembered_verdicts_are_nothing() {
        let ours: (u16, &[u8]) = (1, b"feedgate\0");
        let other: (u16, &[u8]) = (1, b"filter\0");
        let bytes = [
            message(2, 7, &[ours]),
            generation(1, 7),
            message(2, 9, &[other]),
            message(14, 9, &[ours, (2, b"recent_allow4\0")]),
            generation(2, 9),
        ]
        .concat();
        assert_eq!(collector().take(&bytes, Instant::now()), []);
    }

    #[test]
    fn a_transaction_may_come_in_several_datagrams() {
        let mut collector = collector();
        let now = Instant::now();
        let set: [(u16, &[u8]); 2] = [(1, b"feedgate\0"), (2, b"deny_hosts4\0")];
        assert_eq!(collector.take(&message(14, 9, &set), now), []);
        assert_eq!(
            collector.take(&generation(5, 9), now)[0].what,
            "elements of set deny_hosts4 deleted"
        );
        assert_eq!(collector.take(&generation(6, 9), now), []);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            let _ = collector().take(&bytes, Instant::now());
        }
    }
}
