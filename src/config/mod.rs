//! `/etc/feedgate/feedgate.toml`: what the user typed into what the daemon runs on.
//!
//! Every mistake is found in one pass and reported with line, column and a caret. A key whose
//! feature this version lacks parses and gives a warning. Does not read files but its own.

mod address;
mod columns;
mod defaults;
mod diagnostic;
mod feeds;
mod identifier;
mod keys;
mod log;
mod parse;
mod print;
mod read;
mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod value;
mod words;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use url::Url;

pub use diagnostic::{Diagnostic, Related, render};
pub(crate) use keys::nearest;
pub use parse::{Outcome, decode, parse};
pub(crate) use print::quote;
pub use print::to_toml;

use crate::{
    feed::{
        Action, FeedName, Preset, Scope, Severity,
        formats::{CsvOptions, JsonOptions},
    },
    prefix::Prefix,
};

/// The shipped file, which explains every key; defaults are commented out.
pub const EXAMPLE: &str = include_str!("feedgate.toml");

/// The whole configuration, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[daemon]`
    pub daemon: Daemon,
    /// `[nftables]`
    pub nftables: Nftables,
    /// `[exceptions]`
    pub exceptions: Exceptions,
    /// `[pull]`
    pub pull: Pull,
    /// `[[feed]]`, in the file's order; names are unique.
    pub feeds: Vec<Feed>,
    /// `[consensus]`
    pub consensus: Consensus,
    /// `[attribution]`
    pub attribution: Attribution,
    /// `[host]`
    pub host: HostLabels,
    /// `[arm]`
    pub arm: Arm,
    /// `[alerts]`
    pub alerts: Alerts,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[manifests]`
    pub manifests: Manifests,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    /// State folder.
    pub state_dir: PathBuf,
    /// Socket of the client commands.
    pub control_socket: PathBuf,
    /// Verdict of policies by source while the daemon is down.
    pub on_daemon_down: OnDaemonDown,
    /// A canary runs through set, queue, attribution, alert and verdict when the daemon starts.
    pub selftest: bool,
    /// The least level that the log shows; `FEEDGATE_LOG` wins over it.
    pub log_level: LogLevel,
}

/// `daemon.log-level`, from the fewest lines to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Protection is off.
    Error,
    /// Degraded, once for each change.
    Warn,
    /// Changes of state.
    Info,
    /// Skipped lines of feeds, and packets that cannot be read.
    Debug,
    /// A line for each queued packet.
    Trace,
}

/// `daemon.on-daemon-down`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDaemonDown {
    /// Let it pass.
    Allow,
    /// Deny it.
    Deny,
}

/// `[nftables]`
#[derive(Clone, Debug, PartialEq)]
pub struct Nftables {
    /// Who owns the table.
    pub mode: Mode,
    /// `inet`, `ip` or `ip6`; only `inet` in mode own.
    pub family: String,
    /// Table name.
    pub table: String,
    /// Mode own: while the daemon lives only it may change the table, on kernels that can (6.9).
    pub owner: bool,
    /// Hooks to watch; at least one, no duplicates.
    pub hooks: Vec<Hook>,
    /// First queue number.
    pub queue_first: u16,
    /// Number of queues, at least 1; `queue_first + queue_count - 1` fits in 16 bits.
    pub queue_count: u16,
    /// Packets the kernel holds for the daemon, for each queue.
    pub queue_max_len: u32,
    /// Two bits of the packet mark: the lower means allow, the higher deny.
    pub mark_mask: u32,
    /// One bit of the conntrack mark: the flow is cut.
    pub cut_mask: u32,
    /// How a denied packet ends.
    pub deny_with: DenyWith,
    /// What becomes of watched flows while a queue is full.
    pub on_queue_full: OnQueueFull,
    /// IPv6 prefixes that hold IPv4 addresses (RFC 6052), each of 32, 40, 48, 56, 64 or 96 bits.
    pub nat64_prefixes: Vec<Prefix>,
}

/// `nftables.on-queue-full`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnQueueFull {
    /// They pass without an alert of their own; what is denied is dropped.
    Pass,
    /// They are dropped, like what is denied.
    Drop,
}

/// `nftables.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The daemon creates and removes the table.
    Own,
    /// The table is the admin's; the daemon fills its sets.
    Include,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Packets of local processes.
    Output,
    /// Packets to this host.
    Input,
    /// Packets routed through this host.
    Forward,
}

/// `nftables.deny-with`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyWith {
    /// Silence.
    Drop,
    /// TCP reset, or ICMP administratively prohibited.
    Reject,
}

/// `[exceptions]`
#[derive(Clone, Debug, PartialEq)]
pub struct Exceptions {
    /// Never blocked, never alerted.
    pub prefixes: Vec<Prefix>,
    /// Files of prefixes, one a line.
    pub files: Vec<PathBuf>,
    /// Own addresses, gateways, resolvers, SSH peers, syslog servers, the Kubernetes API.
    pub own_addresses: bool,
    /// A listed address among those that the daemon found alerts once a day.
    pub alert_found: bool,
    /// What happens to networks of private space in a feed.
    pub private_networks: PrivateNetworks,
}

/// `exceptions.private-networks`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateNetworks {
    /// Leave them out.
    Refuse,
    /// Watch them, never deny.
    AlertOnly,
    /// As the feed says.
    Keep,
}

/// `[pull]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The way out.
    pub proxy: Proxy,
    /// Files of CA certificates (PEM) that count beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Longest time until a connection stands, name and TLS included.
    pub connect_timeout: Duration,
    /// Longest time for a whole pull, redirects and body included.
    pub total_timeout: Duration,
}

/// `pull.proxy`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the daemon's environment.
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, for all feeds.
    Url(Url),
}

/// `[[feed]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    /// Its name.
    pub name: FeedName,
    /// The well-known feed it is; the other fields hold what the preset says and the file changes.
    pub preset: Option<&'static Preset>,
    /// Where it is pulled from (`http`, `https` or `file`); `None`: it is pushed.
    pub url: Option<Url>,
    /// What a match does.
    pub action: Action,
    /// Directions it applies to.
    pub scope: Scope,
    /// Time between pulls, at least one minute.
    pub period: Duration,
    /// Age at which it counts as stale.
    pub stale_after: Duration,
    /// Age at which its data is given up; `None`: never.
    pub expire_after: Option<Duration>,
    /// How its text is read.
    pub format: Format,
    /// `[feed.csv]`, for format csv.
    pub csv: CsvOptions,
    /// `[feed.json]`, for formats json and jsonl.
    pub json: JsonOptions,
    /// Entries with a lower score are left out.
    pub min_score: Option<u32>,
    /// Entries with that score or a higher one are denied, all others alert.
    pub deny_score: Option<u32>,
    /// Feeds of one origin count once in a consensus; `None`: the feed's own name.
    pub origin: Option<String>,
    /// Severity of its alerts.
    pub severity: Severity,
    /// Labels, for policies.
    pub labels: BTreeMap<String, String>,
    /// Request headers.
    pub headers: BTreeMap<String, HeaderValue>,
    /// Pulled and enforced at all.
    pub enabled: bool,
    /// More entries than that: the update is refused.
    pub max_entries: usize,
    /// Larger than that, in bytes: the update is refused.
    pub max_bytes: u64,
    /// A larger loss between two pulls is held back, 0.0..=1.0.
    pub max_shrink: f64,
    /// A growth in addresses by more than this factor is held back.
    pub max_growth: f64,
    /// Deny entries that cover a larger share of the routable addresses of a family are held back, 0.0..=1.0.
    pub max_share: f64,
    /// Share of malformed lines above which the update is refused, 0.0..=1.0.
    pub max_bad: f64,
    /// An empty body is fine.
    pub allow_empty: bool,
    /// Shorter IPv4 prefixes are refused, entry by entry.
    pub min_prefix4: u8,
    /// Shorter IPv6 prefixes are refused, entry by entry.
    pub min_prefix6: u8,
}

impl Feed {
    /// What a match of an entry with that score does.
    pub fn action_for(&self, score: Option<u32>) -> Action {
        match self.deny_score {
            None => self.action,
            Some(deny) if score.is_some_and(|score| score >= deny) => Action::Deny,
            Some(_) => Action::Alert,
        }
    }

    /// Feeds with the same origin count once in a consensus.
    pub fn origin(&self) -> &str {
        self.origin.as_deref().unwrap_or(self.name.as_str())
    }
}

/// `feed.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One address, prefix or range a line.
    Plain,
    /// Delimited columns.
    Csv,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// A STIX bundle or TAXII envelope.
    Stix,
    /// The decision stream of a CrowdSec LAPI.
    Crowdsec,
}

/// A request header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValue {
    /// As written.
    Text(String),
    /// The trimmed content of a file, read at each pull.
    File(PathBuf),
    /// The same; without the file there is no header. For feeds of manifests.
    OptionalFile(PathBuf),
}

/// `[consensus]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consensus {
    /// Feeds of different origin that must list an address before it is denied, at least 1.
    pub deny_at: usize,
}

impl Default for Consensus {
    fn default() -> Self {
        Self { deny_at: 1 }
    }
}

/// `[attribution]`
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// The longest a packet is held for attribution.
    pub timeout: Duration,
    /// MAC address (`00:00:5e:00:53:01`, lower case) to the name of a LAN client.
    pub clients: BTreeMap<String, String>,
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq)]
pub struct Alerts {
    /// Repeats of one source, indicator and verdict within this time are one summary; zero: each one.
    pub suppress: Duration,
    /// Indicators of one source within `suppress` that are alerted one by one; more become one alert
    /// with a list. Zero: all are.
    pub scan_after: u32,
    /// Alerts a second of each direction; more become counts by feed and source. Zero: all pass.
    pub rate_limit: u32,
    /// Alerts of ingress flows a second; the lower of both limits holds. Zero: all pass.
    pub rate_limit_ingress: u32,
    /// The verdict waits until the alert is on disk.
    pub durable: bool,
    /// JSON lines go here.
    pub json_file: Option<PathBuf>,
    /// What they are.
    pub json_format: JsonFormat,
    /// The database of alerts.
    pub store: AlertStore,
    /// The log of flows.
    pub flow_log: FlowLog,
    /// Syslog targets.
    pub syslog: Vec<SyslogTarget>,
}

/// `alerts.json-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFormat {
    /// Elastic Common Schema.
    Ecs,
    /// The `alert` event of Suricata's EVE log.
    Eve,
    /// The Detection Finding of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// `alerts.store` and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertStore {
    /// File name inside the state folder; `None`: no store.
    pub file: Option<String>,
    /// Older alerts are deleted.
    pub max_age: Duration,
    /// The oldest alerts go when the database is larger, in bytes.
    pub max_size: u64,
}

/// `alerts.flow-log` and its level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowLog {
    /// The file; `None`: no log.
    pub file: Option<PathBuf>,
    /// 0: each flow; 1: by source; 2: by indicator.
    pub aggregation: u8,
}

/// `[[alerts.syslog]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogTarget {
    /// Where to.
    pub address: SyslogAddress,
    /// Line format.
    pub format: SyslogFormat,
    /// Facility code, 0..=23 (RFC 5424 section 6.2.1).
    pub facility: Facility,
    /// Alerts that wait in memory, at least 1.
    pub queue: usize,
    /// Bytes of alerts that wait on disk when more do; zero: none.
    pub spool: u64,
    /// Certificates of a `tls:` target.
    pub tls: TlsFiles,
}

/// PEM files of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA certificates that the server must be signed by; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and the chain behind it.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// `[host]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLabels {
    /// Labels of every endpoint of this host, for policies to select by.
    pub labels: BTreeMap<String, String>,
}

/// `[arm]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arm {
    /// A new deny feed only alerts for that long; zero: it denies at once.
    pub after: Duration,
    /// The same as a feed's `max_share`, for the deny entries of all feeds together, 0.0..=1.0.
    pub max_share: f64,
}

/// `[manifests]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifests {
    /// A folder of Calico v3 manifests; `None`: none. It need not be there.
    pub dir: Option<PathBuf>,
    /// Where `secretKeyRef` and `configMapKeyRef` of manifests are: files `NAME/KEY` below it.
    pub secrets_dir: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where metrics and `/healthz` are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// `alerts.syslog.address`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// `unix:PATH`, a datagram or stream socket.
    Unix(PathBuf),
    /// `udp:HOST:PORT`
    Udp(HostPort),
    /// `tcp:HOST:PORT`
    Tcp(HostPort),
    /// `tls:HOST:PORT`
    Tls(HostPort),
}

/// A host name or address and a port; IPv6 addresses are written in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host by address or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Addr(IpAddr),
    /// A name to resolve.
    Name(String),
}

/// `alerts.syslog.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogFormat {
    /// RFC 5424 with structured data.
    Rfc5424,
    /// RFC 3164, the structured data leading the text.
    Rfc3164,
    /// ArcSight's Common Event Format behind an RFC 3164 header.
    Cef,
    /// The fields of journald's own socket.
    Journal,
}

/// A syslog facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility {
    /// Its keyword, `authpriv`.
    pub name: &'static str,
    /// Its code, 0..=23.
    pub code: u8,
}
