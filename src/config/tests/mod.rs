//! Tests over whole files.

mod example;
mod hostile;
mod mistakes;
mod round_trip;

use proptest::prelude::*;

use super::*;
use crate::feed::{
    Action, Preset, Scope, Severity,
    formats::{Column, CsvOptions, JsonOptions, RecordSize},
};

/// Every key of DESIGN.md section 3.
const FULL: &str = r#"
[daemon]
state-dir = "/srv/feedgate"
control-socket = "/run/fg.sock"
on-daemon-down = "deny"
selftest = true
log-level = "debug"
[nftables]
mode = "own"
family = "inet"
table = "gate"
owner = false
hooks = ["forward"]
queue-first = 100
queue-count = 4
queue-max-len = 1024
mark-mask = "0x00000005"
cut-mask = 0x80000000
deny-with = "reject"
on-queue-full = "drop"
nat64-prefixes = ["2001:db8:64::/48"]
[exceptions]
prefixes = ["192.0.2.0/24", "2001:db8::1"]
files = ["/etc/feedgate/never"]
own-addresses = false
alert-found = false
private-networks = "alert-only"
[pull]
proxy = "http://proxy.example.org:3128"
ca-files = ["/etc/ssl/our-ca.pem"]
connect-timeout = "5s"
total-timeout = "90s"
[[feed]]
name = "first"
preset = "ipsum"
url = "https://lists.example.org/a.txt"
action = "deny"
directions = ["ingress"]
period = "90m"
stale-after = "5h"
expire-after = "never"
format = "plain"
min-score = 2
deny-score = 7
origin = "someone"
labels = { kind = "botnet" }
severity = "critical"
headers = { X-Key = { file = "/etc/feedgate/key" }, Accept = "text/plain" }
enabled = false
max-entries = 5
max-bytes = "1KiB"
max-shrink = 0.5
max-growth = "2.5x"
max-share = "7%"
max-bad = "12.5%"
allow-empty = true
min-prefix4 = 16
min-prefix6 = 32
[feed.csv]
field-name = "ip"
header = true
column-delimiter = "\t"
comment-delimiter = ""
disable-record-size-validation = true
port-column = 3
score-column = "confidence"
tag-column = "4"
only = { status = "online" }
[feed.json]
path = "$.list[*]"
address-key = "ip"
port-key = "port"
score-key = "score"
tag-key = "tag"
[consensus]
deny-at = 2
[attribution]
timeout = "20ms"
clients = { "00-00-5E-00-53-0A" = "printer" }
[host]
labels = { role = "gateway" }
[arm]
after = "1h"
max-share = "20%"
[alerts]
suppress = "0s"
durable = true
json-file = "/var/log/a.json"
json-format = "ecs"
scan-after = 7
rate-limit = 50
rate-limit-ingress = 5
store = "seen.db"
store-max-age = "7days"
store-max-size = "8MiB"
flow-log = "/var/log/f.json"
flow-log-aggregation = 1
[[alerts.syslog]]
address = "tls:[2001:db8::5]:6514"
format = "rfc3164"
facility = "local3"
queue = 16
spool = 0
ca-file = "/etc/feedgate/ca.pem"
cert-file = "/etc/feedgate/c.pem"
key-file = "/etc/feedgate/c.key"
[[alerts.syslog]]
address = "udp:log.example.org:514"
[metrics]
listen = "127.0.0.1:9797"
[manifests]
dir = "/etc/feedgate/m"
secrets-dir = "/etc/feedgate/s"
"#;

fn good(text: &str) -> Config {
    let outcome = parse(text, "f.toml");
    outcome
        .config
        .unwrap_or_else(|| panic!("{:#?}", outcome.diagnostics))
}

/// `LINE:COLUMN KEY: message` of each mistake.
fn errors(text: &str) -> Vec<String> {
    let outcome = parse(text, "f.toml");
    assert_eq!(outcome.config.is_none(), !outcome.diagnostics.is_empty());
    let found = outcome.diagnostics.iter();
    found
        .map(|d| format!("{}:{} {d}", d.line, d.column))
        .collect()
}

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    assert_eq!(config.daemon.on_daemon_down, OnDaemonDown::Deny);
    assert_eq!(
        config.nftables,
        Nftables {
            mode: Mode::Own,
            family: "inet".into(),
            table: "gate".into(),
            owner: false,
            hooks: vec![Hook::Forward],
            queue_first: 100,
            queue_count: 4,
            queue_max_len: 1024,
            mark_mask: 5,
            cut_mask: 1 << 31,
            deny_with: DenyWith::Reject,
            on_queue_full: OnQueueFull::Drop,
            nat64_prefixes: vec!["2001:db8:64::/48".parse().unwrap()],
        }
    );
    assert_eq!(config.exceptions.prefixes.len(), 2);
    assert_eq!(
        config.exceptions.files,
        [PathBuf::from("/etc/feedgate/never")]
    );
    assert_eq!(config.daemon.log_level, LogLevel::Debug);
    assert!(!config.exceptions.own_addresses && !config.exceptions.alert_found);
    assert_eq!(config.arm.max_share, 0.2);
    assert_eq!(config.alerts.rate_limit_ingress, 5);
    let [feed] = &config.feeds[..] else { panic!() };
    let expect = Feed {
        name: "first".parse().unwrap(),
        preset: Preset::find("ipsum"),
        url: Some("https://lists.example.org/a.txt".parse().unwrap()),
        action: Action::Deny,
        scope: Scope::In,
        period: Duration::from_secs(90 * 60),
        stale_after: Duration::from_secs(5 * 3600),
        expire_after: None,
        format: Format::Plain,
        csv: CsvOptions {
            column: Column::Name("ip".into()),
            header: true,
            delimiter: b'\t',
            comment: None,
            record_size: RecordSize::Any,
            port: Some(Column::Number(3)),
            score: Some(Column::Name("confidence".into())),
            tag: Some(Column::Number(4)),
            only: [("status".into(), "online".into())].into(),
        },
        json: JsonOptions {
            path: Some("$.list[*]".parse().unwrap()),
            address: Some("ip".into()),
            port: Some("port".into()),
            score: Some("score".into()),
            tag: Some("tag".into()),
        },
        min_score: Some(2),
        deny_score: Some(7),
        origin: Some("someone".into()),
        severity: Severity::Critical,
        labels: [("kind".into(), "botnet".into())].into(),
        headers: [
            (
                "x-key".into(),
                HeaderValue::File("/etc/feedgate/key".into()),
            ),
            ("accept".into(), HeaderValue::Text("text/plain".into())),
        ]
        .into(),
        enabled: false,
        max_entries: 5,
        max_bytes: 1024,
        max_shrink: 0.5,
        max_growth: 2.5,
        max_share: 0.07,
        max_bad: 0.125,
        allow_empty: true,
        min_prefix4: 16,
        min_prefix6: 32,
    };
    assert_eq!(*feed, expect);
    assert_eq!(config.attribution.timeout, Duration::from_millis(20));
    assert_eq!(config.attribution.clients["00:00:5e:00:53:0a"], "printer");
    assert_eq!(config.alerts.suppress, Duration::ZERO);
    let alerts = &config.alerts;
    assert_eq!((alerts.scan_after, alerts.rate_limit), (7, 50));
    assert!(alerts.durable);
    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(
        alerts.store,
        AlertStore {
            file: Some("seen.db".into()),
            max_age: week,
            max_size: 8 << 20
        }
    );
    assert_eq!(alerts.flow_log.file, Some("/var/log/f.json".into()));
    assert_eq!(alerts.flow_log.aggregation, 1);
    assert_eq!(config.metrics.listen, "127.0.0.1:9797".parse().ok());
    let [tls, udp] = &config.alerts.syslog[..] else {
        panic!()
    };
    assert_eq!(tls.address.to_string(), "tls:[2001:db8::5]:6514");
    assert_eq!(tls.format, SyslogFormat::Rfc3164);
    assert_eq!(tls.facility.code, 19);
    assert_eq!((tls.queue, tls.spool), (16, 0));
    assert_eq!(tls.tls.ca, Some("/etc/feedgate/ca.pem".into()));
    assert_eq!(tls.tls.cert, Some("/etc/feedgate/c.pem".into()));
    assert_eq!(tls.tls.key, Some("/etc/feedgate/c.key".into()));
    assert_eq!(udp.tls, TlsFiles::default());
    assert_eq!(udp.address.to_string(), "udp:log.example.org:514");
    assert_eq!(udp.format, SyslogFormat::Rfc5424);
    assert_eq!(udp.facility, Facility::AUTHPRIV);
}

#[test]
fn every_json_format_is_read() {
    for word in ["ecs", "eve", "ocsf"] {
        let text = format!("[alerts]\njson-format = '{word}'\n");
        let format = good(&text).alerts.json_format;
        assert_eq!(words::print(words::JSON_FORMATS, format), word);
    }
}

#[test]
fn a_preset_fills_in_and_what_is_written_wins() {
    let text = "\
[[feed]]
name = 'a'
preset = 'feodo'
[[feed]]
name = 'b'
preset = 'feodo'
url = 'https://mirror.example.org/feodo'
period = '2h'
directions = ['ingress']
allow-empty = false
[feed.csv]
field-num = 1
";
    let config = good(text);
    let feodo = Preset::find("feodo").unwrap();
    assert_eq!(config.feeds[0], feodo.feed("a".parse().unwrap()));
    let own = &config.feeds[1];
    assert_eq!(
        own.url.as_ref().unwrap().host_str(),
        Some("mirror.example.org")
    );
    assert_eq!(own.stale_after, Duration::from_secs(6 * 3600));
    assert_eq!((own.scope, own.allow_empty), (Scope::In, false));
    assert_eq!(own.format, Format::Csv);
    // A table that is written counts as a whole.
    assert_eq!(own.csv.column, Column::Number(1));
    assert!(own.csv.only.is_empty());
    assert_eq!(own.origin(), "abuse.ch");
}

#[test]
fn a_decision_stream_may_be_empty_unless_written() {
    let text = "[[feed]]\nname = 'a'\nurl = 'http://127.0.0.1:8080/v1/decisions/stream'\nformat = 'crowdsec'\n";
    assert!(good(text).feeds[0].allow_empty);
    assert!(!good(&format!("{text}allow-empty = false\n")).feeds[0].allow_empty);
}

#[test]
fn syslog_targets_by_default_and_none_on_request() {
    let usual = Config::default().alerts.syslog;
    assert_eq!(usual[0].address.to_string(), "unix:/dev/log");
    assert_eq!(usual[0].format, SyslogFormat::Rfc3164);
    assert_eq!(good("").alerts.syslog, usual);
    assert_eq!(good("[alerts]\nsyslog = []").alerts.syslog, []);
    for (address, format) in [
        ("tls:a.example:1", SyslogFormat::Rfc5424),
        ("unix:/run/systemd/journal/socket", SyslogFormat::Journal),
        ("unix:/run/systemd/journal.x/socket", SyslogFormat::Journal),
        ("unix:/run/systemd/journal/dev-log", SyslogFormat::Rfc3164),
    ] {
        let text = format!("[[alerts.syslog]]\naddress = '{address}'");
        let [target] = &good(&text).alerts.syslog[..] else {
            panic!()
        };
        assert_eq!(target.address.to_string(), address);
        assert_eq!(target.format, format);
    }
}

/// Every key refuses a date, so every row of the table of keys is read somewhere.
#[test]
fn every_key_checks_its_type() {
    for path in keys::paths() {
        let (table, key) = path.rsplit_once('.').unwrap();
        let header = match table {
            "feed" if key == "name" => "[[feed]]".to_owned(),
            "feed" if key == "url" => "[[feed]]\nname = 'a'".to_owned(),
            "feed" => "[[feed]]\nname = 'a'\nurl = 'file:///a'".to_owned(),
            "feed.csv" => "[[feed]]\nname = 'a'\n[feed.csv]".to_owned(),
            "feed.json" if key == "address-key" => "[[feed]]\nname = 'a'\n[feed.json]".to_owned(),
            "feed.json" => "[[feed]]\nname = 'a'\n[feed.json]\naddress-key = 'ip'".to_owned(),
            "alerts.syslog" if key == "address" => "[[alerts.syslog]]".to_owned(),
            "alerts.syslog" => "[[alerts.syslog]]\naddress = 'unix:/dev/log'".to_owned(),
            _ => format!("[{table}]"),
        };
        let text = format!("{header}\n{key} = 1979-05-27\n");
        assert_eq!(errors(&text).len(), 1, "{path}");
    }
}
