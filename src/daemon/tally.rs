//! Who did what in the last hour, for status: counts by source, indicator and verdict, minute by minute.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    alert::Alert,
    feed::{Action, Direction, FeedName, Indicator},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: usize = 60;
/// Different rows of each direction kept for one minute; what is beyond counts as `others`. Sources of
/// what comes in can be made up: they must not hide what goes out.
const ROWS: usize = 200;

/// Flows of one source to one indicator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Row {
    /// `curl[1234] user red unit cron.service`, or an address.
    pub who: String,
    /// Denied or let pass.
    pub action: Action,
    /// Which way.
    pub direction: Direction,
    /// What was touched.
    pub indicator: Indicator,
    /// The feeds that list it.
    pub feeds: Vec<FeedName>,
    /// The policy that decided, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// A row of the last hour with its number of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// The row.
    #[serde(flatten)]
    pub row: Row,
    /// Flows.
    pub count: u64,
}

/// The last hour in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LastHour {
    /// Flows denied.
    pub denied: u64,
    /// Flows alerted and let pass.
    pub alerted: u64,
    /// Those of the denied that a policy denied, by its name.
    pub denied_by: BTreeMap<String, u64>,
    /// The rows with most flows, denied first.
    pub top: Vec<Counted>,
}

/// What was decided, and by which policy.
type Verdict = (Action, Option<String>);

impl LastHour {
    fn add(&mut self, action: Action, policy: Option<&String>, count: u64) {
        match action {
            Action::Deny => self.denied += count,
            Action::Alert => self.alerted += count,
        }
        if let (Action::Deny, Some(policy)) = (action, policy) {
            *self.denied_by.entry(policy.clone()).or_default() += count;
        }
    }
}

#[derive(Debug)]
struct Minute {
    start: Instant,
    rows: HashMap<Row, u64>,
    /// How many of them are of what comes in.
    ingress: usize,
    others: HashMap<Verdict, u64>,
}

/// Counts flows by minute; bounded.
#[derive(Debug, Default)]
pub(super) struct Tally(VecDeque<Minute>);

impl Tally {
    /// Counts the flow of `alert`.
    pub(super) fn count(&mut self, alert: &Alert, now: Instant) {
        if self
            .0
            .back()
            .is_none_or(|minute| now.saturating_duration_since(minute.start) >= MINUTE)
        {
            self.0.push_back(Minute {
                start: now,
                rows: HashMap::new(),
                ingress: 0,
                others: HashMap::new(),
            });
            self.forget(now);
        }
        let Some(minute) = self.0.back_mut() else {
            return;
        };
        let row = Row {
            who: who(alert),
            action: alert.action,
            direction: alert.direction,
            indicator: alert.indicator,
            feeds: alert.feeds.clone(),
            policy: alert.policy.as_deref().map(str::to_owned),
        };
        if let Some(count) = minute.rows.get_mut(&row) {
            *count += 1;
            return;
        }
        let came_in = row.direction == Direction::Ingress;
        let of_direction = match came_in {
            true => minute.ingress,
            false => minute.rows.len() - minute.ingress,
        };
        if of_direction >= ROWS {
            *minute.others.entry((row.action, row.policy)).or_default() += 1;
        } else {
            minute.ingress += usize::from(came_in);
            minute.rows.insert(row, 1);
        }
    }

    /// The last hour before `now`, with at most `top` rows.
    pub(super) fn last_hour(&mut self, now: Instant, top: usize) -> LastHour {
        self.forget(now);
        let mut rows: HashMap<&Row, u64> = HashMap::new();
        let mut out = LastHour::default();
        for minute in &self.0 {
            for (row, count) in &minute.rows {
                *rows.entry(row).or_default() += count;
                out.add(row.action, row.policy.as_ref(), *count);
            }
            for ((action, policy), count) in &minute.others {
                out.add(*action, policy.as_ref(), *count);
            }
        }
        let mut rows: Vec<Counted> = rows
            .into_iter()
            .map(|(row, count)| Counted {
                row: row.clone(),
                count,
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = b.row.action.cmp(&a.row.action).then(b.count.cmp(&a.count));
            order.then_with(|| a.row.who.cmp(&b.row.who))
        });
        rows.truncate(top);
        out.top = rows;
        out
    }

    fn forget(&mut self, now: Instant) {
        let hour = MINUTE * u32::try_from(HOUR).unwrap_or(60);
        while self
            .0
            .front()
            .is_some_and(|minute| now.saturating_duration_since(minute.start) >= hour)
        {
            self.0.pop_front();
        }
        while self.0.len() > HOUR {
            self.0.pop_front();
        }
    }
}

/// The source in a few words, from the most telling thing that is known.
fn who(alert: &Alert) -> String {
    let source = &alert.source;
    let mut words = Vec::new();
    match (&source.comm, source.pid) {
        (Some(comm), Some(pid)) => words.push(format!("{comm}[{pid}]")),
        (None, Some(pid)) => words.push(format!("pid {pid}")),
        _ => words.push(alert.flow.src.to_string()),
    }
    if let Some(user) = source
        .user
        .clone()
        .or_else(|| source.uid.map(|uid| uid.to_string()))
    {
        words.push(format!("user {user}"));
    }
    let labels = [
        ("unit", &source.unit),
        ("container", &source.container),
        ("client", &source.client),
        ("mac", &source.mac),
    ];
    words.extend(
        labels
            .into_iter()
            .filter_map(|(label, value)| Some(format!("{label} {}", value.as_ref()?))),
    );
    // Process names are the process's own choice: nothing of them may steer a terminal.
    words
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::example;

    #[test]
    fn counts_by_row_and_forgets_after_an_hour() {
        let start = Instant::now();
        let mut tally = Tally::default();
        let alert = example::alert();
        for i in 0..90 {
            tally.count(&alert, start + MINUTE * i);
        }
        let hour = tally.last_hour(start + MINUTE * 89, 10);
        assert_eq!(hour.denied + hour.alerted, 60);
        assert_eq!(hour.top.len(), 1);
        assert_eq!(hour.top[0].count, 60);
        let later = tally.last_hour(start + MINUTE * 300, 10);
        assert_eq!((later.denied + later.alerted, later.top.len()), (0, 0));
    }

    #[test]
    fn rows_are_bounded_and_nothing_goes_uncounted() {
        let now = Instant::now();
        let mut tally = Tally::default();
        let mut alert = example::alert();
        alert.policy = Some("default.block".into());
        for pid in 0..3_000 {
            alert.source.pid = Some(pid);
            tally.count(&alert, now);
        }
        alert.policy = None;
        alert.direction = Direction::Ingress;
        tally.count(&alert, now);
        let hour = tally.last_hour(now, 300);
        assert_eq!(hour.denied + hour.alerted, 3_001);
        let came_in = |row: &&Counted| row.row.direction == Direction::Ingress;
        assert_eq!(hour.top.iter().filter(came_in).count(), 1);
        let hour = tally.last_hour(now, 5);
        assert_eq!(hour.denied_by, [("default.block".into(), 3_000)].into());
        assert_eq!(hour.top.len(), 5);
    }
}
