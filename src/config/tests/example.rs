//! The shipped file.

use super::*;
use crate::feed::formats::RecordSize;

/// The file with every commented-out key and table in force, but for the second of two keys that
/// exclude each other.
fn uncommented() -> String {
    let mut last = "";
    EXAMPLE
        .lines()
        .map(|line| {
            let or = std::mem::replace(&mut last, line).starts_with("# Or ");
            match line.strip_prefix('#') {
                Some(rest) if !or && (rest.starts_with('[') || is_pair(rest)) => rest,
                _ => line,
            }
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
    let [mut target] = <[SyslogTarget; 1]>::try_from(config.alerts.syslog).unwrap();
    target.tls = TlsFiles::default(); // examples
    assert_eq!([target], usual.alerts.syslog[..]);
    let [feed] = &config.feeds[..] else { panic!() };
    let ipsum = Preset::find("ipsum").unwrap();
    assert_eq!(feed.preset, Some(ipsum));
    assert_eq!((feed.min_score, feed.deny_score), (Some(3), Some(8)));
    assert_eq!(feed.json.address.as_deref(), Some("ip_address"));
    let usual = CsvOptions::default();
    assert_eq!(feed.csv.column, usual.column);
    assert_eq!(feed.csv.delimiter, usual.delimiter);
    assert_eq!(feed.csv.comment, usual.comment);
    assert_eq!(feed.csv.record_size, RecordSize::Exactly(3));
    let expect = Feed {
        preset: feed.preset,
        csv: feed.csv.clone(),
        json: feed.json.clone(),
        min_score: feed.min_score,
        deny_score: feed.deny_score,
        origin: Some("ipsum".to_owned()),
        url: feed.url.clone(),
        labels: feed.labels.clone(),
        headers: feed.headers.clone(),
        ..Feed::new("ipsum".parse().unwrap())
    };
    assert_eq!(*feed, expect);
}

#[test]
fn it_explains_every_key() {
    good(&uncommented());
    for path in keys::paths() {
        let key = path.rsplit('.').next().unwrap();
        let shown = [format!("#{key} = "), format!("#[{path}]")];
        assert!(
            shown.iter().any(|line| EXAMPLE.contains(line)),
            "{path} is not in the example"
        );
    }
}
