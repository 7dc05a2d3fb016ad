//! Who is at the other end of a connection, as the kernel knows it, and what that one may do.
//!
//! Nothing here asks the name service: it may be a server that does not answer.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Groups that are asked for at first. A process with more is asked again: the kernel says how many it has.
const GROUPS: usize = 64;
/// NGROUPS_MAX of the kernel (include/uapi/linux/limits.h).
const MOST_GROUPS: usize = 65_536;

/// The credentials of the other end as of its connect(2), or its listen(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Process ID; `None` where it is in a PID namespace that cannot be seen from here.
    pub(super) pid: Option<u32>,
    /// Effective user ID.
    pub(super) uid: u32,
    /// Effective group ID.
    gid: u32,
    /// Supplementary groups; empty from [`Self::process`].
    groups: Vec<u32>,
}

impl Credentials {
    /// With all groups: SO_PEERCRED and SO_PEERGROUPS of unix(7).
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            groups: groups(socket)?,
            ..Self::process(&socket)?
        })
    }

    /// Without the supplementary groups.
    pub(super) fn process(socket: &impl AsFd) -> io::Result<Self> {
        let found = getsockopt(socket, PeerCredentials)?;
        Ok(Self {
            pid: u32::try_from(found.pid()).ok().filter(|pid| *pid > 0),
            uid: found.uid(),
            gid: found.gid(),
            groups: Vec::new(),
        })
    }

    /// True for a member of this group.
    fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "a client of user {} (pid {pid})", self.uid),
            None => write!(f, "a client of user {}", self.uid),
        }
    }
}

/// What a peer may do: everything, or nothing. `own` is the daemon's user, `group` that of feedgate.
pub(super) fn may_ask(peer: &Credentials, own: u32, group: Option<u32>) -> bool {
    peer.uid == 0 || peer.uid == own || group.is_some_and(|group| peer.is_in(group))
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; GROUPS];
    loop {
        match peer_groups(socket, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err((e, count)) if e.raw_os_error() == Some(libc::ERANGE) => {
                // More than before, so that this ends.
                let more = count.max(groups.len() * 2);
                if groups.len() >= MOST_GROUPS {
                    return Err(e);
                }
                groups.resize(more.min(MOST_GROUPS), 0);
            }
            Err((e, _)) => return Err(e),
        }
    }
}

/// How many groups were written; with ERANGE how many there are.
fn peer_groups(
    socket: BorrowedFd<'_>,
    groups: &mut [libc::gid_t],
) -> Result<usize, (io::Error, usize)> {
    const ONE: usize = size_of::<libc::gid_t>();
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups)).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `groups` is valid for writes of `bytes` bytes, which the kernel does not exceed, and any
    // bytes are gid_t; `bytes` outlives the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let error = io::Error::last_os_error();
    let count = usize::try_from(bytes).unwrap_or(0) / ONE;
    if done == 0 {
        Ok(count)
    } else {
        Err((error, count))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials {
            pid: Some(1),
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn root_its_own_user_and_the_group_may_ask() {
        let group = Some(70);
        assert!(may_ask(&peer(0, 0, &[]), 64, None));
        assert!(may_ask(&peer(64, 1, &[]), 64, None));
        assert!(may_ask(&peer(1000, 70, &[]), 64, group));
        assert!(may_ask(&peer(1000, 1, &[4, 70]), 64, group));
        assert!(!may_ask(&peer(1000, 1, &[4]), 64, group));
        assert!(!may_ask(&peer(1000, 70, &[70]), 64, None), "no such group");
    }

    #[test]
    fn the_kernel_names_this_process_and_its_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let found = Credentials::of(one.as_fd()).unwrap();
        assert_eq!(found.pid, Some(std::process::id()));
        assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        own.sort_unstable();
        let mut groups = found.groups.clone();
        groups.sort_unstable();
        assert_eq!(groups, own);
    }

    #[test]
    fn a_process_with_very_many_groups_is_asked_again() {
        let (one, _other) = UnixStream::pair().unwrap();
        let all = groups(one.as_fd()).unwrap();
        let mut few = vec![0; all.len().saturating_sub(1)];
        match peer_groups(one.as_fd(), &mut few) {
            Ok(count) => assert_eq!(count, all.len(), "a process without groups"),
            Err((e, count)) => {
                assert_eq!(e.raw_os_error(), Some(libc::ERANGE));
                assert_eq!(count, all.len());
            }
        }
    }
}
