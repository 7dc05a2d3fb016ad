//! NFQUEUE: receives held packets from the kernel and gives back verdicts.
//!
//! One thread a queue. The verdict is always NF_ACCEPT; what is meant by it is said in two bits of
//! the packet mark, which the guard chain reads. Knows nothing of feeds.

mod socket;
mod state;

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{
    config::{Hook, OnQueueFull},
    netlink::{self, be32},
};

pub use state::{State, States, states};

/// Bytes of a packet that the kernel copies: headers are all that is looked at.
const COPY_RANGE: u16 = 256;
/// Receive buffer of the netlink socket. The kernel's default holds about 250 packets; what does
/// not fit is passed on unattributed.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Bytes of a queue message that are looked through for its connection: its other attributes and the
/// packet fit twice.
const PEEK: usize = 8192;
// linux/netfilter/nfnetlink.h and nfnetlink_queue.h
const MSG_PACKET: u16 = 3 << 8;
const NFGEN: usize = 4;
const PACKET_HDR: u16 = 1;
const CT: u16 = 11;
/// How often a thread looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(200);
/// Most packets whose answers wait together.
const GROUP: usize = 256;
/// How long the first of them waits for others to be judged.
const GATHER: Duration = Duration::from_millis(5);

/// A queue could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Another program listens on it.
    #[error(
        "queue {queue} is taken by {holder}: set another [nftables] queue-first, or stop that program"
    )]
    Taken {
        /// Queue number.
        queue: u16,
        /// Who the kernel says that is.
        holder: String,
    },
    /// A system call failed.
    #[error("queue {queue}: {step}: {source}")]
    System {
        /// Queue number.
        queue: u16,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// A packet that the kernel holds.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The kernel's number for it: packets of a queue are numbered as they come.
    pub id: u32,
    /// From the IP header on, at most 256 bytes.
    pub bytes: &'a [u8],
    /// Where it was caught.
    pub hook: Hook,
    /// Index of the incoming interface.
    pub indev: Option<u32>,
    /// Index of the outgoing interface.
    pub outdev: Option<u32>,
    /// Owner of the sending socket, for local output.
    pub uid: Option<u32>,
    /// Source MAC address, where the packet came over Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Attributes of the packet's connection as ctnetlink writes them (NFQA_CT), where the kernel gives
    /// them (CONFIG_NETFILTER_NETLINK_GLUE_CT).
    pub connection: Option<&'a [u8]>,
}

/// What the daemon says about a held packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The flow passes.
    Allow,
    /// The flow is denied.
    Deny,
    /// No opinion: the kernel's own sets decide.
    Pass,
}

/// Who answers. A closure does, one packet at a time.
pub trait Judge {
    /// The answer for one packet.
    fn judge(&mut self, packet: &Held<'_>) -> Answer;

    /// Called before each wait for a packet, so every 200 ms when none comes: the thread is at work.
    fn turn(&mut self) {}

    /// True when answers wait for [`Judge::settle`]: then the packets that are there already are
    /// judged together, at most 256 and for at most 5 ms, and wait for it once.
    fn waits(&self) -> bool {
        false
    }

    /// Returns when so many answers may be given.
    fn settle(&mut self, answers: u64) {
        let _ = answers;
    }
}

impl<F: FnMut(&Held<'_>) -> Answer> Judge for F {
    fn judge(&mut self, packet: &Held<'_>) -> Answer {
        self(packet)
    }
}

/// How answers are written into the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkBits {
    /// Both bits.
    pub mask: u32,
    /// Means allow.
    pub allow: u32,
    /// Means deny.
    pub deny: u32,
}

impl MarkBits {
    fn apply(self, mark: u32, answer: Answer) -> u32 {
        let bit = match answer {
            Answer::Allow => self.allow,
            Answer::Deny => self.deny,
            Answer::Pass => 0,
        };
        (mark & !self.mask) | bit
    }
}

/// One bound queue.
pub struct Queue {
    nfq: nfq::Queue,
    number: u16,
    waiter: Option<socket::Waiter>,
    /// Messages carry the packet's connection.
    tracked: bool,
}

impl Queue {
    /// Binds queue `number`, for at most `max_len` held packets; what is beyond is passed on to the
    /// kernel's own sets, or dropped.
    pub fn open(number: u16, max_len: u32, full: OnQueueFull) -> Result<Self, QueueError> {
        let fail = |step| {
            move |source| QueueError::System {
                queue: number,
                step,
                source,
            }
        };
        let (mut nfq, waiter) =
            socket::open(RECEIVE_BUFFER, STOP_CHECK).map_err(fail("opening the netlink socket"))?;
        nfq.bind(number)
            .map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EPERM | Errno::EBUSY) => QueueError::Taken {
                    queue: number,
                    holder: state::holder(Path::new("/proc"), number),
                },
                _ => fail("binding")(source),
            })?;
        nfq.set_copy_range(number, COPY_RANGE)
            .map_err(fail("setting the copy range"))?;
        nfq.set_queue_max_len(number, max_len)
            .map_err(fail("setting its length"))?;
        nfq.set_fail_open(number, full == OnQueueFull::Pass)
            .map_err(fail("setting fail-open"))?;
        nfq.set_recv_gso(number, true)
            .map_err(fail("accepting GSO packets"))?;
        nfq.set_recv_uid_gid(number, true)
            .map_err(fail("asking for socket owners"))?;
        // Without a descriptor there is no way to read what the crate leaves out.
        let tracked = waiter.is_some() && asks_for_connections(&mut nfq, number);
        Ok(Self {
            nfq,
            number,
            waiter,
            tracked,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// True when a packet comes with its connection, so with what NAT did.
    pub fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// True when waiting for a packet ends after a while without one. Where the socket was not found it
    /// does not, and nothing follows from a thread that waits.
    pub fn turns(&self) -> bool {
        self.waiter.is_some()
    }

    /// Answers packets until `stop` is set and no packet is waiting.
    pub fn run(
        mut self,
        marks: MarkBits,
        stop: &AtomicBool,
        mut judge: impl Judge,
    ) -> Result<(), QueueError> {
        let mut peeked = vec![0; if self.tracked { PEEK } else { 0 }];
        let mut group = Vec::new();
        loop {
            let (message, answer) = match self.next(&mut peeked, &mut judge)? {
                Next::Judged(message, answer) => (message, answer),
                Next::Nothing if stop.load(Ordering::Relaxed) => return Ok(()),
                Next::Nothing | Next::Hiccup => continue,
            };
            if !judge.waits() {
                self.give(message, answer, marks);
                continue;
            }
            group.push((message, answer));
            let until = Instant::now() + GATHER;
            while group.len() < GROUP && Instant::now() < until && self.has_more() {
                let Next::Judged(message, answer) = self.next(&mut peeked, &mut judge)? else {
                    break;
                };
                group.push((message, answer));
            }
            judge.settle(u64::try_from(group.len()).unwrap_or(u64::MAX));
            for (message, answer) in group.drain(..) {
                self.give(message, answer, marks);
            }
        }
    }

    /// Waits for a packet, for [`STOP_CHECK`] at most, and judges it.
    fn next(&mut self, peeked: &mut [u8], judge: &mut impl Judge) -> Result<Next, QueueError> {
        judge.turn();
        let seen = match &self.waiter {
            Some(waiter) if self.tracked => waiter.peek(peeked),
            _ => Some(&[][..]),
        };
        let Some(seen) = seen else {
            return Ok(Next::Nothing);
        };
        let message = match self.nfq.recv() {
            Ok(message) => message,
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => return Ok(Next::Nothing),
            Err(e)
                // ENOENT answers an earlier verdict: the kernel had given the packet up. It does so with
                // all held packets when anybody's base chain goes, and when an interface goes.
                if matches!(
                    e.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EINTR | Errno::ENOBUFS | Errno::ENOENT)
                ) =>
            {
                return Ok(Next::Hiccup);
            }
            Err(source) => {
                return Err(QueueError::System {
                    queue: self.number,
                    step: "receiving a packet",
                    source,
                });
            }
        };
        let answer = held(&message, seen).map_or(Answer::Pass, |packet| judge.judge(&packet));
        Ok(Next::Judged(message, answer))
    }

    /// True when a packet is there already.
    fn has_more(&self) -> bool {
        self.waiter
            .as_ref()
            .is_some_and(socket::Waiter::has_message)
    }

    fn give(&mut self, mut message: nfq::Message, answer: Answer, marks: MarkBits) {
        let mark = message.get_nfmark();
        let marked = marks.apply(mark, answer);
        if marked != mark {
            message.set_nfmark(marked);
        }
        message.set_verdict(nfq::Verdict::Accept);
        if let Err(e) = self.nfq.verdict(message) {
            tracing::debug!("queue {}: verdict: {e}", self.number);
        }
    }
}

/// What came.
enum Next {
    /// A packet and its answer.
    Judged(nfq::Message, Answer),
    /// No packet for a while.
    Nothing,
    /// What is no error of this queue.
    Hiccup,
}

/// Asks for the connection of each packet; false where the kernel is built without.
fn asks_for_connections(nfq: &mut nfq::Queue, number: u16) -> bool {
    let asked = nfq.set_recv_conntrack(number, true);
    if let Err(e) = &asked {
        tracing::debug!("queue {number} does not tell what NAT did: {e}");
    }
    asked.is_ok()
}

/// The connection in a queue message that is of this packet.
fn connection(bytes: &[u8], packet: u32) -> Option<&[u8]> {
    let message = netlink::messages(bytes).find(|message| message.kind == MSG_PACKET)?;
    let attributes = message.attributes(NFGEN);
    let id = attributes.get(PACKET_HDR).and_then(be32)?;
    (id == packet).then(|| attributes.get(CT)).flatten()
}

fn held<'a>(message: &'a nfq::Message, seen: &'a [u8]) -> Option<Held<'a>> {
    // Numbers of linux/netfilter.h, enum nf_inet_hooks.
    let hook = match message.get_hook() {
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        _ => return None,
    };
    let index = |index| (index != 0).then_some(index);
    Some(Held {
        id: message.get_packet_id(),
        bytes: message.get_payload(),
        hook,
        indev: index(message.get_indev()),
        outdev: index(message.get_outdev()),
        uid: message.get_uid(),
        mac: message.get_hw_addr().and_then(|mac| mac.try_into().ok()),
        connection: connection(seen, message.get_packet_id()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use netlink::{put, put_nested, request};

    /// A queue message as the kernel writes it.
    fn packet(id: u32) -> Vec<u8> {
        let (mut attributes, mut header) = (Vec::new(), id.to_be_bytes().to_vec());
        header.extend([8, 0, 3]);
        put(&mut attributes, PACKET_HDR, &header);
        put_nested(&mut attributes, CT, b"tuples");
        request(MSG_PACKET, 0, 0, &[2, 0, 0, 1], &attributes)
    }

    #[test]
    fn the_connection_is_that_of_the_packet() {
        assert_eq!(connection(&packet(7), 7), Some(&b"tuples"[..]));
        assert_eq!(connection(&packet(7), 8), None);
        assert_eq!(connection(&[], 7), None);
    }

    proptest! {
        #[test]
        fn any_message_ends(bytes: Vec<u8>, at in 0usize..64, value: u8) {
            let _ = connection(&bytes, 7);
            let mut message = packet(7);
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
            let _ = connection(&message, 7);
        }
    }

    #[test]
    fn answers_replace_the_two_bits_and_keep_the_rest() {
        let bits = MarkBits {
            mask: 0xc,
            allow: 0x4,
            deny: 0x8,
        };
        assert_eq!(bits.apply(0xff, Answer::Pass), 0xf3);
        assert_eq!(bits.apply(0xf8, Answer::Allow), 0xf4);
        assert_eq!(bits.apply(0x01, Answer::Deny), 0x09);
    }
}
