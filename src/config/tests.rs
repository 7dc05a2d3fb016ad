//! Tests over whole files.

use proptest::prelude::*;

use super::*;
use crate::feed::{Action, Scope, Severity};

/// Every key of DESIGN.md section 3.
const FULL: &str = r#"
[daemon]
state-dir = "/srv/feedgate"
control-socket = "/run/fg.sock"
on-daemon-down = "deny"
[nftables]
mode = "own"
family = "inet"
table = "gate"
hooks = ["forward"]
queue-first = 100
queue-count = 4
queue-max-len = 1024
mark-mask = "0x00000005"
cut-mask = 0x80000000
deny-with = "reject"
[exceptions]
prefixes = ["192.0.2.0/24", "2001:db8::1"]
files = ["/etc/feedgate/never"]
own-addresses = false
private-networks = "alert-only"
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
deny-score = 7.5
origin = "someone"
labels = { kind = "botnet" }
severity = "critical"
headers = { X-Key = { file = "/etc/feedgate/key" }, Accept = "text/plain" }
enabled = false
max-entries = 5
max-bytes = "1KiB"
max-shrink = 0.5
max-growth = "2.5x"
max-bad = "12.5%"
allow-empty = true
min-prefix4 = 16
min-prefix6 = 32
[feed.csv]
column = 1
[feed.json]
[consensus]
deny-at = 2
[attribution]
timeout = "20ms"
clients = { "00-00-5E-00-53-0A" = "printer" }
[host]
labels = { role = "gateway" }
[arm]
after = "1h"
[alerts]
suppress = "0s"
durable = true
json-file = "/var/log/a.json"
json-format = "ecs"
store = ""
flow-log = "/var/log/f.json"
flow-log-aggregation = 1
[[alerts.syslog]]
address = "tcp:[2001:db8::5]:601"
format = "rfc3164"
facility = "local3"
[[alerts.syslog]]
address = "udp:log.example.org:514"
[metrics]
listen = "127.0.0.1:9797"
[manifests]
dir = "/etc/feedgate/manifests.d"
"#;

fn good(text: &str) -> Config {
    let outcome = parse(text, "f.toml");
    outcome
        .config
        .unwrap_or_else(|| panic!("{:#?}", outcome.diagnostics))
}

/// `LINE:COLUMN KEY: message` of each diagnostic of that level.
fn list(text: &str, level: Level) -> Vec<String> {
    let outcome = parse(text, "f.toml");
    let errors = outcome.diagnostics.iter().any(|d| d.level == Level::Error);
    assert_eq!(outcome.config.is_none(), errors);
    outcome
        .diagnostics
        .iter()
        .filter(|d| d.level == level)
        .map(|d| format!("{}:{} {d}", d.line, d.column))
        .collect()
}

fn errors(text: &str) -> Vec<String> {
    list(text, Level::Error)
}

fn warnings(text: &str) -> Vec<String> {
    assert_eq!(errors(text), Vec::<String>::new());
    list(text, Level::Warning)
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
            hooks: vec![Hook::Forward],
            queue_first: 100,
            queue_count: 4,
            queue_max_len: 1024,
            mark_mask: 5,
            cut_mask: 1 << 31,
            deny_with: DenyWith::Reject,
        }
    );
    assert_eq!(config.exceptions.prefixes.len(), 2);
    assert_eq!(
        config.exceptions.files,
        [PathBuf::from("/etc/feedgate/never")]
    );
    assert!(!config.exceptions.own_addresses);
    let [feed] = &config.feeds[..] else { panic!() };
    let expect = Feed {
        name: "first".parse().unwrap(),
        url: Some("https://lists.example.org/a.txt".parse().unwrap()),
        action: Action::Deny,
        scope: Scope::In,
        period: Duration::from_secs(90 * 60),
        stale_after: Duration::from_secs(5 * 3600),
        format: Format::Plain,
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
        max_bad: 0.125,
        allow_empty: true,
        min_prefix4: 16,
        min_prefix6: 32,
    };
    assert_eq!(*feed, expect);
    assert_eq!(config.attribution.timeout, Duration::from_millis(20));
    assert_eq!(config.attribution.clients["00:00:5e:00:53:0a"], "printer");
    assert_eq!(config.alerts.suppress, Duration::ZERO);
    let [tcp, udp] = &config.alerts.syslog[..] else {
        panic!()
    };
    assert_eq!(tcp.address.to_string(), "tcp:[2001:db8::5]:601");
    assert_eq!(tcp.format, SyslogFormat::Rfc3164);
    assert_eq!(tcp.facility.code, 19);
    assert_eq!(udp.address.to_string(), "udp:log.example.org:514");
    assert_eq!(udp.format, SyslogFormat::Rfc5424);
    assert_eq!(udp.facility, Facility::AUTHPRIV);
}

#[test]
fn keys_not_in_effect_warn_once_each() {
    let warned: Vec<String> = warnings(FULL)
        .iter()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect();
    let expect: Vec<String> = keys::paths()
        .filter(|path| !keys::in_effect(path))
        .map(|path| format!("{path}: not in effect in this version"))
        .collect();
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(warned), sorted(expect));
}

#[test]
fn the_same_key_in_several_feeds_warns_once() {
    let text = "\
[[feed]]
name = 'a'
stale-after = '2h'
[[feed]]
name = 'b'
stale-after = '3h'
[[feed]]
name = 'c'
stale-after = '4h'
";
    assert_eq!(
        warnings(text),
        ["3:1 feed.stale-after: not in effect in this version"]
    );
    let help = parse(text, "f").diagnostics[0].help.clone();
    assert_eq!(help.as_deref(), Some("also in lines 6, 9"));
}

#[test]
fn words_not_in_effect_warn_and_say_what_happens() {
    let text = "\
[nftables]
mode = 'include'
family = 'ip'
[[feed]]
name = 'a'
format = 'csv'
[alerts]
json-format = 'eve'
[[alerts.syslog]]
address = 'tls:log.example.org:6514'
[[alerts.syslog]]
address = 'udp:192.0.2.1:514'
format = 'cef'
";
    assert_eq!(
        warnings(text),
        [
            r#"2:8 nftables.mode: not in effect in this version: "include""#,
            r#"6:10 feed.format: not in effect in this version: "csv"; the feed is treated as disabled"#,
            r#"8:15 alerts.json-format: not in effect in this version: "eve"; the file gets "ecs""#,
            r#"10:11 alerts.syslog.address: not in effect in this version: "tls"; the target is left out"#,
            r#"13:10 alerts.syslog.format: not in effect in this version: "cef"; the target gets the default format of its address"#,
        ]
    );
    let config = good(text);
    assert!(!config.feeds[0].enabled);
    assert_eq!(config.alerts.syslog.len(), 1);
    assert_eq!(config.alerts.syslog[0].format, SyslogFormat::Rfc5424);
}

#[test]
fn syslog_targets_by_default_and_none_on_request() {
    let usual = Config::default().alerts.syslog;
    assert_eq!(usual[0].address.to_string(), "unix:/dev/log");
    assert_eq!(usual[0].format, SyslogFormat::Rfc3164);
    assert_eq!(good("").alerts.syslog, usual);
    assert_eq!(good("[alerts]\nsyslog = []").alerts.syslog, []);
    // Alerts do not vanish because the only target needs a later version.
    let tls = "[[alerts.syslog]]\naddress = 'tls:a.example:1'";
    assert_eq!(good(tls).alerts.syslog, usual);
}

#[test]
fn twelve_mistakes_give_twelve_errors_in_one_pass() {
    let text = "\
[daemon]
stat-dir = '/x'
control-socket = 'run/x'
[nftables]
hooks = ['output', 'inptu']
mark-mask = '0x1'
[exceptions]
prefixes = ['192.0.2.7/24']
[[feed]]
url = 'gopher://example.org/'
period = '10s'
[[feed]]
name = 'b'
directions = []
max-bad = '500%'
[alerts]
suppress = 60
[[alerts.syslog]]
address = 'udp:::1:514'
";
    assert_eq!(
        errors(text),
        [
            "2:1 daemon.stat-dir: unknown key",
            "3:18 daemon.control-socket: \"run/x\" is not an absolute path",
            "5:20 nftables.hooks[1]: \"inptu\" is not one of \"output\", \"input\", \"forward\"",
            "6:13 nftables.mark-mask: must have exactly 2 bits set, 0x00000001 has 1",
            "8:13 exceptions.prefixes[0]: \"192.0.2.7/24\" has bits set behind its length",
            "9:1 feed[0].name: missing",
            "10:7 feed[0].url: the scheme must be https, http or file",
            "11:10 feed[0].period: must be at least 1m",
            "14:14 feed[1].directions: must not be empty",
            "15:11 feed[1].max-bad: must be a percentage from 0% to 100%, or a number from 0 to 1",
            "17:12 alerts.suppress: expected a duration in quotes, found an integer",
            "19:11 alerts.syslog[0].address: an IPv6 address is written in brackets",
        ]
    );
}

#[test]
fn mistakes_are_placed_exactly() {
    for (text, expect) in [
        ("x = 1", "1:1 x: unknown key"),
        ("\n[feeed]", "2:2 feeed: unknown key"),
        (
            "daemon = 5",
            "1:10 daemon: expected a table, found an integer",
        ),
        (
            "daemon.state-dir = 5",
            "1:20 daemon.state-dir: expected a text in quotes, found an integer",
        ),
        (
            "daemon.state-dir = \"/a\\u0000\"",
            "1:20 daemon.state-dir: \"/a\\0\" is not an absolute path",
        ),
        (
            "\"daemon.state-dir\" = '/a'",
            "1:1 \"daemon.state-dir\": unknown key",
        ),
        (
            "nftables.'mode=include' = 1",
            "1:10 nftables.\"mode=include\": unknown key",
        ),
        (
            "nftables.family = 'ip'",
            "1:19 nftables.family: must be \"inet\" in mode \"own\"",
        ),
        (
            "nftables.table = '9a'",
            "1:18 nftables.table: \"9a\" is no nft identifier",
        ),
        (
            "nftables.hooks = ['input', 'input']",
            "1:28 nftables.hooks[1]: is there twice",
        ),
        (
            "nftables.hooks = 'input'",
            "1:18 nftables.hooks: expected a list, found a text",
        ),
        (
            "nftables.queue-first = -1",
            "1:24 nftables.queue-first: must be from 0 to 65535",
        ),
        (
            "nftables.queue-count = 0",
            "1:24 nftables.queue-count: must be from 1 to 65535",
        ),
        (
            "nftables.queue-first = 65535\nnftables.queue-count = 2",
            "2:24 nftables.queue-count: queues 65535 to 65536 do not fit, the last number is 65535",
        ),
        (
            "nftables.cut-mask = 3",
            "1:21 nftables.cut-mask: must have exactly 1 bit set, 0x00000003 has 2",
        ),
        (
            "nftables.cut-mask = '4'",
            "1:21 nftables.cut-mask: \"4\" is not a mask",
        ),
        (
            "exceptions.prefixes = ['01.2.3.4']",
            "1:24 exceptions.prefixes[0]: \"01.2.3.4\": not an IP address",
        ),
        (
            "exceptions.own-addresses = 'yes'",
            "1:28 exceptions.own-addresses: expected true or false, found a text",
        ),
        (
            "[feed]\nname = 'a'",
            "1:1 feed: expected a list of tables, found a single one",
        ),
        (
            "feed = [1]",
            "1:9 feed[0]: expected a table, found an integer",
        ),
        (
            "[[feed]]\nname = 'a b'",
            "2:8 feed[0].name: a feed name has 1 to 128 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit",
        ),
        (
            "[[feed]]\nname='a'\npreset = 'ipsum'",
            "1:1 feed[0].url: missing",
        ),
        (
            "[[feed]]\nname='a'\nurl = 'example.org/x'",
            "3:7 feed[0].url: not a URL: relative URL without a base",
        ),
        (
            "[[feed]]\nname='a'\nurl = 'https:example.org'",
            "3:7 feed[0].url: not a URL: no // behind the scheme",
        ),
        (
            "[[feed]]\nname='a'\nurl = 'file://etc/x'",
            "3:7 feed[0].url: a file URL names the absolute path of a file",
        ),
        (
            "[[feed]]\nname='a'\nurl = 'file:x'",
            "3:7 feed[0].url: a file URL names the absolute path of a file",
        ),
        (
            "[[feed]]\nname='a'\nperiod = '24'",
            "3:10 feed[0].period: \"24\" is not a duration: time unit needed, for example 24sec or 24ms",
        ),
        (
            "[[feed]]\nname='a'\nperiod = '100years'",
            "3:10 feed[0].period: must be at most 10years",
        ),
        (
            "[[feed]]\nname='a'\nmax-bytes = '0B'",
            "3:13 feed[0].max-bytes: must be at least 1 byte",
        ),
        (
            "[[feed]]\nname='a'\nmax-growth = '0.5x'",
            "3:14 feed[0].max-growth: must be a factor of at least 1",
        ),
        (
            "[[feed]]\nname='a'\nmax-bad = nan",
            "3:11 feed[0].max-bad: must be a percentage from 0% to 100%, or a number from 0 to 1",
        ),
        (
            "[[feed]]\nname='a'\nmin-prefix4 = 33",
            "3:15 feed[0].min-prefix4: must be from 0 to 32",
        ),
        (
            "[[feed]]\nname='a'\nmin-score=2\ndeny-score=1",
            "4:12 feed[0].deny-score: must not be below min-score",
        ),
        (
            "[[feed]]\nname='a'\nformat='cvs'",
            "3:8 feed[0].format: \"cvs\" is not one of \"plain\", \"csv\", \"json\", \"jsonl\", \"stix\", \"crowdsec\"",
        ),
        (
            "[[feed]]\nname='a'\nheaders.'a b' = 'x'",
            "3:9 feed[0].headers.\"a b\": not the name of an HTTP header",
        ),
        (
            "[[feed]]\nname='a'\nheaders = {A = 'x', a = 'y'}",
            "3:21 feed[0].headers.a: is there twice",
        ),
        (
            "[[feed]]\nname='a'\nheaders.A = \"x\\ny\"",
            "3:13 feed[0].headers.A: the value of a header has no control characters and only ASCII",
        ),
        (
            "[[feed]]\nname='a'\nheaders.A = {path = '/x'}",
            "3:13 feed[0].headers.A: expected { file = \"PATH\" }",
        ),
        (
            "[[feed]]\nname='a'\nheaders.A.file = 'x'",
            "3:9 feed[0].headers.A: \"x\" is not an absolute path",
        ),
        (
            "[[feed]]\nname='a'\nlabels = {'a b' = '1'}",
            "3:11 feed[0].labels.\"a b\": the name of a label has 1 to 253 characters of A-Z a-z 0-9 . _ - /",
        ),
        (
            "[[feed]]\nname='a'\ncsv = 1",
            "3:7 feed[0].csv: expected a table, found an integer",
        ),
        (
            "attribution.clients = {'00:00:5e:00:53' = 'x'}",
            "1:24 attribution.clients.\"00:00:5e:00:53\": \"00:00:5e:00:53\" is not a MAC address",
        ),
        (
            "attribution.timeout = '0s'",
            "1:23 attribution.timeout: must be at least 1ms",
        ),
        (
            "alerts.store = '../x'",
            "1:16 alerts.store: must be the name of a file in the state folder, without /",
        ),
        ("[[alerts.syslog]]", "1:1 alerts.syslog[0].address: missing"),
        (
            "[[alerts.syslog]]\naddress = 'unix:dev/log'",
            "2:11 alerts.syslog[0].address: \"dev/log\" is not an absolute path",
        ),
        (
            "[[alerts.syslog]]\naddress = 'udp:a.b:0'",
            "2:11 alerts.syslog[0].address: \"0\" is not a port",
        ),
        (
            "[[alerts.syslog]]\naddress = 'udp:1.2.3:514'",
            "2:11 alerts.syslog[0].address: \"1.2.3:514\" is not HOST:PORT",
        ),
        (
            "[[alerts.syslog]]\naddress = 'tcp:[1::g]:514'",
            "2:11 alerts.syslog[0].address: \"1::g\" is not an IPv6 address",
        ),
        (
            "[[alerts.syslog]]\naddress = '/dev/log'",
            "2:11 alerts.syslog[0].address: \"/dev/log\" is not a syslog address",
        ),
        (
            "metrics.listen = '9797'",
            "1:18 metrics.listen: \"9797\" is not ADDRESS:PORT",
        ),
    ] {
        assert_eq!(errors(text), [expect], "{text}");
    }
}

#[test]
fn a_name_used_twice_points_at_its_first_use() {
    let text = "[[feed]]\nname = 'a'\n[[feed]]\nname = 'b'\n[[feed]]\nname = 'a'\n";
    let outcome = parse(text, "f.toml");
    assert_eq!(
        render(&outcome.diagnostics, text, "f.toml", false),
        "\
error: feed[2].name: \"a\" is also the name of feed[0]
 --> f.toml:6:8
  |
2 | name = 'a'
  |        --- first used here
...
6 | name = 'a'
  |        ^^^
  |
  = help: each feed needs a name of its own
"
    );
}

#[test]
fn an_unknown_key_is_shown_with_a_suggestion() {
    let text = "# ünïcode first\n[[feed]]\nname = \"a\"\nperoid = \"24h\"\n";
    let outcome = parse(text, "/etc/feedgate/feedgate.toml");
    assert_eq!(
        render(
            &outcome.diagnostics,
            text,
            "/etc/feedgate/feedgate.toml",
            false
        ),
        "\
error: feed[0].peroid: unknown key
 --> /etc/feedgate/feedgate.toml:4:1
  |
4 | peroid = \"24h\"
  | ^^^^^^
  |
  = help: did you mean `period`?
"
    );
}

#[test]
fn host_bits_name_the_masked_form() {
    let help = parse("exceptions.prefixes = ['31.13.0.77/16']", "f").diagnostics[0]
        .help
        .clone();
    assert_eq!(help.as_deref(), Some("the prefix is 31.13.0.0/16"));
}

#[test]
fn syntax_errors_have_the_same_shape_and_all_are_found() {
    let text = "[daemon]\nstate-dir = 'x'\nfoo = = 1\n[nftables]\ntable = \n";
    assert_eq!(
        errors(text),
        [
            "2:13 daemon.state-dir: \"x\" is not an absolute path",
            "3:7 extra `=`, expected nothing",
            "5:9 string values must be quoted, expected literal string",
        ]
    );
}

#[test]
fn a_key_written_twice_hides_nothing() {
    let text = "[daemon]\nstate-dir = '/x'\nstate-dir = '/y'\n[arm]\nafter = 1\n";
    assert_eq!(
        errors(text),
        [
            "3:1 duplicate key",
            "5:9 arm.after: expected a duration in quotes, found an integer",
        ]
    );
}

#[test]
fn secrets_are_in_no_message_and_no_rendering() {
    let text = "\
[[feed]]
name = 'a'
url = 'ftp://user:hunter2@example.org/x?key=hunter2'
headers = { A = \"hunter2\\n\", B = 5, 'c c' = 'hunter2' }
header = { A = 'hunter2' }
[[feed]]
name = 'b'
url = 'https://user:hunter2@exa mple.org/'
[[feed]]
name = 'c'
url = 'https://user:hunter2@:99999/'
";
    let outcome = parse(text, "f");
    assert!(outcome.diagnostics.len() >= 6);
    let shown = render(&outcome.diagnostics, text, "f", true);
    let plain = format!("{:?}", outcome.diagnostics);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!plain.contains("hunter2"), "{plain}");
}

#[test]
fn a_crowd_of_errors_is_cut() {
    let text: String = (0..1000).map(|i| format!("zz{i} = 1\n")).collect();
    let outcome = parse(&text, "f");
    assert_eq!(outcome.diagnostics.len(), 100);
    let last = outcome.diagnostics.last().unwrap();
    assert_eq!(last.help.as_deref(), Some("and 900 more"));
    assert!(parse(&"#".repeat(2 << 20), "f").config.is_none());
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
            "alerts.syslog" if key == "address" => "[[alerts.syslog]]".to_owned(),
            "alerts.syslog" => "[[alerts.syslog]]\naddress = 'unix:/dev/log'".to_owned(),
            _ => format!("[{table}]"),
        };
        let text = format!("{header}\n{key} = 1979-05-27\n");
        assert_eq!(errors(&text).len(), 1, "{path}");
    }
}

mod example {
    use super::*;

    /// The file with every commented-out key and table in force.
    fn uncommented() -> String {
        EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with('[') || is_pair(rest) => rest,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn is_pair(line: &str) -> bool {
        line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
    }

    #[test]
    fn it_is_the_default() {
        assert_eq!(good(EXAMPLE), Config::default());
        assert_eq!(warnings(EXAMPLE), Vec::<String>::new());
    }

    #[test]
    fn what_it_comments_out_is_valid_and_the_default() {
        let config = good(&uncommented());
        let usual = Config::default();
        assert_eq!(config.daemon, usual.daemon);
        assert_eq!(config.nftables, usual.nftables);
        assert_eq!(config.exceptions, usual.exceptions);
        assert_eq!(config.attribution.timeout, usual.attribution.timeout);
        assert_eq!(config.alerts.suppress, usual.alerts.suppress);
        assert_eq!(config.alerts.syslog, usual.alerts.syslog);
        let [feed] = &config.feeds[..] else { panic!() };
        let expect = Feed {
            url: feed.url.clone(),
            labels: feed.labels.clone(),
            headers: feed.headers.clone(),
            ..Feed::new("ipsum".parse().unwrap())
        };
        assert_eq!(*feed, expect);
    }

    #[test]
    fn it_explains_every_key() {
        let warned = warnings(&uncommented());
        for path in keys::paths() {
            let key = path.rsplit('.').next().unwrap();
            let shown = [format!("#{key} = "), format!("#[{path}]")];
            assert!(
                shown.iter().any(|line| EXAMPLE.contains(line)),
                "{path} is not in the example"
            );
            let pending = format!(" {path}: not in effect in this version");
            assert_eq!(
                !keys::in_effect(path),
                warned.iter().any(|line| line.ends_with(&pending)),
                "{path}"
            );
        }
    }
}

mod round_trip {
    use super::*;
    use crate::prefix::Prefix;

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
        ) -> Nftables {
            Nftables {
                mode: if include { Mode::Include } else { Mode::Own },
                family: if include { ip } else { "inet" }.to_owned(),
                table,
                hooks,
                queue_first,
                queue_count: 1,
                queue_max_len,
                mark_mask: 3 << bits.0,
                cut_mask: 1 << bits.1,
                deny_with: if reject { DenyWith::Reject } else { DenyWith::Drop },
            }
        }
    }

    prop_compose! {
        fn feed()(
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
                url, action, scope, period, stale_after, severity, labels, headers,
                enabled: flags.0,
                allow_empty: flags.1,
                max_entries, max_bytes, max_bad,
                min_prefix4: lengths.0,
                min_prefix6: lengths.1,
                ..Feed::new("x".parse().unwrap())
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
            host_port.prop_map(SyslogAddress::Tcp),
        ];
        let format = prop::sample::select(vec![SyslogFormat::Rfc3164, SyslogFormat::Rfc5424]);
        let facility = prop::sample::select(words::FACILITIES)
            .prop_map(|(name, code)| Facility { name, code });
        (address, format, facility).prop_map(|(address, format, facility)| SyslogTarget {
            address,
            format,
            facility,
        })
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
            suppress in duration(0),
            json_file in prop::option::of(path()),
            syslog in proptest::collection::vec(target(), 0..3),
        ) -> Config {
            Config {
                daemon: Daemon {
                    state_dir,
                    on_daemon_down: if deny { OnDaemonDown::Deny } else { OnDaemonDown::Allow },
                    ..Daemon::default()
                },
                nftables,
                exceptions: Exceptions {
                    prefixes: prefixes.into_iter().map(|(addr, len)| Prefix::new(addr, len % 33).unwrap()).collect(),
                    files,
                    own_addresses,
                    private_networks: PrivateNetworks::Keep,
                },
                feeds: feeds.into_iter().enumerate().map(|(i, feed)| Feed {
                    name: format!("feed{i}").parse().unwrap(),
                    ..feed
                }).collect(),
                attribution: Attribution { timeout, clients: [(mac, "a \"b\"".to_owned())].into() },
                alerts: Alerts { suppress, json_file, syslog },
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
    fn the_default_prints_every_key_in_effect_without_warnings() {
        let mut config = Config::default();
        config.feeds.push(Feed {
            url: "https://example.org/".parse().ok(),
            ..Feed::new("a".parse().unwrap())
        });
        let text = to_toml(&config);
        assert_eq!(warnings(&text), Vec::<String>::new());
        for path in keys::paths() {
            let key = path.rsplit('.').next().unwrap();
            let shown = text
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")));
            assert!(shown || !keys::in_effect(path), "{path}\n{text}");
        }
        assert!(text.contains("period = \"24h\""), "{text}");
        assert!(text.contains("max-bytes = \"64MiB\""), "{text}");
        assert!(text.contains("max-bad = \"5%\""), "{text}");
    }

    #[test]
    fn the_full_file_survives() {
        let config = good(FULL);
        assert_eq!(good(&to_toml(&config)), config);
    }
}

mod hostile {
    use super::*;

    /// Pieces that make text that is nearly a configuration.
    fn pieces() -> impl Strategy<Value = String> {
        let lines: Vec<&str> = FULL.lines().collect();
        let line = prop_oneof![
            4 => prop::sample::select(lines),
            1 => prop::sample::select(vec![
                "[[daemon]]", "[feed]", "[feed.labels.x]", "name = [[[[", "a.b.c = {x = {}}", "feed = []",
                "alerts.syslog = 3", "[alerts.syslog]", "\"\"\"", "'''", "=", "\u{feff}", "\r", "é = 'ü",
            ]),
        ];
        proptest::collection::vec((line, "\n|\r\n| |"), 0..25).prop_map(|parts| {
            parts
                .into_iter()
                .map(|(line, end)| format!("{line}{end}"))
                .collect()
        })
    }

    fn judge(text: &str) {
        let outcome = parse(text, "f");
        render(&outcome.diagnostics, text, "f", true);
        for diagnostic in &outcome.diagnostics {
            assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
            assert!(diagnostic.span.end <= text.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text: String) {
            judge(&text);
        }

        #[test]
        fn nearly_right_text_never_panics(text in pieces()) {
            judge(&text);
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        for text in [
            "[".repeat(100_000),
            format!("a = {}", "[".repeat(100_000)),
            "a.".repeat(100_000),
            format!("a = {}", "{a=".repeat(50_000)),
        ] {
            assert!(parse(&text, "f").config.is_none());
        }
    }
}
