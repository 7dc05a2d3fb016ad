//! NFQUEUE: receives held packets from the kernel and gives back verdicts.
//!
//! One thread a queue. The verdict is always NF_ACCEPT; what is meant by it is said in two bits of
//! the packet mark, which the guard chain reads. Knows nothing of feeds.

mod socket;
mod state;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::errno::Errno;

use crate::config::{Hook, OnQueueFull};

pub use state::{State, states};

/// Bytes of a packet that the kernel copies: headers are all that is looked at.
const COPY_RANGE: u16 = 256;
/// Receive buffer of the netlink socket. The kernel's default holds about 250 packets; what does
/// not fit is passed on unattributed.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How often a thread looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(200);

/// A queue could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Another program listens on it.
    #[error(
        "queue {0} is taken by another program: set another [nftables] queue-first, or stop that program"
    )]
    Taken(u16),
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
            socket::open(RECEIVE_BUFFER).map_err(fail("opening the netlink socket"))?;
        nfq.bind(number)
            .map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EPERM | Errno::EBUSY) => QueueError::Taken(number),
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
        Ok(Self {
            nfq,
            number,
            waiter,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Answers packets until `stop` is set and no packet is waiting.
    pub fn run(
        mut self,
        marks: MarkBits,
        stop: &AtomicBool,
        mut judge: impl FnMut(&Held<'_>) -> Answer,
    ) -> Result<(), QueueError> {
        loop {
            if let Some(waiter) = &self.waiter {
                match waiter.wait(if stop.load(Ordering::Relaxed) {
                    Duration::ZERO
                } else {
                    STOP_CHECK
                }) {
                    true => {}
                    false if stop.load(Ordering::Relaxed) => return Ok(()),
                    false => continue,
                }
            }
            let mut message = match self.nfq.recv() {
                Ok(message) => message,
                Err(e)
                    // ENOENT answers an earlier verdict: the kernel had given the packet up. It does so with
                    // all held packets when anybody's base chain goes, and when an interface goes.
                    if matches!(
                        e.raw_os_error().map(Errno::from_raw),
                        Some(Errno::EINTR | Errno::ENOBUFS | Errno::ENOENT)
                    ) =>
                {
                    continue;
                }
                Err(source) => {
                    return Err(QueueError::System {
                        queue: self.number,
                        step: "receiving a packet",
                        source,
                    });
                }
            };
            let answer = held(&message).map_or(Answer::Pass, |packet| judge(&packet));
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
}

fn held(message: &nfq::Message) -> Option<Held<'_>> {
    // Numbers of linux/netfilter.h, enum nf_inet_hooks.
    let hook = match message.get_hook() {
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        _ => return None,
    };
    let index = |index| (index != 0).then_some(index);
    Some(Held {
        bytes: message.get_payload(),
        hook,
        indev: index(message.get_indev()),
        outdev: index(message.get_outdev()),
        uid: message.get_uid(),
        mac: message.get_hw_addr().and_then(|mac| mac.try_into().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
