//! The values of keys that are not written.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    AlertStore, Alerts, Arm, Attribution, Config, Consensus, Daemon, DenyWith, Exceptions,
    Facility, Feed, FlowLog, Format, Hook, HostLabels, JsonFormat, LogLevel, Manifests, Metrics,
    Mode, Nftables, OnDaemonDown, OnQueueFull, PrivateNetworks, Proxy, Pull, SyslogAddress,
    SyslogFormat, SyslogTarget, TlsFiles,
};
use crate::feed::{
    Action, FeedName, Scope, Severity,
    formats::{CsvOptions, JsonOptions},
};
use crate::prefix::{Prefix, PrefixError};

/// No feeds, and alerts to the local syslog.
impl Default for Config {
    fn default() -> Self {
        Self {
            daemon: Daemon::default(),
            nftables: Nftables::default(),
            exceptions: Exceptions::default(),
            pull: Pull::default(),
            feeds: Vec::new(),
            consensus: Consensus::default(),
            attribution: Attribution::default(),
            host: HostLabels::default(),
            arm: Arm::default(),
            alerts: Alerts::default(),
            metrics: Metrics::default(),
            manifests: Manifests::default(),
        }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/feedgate"),
            control_socket: PathBuf::from("/run/feedgate/control.sock"),
            on_daemon_down: OnDaemonDown::Allow,
            selftest: false,
            log_level: LogLevel::Info,
        }
    }
}

impl Default for Manifests {
    fn default() -> Self {
        Self {
            dir: Some(PathBuf::from("/etc/feedgate/manifests.d")),
            secrets_dir: PathBuf::from("/etc/feedgate/secrets"),
        }
    }
}

impl Default for Pull {
    fn default() -> Self {
        Self {
            proxy: Proxy::Environment,
            ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            mode: Mode::Own,
            family: "inet".to_owned(),
            table: "feedgate".to_owned(),
            owner: true,
            hooks: vec![Hook::Output, Hook::Input, Hook::Forward],
            queue_first: 4470,
            queue_count: 1,
            queue_max_len: 65_536,
            mark_mask: 0x0c00_0000,
            cut_mask: 0x0800_0000,
            deny_with: DenyWith::Drop,
            on_queue_full: OnQueueFull::Pass,
            nat64_prefixes: well_known().into_iter().collect(),
        }
    }
}

impl Default for Arm {
    fn default() -> Self {
        Self {
            after: Duration::ZERO,
            max_share: 0.1,
        }
    }
}

impl Default for Exceptions {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            files: Vec::new(),
            own_addresses: true,
            alert_found: true,
            private_networks: PrivateNetworks::Refuse,
        }
    }
}

impl Feed {
    /// A feed that is pushed, with every other key at its default.
    pub fn new(name: FeedName) -> Self {
        let period = Duration::from_secs(24 * 3600);
        Self {
            name,
            preset: None,
            url: None,
            action: Action::Alert,
            scope: Scope::Both,
            period,
            stale_after: stale_after(period),
            expire_after: None,
            format: Format::Plain,
            csv: CsvOptions::default(),
            json: JsonOptions::default(),
            min_score: None,
            deny_score: None,
            origin: None,
            severity: Severity::Medium,
            labels: BTreeMap::new(),
            headers: BTreeMap::new(),
            enabled: true,
            max_entries: 2_000_000,
            max_bytes: 64 << 20,
            max_shrink: 0.5,
            max_growth: 10.0,
            max_share: 0.05,
            max_bad: 0.05,
            allow_empty: false,
            min_prefix4: 8,
            min_prefix6: 19,
        }
    }
}

/// Three missed pulls make a feed stale, whatever its period.
pub(super) fn stale_after(period: Duration) -> Duration {
    period.saturating_mul(3)
}

impl Default for Attribution {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(50),
            clients: BTreeMap::new(),
        }
    }
}

/// Alerts go to `/dev/log` and to no file.
impl Default for Alerts {
    fn default() -> Self {
        Self {
            suppress: Duration::from_secs(60),
            scan_after: 20,
            rate_limit: 0,
            rate_limit_ingress: 50,
            durable: false,
            json_file: None,
            json_format: JsonFormat::Ecs,
            store: AlertStore::default(),
            flow_log: FlowLog::default(),
            syslog: vec![SyslogTarget::default()],
        }
    }
}

impl Default for AlertStore {
    fn default() -> Self {
        Self {
            file: Some("alerts.db".to_owned()),
            max_age: Duration::from_secs(30 * 24 * 3600),
            max_size: 256 << 20,
        }
    }
}

impl SyslogTarget {
    /// A target with every other key at its default.
    pub fn new(address: SyslogAddress) -> Self {
        Self {
            format: SyslogFormat::usual(&address),
            address,
            facility: Facility::AUTHPRIV,
            queue: 8192,
            spool: 64 << 20,
            tls: TlsFiles::default(),
        }
    }
}

impl Default for SyslogTarget {
    fn default() -> Self {
        Self::new(SyslogAddress::Unix(PathBuf::from("/dev/log")))
    }
}

impl SyslogFormat {
    /// The format a target gets when none is written: stock rsyslog and journald misread RFC 5424
    /// on the local socket. journald's own socket takes fields only.
    pub fn usual(address: &SyslogAddress) -> Self {
        match address {
            SyslogAddress::Unix(path) if is_journal(path) => Self::Journal,
            SyslogAddress::Unix(_) => Self::Rfc3164,
            SyslogAddress::Udp(_) | SyslogAddress::Tcp(_) | SyslogAddress::Tls(_) => Self::Rfc5424,
        }
    }
}

/// The socket of journald's native protocol, or that of a journal namespace.
fn is_journal(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.to_str());
    let of_journal = folder
        .and_then(|folder| folder.strip_prefix("/run/systemd/journal"))
        .is_some_and(|name| name.is_empty() || name.starts_with('.'));
    of_journal && path.ends_with("socket")
}

/// The well-known prefix of NAT64, `64:ff9b::/96` (RFC 6052 section 2.1).
fn well_known() -> Result<Prefix, PrefixError> {
    let address = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    Prefix::new(address.into(), 96)
}
