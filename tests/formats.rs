//! The twenty real formats, each by a text of our own that has its shape and its traps.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy.toml does not know as such

use std::time::{Duration, SystemTime};

use feedgate::{
    config::{Feed, Format},
    feed::{FeedData, Parsed, Preset, Refusal, formats::CsvOptions, read},
};

/// 2024-02-01.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_706_745_600)
}

fn plain() -> Feed {
    Feed::new("test".parse().unwrap())
}

/// A feed as the preset makes it.
fn preset(name: &str) -> Feed {
    Preset::find(name).unwrap().feed("test".parse().unwrap())
}

fn pull(name: &str, feed: &Feed) -> Result<Parsed, Refusal> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    read(&std::fs::read(path.join(name)).unwrap(), feed, now(), None)
}

/// Indicators with their tags and scores.
fn shown(parsed: &Parsed) -> Vec<String> {
    let items = parsed.items().map(|item| {
        let mut text = item.indicator().to_string();
        if let Some(score) = item.score() {
            text += &format!(" ={score}");
        }
        if let Some(tag) = item.tag() {
            text += &format!(" {tag}");
        }
        text
    });
    items.collect()
}

fn seconds(time: Option<SystemTime>) -> Option<u64> {
    Some(
        time?
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
}

#[test]
fn format_1_spamhaus_drop_as_text() {
    let parsed = pull("drop-old.txt", &plain()).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.0/25 SBL100001", "198.51.100.0/24 SBL100002"]
    );
    assert_eq!(parsed.lines(), 2);
    assert_eq!(seconds(parsed.updated), Some(1_458_673_196));
}

#[test]
fn format_2_spamhaus_drop_as_json_lines() {
    let parsed = pull("spamhaus-drop.jsonl", &preset("spamhaus-drop")).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.0/25 SBL100001", "2001:db8::/29 SBL100002"]
    );
    assert_eq!((parsed.lines(), parsed.declared), (2, Some(2)));
    assert_eq!(seconds(parsed.updated), Some(1_790_072_042));
}

#[test]
fn format_3_firehol_netset() {
    let parsed = pull("firehol.netset", &preset("firehol-level1")).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "10.0.0.0/8",
            "127.0.0.0/8",
            "192.0.2.224",
            "198.51.100.0/24",
            "203.0.113.0/25"
        ]
    );
    assert_eq!((parsed.too_wide.count, parsed.host_bits), (1, 1));
    assert_eq!(parsed.too_wide.examples[0].text, "224.0.0.0/3");
    assert_eq!(parsed.declared, Some(6));
    assert_eq!(seconds(parsed.updated), Some(1_447_435_025));
}

#[test]
fn format_4_feodo_csv_takes_online_servers_with_their_ports() {
    let mut feed = preset("feodo");
    feed.max_bad = 0.25;
    let parsed = pull("feodo.csv", &feed).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "198.51.100.7:443 ExampleTwo",
            "[2001:db8::7]:8443 ExampleTwo"
        ]
    );
    assert!(parsed.entries.is_empty(), "a port must not be lost");
    assert_eq!((parsed.left_out.filtered, parsed.bad.count), (1, 1));
    assert_eq!(parsed.bad.examples[0].why, "not a port");
    assert_eq!(parsed.declared, Some(4));
}

#[test]
fn format_4_feodo_csv_of_2020() {
    let mut feed = preset("feodo");
    feed.csv = CsvOptions {
        column: "DstIP".into(),
        port: Some("DstPort".into()),
        tag: Some("Malware".into()),
        ..CsvOptions::default()
    };
    let parsed = pull("feodo-2020.csv", &feed).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.49:80 Example", "198.51.100.49:7080 Example"]
    );
    // Its old shape has no column c2_status: that is said, not guessed.
    let refusal = pull("feodo-2020.csv", &preset("feodo")).unwrap_err();
    assert!(matches!(refusal, Refusal::NoColumn { .. }), "{refusal}");
}

#[test]
fn format_4_feodo_json() {
    let mut feed = plain();
    feed.format = Format::Json;
    feed.json.path = "$[?@.status == 'online']".parse().ok();
    feed.json.address = Some("ip_address".to_owned());
    feed.json.port = Some("port".to_owned());
    let parsed = pull("c2.json", &feed).unwrap();
    assert_eq!(shown(&parsed), ["198.51.100.3:443"]);
}

#[test]
fn format_4_feodo_recommended_may_be_empty_if_it_says_so() {
    let mut feed = plain();
    let refusal = pull("feodo-recommended.txt", &feed).unwrap_err();
    assert!(matches!(refusal, Refusal::Empty { .. }), "{refusal}");
    feed.allow_empty = true;
    assert_eq!(
        pull("feodo-recommended.txt", &feed).unwrap().declared,
        Some(0)
    );
}

#[test]
fn format_5_sslbl_csv() {
    let parsed = pull("ssl.csv", &preset("sslbl")).unwrap();
    assert_eq!(shown(&parsed), ["192.0.2.222:443", "203.0.113.60:447"]);
}

#[test]
fn format_6_dshield() {
    let mut feed = preset("dshield");
    feed.max_bad = 0.5;
    let parsed = pull("dshield.txt", &feed).unwrap();
    assert_eq!(shown(&parsed), ["192.0.2.0/24", "198.51.100.0/24"]);
    assert_eq!((parsed.bad.count, parsed.lines()), (1, 3));
    assert_eq!(seconds(parsed.updated), Some(1_516_226_415));
    feed.min_score = Some(2000);
    let parsed = pull("dshield.txt", &feed).unwrap();
    assert_eq!(shown(&parsed), ["192.0.2.0/24 =5959"]);
    assert_eq!(parsed.left_out.below_score, 1);
}

#[test]
fn format_7_emerging_threats() {
    let parsed = pull("et-compromised.txt", &plain()).unwrap();
    assert_eq!(parsed.entries.len(), 3);
    let parsed = pull("et-block.txt", &preset("et-block")).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "192.0.2.0/24",
            "192.0.2.128/25",
            "198.51.100.0/24",
            "203.0.113.9"
        ]
    );
}

#[test]
fn format_8_alienvault() {
    let parsed = pull("alienvault.data", &plain()).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "192.0.2.15 Malicious Host",
            "198.51.100.19 Scanning Host",
            "203.0.113.19"
        ]
    );
    assert_eq!(parsed.not_address.count, 1);
    let parsed = pull("alienvault.generic", &plain()).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.32 Malicious Host XX,,37.5111999512,126.974098206"]
    );
}

#[test]
fn format_9_tor() {
    let parsed = pull("tor-exit-addresses.txt", &preset("tor-exit")).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "192.0.2.231 0123456789ABCDEF0123456789ABCDEF01234567",
            "192.0.2.232 0123456789ABCDEF0123456789ABCDEF01234567",
            "2001:db8::231 89ABCDEF0123456789ABCDEF0123456789ABCDEF",
        ]
    );
    assert_eq!(parsed.lines(), 3);
    assert_eq!(seconds(parsed.updated), Some(1_706_610_115));
    assert_eq!(pull("tor-bulk.txt", &plain()).unwrap().entries.len(), 3);
}

#[test]
fn formats_10_to_12_bare_addresses_of_both_families() {
    let parsed = pull("blocklist-de.txt", &preset("blocklist-de")).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.27", "198.51.100.5", "2001:db8::1"]
    );
    assert_eq!(pull("cins.txt", &preset("cins")).unwrap().lines(), 3);
    let parsed = pull("greensnow.txt", &preset("greensnow")).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.5", "198.51.100.222", "192.168.1.30"]
    );
}

#[test]
fn format_11_empty_with_status_200() {
    let feed = preset("cins");
    let last = FeedData {
        parsed: pull("cins.txt", &feed).unwrap(),
        pulled: now(),
        bytes: 40,
    };
    let refusal = read(b"", &feed, now(), Some(&last)).unwrap_err();
    assert!(
        matches!(
            refusal,
            Refusal::Empty {
                previous: Some(3),
                ..
            }
        ),
        "{refusal}"
    );
}

#[test]
fn format_13_hosts() {
    let refusal = pull("hosts.txt", &plain()).unwrap_err();
    assert!(
        matches!(refusal, Refusal::HostsFile { lines: 3, of: 3 }),
        "{refusal}"
    );
}

#[test]
fn format_14_misp_warninglist_is_never_a_feed() {
    let mut feed = plain();
    feed.format = Format::Json;
    feed.json.path = "$.list".parse().ok();
    let refusal = pull("misp-warninglist.json", &feed).unwrap_err();
    assert!(matches!(refusal, Refusal::AllowList { .. }), "{refusal}");
}

#[test]
fn format_15_stix() {
    let mut feed = plain();
    feed.format = Format::Stix;
    let parsed = pull("stix-bundle.json", &feed).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "198.51.100.42 =85 Example C2",
            "2001:db8::42 =85 Example C2",
            "192.0.2.0/24",
        ]
    );
    assert_eq!(
        (parsed.left_out.unsupported, parsed.left_out.expired),
        (1, 2)
    );
    assert_eq!((parsed.not_address.count, parsed.bad.count), (1, 0));
    assert_eq!(seconds(parsed.next_expiry), Some(1_735_689_600));
}

#[test]
fn format_16_crowdsec() {
    let mut feed = plain();
    feed.format = Format::Crowdsec;
    feed.max_bad = 0.2;
    let parsed = pull("crowdsec-start.json", &feed).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "192.0.2.7 example/ssh-bf",
            "192.0.2.7 example/manual",
            "198.51.100.0/24 example/list",
            "2001:db8::7 example/http-probing",
        ]
    );
}

#[test]
fn format_17_ipset_save() {
    let mut feed = plain();
    feed.max_bad = 0.2;
    let parsed = pull("ipset.save", &feed).unwrap();
    let prefixes: Vec<String> = parsed.prefixes().map(ToString::to_string).collect();
    assert_eq!(
        prefixes,
        [
            // 192.0.2.0/24 without 192.0.2.64/26
            "192.0.2.0/26",
            "192.0.2.128/25",
            // inside the exception, and so listed again
            "192.0.2.65",
            "198.51.100.1",
            "198.51.100.2/31",
            "198.51.100.4/31",
            "198.51.100.6",
            "203.0.113.4",
            "2001:db8::/32",
            "203.0.113.5",
        ]
    );
    let mut indicators = shown(&parsed);
    indicators.dedup();
    assert_eq!(
        indicators,
        [
            "192.0.2.0/24",
            "192.0.2.65",
            "198.51.100.1-198.51.100.6",
            "203.0.113.4 a # mark; and more",
            "2001:db8::/32",
            "203.0.113.5:8080/tcp",
        ]
    );
    assert_eq!((parsed.bad.count, parsed.left_out.exceptions), (1, 1));
    assert_eq!(parsed.lines(), 8);
}

#[test]
fn format_18_pfblockerng_and_p2p() {
    let mut feed = plain();
    feed.max_bad = 0.2;
    let parsed = pull("pfblockerng.txt", &feed).unwrap();
    let mut indicators = shown(&parsed);
    indicators.dedup();
    assert_eq!(
        indicators,
        [
            "192.0.2.16/28 Some Org, Ltd",
            "198.51.100.1-198.51.100.9 Another: Org",
            "203.0.113.0/25",
            "203.0.113.200/31",
        ]
    );
    assert_eq!((parsed.bad.count, parsed.lines()), (0, 4));
}

#[test]
fn format_18_maltrail() {
    let parsed = pull("maltrail.txt", &plain()).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            "198.51.100.0/24 scanners.example.net",
            "203.0.113.9",
            "192.0.2.146:85",
            "[2001:db8::f03c:91ff:feac:f30f]:8080",
            "192.0.2.73:53",
        ]
    );
    assert_eq!((parsed.entries.len(), parsed.bound.len()), (2, 3));
    assert_eq!((parsed.not_address.count, parsed.bad.count), (4, 0));
}

#[test]
fn format_19_ipsum() {
    let mut feed = preset("ipsum");
    feed.deny_score = Some(8);
    let parsed = pull("ipsum.txt", &feed).unwrap();
    assert_eq!(
        shown(&parsed),
        ["192.0.2.20 =10", "192.0.2.102 =8", "198.51.100.53 =3"]
    );
    assert_eq!(parsed.left_out.below_score, 2);
    let actions = parsed
        .items()
        .map(|item| feed.action_for(item.score()).to_string());
    assert_eq!(actions.collect::<Vec<_>>(), ["deny", "deny", "alert"]);
    assert_eq!(seconds(parsed.updated), Some(1_787_360_429));
    // The levels of the same list have no scores.
    let refusal = pull("cins.txt", &feed).unwrap_err();
    assert!(matches!(refusal, Refusal::Garbage { .. }), "{refusal}");
    (feed.min_score, feed.deny_score) = (Some(0), None);
    assert_eq!(pull("cins.txt", &feed).unwrap().count(), 3);
}

#[test]
fn a_pushed_document() {
    let feed = plain();
    let parsed = read(
        br#" {"ips": ["192.0.2.1", "2001:db8::/32"]}"#,
        &feed,
        now(),
        None,
    )
    .unwrap();
    assert_eq!(shown(&parsed), ["192.0.2.1", "2001:db8::/32"]);
    let marked = "\u{feff}{\"ips\": [\"192.0.2.1\"]}".as_bytes();
    assert_eq!(read(marked, &feed, now(), None).unwrap().count(), 1);
    let mut pulled = feed;
    pulled.url = "https://example.org/".parse().ok();
    assert!(read(br#"{"ips": ["192.0.2.1"]}"#, &pulled, now(), None).is_err());
}

#[test]
fn packed_bodies_of_any_format() {
    use std::io::Write;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let text = std::fs::read(path.join("spamhaus-drop.jsonl")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&text).unwrap();
    let fast = ruzstd::encoding::CompressionLevel::Fastest;
    let zst = ruzstd::encoding::compress_to_vec(&text[..], fast);
    for body in [gz.finish().unwrap(), zst] {
        let parsed = read(&body, &preset("spamhaus-drop"), now(), None).unwrap();
        assert_eq!(parsed.count(), 2);
    }
}

#[test]
fn a_list_that_lost_half_of_its_lines_is_cut_off() {
    let feed = preset("firehol-level1");
    let text = "# Entries : 3 unique IPs\n192.0.2.1\n192.0.2.2\n";
    let refusal = read(text.as_bytes(), &feed, now(), None).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Count {
            declared: 3,
            found: 2
        }
    );
    assert!(!refusal.can_be_accepted());
}
