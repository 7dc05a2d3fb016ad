//! banIP of OpenWrt: the feeds that `/etc/config/banip` chooses, or a list of feeds as JSON
//! (`banip.feeds`, `banip.custom.feeds`).
//!
//! The addresses of its feeds are those of banIP 1.5 (2025). One that has a preset becomes that.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Block, Import, ImportError, block::quote, feed_name, uci};

/// A feed that banIP knows by name.
struct Known {
    name: &'static str,
    /// `preset:NAME`, or a URL.
    from: &'static str,
    /// A second list with IPv6 addresses.
    v6: &'static str,
    /// It is for what goes out.
    is_out: bool,
    /// banIP blocks only these ports.
    ports: &'static str,
}

const fn known(name: &'static str, from: &'static str) -> Known {
    Known {
        name,
        from,
        v6: "",
        is_out: false,
        ports: "",
    }
}

#[rustfmt::skip] // a table
const KNOWN: &[Known] = &[
    known("backscatterer", "http://wget-mirrors.uceprotect.net/rbldnsd-all/ips.backscatterer.org.gz"),
    known("becyber", "https://raw.githubusercontent.com/duggytuxy/Data-Shield_IPv4_Blocklist/refs/heads/main/prod_data-shield_ipv4_blocklist.txt"),
    known("binarydefense", "https://iplists.firehol.org/files/bds_atif.ipset"),
    Known { v6: "https://www.team-cymru.org/Services/Bogons/fullbogons-ipv6.txt", ..known("bogon", "https://www.team-cymru.org/Services/Bogons/fullbogons-ipv4.txt") },
    known("bruteforceblock", "https://danger.rulez.sk/projects/bruteforceblocker/blist.php"),
    known("cinsscore", "preset:cins"),
    known("debl", "preset:blocklist-de"),
    Known { is_out: true, ports: "53 and 853", ..known("dns", "https://public-dns.info/nameservers-all.txt") },
    Known { is_out: true, ports: "80 and 443", v6: "https://raw.githubusercontent.com/dibdot/DoH-IP-blocklists/master/doh-ipv6.txt", ..known("doh", "https://raw.githubusercontent.com/dibdot/DoH-IP-blocklists/master/doh-ipv4.txt") },
    Known { v6: "preset:spamhaus-drop6", ..known("drop", "preset:spamhaus-drop") },
    known("dshield", "preset:dshield"),
    known("etcompromised", "https://iplists.firehol.org/files/et_compromised.ipset"),
    known("feodo", "preset:feodo"),
    known("firehol1", "preset:firehol-level1"),
    known("firehol2", "https://iplists.firehol.org/files/firehol_level2.netset"),
    known("firehol3", "https://iplists.firehol.org/files/firehol_level3.netset"),
    known("firehol4", "https://iplists.firehol.org/files/firehol_level4.netset"),
    known("greensnow", "preset:greensnow"),
    Known { is_out: true, ports: "80 and 443", ..known("hagezi", "https://raw.githubusercontent.com/hagezi/dns-blocklists/refs/heads/main/ips/tif.txt") },
    known("ipblackhole", "https://blackhole.monster/blackhole-today"),
    known("ipexdbl", "https://raw.githubusercontent.com/ZEROF/ipextractor/main/ipexdbl.txt"),
    known("ipsum", "preset:ipsum"),
    known("ipthreat", "https://lists.ipthreat.net/file/ipthreat-lists/threat/threat-30.txt.gz"),
    known("myip", "https://myip.ms/files/blacklist/general/latest_blacklist.txt"),
    known("nixspam", "https://www.nixspam.net/download/nixspam-ip.dump.gz"),
    known("proxy", "https://iplists.firehol.org/files/proxylists.ipset"),
    known("ssbl", "preset:sslbl"),
    known("threat", "preset:et-block"),
    known("threatview", "https://threatview.io/Downloads/IP-High-Confidence-Feed.txt"),
    known("tor", "preset:tor-exit"),
    known("uceprotect1", "http://wget-mirrors.uceprotect.net/rbldnsd-all/dnsbl-1.uceprotect.net.gz"),
    known("uceprotect2", "http://wget-mirrors.uceprotect.net/rbldnsd-all/dnsbl-2.uceprotect.net.gz"),
    known("uceprotect3", "http://wget-mirrors.uceprotect.net/rbldnsd-all/dnsbl-3.uceprotect.net.gz"),
    known("urlvir", "https://iplists.firehol.org/files/urlvir.ipset"),
    known("voip", "https://voipbl.org/update/"),
    known("vpn", "https://raw.githubusercontent.com/X4BNet/lists_vpn/refs/heads/main/output/vpn/ipv4.txt"),
    known("vpndc", "https://raw.githubusercontent.com/X4BNet/lists_vpn/refs/heads/main/output/datacenter/ipv4.txt"),
    known("webclient", "https://iplists.firehol.org/files/firehol_webclient.netset"),
];

/// A feed of banIP's JSON.
#[derive(Deserialize)]
struct Custom {
    url_4: Option<String>,
    url_6: Option<String>,
    rule: Option<String>,
    chain: Option<String>,
    flag: Option<String>,
}

pub(super) fn import(text: &str) -> Result<Import, ImportError> {
    let mut import = if text.trim_start().starts_with('{') {
        from_json(text)?
    } else {
        from_uci(text)?
    };
    let mut seen = std::collections::BTreeSet::new();
    import.feeds.retain(|feed| seen.insert(feed.name.clone()));
    Ok(import)
}

fn from_uci(text: &str) -> Result<Import, ImportError> {
    let items = uci::items(text)?;
    let values = |key: &str| -> Vec<&str> {
        let of = items.iter().filter(|item| item.key == key);
        of.flat_map(|item| item.value.split_whitespace()).collect()
    };
    let mut import = Import::default();
    let (incoming, outgoing, both) = (
        values("ban_feedin"),
        values("ban_feedout"),
        values("ban_feedinout"),
    );
    let directions = |name: &str, is_out: bool| match name {
        name if both.contains(&name) => "[\"egress\", \"ingress\"]",
        name if outgoing.contains(&name) => "[\"egress\"]",
        name if incoming.contains(&name) || !is_out => "[\"ingress\"]",
        _ => "[\"egress\"]",
    };
    for item in &items {
        let line = item.line;
        match item.key.as_str() {
            "ban_feed" => {
                for name in item.value.split_whitespace() {
                    feed(
                        &mut import,
                        line,
                        name,
                        &|is_out| directions(name, is_out),
                        &values,
                    );
                }
            }
            "ban_blocktype" | "ban_blockpolicy" if matches!(&*item.value, "drop" | "reject") => {
                if import.settings.is_empty() {
                    import
                        .settings
                        .push(("nftables", "deny-with", quote(&item.value)));
                }
            }
            "ban_enabled" if item.value == "0" => import.remark(
                line,
                "ban_enabled '0'",
                "banIP was off; the feeds below deny as soon as feedgate runs",
            ),
            "ban_enabled" | "ban_feedin" | "ban_feedout" | "ban_feedinout" | "ban_country"
            | "ban_asn" => {}
            "ban_allowurl" => import.remark(
                line,
                item.key.clone(),
                "put the list into a file and that into [exceptions] files",
            ),
            "ban_allowlistonly" if item.value == "1" => import.remark(
                line,
                item.key.clone(),
                "feedgate has no list of the only allowed addresses",
            ),
            key if key.starts_with("ban_log") => import.remark(
                line,
                key,
                "feedgate reads no login logs; it alerts every flow that a feed lists",
            ),
            key => import.remark(line, key, "a setting of banIP itself"),
        }
    }
    if import.feeds.is_empty() && !items.iter().any(|item| item.key.starts_with("ban_")) {
        return Err(ImportError {
            line: 1,
            message: "no `ban_...` setting is in this file; it should be /etc/config/banip".into(),
        });
    }
    import.remark(None, "/etc/banip/banip.allowlist and banip.blocklist", "files of their own: name the first in [exceptions] files, the second as a feed with a file:// url");
    Ok(import)
}

fn feed<'a>(
    import: &mut Import,
    line: usize,
    name: &str,
    directions: &dyn Fn(bool) -> &'static str,
    values: &dyn Fn(&str) -> Vec<&'a str>,
) {
    match name {
        "country" => {
            let code = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic());
            for country in values("ban_country") {
                if !code(country) {
                    import.remark(line, format!("country {country}"), "not the two letters of a country");
                    continue;
                }
                let country = country.to_ascii_lowercase();
                for (end, url) in [
                    ("", format!("https://www.ipdeny.com/ipblocks/data/aggregated/{country}-aggregated.zone")),
                    ("-v6", format!("https://www.ipdeny.com/ipv6/ipaddresses/aggregated/{country}-aggregated.zone")),
                ] {
                    let feed = Block::new(format!("country-{country}{end}")).text("url", &url);
                    import.feeds.push(denying(feed, directions(false)));
                }
            }
        }
        "asn" => {
            for asn in values("ban_asn") {
                let number = asn.trim_start_matches(['A', 'S', 'a', 's']);
                if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                    import.remark(line, format!("asn {asn}"), "not the number of an autonomous system");
                    continue;
                }
                let url = format!("https://asn.ipinfo.app/api/text/list/AS{number}");
                let feed = Block::new(format!("asn-{number}")).text("url", &url);
                import.feeds.push(denying(feed, directions(false)));
            }
        }
        _ => match KNOWN.iter().find(|known| known.name == name) {
            Some(known) => {
                for (end, from) in [("", known.from), ("-v6", known.v6)] {
                    if !from.is_empty() {
                        import.feeds.push(known_feed(&format!("{name}{end}"), from, directions(known.is_out)));
                    }
                }
                if !known.ports.is_empty() {
                    import.remark(line, format!("feed {name}"), format!("banIP blocks only its ports {}; feedgate denies all of them: a policy can name ports (docs/policies.md)", known.ports));
                }
            }
            None => import.remark(line, format!("feed {name}"), "not one of banIP's usual feeds: import its list of feeds (JSON) too, or add it by hand"),
        },
    }
}

fn known_feed(name: &str, from: &str, directions: &'static str) -> Block {
    let feed = Block::new(name);
    let feed = match from.strip_prefix("preset:") {
        Some(preset) => feed.text("preset", preset),
        None => feed.text("url", from),
    };
    denying(feed, directions)
}

fn denying(feed: Block, directions: &str) -> Block {
    feed.text("action", "deny").raw("directions", directions)
}

fn from_json(text: &str) -> Result<Import, ImportError> {
    let feeds: BTreeMap<String, Custom> =
        serde_json::from_str(text).map_err(|error| ImportError {
            line: error.line().max(1),
            message: format!("not banIP's list of feeds: {error}"),
        })?;
    let mut import = Import::default();
    for (name, custom) in feeds {
        let rule = custom.rule.unwrap_or_default();
        let is_plain = rule.is_empty() || rule == "feed 1" || rule.starts_with("feed 1 ");
        if name == "country" || name == "asn" {
            import.remark(
                None,
                format!("feed {name}"),
                "it is a choice by ban_country or ban_asn: import /etc/config/banip",
            );
            continue;
        }
        let preset = KNOWN
            .iter()
            .find(|known| known.name == name && known.from.starts_with("preset:"));
        if !is_plain && preset.is_none() {
            import.remark(
                None,
                format!("feed {name}"),
                format!("its rule is {rule:?}: say the columns in [feed.csv] yourself"),
            );
            continue;
        }
        if let Some(flag) = custom
            .flag
            .filter(|flag| flag.contains("tcp") || flag.contains("udp"))
        {
            import.remark(None, format!("feed {name}"), format!("banIP blocks only {flag:?}; feedgate denies all ports: a policy can name ports (docs/policies.md)"));
        }
        let directions = match custom.chain.as_deref() {
            Some("out") => "[\"egress\"]",
            Some("inout") => "[\"egress\", \"ingress\"]",
            _ => "[\"ingress\"]",
        };
        let both = [
            ("", custom.url_4.clone()),
            (
                "-v6",
                custom.url_6.filter(|v6| custom.url_4.as_ref() != Some(v6)),
            ),
        ];
        for (end, url) in both {
            let Some(url) = url else { continue };
            let is_url = url
                .parse::<url::Url>()
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !is_url {
                import.remark(
                    None,
                    format!("feed {name}"),
                    format!("{url:?} is not an http or https URL"),
                );
                continue;
            }
            let from = preset
                .filter(|_| end.is_empty())
                .map_or(url.as_str(), |known| known.from);
            let mut block = known_feed(&feed_name(&format!("{name}{end}")), from, directions);
            if rule == "feed 1 ," {
                block = block.text("format", "csv");
                block.csv = vec![
                    ("field-num", "0".into()),
                    ("header", "true".into()),
                    ("comment-delimiter", "\"#\"".into()),
                ];
            }
            import.feeds.push(block);
        }
    }
    Ok(import)
}

#[cfg(test)]
mod tests {
    use super::super::{
        Tool,
        tests::{good, told},
    };

    #[test]
    fn the_feeds_that_were_chosen() {
        let text = "config banip 'global'\n\toption ban_enabled '1'\n\tlist ban_feed 'drop'\n\tlist ban_feed 'country'\n\
            \tlist ban_feed 'doh'\n\tlist ban_feed 'mine'\n\tlist ban_country 'de'\n\tlist ban_feedinout 'drop'\n\
            \toption ban_blocktype 'reject'\n\toption ban_nicelimit '5'\n";
        let import = good(Tool::Banip, text);
        let names: Vec<&str> = import.feeds.iter().map(|feed| &*feed.name).collect();
        assert_eq!(
            names,
            [
                "drop",
                "drop-v6",
                "country-de",
                "country-de-v6",
                "doh",
                "doh-v6"
            ]
        );
        let toml = import.to_toml();
        for part in [
            "preset = \"spamhaus-drop\"\naction = \"deny\"\ndirections = [\"egress\", \"ingress\"]",
            "url = \"https://www.ipdeny.com/ipblocks/data/aggregated/de-aggregated.zone\"\naction = \"deny\"\ndirections = [\"ingress\"]",
            "doh-ipv4.txt\"\naction = \"deny\"\ndirections = [\"egress\"]",
            "[nftables]\ndeny-with = \"reject\"",
        ] {
            assert!(toml.contains(part), "{part}\n{toml}");
        }
        assert_eq!(
            told(&import),
            [
                (None, "/etc/banip/banip.allowlist and banip.blocklist"),
                (Some(5), "feed doh"),
                (Some(6), "feed mine"),
                (Some(10), "ban_nicelimit"),
            ]
        );
    }

    #[test]
    fn the_list_of_feeds() {
        let text = r#"{"mine": {"url_4": "https://feeds.example/4", "url_6": "https://feeds.example/6", "rule": "feed 1", "chain": "out"},
            "dshield": {"url_4": "https://feeds.dshield.org/block.txt", "rule": "feed 13", "chain": "in"},
            "odd": {"url_4": "https://feeds.example/odd", "rule": "suricata 1", "chain": "in"}}"#;
        let import = good(Tool::Banip, text);
        let names: Vec<&str> = import.feeds.iter().map(|feed| &*feed.name).collect();
        assert_eq!(names, ["dshield", "mine", "mine-v6"]);
        assert!(import.to_toml().contains("preset = \"dshield\""));
        assert_eq!(import.remarks[0].what, "feed odd");
    }

    #[test]
    fn every_usual_feed_is_a_good_feed() {
        let all: String = super::KNOWN
            .iter()
            .map(|known| format!("list ban_feed '{}'\n", known.name))
            .collect();
        assert!(good(Tool::Banip, &all).feeds.len() >= super::KNOWN.len());
    }

    #[test]
    fn other_files_are_refused() {
        let error = |text| super::import(text).unwrap_err().to_string();
        assert!(error("192.0.2.1\n").starts_with("line 1: expected `config TYPE`"));
        assert!(error("config system\n").contains("it should be /etc/config/banip"));
        assert!(error("{\n1").starts_with("line 2: not banIP's list of feeds"));
    }
}
