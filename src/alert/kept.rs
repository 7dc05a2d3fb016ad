//! An alert as text that can be read back, for what waits in memory and must outlive the process.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Alert, Flood, Scan};
use crate::{
    attribution::Source,
    feed::{Action, Direction, Severity},
    packet::{Flow, Protocol, Transport},
};

/// Everything of an alert that any line shows, and no label for policies.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    time: u64,
    action: String,
    direction: Direction,
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    transport: Transport,
    fragment: bool,
    feeds: Vec<String>,
    indicator: String,
    scan: Option<(Vec<String>, bool)>,
    flood: Option<(u64, bool, Vec<IpAddr>)>,
    severity: String,
    policy: Option<String>,
    exception: Option<String>,
    iface: Option<String>,
    method: Option<String>,
    source: Source,
    nat_dst: Option<(IpAddr, Option<u16>)>,
    count: u64,
    window: Option<(u64, u64)>,
}

/// The alert in one line; `None` for one that no clock of today can have made.
pub(crate) fn to_text(alert: &Alert) -> Option<String> {
    let Flow {
        src,
        dst,
        proto,
        transport,
        fragment,
    } = alert.flow;
    let scan = alert.scan.as_ref().map(|scan| {
        let further = scan.further.iter().map(ToString::to_string);
        (further.collect(), scan.more)
    });
    let flood = alert.flood.clone();
    let window = match alert.window {
        Some((first, last)) => Some((micros(first)?, micros(last)?)),
        None => None,
    };
    let kept = Kept {
        id: alert.id.hyphenated().to_string(),
        time: micros(alert.time)?,
        action: alert.action.as_str().to_owned(),
        direction: alert.direction,
        src,
        dst,
        proto: proto.0,
        transport,
        fragment,
        feeds: alert.feeds.iter().map(ToString::to_string).collect(),
        indicator: alert.indicator.to_string(),
        scan,
        flood: flood.map(|flood| (flood.sources, flood.is_exact, flood.further)),
        severity: alert.severity.as_str().to_owned(),
        policy: alert.policy.as_deref().map(str::to_owned),
        exception: alert.exception.as_deref().map(str::to_owned),
        iface: alert.iface.clone(),
        method: alert.source.method.map(str::to_owned),
        source: alert.source.clone(),
        nat_dst: alert.nat_dst,
        count: alert.count,
        window,
    };
    serde_json::to_string(&kept).ok()
}

/// What [`to_text`] wrote; `method` knows the ways to find a source by their names.
pub(crate) fn from_text(
    text: &str,
    method: impl Fn(&str) -> Option<&'static str>,
) -> Option<Alert> {
    let kept: Kept = serde_json::from_str(text).ok()?;
    let actions = [Action::Alert, Action::Deny];
    let severities = [
        Severity::Low,
        Severity::Medium,
        Severity::High,
        Severity::Critical,
    ];
    let scan = match kept.scan {
        Some((further, more)) => Some(Scan {
            further: all(&further)?,
            more,
        }),
        None => None,
    };
    let source = Source {
        method: kept.method.as_deref().and_then(method),
        ..kept.source
    };
    Some(Alert {
        id: uuid::Uuid::parse_str(&kept.id).ok()?,
        time: time(kept.time),
        action: actions.into_iter().find(|a| a.as_str() == kept.action)?,
        direction: kept.direction,
        flow: Flow {
            src: kept.src,
            dst: kept.dst,
            proto: Protocol(kept.proto),
            transport: kept.transport,
            fragment: kept.fragment,
        },
        feeds: all(&kept.feeds)?,
        indicator: kept.indicator.parse().ok()?,
        scan,
        flood: kept.flood.map(|(sources, is_exact, further)| Flood {
            sources,
            is_exact,
            further,
        }),
        severity: severities
            .into_iter()
            .find(|s| s.as_str() == kept.severity)?,
        policy: kept.policy.map(Into::into),
        exception: kept.exception.map(Into::into),
        iface: kept.iface,
        source,
        nat_dst: kept.nat_dst,
        count: kept.count,
        window: kept.window.map(|(first, last)| (time(first), time(last))),
        held: Duration::ZERO,
    })
}

fn all<T: std::str::FromStr>(texts: &[String]) -> Option<Vec<T>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

fn micros(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

fn time(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::{ecs, example};

    fn known(name: &str) -> Option<&'static str> {
        (name == "sock-diag").then_some("sock-diag")
    }

    proptest! {
        #[test]
        fn what_is_read_back_is_what_was_kept(alert in example::any_alert()) {
            let observer = ecs::Observer { hostname: "gw".into(), version: "0".into() };
            let Some(text) = to_text(&alert) else {
                prop_assert!(micros(alert.time).is_none());
                return Ok(());
            };
            prop_assert!(!text.contains('\n'));
            let back = from_text(&text, known).unwrap();
            let alert = Alert { held: Duration::ZERO, ..alert };
            prop_assert_eq!(ecs::ecs(&back, &observer), ecs::ecs(&alert, &observer));
        }
    }

    #[test]
    fn what_is_torn_is_not_read() {
        let text = to_text(&example::alert()).unwrap();
        assert!(from_text(&text, known).is_some());
        assert!(from_text(&text[..text.len() - 1], known).is_none());
        assert!(from_text("", known).is_none());
    }
}
