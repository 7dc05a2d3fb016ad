//! Whether journald may have dropped alerts: it says nothing of it, so the daemon counts what it sends there.

use std::{collections::VecDeque, fmt, path::Path, time::Instant};

use crate::{
    config::{Alerts, SyslogAddress},
    host::journal::{self, Limit, Roots},
    sink::SinkStats,
};

/// Counts that are kept of one interval.
const COUNTS: u32 = 64;

/// The sinks that end in journald, and its limit.
#[derive(Debug, Default)]
pub(super) struct Journal {
    limit: Option<Limit>,
    /// Their names.
    sinks: Vec<String>,
    /// Lines sent so far, and when; the oldest is that of the beginning of the interval.
    counts: VecDeque<(Instant, u64)>,
    is_over: bool,
}

/// More lines than journald keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    limit: Limit,
    sent: u64,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { lines, interval } = self.limit;
        write!(
            f,
            "{} alerts went to journald in {interval:?}, which keeps {lines} or a few times as many: some may be \
             missing in the journal (Suppressed ... messages); raise LogRateLimitBurst= of the unit",
            self.sent
        )
    }
}

impl Journal {
    /// The sinks of this configuration that end there.
    pub(super) fn of(alerts: &Alerts, roots: &Roots) -> Self {
        let sockets = alerts.syslog.iter().filter_map(|target| {
            let SyslogAddress::Unix(path) = &target.address else {
                return None;
            };
            journal::is_journal(Path::new(path)).then(|| target.address.to_string())
        });
        let sinks: Vec<String> = sockets.collect();
        Self {
            limit: (!sinks.is_empty()).then(|| journal::limit(roots)).flatten(),
            sinks,
            ..Self::default()
        }
    }

    /// Lines that these sinks have sent.
    pub(super) fn sent(&self, stats: &[SinkStats]) -> u64 {
        let own = stats.iter().filter(|sink| self.sinks.contains(&sink.name));
        own.map(|sink| sink.sent).sum()
    }

    /// True where there is something to count.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// By `now` so many lines were sent in all. What is beyond the limit, and whether that changed.
    pub(super) fn note(&mut self, now: Instant, sent: u64) -> (Option<Over>, bool) {
        let Some(limit) = self.limit else {
            return (None, false);
        };
        let last = self.counts.back().map(|(at, _)| *at);
        let step = limit.interval / COUNTS;
        if last.is_none_or(|at| now.saturating_duration_since(at) >= step) {
            self.counts.push_back((now, sent));
        }
        // One of before the interval stays: what came since may all have come within it.
        let is_old = |at: Option<&(Instant, u64)>| {
            at.is_some_and(|(at, _)| now.saturating_duration_since(*at) >= limit.interval)
        };
        while is_old(self.counts.get(1)) {
            self.counts.pop_front();
        }
        let first = self.counts.front().map_or(sent, |(_, count)| *count);
        // A sink that was opened again counts from zero.
        let sent = sent.checked_sub(first).unwrap_or_else(|| {
            self.counts.clear();
            0
        });
        let over = (sent > limit.lines).then_some(Over { limit, sent });
        let news = std::mem::replace(&mut self.is_over, over.is_some()) != over.is_some();
        (over, news)
    }

    /// The same, with a line in the log for each change.
    pub(super) fn watch(&mut self, now: Instant, sent: u64) -> Option<Over> {
        let (over, news) = self.note(now, sent);
        match &over {
            Some(over) if news => tracing::warn!("{over}"),
            None if news => {
                tracing::info!("alerts for journald are within its rate limit again");
            }
            _ => {}
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn journal(lines: u64, seconds: u64) -> Journal {
        let interval = Duration::from_secs(seconds);
        Journal {
            limit: Some(Limit { lines, interval }),
            ..Journal::default()
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_seen_and_ends_with_the_interval() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut journal = journal(100, 10);
        let mut note = |s, sent| {
            let (over, news) = journal.note(after(s), sent);
            (over.map(|over| over.sent), news)
        };
        assert_eq!(note(0, 1_000), (None, false), "what was before");
        assert_eq!(note(5, 1_100), (None, false));
        assert_eq!(note(6, 1_101), (Some(101), true));
        assert_eq!(note(8, 1_150), (Some(150), false));
        assert_eq!(note(17, 1_150), (None, true));
        assert_eq!(note(18, 1_150), (None, false));
        // Opened again.
        assert_eq!(note(19, 0), (None, false));
        assert_eq!(note(20, 90), (None, false));
        assert_eq!(note(21, 191), (Some(101), true));
    }

    #[test]
    fn few_counts_are_kept_and_none_without_a_limit() {
        let start = Instant::now();
        let mut counted = journal(u64::MAX, 30);
        for ms in (0..600_000).step_by(100) {
            let _ = counted.note(start + Duration::from_millis(ms), ms);
        }
        assert!(counted.counts.len() < 70, "{}", counted.counts.len());
        let mut free = Journal::default();
        assert_eq!(free.note(start, u64::MAX), (None, false));
        assert!(free.counts.is_empty());
    }
}
