//! GlobalThreatFeeds as the feeds that the daemon keeps.

use std::path::Path;

use super::{HeaderSource, KeyRef, PullFormat, Resource, Spec};
use crate::{
    config::{self, Format, HeaderValue},
    feed::NameError,
};

/// Pulls missed in a row after which a feed is stale, as for a feed of the configuration.
const MISSED: u32 = 3;

/// The feed that a GlobalThreatFeed asks for; `None` for other kinds. It alerts: what is denied is
/// for policies to say. Secrets are files below `secrets`.
///
/// # Errors
/// When the name cannot be a feed's. Those of parsed resources can.
pub fn feed(resource: &Resource, secrets: &Path) -> Result<Option<config::Feed>, NameError> {
    let Spec::ThreatFeed(spec) = &resource.spec else {
        return Ok(None);
    };
    let mut feed = config::Feed::new(resource.metadata.name.parse()?);
    feed.enabled = spec.is_enabled;
    feed.labels = spec.network_set.clone().unwrap_or_default();
    let Some(pull) = &spec.pull else {
        return Ok(Some(feed));
    };
    feed.url = Some(pull.url.clone());
    feed.period = pull.period;
    feed.stale_after = pull.period.saturating_mul(MISSED);
    match &pull.format {
        PullFormat::Lines => {}
        PullFormat::Json(path) => {
            feed.format = Format::Json;
            feed.json.path = Some(path.clone());
        }
        PullFormat::Csv(options) => {
            feed.format = Format::Csv;
            feed.csv = options.clone();
        }
    }
    let file = |of: &KeyRef| {
        let path = secrets.join(&of.name).join(&of.key);
        match of.optional {
            true => HeaderValue::OptionalFile(path),
            false => HeaderValue::File(path),
        }
    };
    for header in &pull.headers {
        let value = match &header.value {
            HeaderSource::Value(text) => HeaderValue::Text(text.clone()),
            HeaderSource::Secret(of) | HeaderSource::ConfigMap(of) => file(of),
        };
        feed.headers.insert(header.name.clone(), value);
    }
    Ok(Some(feed))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifest::parse;

    fn one(spec: &str) -> config::Feed {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalThreatFeed\nmetadata: {{name: f.g}}\nspec: {spec}\n"
        );
        let parsed = parse(&text);
        assert!(!parsed.has_errors(), "{:?}", parsed.mistakes);
        let resource = &parsed.resources.first().unwrap().resource;
        feed(resource, Path::new("/etc/feedgate/secrets"))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn every_field_arrives() {
        let feed = one(
            "{mode: Disabled, globalNetworkSet: {labels: {a: b}}, pull: {period: 1h, http: {url: 'http://203.0.113.1/x', \
             headers: [{name: A, value: v}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}, \
             {name: C, valueFrom: {configMapKeyRef: {name: m, key: k, optional: true}}}], \
             format: {json: {path: '$.ips[*]'}}}}}",
        );
        assert_eq!((feed.name.as_str(), feed.enabled), ("f.g", false));
        assert_eq!(feed.labels.get("a").map(String::as_str), Some("b"));
        assert_eq!(feed.url.unwrap().as_str(), "http://203.0.113.1/x");
        assert_eq!(feed.period, Duration::from_secs(3_600));
        assert_eq!(feed.stale_after, Duration::from_secs(3 * 3_600));
        assert_eq!(feed.format, Format::Json);
        assert_eq!(
            feed.json.path.unwrap().to_string(),
            "$['ips'][*]".replace("['ips']", ".ips")
        );
        assert_eq!(feed.headers["A"], HeaderValue::Text("v".into()));
        assert_eq!(
            feed.headers["B"],
            HeaderValue::File("/etc/feedgate/secrets/s/k".into())
        );
        assert_eq!(
            feed.headers["C"],
            HeaderValue::OptionalFile("/etc/feedgate/secrets/m/k".into())
        );
        let feed =
            one("{pull: {http: {url: 'http://203.0.113.1/x', format: {csv: {fieldNum: 2}}}}}");
        assert_eq!(
            (feed.format, feed.period),
            (Format::Csv, Duration::from_secs(86_400))
        );
        let feed = one("{}");
        assert_eq!(
            (feed.url, feed.enabled, feed.format),
            (None, true, Format::Plain)
        );
    }
}
