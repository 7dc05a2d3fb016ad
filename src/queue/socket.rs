//! The netlink socket inside the nfq crate, which does not give its descriptor away.
//!
//! It is found as the one NETLINK_NETFILTER socket that opening made. With it the receive buffer
//! grows, a thread can wait with a time limit, and messages can be read for what the crate leaves out;
//! without it all go without.
#![allow(unsafe_code)]

use std::{
    collections::BTreeSet,
    io,
    os::fd::{BorrowedFd, RawFd},
    sync::Mutex,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, getsockopt, recv, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

/// Opens a queue socket with a receive buffer of `buffer` bytes on which nobody waits longer than
/// `limit`, and its descriptor where it was found.
pub(super) fn open(buffer: usize, limit: Duration) -> io::Result<(nfq::Queue, Option<Waiter>)> {
    // Queues are opened one after another, so that each sees only its own socket as new.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = netlink_sockets();
    let queue = nfq::Queue::open()?;
    let mut new = netlink_sockets()
        .into_iter()
        .filter(|fd| !before.contains(fd));
    let waiter = match (new.next(), new.next()) {
        (Some(fd), None) => Some(Waiter(fd)),
        _ => None,
    };
    match &waiter {
        Some(waiter) => {
            if let Err(e) = setsockopt(&waiter.fd(), sockopt::RcvBufForce, &buffer) {
                tracing::warn!("queue socket keeps its small receive buffer: {e}");
            }
            waiter.limit(limit)?;
        }
        None => tracing::warn!("queue socket not found: it keeps its small receive buffer"),
    }
    Ok((queue, waiter))
}

/// The descriptor of a queue's socket, valid as long as its queue.
pub(super) struct Waiter(RawFd);

impl Waiter {
    /// Whoever receives gets EAGAIN after so long without a message.
    fn limit(&self, limit: Duration) -> io::Result<()> {
        let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        Ok(setsockopt(&self.fd(), sockopt::ReceiveTimeout, &limit)?)
    }

    /// Waits for the message that is received next and gives what fits of it; it stays there. `None`
    /// after the limit. Empty when there is an error to be received.
    pub(super) fn peek<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        match recv(self.0, buffer, MsgFlags::MSG_PEEK) {
            Ok(length) => buffer.get(..length),
            Err(Errno::EAGAIN) => None,
            Err(_) => Some(&[]),
        }
    }

    /// True when a message can be received without waiting.
    pub(super) fn has_message(&self) -> bool {
        recv(
            self.0,
            &mut [0],
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        )
        .is_ok()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue that owns the descriptor lives in the same struct as this waiter.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

fn netlink_sockets() -> BTreeSet<RawFd> {
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else {
        return BTreeSet::new();
    };
    dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| is_netfilter(*fd))
        .collect()
}

fn is_netfilter(fd: RawFd) -> bool {
    // SAFETY: only used for getsockopt here; a descriptor closed meanwhile gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    if !std::fs::read_link(link).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    {
        return false;
    }
    getsockopt(&fd, sockopt::SockType).is_ok() && protocol(&fd) == Some(libc::NETLINK_NETFILTER)
}

fn protocol(fd: &BorrowedFd<'_>) -> Option<i32> {
    let get = |name| {
        let mut value: libc::c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).ok()?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
        // SAFETY: the kernel writes at most `len` bytes to `value`.
        let done = unsafe {
            libc::getsockopt(
                raw,
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        (done == 0).then_some(value)
    };
    (get(libc::SO_DOMAIN)? == libc::AF_NETLINK).then(|| get(libc::SO_PROTOCOL))?
}
