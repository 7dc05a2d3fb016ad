//! One netlink transaction: all of it takes effect, or none.
//!
//! The whole batch leaves in one `sendmsg`: sent page by page, what is beyond the socket buffer is
//! lost without an error. Answers are matched to messages by sequence number, so that an error names
//! what it is about.

use std::{
    ffi::CStr,
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use mnl::{Bus, Socket};
use nftnl::{Batch, MsgType, NlMsg};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, NetlinkAddr, recv, sendmsg, setsockopt, sockopt},
};

use super::{NftError, message::RawMessage, wire};

/// The kernel answers a transaction within this time; a million elements take about a second.
const ANSWER: Duration = Duration::from_secs(60);
/// Room for answers: an acknowledgement of each message that asks for one, which counts as about a
/// kilobyte (20,000 of them do not fit half of this on 6.12).
const RECEIVE_BUFFER: usize = 16 << 20;
/// Length of the message that ends a batch: netlink and nfnetlink headers.
const BATCH_END: usize = 20;

/// A batch under construction, with a word on each message.
pub(super) struct Transaction {
    batch: Batch,
    labels: Vec<String>,
}

impl Transaction {
    pub(super) fn new() -> Self {
        Self {
            batch: Batch::new(),
            labels: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, message: &impl NlMsg, label: impl Into<String>) {
        self.batch.add(message, MsgType::Add);
        self.labels.push(label.into());
    }

    pub(super) fn delete(&mut self, message: &impl NlMsg, label: impl Into<String>) {
        self.batch.add(message, MsgType::Del);
        self.labels.push(label.into());
    }

    /// Sends the batch and waits until the kernel has taken it or refused it.
    pub(super) fn commit(mut self, socket: &Netlink, table: &CStr) -> Result<(), NftError> {
        // The answer to this last message tells that all before it went through: older kernels do not
        // acknowledge the end of a batch.
        self.add(&RawMessage::table(table), "end of transaction");
        self.send(socket, false)
    }

    /// Sends a batch whose last message answers for all of it.
    pub(super) fn commit_last(self, socket: &Netlink) -> Result<(), NftError> {
        self.send(socket, false)
    }

    /// Lets the kernel check the batch without applying it, by leaving out its end.
    pub(super) fn check(self, socket: &Netlink) -> Result<(), NftError> {
        self.send(socket, true)
    }

    fn send(self, socket: &Netlink, dry: bool) -> Result<(), NftError> {
        let labels = self.labels;
        let batch = self.batch.finalize();
        // On kernels that acknowledge them, the beginning and the end of a batch are numbered too.
        let numbers = batch.sequence_numbers();
        let begins =
            usize::try_from(numbers.end - numbers.start).is_ok_and(|all| all > labels.len());
        let first = numbers.start + u32::from(begins);
        let mut pages: Vec<&[u8]> = batch.iter().collect();
        if dry && let Some(last) = pages.last_mut() {
            *last = last
                .get(..last.len().saturating_sub(BATCH_END))
                .unwrap_or_default();
        }
        socket.drain();
        socket.send(&pages)?;
        socket.answers(first, &labels)
    }
}

/// A NETLINK_NETFILTER socket with time limits.
pub(super) struct Netlink(Socket);

// SAFETY: an mnl socket is a descriptor and an address in heap memory of its own; it is not tied to a thread.
#[allow(unsafe_code)]
unsafe impl Send for Netlink {}

impl Netlink {
    pub(super) fn open() -> Result<Self, NftError> {
        let step = |step: &str| {
            let step = step.to_owned();
            |source| NftError::Socket { step, source }
        };
        let socket =
            Self(Socket::new(Bus::Netfilter).map_err(step("opening a NETLINK_NETFILTER socket"))?);
        let room = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        room.map_err(|e| step("enlarging a netlink receive buffer")(e.into()))?;
        Ok(socket)
    }

    /// The socket's netlink port: it marks our own changes, and the table as ours.
    pub(super) fn port(&self) -> u32 {
        self.0.portid()
    }

    /// Sends all pages as one datagram.
    pub(super) fn send(&self, pages: &[&[u8]]) -> Result<(), NftError> {
        let size: usize = pages.iter().map(|page| page.len()).sum();
        let room = size.saturating_mul(2).max(1 << 20);
        setsockopt(self, sockopt::SndBufForce, &room).map_err(|e| NftError::Socket {
            step: format!("enlarging the send buffer for a transaction of {size} bytes"),
            source: e.into(),
        })?;
        self.transmit(pages, size)
    }

    /// Hands the pages over, whatever the send buffer's size.
    pub(super) fn transmit(&self, pages: &[&[u8]], size: usize) -> Result<(), NftError> {
        let fail = |source| NftError::Socket {
            step: format!("sending a transaction of {size} bytes"),
            source,
        };
        let slices: Vec<IoSlice<'_>> = pages.iter().map(|page| IoSlice::new(page)).collect();
        let kernel = NetlinkAddr::new(0, 0);
        let none: [ControlMessage<'_>; 0] = [];
        loop {
            match sendmsg(
                self.0.as_raw_fd(),
                &slices,
                &none,
                MsgFlags::empty(),
                Some(&kernel),
            ) {
                Ok(sent) if sent == size => return Ok(()),
                Ok(_) => return Err(fail(io::Error::other("the kernel took only a part"))),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(fail(e.into())),
            }
        }
    }

    /// Receives one datagram; `None` when nothing came in time.
    pub(super) fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        limit: Duration,
    ) -> Result<Option<&'a [u8]>, NftError> {
        let fail = |e: Errno| NftError::Socket {
            step: "waiting for the kernel's answer".to_owned(),
            source: e.into(),
        };
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail(e)),
        }
        match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => Ok(Some(buffer.get(..len).unwrap_or_default())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Some(&[])),
            Err(Errno::ENOBUFS) => Err(NftError::AnswersLost {
                what: "the request".to_owned(),
            }),
            Err(e) => Err(fail(e)),
        }
    }

    /// Throws away answers to earlier requests.
    pub(super) fn drain(&self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for the answer to the last of `labels`, the first of which has sequence number `first`.
    fn answers(&self, first: u32, labels: &[String]) -> Result<(), NftError> {
        let last = first
            .saturating_add(u32::try_from(labels.len()).unwrap_or(u32::MAX))
            .saturating_sub(1);
        let deadline = Instant::now() + ANSWER;
        let mut buffer = vec![0; 1 << 16];
        let mut errors = Errors::default();
        let mut lost = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // After an error the rest is already in the socket; nothing more may come.
            let wait = if errors.is_empty() && !lost {
                left
            } else {
                Duration::from_millis(50)
            };
            let bytes = match self.receive(&mut buffer, wait) {
                Ok(Some(bytes)) => bytes,
                Ok(None) if lost => return errors.into_result(lost, labels),
                Ok(None) => return Err(errors.into_error().unwrap_or(NftError::NoAnswer)),
                Err(NftError::AnswersLost { .. }) => {
                    lost = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            for message in wire::messages(bytes) {
                match message.errno() {
                    Some(0) if message.seq == last => return errors.into_result(lost, labels),
                    None | Some(0) => {}
                    Some(errno) => {
                        let at = message
                            .seq
                            .checked_sub(first)
                            .and_then(|i| usize::try_from(i).ok());
                        let label = at
                            .and_then(|i| labels.get(i))
                            .map_or("transaction", String::as_str);
                        errors.push(label, errno);
                        if message.seq == last {
                            return errors.into_result(lost, labels);
                        }
                    }
                }
            }
        }
    }
}

impl AsFd for Netlink {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor lives as long as the mnl socket that `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[derive(Default)]
struct Errors {
    first: Option<(String, Errno)>,
    more: usize,
}

impl Errors {
    fn push(&mut self, label: &str, errno: i32) {
        match self.first {
            None => self.first = Some((label.to_owned(), Errno::from_raw(errno))),
            Some(_) => self.more += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// An answer that was lost may have been an error: the end's acknowledgement alone proves nothing then.
    fn into_result(self, lost: bool, labels: &[String]) -> Result<(), NftError> {
        let (first, last) = (labels.first(), labels.last());
        let unknown = || NftError::AnswersLost {
            what: format!(
                "a transaction of {} messages, {} to {}",
                labels.len(),
                first.map_or("", String::as_str),
                last.map_or("", String::as_str)
            ),
        };
        match self.into_error() {
            Some(error) => Err(error),
            None if lost => Err(unknown()),
            None => Ok(()),
        }
    }

    fn into_error(self) -> Option<NftError> {
        self.first.map(|(what, errno)| NftError::Refused {
            what,
            errno,
            more: self.more,
        })
    }
}
