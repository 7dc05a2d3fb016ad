//! Names of the machines of a LAN by their MAC addresses: from the configuration, /etc/ethers and
//! the lease files of DHCP servers.

mod formats;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Mac, Roots};
use crate::helper::{
    Answer, Aside, Helpers, Ticket,
    reads::{self, Owner, Stamp},
};

/// How often it is looked whether a file has changed.
const CHECK: Duration = Duration::from_secs(1);
/// Most bytes read of a file: about 100,000 leases.
const MAX_FILE: u64 = 16 << 20;
/// Names remembered.
const MAX_NAMES: usize = 65_536;
/// Longest name kept: a host name of DNS.
const MAX_NAME: usize = 253;

/// The files that name clients. One that is not there names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// ethers(5).
    pub ethers: PathBuf,
    /// dnsmasq's leases.
    pub dnsmasq: Vec<PathBuf>,
    /// Kea's leases (memfile backend, CSV), with the file names that its clean-up uses.
    pub kea: Vec<PathBuf>,
    /// dhcpd.leases(5) of ISC dhcpd.
    pub dhcpd: Vec<PathBuf>,
}

/// The places of Debian, Fedora and OpenWrt.
impl Default for ClientFiles {
    fn default() -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Self {
            ethers: "/etc/ethers".into(),
            dnsmasq: paths(&[
                "/var/lib/misc/dnsmasq.leases",
                "/var/lib/dnsmasq/dnsmasq.leases",
                "/tmp/dhcp.leases",
            ]),
            kea: paths(&[
                "/var/lib/kea/kea-leases4.csv.2",
                "/var/lib/kea/kea-leases4.csv",
                "/var/lib/kea/kea-leases6.csv.2",
                "/var/lib/kea/kea-leases6.csv",
            ]),
            dhcpd: paths(&["/var/lib/dhcp/dhcpd.leases", "/var/lib/dhcpd/dhcpd.leases"]),
        }
    }
}

impl ClientFiles {
    /// In the order in which they are read; a later name replaces an earlier one.
    fn all(&self) -> Vec<(PathBuf, formats::Reader)> {
        let each = |files: &[PathBuf], reader: formats::Reader| {
            let with_reader = files.iter().map(move |file| (file.clone(), reader));
            with_reader.collect::<Vec<_>>()
        };
        let mut all = each(&self.dhcpd, formats::dhcpd);
        all.extend(each(&self.kea, formats::kea));
        all.extend(each(&self.dnsmasq, formats::dnsmasq));
        all.push((self.ethers.clone(), formats::ethers));
        all
    }
}

/// Names by MAC address. Files are read by a helper and waited for no longer than the caller can.
pub(super) struct Clients {
    helpers: Helpers,
    fixed: HashMap<Mac, String>,
    /// A later one counts more than an earlier one.
    files: Vec<NameFile>,
    checked: Option<Instant>,
}

type Names = HashMap<Mac, String>;

/// One file, and what it said.
struct NameFile {
    path: PathBuf,
    reader: formats::Reader,
    names: Names,
    /// Of the file that `names` were read from.
    stamp: Option<Stamp>,
    reading: Option<Ticket<Reading>>,
}

/// What became of a file.
enum Reading {
    Same,
    Changed(Stamp, Names),
    Absent,
    Refused(io::Error),
}

impl Clients {
    pub(super) fn new(roots: &Roots, helpers: &Helpers) -> Self {
        let file = |(path, reader)| NameFile {
            path,
            reader,
            names: Names::new(),
            stamp: None,
            reading: None,
        };
        Self {
            helpers: helpers.clone(),
            fixed: HashMap::new(),
            files: roots.clients.all().into_iter().map(file).collect(),
            checked: None,
        }
    }

    /// Names that count more than those of files; what is no MAC address names nobody.
    pub(super) fn set_static(&mut self, names: &BTreeMap<String, String>) {
        self.fixed = names
            .iter()
            .filter_map(|(mac, name)| Some((formats::mac(mac)?, name.clone())))
            .collect();
    }

    /// The name of the machine with this address. Files that changed are read again, and waited for
    /// by the first caller only: a late reading is there the next time.
    pub(super) fn name(&mut self, mac: Mac, deadline: Instant) -> Option<String> {
        if let Some(name) = self.fixed.get(&mac) {
            return Some(name.clone());
        }
        let now = Instant::now();
        let deadline = if self.look(now) { deadline } else { now };
        for file in &mut self.files {
            file.take(deadline, &self.helpers);
        }
        let mut names = self.files.iter().rev();
        names.find_map(|file| file.names.get(&mac)).cloned()
    }

    /// True when it has begun to look at the files.
    fn look(&mut self, now: Instant) -> bool {
        let checked = |at: Instant| now.saturating_duration_since(at) < CHECK;
        if self.checked.is_some_and(checked) {
            return false;
        }
        self.checked = Some(now);
        for file in self.files.iter_mut().filter(|file| file.reading.is_none()) {
            let (path, reader, stamp) = (file.path.clone(), file.reader, file.stamp);
            let read = move |aside: &Aside| read(aside, &path, reader, stamp);
            file.reading = self.helpers.files.start(read);
        }
        true
    }
}

impl NameFile {
    fn take(&mut self, deadline: Instant, helpers: &Helpers) {
        let Some(reading) = &self.reading else { return };
        let (stamp, names) = match reading.wait(deadline) {
            Answer::Late => return,
            Answer::Done(Reading::Changed(stamp, names)) => (Some(stamp), names),
            Answer::Done(Reading::Absent) => (None, Names::new()),
            Answer::Done(Reading::Refused(cause)) => {
                let path = self.path.display();
                let warning = format!("LAN clients get no names from {path}: {cause}");
                if helpers.is_new(&warning) {
                    tracing::warn!("{warning}");
                }
                (None, Names::new())
            }
            Answer::Done(Reading::Same) | Answer::Lost => {
                self.reading = None;
                return;
            }
        };
        (self.stamp, self.names, self.reading) = (stamp, names, None);
    }
}

fn read(aside: &Aside, path: &Path, reader: formats::Reader, known: Option<Stamp>) -> Reading {
    let read = || {
        let file = reads::open(aside, path, Owner::Folder)?;
        let stamp = file.stamp();
        if known == Some(stamp) {
            return Ok(Reading::Same);
        }
        let bytes = file.beginning(MAX_FILE)?;
        Ok(Reading::Changed(stamp, names(&bytes, reader)))
    };
    read().unwrap_or_else(|e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Reading::Absent,
        _ => Reading::Refused(e),
    })
}

fn names(bytes: &[u8], reader: formats::Reader) -> Names {
    let mut names = Names::new();
    reader(&String::from_utf8_lossy(bytes), &mut |mac, name| {
        let name = name.trim_end_matches('.');
        let known = names.contains_key(&mac) || names.len() < MAX_NAMES;
        if known && !name.is_empty() && name.len() <= MAX_NAME {
            names.insert(mac, name.to_owned());
        }
    });
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::TempDir;

    use super::*;

    const MAC: Mac = [0, 0, 0x5e, 0, 0x53, 1];

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn clients(dir: &TempDir) -> Clients {
        let path = |name| dir.path().join(name);
        let files = ClientFiles {
            ethers: path("ethers"),
            dnsmasq: vec![path("dnsmasq.leases")],
            kea: vec![path("kea.csv")],
            dhcpd: vec![path("dhcpd.leases")],
        };
        let roots = Roots {
            clients: files,
            ..Roots::default()
        };
        Clients::new(&roots, &Helpers::default())
    }

    #[test]
    fn names_follow_the_files() {
        let dir = TempDir::new().unwrap();
        let mut clients = clients(&dir);
        assert_eq!(clients.name(MAC, soon()), None);
        let lease = |name| format!("1786000000 00:00:5e:00:53:01 192.0.2.9 {name} *\n");
        fs::write(dir.path().join("dnsmasq.leases"), lease("laptop")).unwrap();
        assert_eq!(clients.name(MAC, soon()), None); // looked a moment ago
        clients.checked = None;
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("laptop"));
        fs::write(dir.path().join("dnsmasq.leases"), lease("laptop-2")).unwrap();
        clients.checked = None;
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("laptop-2"));
        fs::write(dir.path().join("ethers"), "0:0:5E:0:53:1 desk.example.\n").unwrap();
        clients.checked = None;
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("desk.example"));
        clients.set_static(&[("00:00:5e:00:53:01".to_owned(), "printer".to_owned())].into());
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("printer"));
    }

    #[test]
    fn a_late_reading_is_there_the_next_time() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ethers"), "00:00:5e:00:53:01 desk\n").unwrap();
        let mut clients = clients(&dir);
        let end = soon();
        while clients.name(MAC, Instant::now()).as_deref() != Some("desk") {
            assert!(Instant::now() < end, "it does not come");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_fifo_names_nobody_and_holds_up_nothing() {
        let dir = TempDir::new().unwrap();
        mkfifo(&dir.path().join("dnsmasq.leases"), Mode::S_IRUSR).unwrap();
        fs::write(dir.path().join("ethers"), "00:00:5e:00:53:01 desk\n").unwrap();
        let mut clients = clients(&dir);
        // All files were waited for when the name is there.
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("desk"));
        assert!(clients.files.iter().all(|file| file.reading.is_none()));
        let fifo = dir.path().join("dnsmasq.leases");
        let warning = format!(
            "LAN clients get no names from {}: it is not a regular file",
            fifo.display()
        );
        assert!(!clients.helpers.is_new(&warning), "it was given");
    }
}
