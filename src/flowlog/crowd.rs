//! Which flows of what comes in are logged as configured: sources can be made up, so the lines of one
//! interval are bounded. The others are summed up by indicator.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    alert::{Alert, suppress::FLOOD_AFTER},
    feed::{Action, FeedName, Indicator},
};

/// Lines of one interval for what comes in.
pub const INGRESS_LINES: usize = 3_000;

/// What the flows of one flood have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Match {
    action: Action,
    policy: Option<Arc<str>>,
    feeds: Vec<FeedName>,
    indicator: Indicator,
}

impl Match {
    pub(super) fn of(alert: &Alert) -> Self {
        Self {
            action: alert.action,
            policy: alert.policy.clone(),
            feeds: alert.feeds.clone(),
            indicator: alert.indicator,
        }
    }
}

/// Sources of one interval.
#[derive(Debug)]
pub(super) struct Crowd {
    max: usize,
    lines: usize,
    sources: HashMap<Match, HashSet<IpAddr>>,
}

impl Crowd {
    /// At most `max` lines in an interval.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            lines: 0,
            sources: HashMap::new(),
        }
    }

    /// True when the flow may begin one more line: of one of the first sources of its match, while there
    /// are not too many lines.
    pub(super) fn takes(&mut self, alert: &Alert, of: &Match) -> bool {
        if self.lines >= self.max {
            return false;
        }
        let first = usize::try_from(FLOOD_AFTER).unwrap_or(usize::MAX);
        let source = alert.flow.src;
        match self.sources.get_mut(of) {
            Some(sources) if sources.contains(&source) => {}
            Some(sources) if sources.len() >= first => return false,
            Some(sources) => {
                sources.insert(source);
            }
            None => {
                self.sources.insert(of.clone(), [source].into());
            }
        }
        self.lines += 1;
        true
    }

    /// The next interval begins.
    pub(super) fn clear(&mut self) {
        self.lines = 0;
        self.sources.clear();
    }
}
