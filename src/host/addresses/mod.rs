//! The host's lifelines: addresses that no feed may cut off, each with the reason, so that the
//! status can say which exception removed what.
//!
//! Own addresses, gateways and resolvers ([`own`]), where SSH sessions come from ([`SshPeers`]), the
//! servers that the daemon itself talks to and the Kubernetes API ([`servers`]), and the admin's files
//! ([`files`]). Subtracting them is [`crate::snapshot`]'s work.

mod answers;
mod files;
mod kubernetes;
mod reading;
mod routes;
mod servers;
mod ssh;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use caps::Capability;
use nix::{ifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};

pub use answers::Answers;
pub use files::{FileError, Files, files};
pub use reading::helper as file_helper;
pub use servers::servers;
pub use ssh::{LINGER, SSH_PEER, SshPeers};

use answers::Part;

use crate::{
    lacks,
    prefix::Prefix,
    snapshot::{Exception, ExceptionKind, RESOLVER},
};

/// Largest host file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

fn host(addr: IpAddr, why: String) -> Exception {
    exception(addr, why, ExceptionKind::Found)
}

fn exception(addr: IpAddr, why: String, kind: ExceptionKind) -> Exception {
    Exception {
        prefix: Prefix::host(addr),
        why,
        kind,
    }
}

/// The lifelines that were found, and what could not be looked up.
#[derive(Debug, Default)]
pub struct Lifelines {
    /// Sorted, without duplicates.
    pub exceptions: Vec<Exception>,
    /// What is missing in them; each is worth a warning.
    pub problems: Vec<LifelineError>,
}

impl From<Result<Vec<Exception>, LifelineError>> for Lifelines {
    fn from(part: Result<Vec<Exception>, LifelineError>) -> Self {
        let mut found = Self::default();
        match part {
            Ok(exceptions) => found.exceptions = exceptions,
            Err(problem) => found.problems.push(problem),
        }
        found
    }
}

impl Lifelines {
    fn join(&mut self, part: Self) {
        self.exceptions.extend(part.exceptions);
        self.problems.extend(part.problems);
    }

    fn sorted(mut self) -> Self {
        self.exceptions.sort();
        self.exceptions.dedup();
        self
    }
}

/// A lifeline that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum LifelineError {
    /// The kernel did not list the interfaces.
    #[error("cannot list the own addresses: {cause}; add them to exceptions.prefixes")]
    Interfaces {
        /// What went wrong.
        cause: nix::Error,
    },
    /// The kernel did not list the routes.
    #[error("cannot list the routes: {cause}; add the gateways to exceptions.prefixes")]
    Routes {
        /// What went wrong.
        cause: nix::Error,
    },
    /// More gateways than are kept.
    #[error(
        "the routes have more than {most} gateways beside those of default routes, or there are too many routes to read: not every gateway is an exception; add those that must stay reachable to exceptions.prefixes"
    )]
    ManyGateways {
        /// How many are kept.
        most: usize,
    },
    /// A file of the host cannot be read.
    #[error("cannot read {}: {cause}; add the {what} to exceptions.prefixes", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What it tells: `resolvers` or `Kubernetes API server`.
        what: &'static str,
        /// What went wrong.
        cause: io::Error,
    },
    /// Who is logged in by SSH cannot be seen.
    #[error(
        "cannot see where SSH sessions come from: {cause} ({}); add these addresses to exceptions.prefixes",
        unseen(cause)
    )]
    Ssh {
        /// What went wrong.
        cause: io::Error,
    },
    /// A name of the configuration has no address.
    #[error(
        "cannot resolve {host} ({what}): {cause}; it is tried again, or add its address to exceptions.prefixes"
    )]
    Resolve {
        /// The name.
        host: String,
        /// Whose name it is.
        what: String,
        /// What went wrong.
        cause: io::Error,
    },
    /// A name has more addresses than are taken.
    #[error(
        "{host} ({what}) has more than {most} addresses: only the first {most} of them are exceptions; add those that must stay reachable to exceptions.prefixes"
    )]
    ManyAddresses {
        /// The name.
        host: String,
        /// Whose name it is.
        what: String,
        /// How many are taken.
        most: usize,
    },
    /// The resolver did not answer in time.
    #[error(
        "cannot resolve {host} ({what}) within {limit:?}; it is tried again, or add its address to exceptions.prefixes"
    )]
    ResolveTimeout {
        /// The name.
        host: String,
        /// Whose name it is.
        what: String,
        /// The limit.
        limit: Duration,
    },
}

/// Why processes cannot be looked into.
fn unseen(cause: &io::Error) -> String {
    let wanted = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];
    lacks::descriptors_of(cause).map_or_else(|| lacks::capabilities(&wanted), str::to_owned)
}

impl LifelineError {
    /// True when asking again soon may help: a name did not resolve.
    pub fn is_of_a_name(&self) -> bool {
        matches!(self, Self::Resolve { .. } | Self::ResolveTimeout { .. })
    }

    /// True when a part could not be looked at: what it would have found may still be there.
    pub fn is_of_a_failure(&self) -> bool {
        !matches!(self, Self::ManyGateways { .. } | Self::ManyAddresses { .. })
    }
}

/// Where the host's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/etc`
    pub etc: PathBuf,
    /// `/run`
    pub run: PathBuf,
    /// `/var/lib`
    pub lib: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            etc: "/etc".into(),
            run: "/run".into(),
            lib: "/var/lib".into(),
        }
    }
}

/// Own addresses, gateways of all routing tables, and resolvers. A part that cannot be looked at keeps what
/// `answers` have of it.
pub fn own(roots: &Roots, answers: &mut Answers) -> Lifelines {
    let kernel = [
        (Part::Interfaces, Lifelines::from(interfaces())),
        (Part::Routes, routes::gateways()),
    ];
    let files = resolver_files(roots).into_iter();
    let files = files.map(|file| {
        (
            Part::Resolvers(file.clone()),
            Lifelines::from(resolvers(file)),
        )
    });
    let mut found = Lifelines::default();
    for (part, look) in kernel.into_iter().chain(files) {
        found.join(answers.take(part, look));
    }
    found.sorted()
}

fn resolver_files(roots: &Roots) -> [PathBuf; 3] {
    [
        roots.etc.join("resolv.conf"),
        // The real servers behind the local stubs of systemd-resolved and NetworkManager.
        roots.run.join("systemd/resolve/resolv.conf"),
        roots.run.join("NetworkManager/no-stub-resolv.conf"),
    ]
}

/// This host's own addresses now; none when the kernel does not list them.
pub fn local() -> HashSet<IpAddr> {
    try_local().unwrap_or_default()
}

/// This host's own addresses now.
///
/// # Errors
/// The kernel does not list them.
pub fn try_local() -> Result<HashSet<IpAddr>, nix::Error> {
    let addrs =
        ifaddrs::getifaddrs()?.filter_map(|interface| interface.address.as_ref().and_then(ip));
    Ok(addrs.collect())
}

fn interfaces() -> Result<Vec<Exception>, LifelineError> {
    let list = ifaddrs::getifaddrs().map_err(|cause| LifelineError::Interfaces { cause })?;
    let mut out = Vec::new();
    for interface in list {
        let name = &interface.interface_name;
        if let Some(addr) = interface.address.as_ref().and_then(ip) {
            let why = format!("own address on {name}");
            out.push(exception(addr, why, ExceptionKind::Own));
            let mask = interface.netmask.as_ref().and_then(ip);
            let broadcast = mask.and_then(|mask| broadcast(addr, mask));
            out.extend(broadcast.map(|addr| {
                let why = format!("broadcast address on {name}");
                exception(addr, why, ExceptionKind::Special)
            }));
        }
        // On other links the field holds the broadcast address.
        if interface.flags.contains(InterfaceFlags::IFF_POINTOPOINT)
            && let Some(peer) = interface.destination.as_ref().and_then(ip)
        {
            out.push(host(peer, format!("peer on {name}")));
        }
    }
    Ok(out)
}

/// The directed broadcast address of an address's network (RFC 919, section 7); networks of one or two
/// addresses have none (RFC 3021), nor has IPv6.
fn broadcast(addr: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    let (IpAddr::V4(addr), IpAddr::V4(mask)) = (addr, mask) else {
        return None;
    };
    let host = !u32::from(mask);
    (host > 1).then(|| Ipv4Addr::from(u32::from(addr) | host).into())
}

fn ip(addr: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = addr.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| addr.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

/// The `nameserver` lines of resolv.conf(5).
fn resolvers(file: PathBuf) -> Result<Vec<Exception>, LifelineError> {
    let text = read(&file).map_err(|cause| LifelineError::Read {
        file,
        what: "resolvers",
        cause,
    })?;
    let addrs = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let addr = words.next().filter(|word| *word == "nameserver");
        // A link-local resolver has its interface behind a percent sign.
        let addr = addr.and(words.next())?.split('%').next()?;
        addr.parse().ok()
    });
    Ok(addrs
        .map(|addr| exception(addr, RESOLVER.to_owned(), ExceptionKind::Resolver))
        .collect())
}

/// The text of `file`; empty when there is no such file, which is a host without that feature.
fn read(file: &std::path::Path) -> io::Result<String> {
    match reading::read(file, MAX_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host in `folder` with three resolvers.
    fn host(folder: &std::path::Path) -> Roots {
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "etc/resolv.conf",
            "# nameserver 192.0.2.9\nsearch example\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\noptions edns0\nnameserver\n",
        );
        write(
            "run/systemd/resolve/resolv.conf",
            "nameserver\t198.51.100.53 \n",
        );
        Roots {
            etc: folder.join("etc"),
            run: folder.join("run"),
            lib: folder.join("lib"),
        }
    }

    #[test]
    fn everything_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let found = own(&host(folder.path()), &mut Answers::default());
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        for (prefix, why) in [
            ("127.0.0.1", "own address on lo"),
            ("127.255.255.255", "broadcast address on lo"),
            ("127.0.0.53", "resolver"),
            ("fe80::1", "resolver"),
            ("198.51.100.53", "resolver"),
        ] {
            let kind = match why {
                "resolver" => ExceptionKind::Resolver,
                "own address on lo" => ExceptionKind::Own,
                _ => ExceptionKind::Special,
            };
            let wanted = exception(prefix.parse().unwrap(), why.to_owned(), kind);
            assert!(
                found.exceptions.contains(&wanted),
                "{wanted:?} in {found:?}"
            );
        }
        assert!(found.exceptions.is_sorted());
    }

    #[test]
    fn a_network_has_one_broadcast_address_if_it_has_room_for_it() {
        let of = |addr: &str, mask: &str| {
            let found = broadcast(addr.parse().unwrap(), mask.parse().unwrap());
            found.map(|addr| addr.to_string())
        };
        let found = of("192.0.2.9", "255.255.255.0");
        assert_eq!(found.as_deref(), Some("192.0.2.255"));
        let found = of("10.1.2.3", "255.255.252.0");
        assert_eq!(found.as_deref(), Some("10.1.3.255"));
        assert_eq!(of("192.0.2.9", "255.255.255.254"), None);
        assert_eq!(of("192.0.2.9", "255.255.255.255"), None);
        assert_eq!(of("2001:db8::1", "ffff:ffff::"), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem_and_the_rest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let roots = host(folder.path());
        fs::remove_file(roots.etc.join("resolv.conf")).unwrap();
        fs::create_dir(roots.etc.join("resolv.conf")).unwrap();
        let found = own(&roots, &mut Answers::default());
        assert!(found.problems[0].to_string().contains("resolv.conf"));
        assert!(found.exceptions.iter().any(|e| e.why == "resolver"));
    }

    #[test]
    fn a_file_that_cannot_be_read_any_more_keeps_its_resolvers_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let roots = host(folder.path());
        let file = roots.etc.join("resolv.conf");
        let mut answers = Answers::default();
        let mut look = || own(&roots, &mut answers).exceptions;
        let resolver = |exceptions: &[Exception]| {
            let addr = Prefix::host("127.0.0.53".parse().unwrap());
            exceptions.iter().any(|e| e.prefix == addr)
        };
        assert!(resolver(&look()));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(resolver(&look()) && resolver(&look()));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "nameserver 127.0.0.54\n").unwrap();
        assert!(!resolver(&look()));
    }
}
