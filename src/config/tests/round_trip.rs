//! What is printed parses back.

use super::*;
use crate::{feed::presets, prefix::Prefix};

fn path() -> impl Strategy<Value = PathBuf> {
    "/[ -~ä\"\\\\]{0,60}".prop_map(PathBuf::from)
}

fn duration(low: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        (low..100_000_000).prop_map(Duration::from_secs),
        (low * 1000..100_000_000).prop_map(Duration::from_millis),
    ]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-z./_-]{1,9}", "[ -~ä]{1,9}", 0..3)
}

prop_compose! {
    fn nftables()(
        include: bool,
        ip in prop::sample::select(vec!["inet", "ip", "ip6"]),
        table in "[A-Z_][a-zA-Z0-9_./-]{0,20}",
        hooks in prop::sample::subsequence(vec![Hook::Output, Hook::Input, Hook::Forward], 1..=3),
        queue_first: u16,
        queue_max_len in 1..=u32::MAX,
        bits in (0u32..31, 0u32..32),
        reject: bool,
        owner: bool,
    ) -> Nftables {
        Nftables {
            mode: if include { Mode::Include } else { Mode::Own },
            family: if include { ip } else { "inet" }.to_owned(),
            table,
            owner,
            hooks,
            queue_first,
            queue_count: 1,
            queue_max_len,
            mark_mask: 3 << bits.0,
            cut_mask: 1 << bits.1,
            on_queue_full: if reject { OnQueueFull::Drop } else { OnQueueFull::Pass },
            nat64_prefixes: if owner { vec![] } else { vec!["64:ff9b::/96".parse().unwrap(), "2001:db8:64::/48".parse().unwrap()] },
            deny_with: if reject { DenyWith::Reject } else { DenyWith::Drop },
        }
    }
}

fn column() -> impl Strategy<Value = Column> {
    // A name of digits only would be a number.
    prop_oneof![
        any::<usize>().prop_map(Column::Number),
        "[ -~ä]{0,9}[a-z]".prop_map(Column::Name),
    ]
}

prop_compose! {
    fn csv()(
        column in column(),
        delimiter in prop::sample::select(vec![b',', b'\t', b'|']),
        comment in prop::option::of(prop::sample::select(vec![b'#', b'\\'])),
        record_size in prop_oneof![
            Just(RecordSize::First),
            Just(RecordSize::Any),
            (1..=usize::MAX).prop_map(RecordSize::Exactly),
        ],
        optional in prop::array::uniform3(prop::option::of(column())),
        only in labels(),
        header: bool,
    ) -> CsvOptions {
        let [port, score, tag] = optional;
        let header = header || matches!(column, Column::Name(_));
        CsvOptions { column, header, delimiter, comment, record_size, port, score, tag, only }
    }
}

prop_compose! {
    fn json()(
        address in prop::option::of("[ -~ä]{1,9}"),
        keys in prop::array::uniform3(prop::option::of("[ -~ä]{1,9}")),
    ) -> JsonOptions {
        let [port, score, tag] = if address.is_some() { keys } else { [None, None, None] };
        JsonOptions { path: "$.a[?@.b == 'c']".parse().ok(), address, port, score, tag }
    }
}

prop_compose! {
    /// A feed's format, a preset, and the keys that go with them.
    fn source()(
        preset in prop::option::of(prop::sample::select(presets().iter().collect::<Vec<_>>())),
        format in prop::sample::select(words::FORMATS),
        csv in csv(),
        json in json(),
        scores in (any::<u32>(), prop::option::of(any::<u32>())),
        origin in "[ -~ä]{1,9}",
        expire_after in prop::option::of(duration(60)),
        change in (0u32..=100, 1u32..1000),
    ) -> Feed {
        Feed {
            preset,
            format: format.1,
            csv, json,
            min_score: Some(scores.0),
            deny_score: scores.1.map(|score| score.max(scores.0)),
            origin: Some(origin),
            expire_after,
            max_shrink: f64::from(change.0) / 100.0,
            max_growth: f64::from(change.1) / 8.0 + 1.0,
            ..Feed::new("x".parse().unwrap())
        }
    }
}

prop_compose! {
    fn feed()(
        source in source(),
        url in prop_oneof![Just(None), "https://u:p@[a-z]{1,9}/[a-z?=]{0,9}".prop_map(|url| url.parse().ok())],
        action in prop::sample::select(vec![Action::Alert, Action::Deny]),
        scope in prop::sample::select(vec![Scope::Both, Scope::Out, Scope::In]),
        severity in prop::sample::select(vec![Severity::Low, Severity::Critical]),
        period in duration(60),
        stale_after in duration(60),
        labels in labels(),
        headers in proptest::collection::btree_map("[a-z-]{1,9}", prop_oneof![
            "[ -~\t]{0,20}".prop_map(HeaderValue::Text),
            path().prop_map(HeaderValue::File),
        ], 0..3),
        flags: (bool, bool),
        max_entries in 1..=usize::MAX,
        max_bytes in 1..=u64::MAX,
        max_bad in prop_oneof![0.0..=1.0, (0u32..=100).prop_map(|n| f64::from(n) / 100.0)],
        lengths in (0u8..=32, 0u8..=128),
    ) -> Feed {
        Feed {
            // A preset has a URL unless another one is written.
            url: url.or_else(|| source.preset?.url.parse().ok()),
            action, scope, period, stale_after, severity, labels, headers,
            enabled: flags.0,
            allow_empty: flags.1,
            max_share: max_bad / 2.0,
            max_entries, max_bytes, max_bad,
            min_prefix4: lengths.0,
            min_prefix6: lengths.1,
            ..source
        }
    }
}

fn target() -> impl Strategy<Value = SyslogTarget> {
    let host_port = (
        prop_oneof![
            any::<IpAddr>().prop_map(Host::Addr),
            "[a-z][a-z0-9]{0,9}(\\.[a-z]{1,9}){0,3}".prop_map(Host::Name),
        ],
        1..=u16::MAX,
    )
        .prop_map(|(host, port)| HostPort { host, port });
    let address = prop_oneof![
        path()
            .prop_filter("fits sun_path", |p| p.as_os_str().len() < 108)
            .prop_map(SyslogAddress::Unix),
        host_port.clone().prop_map(SyslogAddress::Udp),
        host_port.clone().prop_map(SyslogAddress::Tcp),
        host_port.prop_map(SyslogAddress::Tls),
    ];
    let format = prop::sample::select(words::SYSLOG_FORMATS);
    let facility =
        prop::sample::select(words::FACILITIES).prop_map(|(name, code)| Facility { name, code });
    let room = (
        1..=1_000_000usize,
        prop_oneof![Just(0), (64u64 << 10)..=u64::MAX],
    );
    let tls = prop::array::uniform3(prop::option::of(path()));
    (address, format, facility, room, tls).prop_map(|(address, format, facility, room, tls)| {
        let [ca, cert, key] = tls;
        let tls = match address {
            // A certificate has a key.
            SyslogAddress::Tls(_) => TlsFiles {
                ca,
                key: cert.as_ref().and(key.clone()),
                cert: key.and(cert),
            },
            _ => TlsFiles::default(),
        };
        SyslogTarget {
            format: match (format.1, &address) {
                (SyslogFormat::Journal, SyslogAddress::Unix(_)) => SyslogFormat::Journal,
                (SyslogFormat::Journal, _) => SyslogFormat::Cef,
                (format, _) => format,
            },
            address,
            facility,
            queue: room.0,
            spool: room.1,
            tls,
        }
    })
}

prop_compose! {
    fn alerts()(
        suppress in duration(0),
        folding in (0u32..=100_000, any::<u32>(), any::<u32>()),
        durable: bool,
        (json_file, (_, json_format)) in (prop::option::of(path()), prop::sample::select(words::JSON_FORMATS)),
        store in (prop::option::of("[a-z]{1,9}"), duration(60), (1u64 << 20)..=u64::MAX),
        flow_log in (prop::option::of(path()), 0u8..=2),
        syslog in proptest::collection::vec(target(), 0..3),
    ) -> Alerts {
        let (scan_after, rate_limit, rate_limit_ingress) = folding;
        let (file, max_age, max_size) = store;
        Alerts {
            suppress, scan_after, rate_limit, rate_limit_ingress, json_file, json_format, syslog,
            durable: durable && file.is_some(),
            store: AlertStore { file, max_age, max_size },
            flow_log: FlowLog { file: flow_log.0, aggregation: flow_log.1 },
        }
    }
}

prop_compose! {
    fn config()(
        state_dir in path(),
        deny: bool,
        nftables in nftables(),
        prefixes in proptest::collection::vec(any::<(IpAddr, u8)>(), 0..4),
        files in proptest::collection::vec(path(), 0..3),
        own_addresses: bool,
        feeds in proptest::collection::vec(feed(), 0..4),
        timeout in (1u64..=10_000).prop_map(Duration::from_millis),
        mac in "([0-9a-f]{2}:){5}[0-9a-f]{2}",
        alerts in alerts(),
        listen in prop::option::of(any::<IpAddr>()),
        host in labels(),
        arm in duration(0),
        manifests in (prop::option::of(path()), path()),
    ) -> Config {
        Config {
            daemon: Daemon {
                state_dir,
                on_daemon_down: if deny { OnDaemonDown::Deny } else { OnDaemonDown::Allow },
                selftest: own_addresses,
                log_level: if own_addresses { LogLevel::Trace } else { LogLevel::Error },
                ..Daemon::default()
            },
            nftables,
            exceptions: Exceptions {
                prefixes: prefixes.into_iter().map(|(addr, len)| Prefix::new(addr, len % 33).unwrap()).collect(),
                files,
                own_addresses,
                alert_found: deny,
                private_networks: PrivateNetworks::Keep,
            },
            feeds: feeds.into_iter().enumerate().map(|(i, feed)| Feed {
                name: format!("feed{i}").parse().unwrap(),
                ..feed
            }).collect(),
            pull: Pull {
                proxy: if deny { Proxy::Direct } else { Proxy::Url("http://u:p@192.0.2.1:3128/".parse().unwrap()) },
                ca_files: Vec::new(),
                connect_timeout: Duration::from_secs(3),
                total_timeout: Duration::from_secs(120),
            },
            consensus: Consensus { deny_at: 2 },
            attribution: Attribution { timeout, clients: [(mac, "a \"b\"".to_owned())].into() },
            alerts,
            metrics: Metrics { listen: listen.map(|addr| SocketAddr::new(addr, 9797)) },
            host: HostLabels { labels: host },
            arm: Arm { after: arm, max_share: 0.25 },
            manifests: Manifests { dir: manifests.0, secrets_dir: manifests.1 },
        }
    }
}

proptest! {
    #[test]
    fn what_is_printed_parses_back_to_the_same(config in config()) {
        let text = to_toml(&config);
        let outcome = parse(&text, "printed");
        prop_assert_eq!(outcome.config, Some(config), "{}\n{:?}", text, outcome.diagnostics);
    }
}

#[test]
fn the_default_prints_every_key() {
    let mut config = Config::default();
    config.metrics.listen = Some("127.0.0.1:9797".parse().unwrap());
    let full = good(FULL).feeds.remove(0);
    config.feeds.push(full);
    let peer = HostPort {
        host: Host::Name("log.example".to_owned()),
        port: 6514,
    };
    let tls = SyslogTarget::new(SyslogAddress::Tls(peer));
    config.alerts.syslog.push(tls);
    // Two pairs of keys exclude each other.
    config.feeds.push(Feed {
        csv: CsvOptions {
            record_size: RecordSize::Exactly(3),
            ..CsvOptions::default()
        },
        ..Feed::new("second".parse().unwrap())
    });
    let text = to_toml(&config);
    good(&text);
    for path in keys::paths() {
        let key = path.rsplit('.').next().unwrap();
        let shown = text
            .lines()
            .any(|line| line.starts_with(&format!("{key} = ")));
        assert!(shown, "{path}\n{text}");
    }
}

#[test]
fn numbers_print_as_people_write_them() {
    let mut config = Config::default();
    config.feeds.push(Feed::new("a".parse().unwrap()));
    let text = to_toml(&config);
    for line in [
        "period = \"24h\"",
        "max-bytes = \"64MiB\"",
        "max-bad = \"5%\"",
        "max-growth = \"10x\"",
        "expire-after = \"never\"",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_full_file_survives() {
    let config = good(FULL);
    assert_eq!(good(&to_toml(&config)), config);
}
