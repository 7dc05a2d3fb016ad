//! Packets as they are on the wire: made by hand, and counted where they arrive.
#![allow(unsafe_code)] // one socket option that nix does not know

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
};

use feedgate::demo::Netns;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
    },
};

/// `IP_NODEFRAG`: fragments that this socket sends are not put together (ip(7)).
const IP_NODEFRAG: libc::c_int = 22;

/// Counts the packets to some addresses that come in by a device, before the host looks at them.
pub(crate) struct Meter<'a> {
    netns: &'a Netns,
}

impl<'a> Meter<'a> {
    /// Counts from now on.
    pub(crate) fn start(netns: &'a Netns, device: &str, addresses: &[&str]) -> Self {
        let mut rules = String::new();
        for address in addresses {
            let family = if address.contains(':') { "ip6" } else { "ip" };
            rules += &format!("{family} daddr {address} counter comment \"{address}\"; ");
        }
        let text = format!(
            "table netdev wire {{ chain c {{ type filter hook ingress device {device} priority 0; {rules} }}; }}"
        );
        let mut nft = netns.command("nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(nft.wait().unwrap().success(), "{text}");
        Self { netns }
    }

    /// Packets to `address` so far.
    pub(crate) fn seen(&self, address: &str) -> u64 {
        let text = listing(self.netns, &["table", "netdev", "wire"]);
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"{address}\"")));
        packets(line.unwrap_or_else(|| panic!("no {address} in {text}")))
    }
}

/// The packets that a counter of feedgate's table has seen.
pub(crate) fn counter(netns: &Netns, name: &str) -> u64 {
    counter_in(netns, ["inet", "feedgate"], name)
}

/// The packets that a counter of another table has seen.
pub(crate) fn counter_in(netns: &Netns, [family, table]: [&str; 2], name: &str) -> u64 {
    packets(&listing(netns, &["counter", family, table, name]))
}

fn listing(netns: &Netns, what: &[&str]) -> String {
    let mut command = netns.command("nft");
    let output = command.arg("list").args(what).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft list {what:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn packets(text: &str) -> u64 {
    let (_, rest) = text.split_once("packets ").expect("a counter");
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Sends whole IP packets, header included, through the host's output hook.
pub(crate) struct RawSender(OwnedFd);

impl RawSender {
    pub(crate) fn v4(netns: &Netns) -> Self {
        let raw = Self::new(netns, AddressFamily::Inet);
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
        // SAFETY: the kernel reads `length` bytes at `on`, which lives through the call.
        let done = unsafe {
            libc::setsockopt(
                raw.0.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_NODEFRAG,
                (&raw const on).cast(),
                length,
            )
        };
        Errno::result(done).expect("IP_NODEFRAG");
        raw
    }

    pub(crate) fn v6(netns: &Netns) -> Self {
        Self::new(netns, AddressFamily::Inet6)
    }

    fn new(netns: &Netns, family: AddressFamily) -> Self {
        let open = || {
            socket(
                family,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
        };
        Self(netns.enter(open).unwrap().unwrap())
    }

    /// Sends `packet` to `to`, whatever its header says.
    pub(crate) fn send(&self, to: IpAddr, packet: &[u8]) -> Result<(), Errno> {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty()).map(drop)
    }
}
