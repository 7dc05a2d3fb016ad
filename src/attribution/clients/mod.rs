//! Names of the machines of a LAN by their MAC addresses: from the configuration, /etc/ethers and
//! the lease files of DHCP servers.

mod formats;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use super::{Mac, Roots, process::read_limited};

/// How often it is looked whether a file has changed.
const CHECK: Duration = Duration::from_secs(1);
/// Largest file that is read, in bytes: about 100,000 leases.
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

/// Names by MAC address. Files are read on a thread of their own and waited for no longer than
/// the caller can.
pub(super) struct Clients {
    files: Vec<(PathBuf, formats::Reader)>,
    fixed: HashMap<Mac, String>,
    names: HashMap<Mac, String>,
    /// Of the files that `names` were read from, or are being read from.
    stamps: Vec<Option<Stamp>>,
    checked: Option<Instant>,
    reading: Option<Receiver<HashMap<Mac, String>>>,
}

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Clients {
    pub(super) fn new(roots: &Roots) -> Self {
        Self {
            files: roots.clients.all(),
            fixed: HashMap::new(),
            names: HashMap::new(),
            stamps: Vec::new(),
            checked: None,
            reading: None,
        }
    }

    /// Names that count more than those of files; what is no MAC address names nobody.
    pub(super) fn set_static(&mut self, names: &BTreeMap<String, String>) {
        self.fixed = names
            .iter()
            .filter_map(|(mac, name)| Some((formats::mac(mac)?, name.clone())))
            .collect();
    }

    /// The name of the machine with this address. Files that changed are read again; a late
    /// reading is there the next time.
    pub(super) fn name(&mut self, mac: Mac, deadline: Instant) -> Option<String> {
        if let Some(name) = self.fixed.get(&mac) {
            return Some(name.clone());
        }
        self.refresh(Instant::now());
        if let Some(reading) = &self.reading {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Ok(names) = reading.recv_timeout(left) {
                self.names = names;
                self.reading = None;
            }
        }
        self.names.get(&mac).cloned()
    }

    fn refresh(&mut self, now: Instant) {
        let checked = |at: Instant| now.saturating_duration_since(at) < CHECK;
        if self.reading.is_some() || self.checked.is_some_and(checked) {
            return;
        }
        self.checked = Some(now);
        let stamps: Vec<_> = self.files.iter().map(|(path, _)| Stamp::of(path)).collect();
        if stamps == self.stamps {
            return;
        }
        self.stamps = stamps;
        let (send, reading) = channel();
        let files = self.files.clone();
        let started = thread::Builder::new()
            .name("lan-clients".into())
            .spawn(move || send.send(read(&files)));
        if started.is_ok() {
            self.reading = Some(reading);
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

fn read(files: &[(PathBuf, formats::Reader)]) -> HashMap<Mac, String> {
    let mut names = HashMap::new();
    for (path, reader) in files {
        let bytes = read_limited(path, MAX_FILE).unwrap_or_default();
        reader(&String::from_utf8_lossy(&bytes), &mut |mac, name| {
            let name = name.trim_end_matches('.');
            let known = names.contains_key(&mac) || names.len() < MAX_NAMES;
            if known && !name.is_empty() && name.len() <= MAX_NAME {
                names.insert(mac, name.to_owned());
            }
        });
    }
    names
}

#[cfg(test)]
mod tests {
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
        Clients::new(&Roots {
            clients: files,
            ..Roots::default()
        })
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
        let _ = clients.name(MAC, Instant::now());
        assert_eq!(clients.name(MAC, soon()).as_deref(), Some("desk"));
    }
}
