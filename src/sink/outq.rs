//! How much of what was written to a socket has not reached the other side.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Bytes in the send queue: for TCP those that the peer's kernel has not acknowledged, also after
/// the connection broke; for a unix socket not zero until its reader has read all.
pub(super) fn unacknowledged(socket: &impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed, and SIOCOUTQ (the number of TIOCOUTQ,
    // tcp(7)) writes one int.
    match unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut bytes) } {
        0 => Ok(u64::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}
