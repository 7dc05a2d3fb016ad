//! Netlink sockets (netlink(7)), as every edge opens its own; the messages are in [`crate::netlink`].

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, socket,
    },
};

/// A socket that does not block, of this thread's network namespace.
pub(crate) fn open(protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        protocol,
    )
}

/// Connects it to port 0: only the kernel can answer.
pub(crate) fn connect_to_kernel(socket: &OwnedFd) -> Result<(), Errno> {
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))
}

/// Gives it a port of the kernel's choice, to hear what is said to a group.
pub(crate) fn bind_any(socket: &OwnedFd) -> Result<(), Errno> {
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))
}
