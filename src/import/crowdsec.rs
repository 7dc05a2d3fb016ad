//! The configuration of CrowdSec's firewall bouncer (crowdsec-firewall-bouncer.yaml): the LAPI it asks
//! becomes a feed of format crowdsec.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use url::Url;

use super::{Block, File, Import, ImportError, block::quote};

/// The shortest period of a feed.
const SHORTEST: Duration = Duration::from_secs(60);
const KEY_FILE: &str = "/etc/feedgate/crowdsec-key";
/// What a bouncer's settings are for, where feedgate has nothing to set.
const OTHERS: &[(&str, &str)] = &[
    ("mode", "feedgate has one mode: nftables"),
    ("deny_log", "every denied flow is alerted: see [alerts]"),
    (
        "deny_log_prefix",
        "alerts have a form of their own: see docs/alerts.md",
    ),
    ("blacklists_ipv4", "feedgate names its sets itself"),
    ("blacklists_ipv6", "feedgate names its sets itself"),
    ("ipset_type", "there is no ipset"),
    ("ipset_size", "there is no ipset"),
    ("ipset_disable_timeouts", "there is no ipset"),
    (
        "iptables_chains",
        "set [nftables] hooks instead: output, input, forward",
    ),
    ("nftables", "feedgate has a table of its own"),
    ("pf", "this is for BSD"),
    ("prometheus", "set [metrics] listen instead"),
    ("disable_ipv6", "both families are always filtered"),
    (
        "retry_initial_connect",
        "a pull that failed is always tried again",
    ),
    ("daemonize", "systemd runs feedgate"),
    ("pid_dir", "systemd runs feedgate"),
    ("piddir", "systemd runs feedgate"),
];

pub(super) fn import(text: &str) -> Result<Import, ImportError> {
    let settings: BTreeMap<String, Value> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error
            .location()
            .and_then(|at| usize::try_from(at.line()).ok());
        ImportError {
            line: line.unwrap_or(1),
            message: "not the YAML of a bouncer's configuration: expected `key: value` lines"
                .into(),
        }
    })?;
    let mut import = Import::default();
    let line = |key: &str| {
        let found = text
            .lines()
            .position(|line| line.starts_with(&format!("{key}:")));
        found.map(|at| at + 1)
    };
    let word = |key: &str| {
        settings
            .get(key)
            .and_then(Value::as_str)
            .filter(|word| !word.is_empty())
    };
    let api = word("api_url").ok_or_else(|| ImportError {
        line: line("api_url").unwrap_or(1),
        message: "api_url is missing: a bouncer's configuration says where its LAPI is".into(),
    })?;
    // As the bouncer does: a path stays, with or without a slash at its end.
    let url = format!("{}/", api.trim_end_matches('/'))
        .parse::<Url>()
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url.and_then(|url| url.join("v1/decisions/stream").ok()) else {
        return Err(ImportError {
            line: line("api_url").unwrap_or(1),
            message: format!("api_url: {api:?} is not an http or https URL"),
        });
    };
    let mut feed = Block::new("crowdsec")
        .text("url", url.as_str())
        .text("action", "deny")
        .text("format", "crowdsec");
    feed = feed.text(
        "period",
        &period(
            &mut import,
            word("update_frequency"),
            line("update_frequency"),
        ),
    );
    feed = hooks(&mut import, feed, &settings, line("nftables_hooks"));
    if let Some(key) = word("api_key") {
        let value = format!("{{ X-Api-Key = {{ file = {} }} }}", quote(KEY_FILE));
        feed = feed.raw("headers", value);
        if key.contains("${") {
            import.remark(
                line("api_key"),
                "api_key",
                format!("it is a placeholder: write the key into {KEY_FILE}, mode 0600"),
            );
        } else {
            import.remark(line("api_key"), "api_key", format!("move the file crowdsec-key to {KEY_FILE}; stop the bouncer first: two users of one key take each other's changes"));
            import.files.push(File {
                name: "crowdsec-key".into(),
                text: format!("{key}\n"),
                is_secret: true,
            });
        }
    }
    if let Some(action) = word("deny_action") {
        let with = if action.eq_ignore_ascii_case("reject") {
            "reject"
        } else {
            "drop"
        };
        import.settings.push(("nftables", "deny-with", quote(with)));
    }
    for (key, value) in &settings {
        let known = matches!(
            key.as_str(),
            "api_url" | "api_key" | "update_frequency" | "deny_action" | "nftables_hooks"
        );
        let is_off = matches!(value, Value::Null | Value::Bool(false)) || value == "";
        if known || is_off {
            continue;
        }
        let why = match key.as_str() {
            "supported_decisions_types" if is_ban_only(value) => continue,
            "supported_decisions_types" => "only bans are taken",
            "cert_path" | "key_path" => {
                "a feed has no client certificate: let the LAPI take an api_key"
            }
            "ca_cert_path" => "write the file into [pull] ca-files",
            "insecure_skip_verify" => {
                "feedgate always verifies certificates: write the CA into [pull] ca-files"
            }
            "scenarios_containing" | "scenarios_not_containing" | "origins" | "scopes" => {
                "every ban of the LAPI is taken: filter in the LAPI's profiles"
            }
            key if key.starts_with("log_") => {
                "feedgate logs to standard error and systemd keeps it: see docs/troubleshooting.md"
            }
            key => OTHERS
                .iter()
                .find(|(name, _)| *name == key)
                .map_or("not known here", |(_, why)| why),
        };
        import.remark(line(key), key.clone(), why);
    }
    import.feeds.push(feed);
    Ok(import)
}

fn is_ban_only(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|types| types.iter().all(|kind| kind == "ban"))
}

fn period(import: &mut Import, text: Option<&str>, line: Option<usize>) -> String {
    let wanted = text.and_then(|text| humantime::parse_duration(text).ok());
    match wanted {
        Some(wanted) if wanted >= SHORTEST => humantime::format_duration(wanted)
            .to_string()
            .replace(' ', ""),
        Some(_) => {
            import.remark(
                line,
                "update_frequency",
                "the shortest period of a feed is one minute",
            );
            "1m".into()
        }
        None => "1m".into(),
    }
}

/// The bouncer looks at senders only; its hooks are input and forward.
fn hooks(
    import: &mut Import,
    feed: Block,
    settings: &BTreeMap<String, Value>,
    line: Option<usize>,
) -> Block {
    let hooks = settings.get("nftables_hooks").and_then(Value::as_array);
    if hooks.is_some() {
        import.remark(line, "nftables_hooks", "the hooks of all feeds are [nftables] hooks; this feed looks at senders, as the bouncer did");
    }
    feed.comment("The bouncer dropped by sender only. directions = [\"egress\", \"ingress\"] would name and deny local programs too.")
        .raw("directions", "[\"ingress\"]")
}

#[cfg(test)]
mod tests {
    use super::super::{
        Tool,
        tests::{good, told},
    };

    const BOUNCER: &str = "mode: nftables\nupdate_frequency: 10s\nlog_level: info\napi_url: http://127.0.0.1:8080/\n\
        api_key: s3cret\ninsecure_skip_verify: false\ndeny_action: REJECT\nsupported_decisions_types:\n  - ban\n\
        nftables:\n  ipv4:\n    enabled: true\nnftables_hooks:\n  - input\nnew_thing: 7\n";

    #[test]
    fn a_bouncer_becomes_a_feed() {
        let import = good(Tool::Crowdsec, BOUNCER);
        let toml = import.to_toml();
        for line in [
            "url = \"http://127.0.0.1:8080/v1/decisions/stream\"",
            "period = \"1m\"",
            "format = \"crowdsec\"",
            "deny-with = \"reject\"",
            "directions = [\"ingress\"]",
            "headers = { X-Api-Key = { file = \"/etc/feedgate/crowdsec-key\" } }",
        ] {
            assert!(toml.contains(line), "{line}\n{toml}");
        }
        assert!(!toml.contains("s3cret"));
        assert_eq!(
            (&*import.files[0].text, import.files[0].is_secret),
            ("s3cret\n", true)
        );
        assert_eq!(
            told(&import),
            [
                (Some(1), "mode"),
                (Some(2), "update_frequency"),
                (Some(3), "log_level"),
                (Some(5), "api_key"),
                (Some(10), "nftables"),
                (Some(13), "nftables_hooks"),
                (Some(15), "new_thing"),
            ]
        );
        assert!(!format!("{:?}", import.remarks).contains("s3cret"));
    }

    #[test]
    fn the_path_of_the_lapi_stays() {
        for api in ["https://lapi.example/cs", "https://lapi.example/cs/"] {
            let import = good(Tool::Crowdsec, &format!("api_url: {api}\napi_key: k\n"));
            let toml = import.to_toml();
            let url = "url = \"https://lapi.example/cs/v1/decisions/stream\"";
            assert!(toml.contains(url), "{toml}");
        }
    }

    #[test]
    fn a_placeholder_is_no_key_and_what_has_no_lapi_is_refused() {
        let import = good(
            Tool::Crowdsec,
            "api_url: https://lapi.example/\napi_key: ${API_KEY}\n",
        );
        assert!(import.files.is_empty());
        let error = |text| super::import(text).unwrap_err().to_string();
        assert_eq!(
            error("a: b"),
            "line 1: api_url is missing: a bouncer's configuration says where its LAPI is"
        );
        assert_eq!(
            error("x: 1\napi_url: ftp://a/"),
            "line 2: api_url: \"ftp://a/\" is not an http or https URL"
        );
        assert!(error("- a\n- b").starts_with("line 1: not the YAML"));
    }
}
