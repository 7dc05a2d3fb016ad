//! What the kernel's sock_diag tells of sockets, found out with one of our own.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    AttributionError,
    inet_diag::{Ends, IPPROTO_RAW},
    sock_diag::SockDiag,
};
use crate::packet::Protocol;

/// The kernel may have to load a module.
const PATIENCE: Duration = Duration::from_secs(5);
/// Discard: nothing is sent there.
const NOWHERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9);

/// What kernels differ in; `None`: it could not be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// A socket comes with the ID of its control group (5.9, CONFIG_SOCK_CGROUP_DATA).
    pub cgroup_id: Option<bool>,
    /// Raw sockets are listed (CONFIG_INET_RAW_DIAG).
    pub raw_sockets: Option<bool>,
}

impl Abilities {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Without a netlink socket, as [`super::Attributor`].
    pub fn find() -> Result<Self, AttributionError> {
        let mut diag = SockDiag::open()?;
        let deadline = Instant::now() + PATIENCE;
        let raws = diag.raws(IPPROTO_RAW, false, |_| false, deadline);
        Ok(Self {
            cgroup_id: cgroup_id(&mut diag, deadline),
            raw_sockets: raws.ok().map(|list| list.is_some()),
        })
    }
}

fn cgroup_id(diag: &mut SockDiag, deadline: Instant) -> Option<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    socket.connect(NOWHERE).ok()?;
    let ends = Ends {
        local: socket.local_addr().ok()?,
        remote: socket.peer_addr().ok()?,
    };
    let found = diag.find(Protocol::UDP, ends, 0, deadline).ok()?;
    found.map(|(answer, _)| answer.cgroup.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_that_is_tested_on_gives_the_control_group() {
        let found = Abilities::find().unwrap();
        assert_eq!(found.cgroup_id, Some(true), "{found:?}");
        assert!(found.raw_sockets.is_some(), "{found:?}");
    }
}
