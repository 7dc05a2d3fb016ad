//! The tables of the configuration but `[[feed]]`, key by key.

use std::time::Duration;

use toml::de::DeValue;

use super::{
    AlertStore, Alerts, Arm, Attribution, Consensus, Daemon, Exceptions, Facility, FlowLog,
    HostLabels, Manifests, Metrics, Mode, Nftables, Pull, SyslogAddress, SyslogFormat,
    SyslogTarget, TlsFiles, address, identifier,
    log::Log,
    read::Table,
    value::{self, LONGEST, Problem},
    words,
};

pub(super) fn daemon(log: &mut Log<'_>, root: &Table<'_>) -> Daemon {
    let table = root.table(log, "daemon");
    let usual = Daemon::default();
    Daemon {
        state_dir: table.read_or(log, "state-dir", value::path, usual.state_dir),
        control_socket: table.read_or(
            log,
            "control-socket",
            value::socket_path,
            usual.control_socket,
        ),
        on_daemon_down: table.read_or(
            log,
            "on-daemon-down",
            value::word(words::ON_DAEMON_DOWN),
            usual.on_daemon_down,
        ),
        selftest: table.read_or(log, "selftest", value::boolean, usual.selftest),
        log_level: table.read_or(
            log,
            "log-level",
            value::word(words::LOG_LEVELS),
            usual.log_level,
        ),
    }
}

pub(super) fn nftables(log: &mut Log<'_>, root: &Table<'_>) -> Nftables {
    let table = root.table(log, "nftables");
    let usual = Nftables::default();
    let nftables = Nftables {
        mode: table.read_or(log, "mode", value::word(words::MODES), usual.mode),
        family: table
            .read(log, "family", value::word(words::FAMILIES))
            .map_or(usual.family, str::to_owned),
        table: table.read_or(log, "table", identifier::identifier, usual.table),
        owner: table.read_or(log, "owner", value::boolean, usual.owner),
        hooks: table
            .set(log, "hooks", value::word(words::HOOKS))
            .unwrap_or(usual.hooks),
        queue_first: table.read_or(
            log,
            "queue-first",
            value::integer(0..=u16::MAX),
            usual.queue_first,
        ),
        queue_count: table.read_or(
            log,
            "queue-count",
            value::integer(1..=u16::MAX),
            usual.queue_count,
        ),
        queue_max_len: table.read_or(
            log,
            "queue-max-len",
            value::integer(1..=u32::MAX),
            usual.queue_max_len,
        ),
        mark_mask: table.read_or(log, "mark-mask", value::mask(2), usual.mark_mask),
        cut_mask: table.read_or(log, "cut-mask", value::mask(1), usual.cut_mask),
        deny_with: table.read_or(
            log,
            "deny-with",
            value::word(words::DENY_WITH),
            usual.deny_with,
        ),
        on_queue_full: table.read_or(
            log,
            "on-queue-full",
            value::word(words::ON_QUEUE_FULL),
            usual.on_queue_full,
        ),
        nat64_prefixes: table
            .list(log, "nat64-prefixes", value::nat64)
            .unwrap_or(usual.nat64_prefixes),
    };
    judge_nftables(log, &table, &nftables);
    nftables
}

/// What only two keys together can get wrong.
fn judge_nftables(log: &mut Log<'_>, table: &Table<'_>, nftables: &Nftables) {
    match nftables.mode {
        Mode::Include => {}
        Mode::Own if nftables.family != "inet" => {
            let problem = Problem::new("must be \"inet\" in mode \"own\"");
            log.error(&table.path("family"), table.place("family"), problem);
        }
        Mode::Own => {}
    }
    let past = u32::from(nftables.queue_first) + u32::from(nftables.queue_count);
    if past > 65_536 {
        let key = if table.has("queue-count") {
            "queue-count"
        } else {
            "queue-first"
        };
        let problem = Problem::new(format!(
            "queues {} to {} do not fit, the last number is 65535",
            nftables.queue_first,
            past - 1
        ));
        log.error(&table.path(key), table.place(key), problem);
    }
}

pub(super) fn exceptions(log: &mut Log<'_>, root: &Table<'_>) -> Exceptions {
    let table = root.table(log, "exceptions");
    let usual = Exceptions::default();
    Exceptions {
        prefixes: table
            .list(log, "prefixes", value::prefix)
            .unwrap_or(usual.prefixes),
        files: table.list(log, "files", value::path).unwrap_or(usual.files),
        own_addresses: table.read_or(log, "own-addresses", value::boolean, usual.own_addresses),
        alert_found: table.read_or(log, "alert-found", value::boolean, usual.alert_found),
        private_networks: table.read_or(
            log,
            "private-networks",
            value::word(words::PRIVATE_NETWORKS),
            usual.private_networks,
        ),
    }
}

pub(super) fn pull(log: &mut Log<'_>, root: &Table<'_>) -> Pull {
    let table = root.table(log, "pull");
    let usual = Pull::default();
    let seconds = Duration::from_secs(1)..=Duration::from_secs(3600);
    Pull {
        proxy: table.read_or(log, "proxy", address::proxy, usual.proxy),
        ca_files: table
            .list(log, "ca-files", value::path)
            .unwrap_or(usual.ca_files),
        connect_timeout: table.read_or(
            log,
            "connect-timeout",
            value::duration(seconds.clone()),
            usual.connect_timeout,
        ),
        total_timeout: table.read_or(
            log,
            "total-timeout",
            value::duration(seconds),
            usual.total_timeout,
        ),
    }
}

pub(super) fn attribution(log: &mut Log<'_>, root: &Table<'_>) -> Attribution {
    let table = root.table(log, "attribution");
    // Longer than that is an outage for every new flow, not a search.
    let range = Duration::from_millis(1)..=Duration::from_secs(10);
    Attribution {
        timeout: table.read_or(
            log,
            "timeout",
            value::duration(range),
            Attribution::default().timeout,
        ),
        clients: table.map(log, "clients", address::mac, value::label),
    }
}

pub(super) fn alerts(log: &mut Log<'_>, root: &Table<'_>) -> Alerts {
    let table = root.table(log, "alerts");
    let usual = Alerts::default();
    let alerts = Alerts {
        suppress: table.read_or(
            log,
            "suppress",
            value::duration(Duration::ZERO..=LONGEST),
            usual.suppress,
        ),
        scan_after: table.read_or(
            log,
            "scan-after",
            value::integer(0..=100_000),
            usual.scan_after,
        ),
        rate_limit: table.read_or(
            log,
            "rate-limit",
            value::integer(0..=u32::MAX),
            usual.rate_limit,
        ),
        rate_limit_ingress: table.read_or(
            log,
            "rate-limit-ingress",
            value::integer(0..=u32::MAX),
            usual.rate_limit_ingress,
        ),
        durable: table.read_or(log, "durable", value::boolean, usual.durable),
        json_file: table.read_or(log, "json-file", value::path_or_none, usual.json_file),
        json_format: table.read_or(
            log,
            "json-format",
            value::word(words::JSON_FORMATS),
            usual.json_format,
        ),
        store: AlertStore {
            file: table.read_or(log, "store", store, usual.store.file),
            max_age: table.read_or(
                log,
                "store-max-age",
                value::duration(Duration::from_secs(60)..=LONGEST),
                usual.store.max_age,
            ),
            max_size: table.read_or(log, "store-max-size", store_size, usual.store.max_size),
        },
        flow_log: FlowLog {
            file: table.read_or(log, "flow-log", value::path_or_none, usual.flow_log.file),
            aggregation: table.read_or(
                log,
                "flow-log-aggregation",
                value::integer(0..=2),
                usual.flow_log.aggregation,
            ),
        },
        syslog: targets(log, &table).unwrap_or(usual.syslog),
    };
    if alerts.durable && alerts.store.file.is_none() {
        let problem = Problem::new("needs the store, and store is \"\"")
            .help("name a file in store, or leave durable out");
        log.error(&table.path("durable"), table.place("durable"), problem);
    }
    alerts
}

/// The syslog targets; `None` when none is written. An empty list stays one: the user wants no
/// syslog.
fn targets(log: &mut Log<'_>, alerts: &Table<'_>) -> Option<Vec<SyslogTarget>> {
    let tables = alerts.tables(log, "syslog")?;
    let targets = tables.iter().filter_map(|table| target(log, table));
    Some(targets.collect())
}

fn target(log: &mut Log<'_>, table: &Table<'_>) -> Option<SyslogTarget> {
    const HELP: &str = "add address = \"unix:/dev/log\"";
    let address = table.require(log, "address", HELP, address::syslog);
    let format = table.read(log, "format", value::word(words::SYSLOG_FORMATS));
    let facility = table.read(log, "facility", value::word(words::FACILITIES));
    let queue = table.read(log, "queue", value::integer(1..=1_000_000));
    let spool = table.read(log, "spool", spool_size);
    let tls = TlsFiles {
        ca: table.read_or(log, "ca-file", value::path_or_none, None),
        cert: table.read_or(log, "cert-file", value::path_or_none, None),
        key: table.read_or(log, "key-file", value::path_or_none, None),
    };
    let address = address?;
    certificates(log, table, &address, &tls);
    if format == Some(SyslogFormat::Journal) && !matches!(address, SyslogAddress::Unix(_)) {
        let problem = Problem::new("\"journal\" is for the socket of journald")
            .help("write address = \"unix:/run/systemd/journal/socket\", or another format");
        log.error(&table.path("format"), table.place("format"), problem);
    }
    let usual = SyslogTarget::new(address);
    Some(SyslogTarget {
        format: format.unwrap_or(usual.format),
        facility: facility
            .and_then(Facility::from_code)
            .unwrap_or(usual.facility),
        queue: queue.unwrap_or(usual.queue),
        spool: spool.unwrap_or(usual.spool),
        tls,
        ..usual
    })
}

/// Certificates are for `tls:` only, and the client's needs its key.
fn certificates(log: &mut Log<'_>, table: &Table<'_>, address: &SyslogAddress, files: &TlsFiles) {
    let is_tls = matches!(address, SyslogAddress::Tls(_));
    for (key, file) in [
        ("ca-file", &files.ca),
        ("cert-file", &files.cert),
        ("key-file", &files.key),
    ] {
        if file.is_some() && !is_tls {
            let transport = match address {
                SyslogAddress::Unix(_) => "unix:",
                SyslogAddress::Udp(_) => "udp:",
                SyslogAddress::Tcp(_) | SyslogAddress::Tls(_) => "tcp:",
            };
            let problem = Problem::new(format!("is for tls: only, and the address is {transport}"))
                .help("write address = \"tls:HOST:PORT\", or remove the key");
            log.error(&table.path(key), table.place(key), problem);
        }
    }
    if is_tls && files.cert.is_some() != files.key.is_some() {
        let (there, missing) = match files.cert {
            Some(_) => ("cert-file", "key-file"),
            None => ("key-file", "cert-file"),
        };
        let problem = Problem::new(format!("needs {missing} as well"));
        log.error(&table.path(there), table.place(there), problem);
    }
}

/// 0, or what holds a useful number of lines.
fn spool_size(value: &DeValue<'_>) -> Result<u64, Problem> {
    const LEAST: u64 = 64 << 10;
    match value::size_or_none(value)? {
        size @ 1..LEAST => Err(Problem::new(format!(
            "must be 0 or at least 64KiB, not {size}"
        ))),
        size => Ok(size),
    }
}

pub(super) fn metrics(log: &mut Log<'_>, root: &Table<'_>) -> Metrics {
    let table = root.table(log, "metrics");
    Metrics {
        listen: table.read(log, "listen", address::listen),
    }
}

pub(super) fn consensus(log: &mut Log<'_>, root: &Table<'_>) -> Consensus {
    let table = root.table(log, "consensus");
    let usual = Consensus::default();
    let deny_at = table.read(log, "deny-at", value::integer(1..=u16::MAX));
    Consensus {
        deny_at: deny_at.map_or(usual.deny_at, usize::from),
    }
}

pub(super) fn host(log: &mut Log<'_>, root: &Table<'_>) -> HostLabels {
    let table = root.table(log, "host");
    HostLabels {
        labels: table.map(log, "labels", label_name, value::label),
    }
}

pub(super) fn arm(log: &mut Log<'_>, root: &Table<'_>) -> Arm {
    let table = root.table(log, "arm");
    let usual = Arm::default();
    let after = value::duration(Duration::ZERO..=LONGEST);
    Arm {
        after: table.read_or(log, "after", after, usual.after),
        max_share: table.read_or(log, "max-share", value::share, usual.max_share),
    }
}

pub(super) fn manifests(log: &mut Log<'_>, root: &Table<'_>) -> Manifests {
    let table = root.table(log, "manifests");
    let usual = Manifests::default();
    Manifests {
        dir: table.read_or(log, "dir", value::path_or_none, usual.dir),
        secrets_dir: table.read_or(log, "secrets-dir", value::path, usual.secrets_dir),
    }
}

/// The name of a label: 1 to 253 characters of `A-Z a-z 0-9 . _ - /`.
pub(super) fn label_name(name: &str) -> Result<String, Problem> {
    let good = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if good {
        Ok(name.to_owned())
    } else {
        Err(Problem::new(
            "the name of a label has 1 to 253 characters of A-Z a-z 0-9 . _ - /",
        ))
    }
}

/// Less than this holds no useful number of alerts, and SQLite's own pages count.
fn store_size(value: &DeValue<'_>) -> Result<u64, Problem> {
    const LEAST: u64 = 1 << 20;
    let size = value::size(value)?;
    if size < LEAST {
        return Err(Problem::new("must be at least 1MiB"));
    }
    Ok(size)
}

/// A file name inside the state folder; empty for none.
fn store(value: &DeValue<'_>) -> Result<Option<String>, Problem> {
    let text = value::text(value)?;
    let bad = text == "." || text == ".." || text.chars().any(|c| c == '/' || c.is_control());
    if bad {
        return Err(Problem::new(
            "must be the name of a file in the state folder, without /",
        ));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
