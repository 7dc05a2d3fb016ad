//! Each kind of mistake, with its exact place.

use super::*;

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
fn an_index_counts_wrong_elements_too() {
    assert_eq!(
        errors("nftables.hooks = ['input', 'none', 'input']"),
        [
            "1:28 nftables.hooks[1]: \"none\" is not one of \"output\", \"input\", \"forward\"",
            "1:36 nftables.hooks[2]: is there twice",
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
            "[[feed]]\nname='a'\npreset = 'ipsun'",
            "3:10 feed[0].preset: \"ipsun\" is not a preset; known are feodo, sslbl, spamhaus-drop, spamhaus-drop6, firehol-level1, dshield, et-block, cins, blocklist-de, tor-exit, ipsum, greensnow",
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
            "[[feed]]\nname='a'\npreset='ipsum'\ndeny-score=1",
            "4:12 feed[0].deny-score: must not be below min-score (3)",
        ),
        (
            "[[feed]]\nname='a'\nmin-score=1.5",
            "3:11 feed[0].min-score: expected an integer, found a number",
        ),
        (
            "[[feed]]\nname='a'\nformat='jsonl'",
            "3:8 feed[0].format: needs the path to the addresses",
        ),
        (
            "[[feed]]\nname='a'\n[feed.json]\npath='ips'",
            "4:6 feed[0].json.path: not a JSONPath: at position 0, parser error; it starts with $, as in $.ips[*] (RFC 9535)",
        ),
        (
            "[[feed]]\nname='a'\n[feed.json]\nport-key='x'",
            "4:10 feed[0].json.port-key: needs address-key",
        ),
        (
            "[[feed]]\nname='a'\n[feed.csv]\nfield-num=1\nfield-name='x'",
            "5:12 feed[0].csv.field-name: excludes field-num",
        ),
        (
            "[[feed]]\nname='a'\n[feed.csv]\nfield-name='x'\nheader=false",
            "5:8 feed[0].csv.header: a column is found by its name only in a header",
        ),
        (
            "[[feed]]\nname='a'\n[feed.csv]\nrecord-size=1\ndisable-record-size-validation=true",
            "5:32 feed[0].csv.disable-record-size-validation: excludes record-size",
        ),
        (
            "[[feed]]\nname='a'\n[feed.csv]\ncolumn-delimiter='::'",
            "4:18 feed[0].csv.column-delimiter: must be one ASCII character, and no quote or line end",
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
            "[alerts]\nstore = ''\ndurable = true",
            "3:11 alerts.durable: needs the store, and store is \"\"",
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
fn the_name_of_the_self_test_is_taken() {
    assert_eq!(
        errors("[[feed]]\nname = 'feedgate-selftest'\n"),
        ["2:8 feed[0].name: is the name that alerts of a self-test have"]
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

#[test]
fn certificates_are_for_tls_and_come_in_pairs() {
    let target = |address: &str, keys: &str| {
        errors(&format!("[[alerts.syslog]]\naddress = '{address}'\n{keys}"))
    };
    assert_eq!(
        target("unix:/dev/log", "ca-file = '/ca.pem'\nkey-file = ''\n"),
        ["3:11 alerts.syslog[0].ca-file: is for tls: only, and the address is unix:"]
    );
    assert_eq!(
        target(
            "tcp:log.example:601",
            "cert-file = '/c.pem'\nkey-file = '/k.pem'\n"
        ),
        [
            "3:13 alerts.syslog[0].cert-file: is for tls: only, and the address is tcp:",
            "4:12 alerts.syslog[0].key-file: is for tls: only, and the address is tcp:",
        ]
    );
    assert_eq!(
        target("tls:log.example:6514", "cert-file = '/c.pem'\n"),
        ["3:13 alerts.syslog[0].cert-file: needs key-file as well"]
    );
    assert_eq!(
        target("tls:log.example:6514", "key-file = '/c.pem'\n"),
        ["3:12 alerts.syslog[0].key-file: needs cert-file as well"]
    );
    assert_eq!(
        target("udp:192.0.2.1:514", "format = 'journal'\nspool = '1KiB'\n"),
        [
            "3:10 alerts.syslog[0].format: \"journal\" is for the socket of journald",
            "4:9 alerts.syslog[0].spool: must be 0 or at least 64KiB, not 1024",
        ]
    );
}

#[test]
fn a_key_of_a_planned_feature_gives_one_warning_and_its_neighbours_are_still_checked() {
    let text = "[dns]\nenabled = \"auto\"\n[dns.dga]\nenabled = false\n[[feed]]\nname = \"a\"\n\
                match = \"exact\"\n[[alerts.webhook]]\nurl = \"https://example.net/\"\n";
    let outcome = parse(text, "test");
    assert!(outcome.config.is_some(), "{:?}", outcome.diagnostics);
    let shown: Vec<String> = outcome.warnings("f").collect();
    let why = "not in effect in this version";
    assert_eq!(
        shown,
        [
            format!("f:2:1: dns.enabled: {why}"),
            format!("f:4:1: dns.dga.enabled: {why}"),
            format!("f:7:1: feed[0].match: {why}"),
            format!("f:9:1: alerts.webhook[0].url: {why}"),
        ]
    );
    for (wrong, message) in [
        ("[dns]\nenable = true\n", "dns.enable: unknown key"),
        ("[dns.dga]\nx = 1\n", "dns.dga.x: unknown key"),
        ("dns = 1\n", "dns: expected a table, found an integer"),
        ("[evidence]\npcap = 1\n", "evidence.pcap: unknown key"),
        (
            "[alerts.webhook]\nurl = \"a\"\n",
            "alerts.webhook: expected a list of tables, found a single one",
        ),
    ] {
        let found = errors(wrong);
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(found[0].ends_with(message), "{found:?}");
    }
}

#[test]
fn prefixes_of_nat64_have_the_lengths_of_rfc_6052() {
    let with = |prefix: &str| format!("[nftables]\nnat64-prefixes = [{prefix:?}]\n");
    for good_one in [
        "64:ff9b::/96",
        "2001:db8::/32",
        "2001:db8:1:2::/64",
        "64:ff9b:1::/48",
    ] {
        good(&with(good_one));
    }
    for bad in [
        "192.0.2.0/24",
        "2001:db8::/33",
        "2001:db8::/128",
        "2001:db8:0:0:100::/96",
    ] {
        assert_eq!(errors(&with(bad)).len(), 1, "{bad}");
    }
}
