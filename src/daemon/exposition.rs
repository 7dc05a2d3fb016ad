//! The metrics that are served: what they are called, and where their numbers come from.
//!
//! Names and meanings are in docs/metrics.md; a test compares. Labels have few values: feeds and
//! sinks are configured, all else is a fixed list. Nothing here is on the packet path.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    Shared,
    engine::lock,
    glance::{Glance, glance_soon, glance_within},
    meters::{ACTIONS, DIRECTIONS, Flows, Seen},
    selftest::Report,
    status::{self, FeedStatus, Status},
    watchdog::Late,
};
use crate::{
    alert::suppress,
    alertdb::DbStatus,
    feed::{Action, FeedName},
    metrics::{Asked, Page},
};

/// The content type that prometheus-client names for its OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a probe waits for the daemon's state.
const READINESS: Duration = Duration::from_secs(1);

/// Answers one request.
pub(super) fn page(shared: &Shared, asked: &Asked) -> Page {
    match asked.path.as_str() {
        "/metrics" => match glance_soon(shared) {
            Ok(glance) => metrics(Numbers::of(shared, &glance), &asked.accept),
            Err(why) => Page::text(503, why + "\n"),
        },
        "/healthz" => match glance_soon(shared) {
            Ok(glance) => health(&status::of(shared, &glance)),
            Err(why) => Page::text(503, why + "\n"),
        },
        "/readyz" => readiness(shared),
        _ => Page::text(404, "there is /metrics, /healthz, /readyz and /livez\n"),
    }
}

/// 503 while only a restart helps, with the loops that do not answer. Feeds have no part in it.
pub(super) fn alive(late: &[Late]) -> Page {
    let lines: String = late.iter().map(|late| format!("{late}\n")).collect();
    match late.iter().any(|late| late.restart) {
        true => Page::text(503, lines),
        false => Page::text(200, format!("ok\n{lines}")),
    }
}

/// 503 until the table is in the kernel, with the last good data, and the first pulls have ended, good or not.
fn readiness(shared: &Shared) -> Page {
    let is_ready = shared.ready.load(Ordering::Relaxed);
    match glance_within(shared, READINESS) {
        _ if !is_ready => Page::text(503, "the first pulls go on\n"),
        None => Page::text(503, "the daemon's state is busy\n"),
        Some(glance) if glance.table.state == "present" => Page::text(200, "ok\n"),
        Some(glance) => Page::text(503, format!("the table is {}\n", glance.table.state)),
    }
}

/// 503 with the reasons while protection is off, the daemon is unwell or a feed is stale.
fn health(status: &Status) -> Page {
    let stale = |feed: &&FeedStatus| feed.enabled && feed.stale;
    let mut reasons = Vec::new();
    if !status.protected {
        reasons.push("protection is off".to_owned());
        // Whatever it is that is wrong is among them.
        reasons.extend(status.problems.iter().cloned());
    }
    let stale = status.feeds.iter().filter(stale);
    let stale = stale.filter_map(status::feed_problem);
    for reason in status.unwell.iter().cloned().chain(stale) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() {
        return Page::text(200, "ok\n");
    }
    Page::text(503, reasons.join("\n") + "\n")
}

fn metrics(numbers: Numbers, accept: &str) -> Page {
    let mut registry = Registry::with_prefix("feedgate");
    registry.register_collector(Box::new(numbers));
    let mut body = String::new();
    let (kind, done) = if accept.contains("application/openmetrics-text") {
        (OPENMETRICS, text::encode(&mut body, &registry))
    } else {
        let done = prometheus_text::encode(&mut body, &registry);
        (prometheus_text::CONTENT_TYPE, done)
    };
    match done {
        Ok(()) => Page {
            status: 200,
            kind,
            body,
        },
        Err(fmt::Error) => Page::text(500, "the metrics could not be written\n"),
    }
}

/// Everything that is told, as of one moment.
#[derive(Debug)]
struct Numbers {
    status: Status,
    elements: Vec<(String, usize)>,
    all: Vec<(&'static str, &'static str, u64)>,
    feeds: Vec<(FeedName, Arc<Flows>)>,
    attributions: Vec<(&'static str, &'static str, u64)>,
    causes: Vec<(&'static str, u64)>,
    verdict: Seen,
    sync: Seen,
    windows: usize,
    selftest: Option<Report>,
    /// The daemon's loops, and whether each of them answers.
    loops: Vec<(String, bool)>,
    /// Clients of the control socket that got no answer, and why.
    unanswered: [(&'static str, u64); 4],
}

impl Numbers {
    fn of(shared: &Shared, glance: &Glance) -> Self {
        let meters = &shared.path.meters;
        let sets = Arc::clone(&glance.snapshot);
        let elements = sets.sets.iter();
        let feeds = meters.feeds();
        let windows = lock(&shared.path.suppressor).len();
        // Not below: status takes the same lock.
        let selftest = lock(&shared.selftest).last.clone();
        Self {
            elements: elements
                .map(|(name, content)| (name.to_string(), content.len()))
                .collect(),
            all: by_verdict(meters.flows()).collect(),
            feeds: feeds
                .iter()
                .map(|(name, flows)| (name.clone(), Arc::clone(flows)))
                .collect(),
            attributions: meters.attributions(),
            causes: meters.causes().into_iter().collect(),
            verdict: meters.verdict.seen(),
            sync: meters.sync.seen(),
            windows,
            selftest,
            loops: loops(shared),
            unanswered: shared.door.counts.rows(),
            status: status::of(shared, glance),
        }
    }
}

fn loops(shared: &Shared) -> Vec<(String, bool)> {
    let late = shared.pulses.late_now();
    let mut names = shared.pulses.names();
    names.extend(late.iter().map(|late| late.name.clone()));
    names.sort();
    names.dedup();
    let is_late = |name: &String| late.iter().any(|late| late.name == *name);
    let rows = names.into_iter();
    rows.map(|name| (name.clone(), is_late(&name))).collect()
}

fn by_verdict(flows: &Flows) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
    let pairs = ACTIONS
        .into_iter()
        .flat_map(|action| DIRECTIONS.map(|direction| (action, direction)));
    pairs.map(|(action, direction)| {
        let count = flows.get(action, direction);
        (verdict(action), direction.as_str(), count)
    })
}

fn verdict(action: Action) -> &'static str {
    match action {
        Action::Alert => "pass",
        Action::Deny => "deny",
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.daemon(&mut out)?;
        self.selftest(&mut out)?;
        self.flows(&mut out)?;
        self.packets(&mut out)?;
        self.table(&mut out)?;
        self.of_feeds(&mut out)?;
        self.arming(&mut out)?;
        self.alerts(&mut out)
    }
}

impl Numbers {
    fn daemon(&self, out: &mut Out<'_>) -> fmt::Result {
        let status = &self.status;
        out.metric("build", "The daemon's version", MetricType::Info, |m| {
            m.encode_info(&[("version", status.version)])
        })?;
        let help =
            "1 while the table is in the kernel with the current feeds and packets are attributed";
        out.gauge("protected", help, u64::from(status.protected))?;
        let help = "Problems that status shows";
        out.gauge("problems", help, count(status.problems.len()))?;
        let help = "1 for a loop of the daemon that does not answer";
        let rows = self.loops.iter();
        let rows = rows.map(|(name, late)| ([("loop", name.as_str())], u64::from(*late)));
        out.gauges("loop_stuck", help, rows)?;
        let help = "How long a change has been loading; 0 while none is";
        let loading = status.loading_ms.unwrap_or_default();
        let loading = u64::try_from(loading / 1_000).unwrap_or(u64::MAX);
        out.unit_gauge("loading", help, &Unit::Seconds, [([NO; 0], loading)])?;
        let help = "When the daemon started, in seconds since 1970";
        out.unit_gauge(
            "start_time",
            help,
            &Unit::Seconds,
            [([NO; 0], status.started_unix)],
        )?;
        let help = "Clients of the control socket that got no answer";
        let rows = self.unanswered.iter();
        let rows = rows.map(|(why, count)| ([("why", *why)], *count));
        out.counters("control_unanswered", help, rows)?;
        let help = "Addresses that are never blocked";
        out.gauge("exceptions", help, count(status.exceptions.len()))
    }

    fn flows(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Flows to or from a listed address that the daemon judged";
        let rows = self.all.iter().map(|(verdict, direction, count)| {
            ([("verdict", *verdict), ("direction", *direction)], *count)
        });
        out.counters("flows", help, rows)?;
        let help = "The same for each feed that lists the address";
        let rows = self.feeds.iter().flat_map(|(feed, flows)| {
            by_verdict(flows).map(move |(verdict, direction, count)| {
                let labels = [
                    ("feed", feed.as_str()),
                    ("verdict", verdict),
                    ("direction", direction),
                ];
                (labels, count)
            })
        });
        out.counters("feed_flows", help, rows)?;
        let help = "Sources of flows by how sure they are and how they were found";
        let rows = self
            .attributions
            .iter()
            .map(|(grade, method, count)| ([("grade", *grade), ("method", *method)], *count));
        out.counters("attributions", help, rows)?;
        let help = "Sources of which something is not known, by the kind of cause";
        let rows = self
            .causes
            .iter()
            .map(|(cause, count)| ([("cause", *cause)], *count));
        out.counters("attribution_causes", help, rows)?;
        let help = "From a packet's arrival in the daemon to its verdict, alert included";
        out.histogram("verdict_duration", help, &self.verdict)?;
        let packets = &self.status.packets;
        let help = "Flows that were established before their far end was listed";
        let rows = [("alerted", packets.live_flows), ("cut", packets.cut_flows)];
        out.counters(
            "live_flows",
            help,
            rows.map(|(what, count)| ([("what", what)], count)),
        )
    }

    fn packets(&self, out: &mut Out<'_>) -> fmt::Result {
        let (packets, queue) = (&self.status.packets, &self.status.queue);
        let help = "Packets that reached the daemon, by what became of them; received is all";
        let rows = [
            ("received", packets.received),
            ("unmatched", packets.unmatched),
            ("malformed", packets.malformed),
            ("own", packets.own),
            ("quiet", packets.quiet),
            ("excepted", packets.excepted),
            ("folded", packets.folded),
        ];
        out.counters(
            "daemon_packets",
            help,
            rows.map(|(what, count)| ([("what", what)], count)),
        )?;
        let help =
            "Packets that the kernel judged without the daemon, as reported; also before its start";
        let rows = [
            ("deny", packets.unattributed_denied),
            ("pass", packets.unattributed_passed),
        ];
        out.counters(
            "unattributed_packets",
            help,
            rows.map(|(verdict, count)| ([("verdict", verdict)], count)),
        )?;
        let help = "Packets that wait for the daemon";
        out.gauge("queue_waiting", help, queue.waiting)?;
        let help = "Packets that may wait, in all queues";
        out.gauge("queue_capacity", help, queue.capacity)?;
        let help = "Packets that the kernel dropped because a queue or its socket was full";
        let rows = [("queue", queue.dropped), ("socket", queue.user_dropped)];
        out.counters(
            "queue_dropped",
            help,
            rows.map(|(full, count)| ([("full", full)], count)),
        )?;
        let conntrack = &self.status.conntrack;
        let help = "Connections that conntrack knows";
        out.gauge(
            "conntrack_entries",
            help,
            conntrack.count.unwrap_or_default(),
        )?;
        let help = "Connections that conntrack has room for";
        out.gauge(
            "conntrack_entries_limit",
            help,
            conntrack.max.unwrap_or_default(),
        )?;
        let help = "Packets that conntrack dropped, as it had no room or another packet was first";
        out.counters(
            "conntrack_dropped",
            help,
            [([NO; 0], conntrack.dropped.unwrap_or_default())],
        )
    }

    fn table(&self, out: &mut Out<'_>) -> fmt::Result {
        let counters = &self.status.counters;
        let number = |counter: &serde_json::Value, key: &str| {
            counter
                .get(key)
                .and_then(serde_json::Value::as_u64)
                .unwrap_or_default()
        };
        for (name, key, help) in [
            (
                "table_packets",
                "packets",
                "Packets by the counters of the table",
            ),
            ("table_bytes", "bytes", "Bytes by the counters of the table"),
        ] {
            let rows = counters
                .iter()
                .map(|(counter, value)| ([("counter", counter.as_str())], number(value, key)));
            out.counters(name, help, rows)?;
        }
        let help = "Elements of the sets of addresses";
        let rows = self
            .elements
            .iter()
            .map(|(set, elements)| ([("set", set.as_str())], count(*elements)));
        out.gauges("table_elements", help, rows)?;
        let help = "Times the table was put back after somebody else changed it";
        out.counters("heals", help, [([NO; 0], self.status.table.heals)])?;
        let help = "Transactions that brought the kernel's sets up to date";
        out.histogram("sync_duration", help, &self.sync)
    }

    fn of_feeds(&self, out: &mut Out<'_>) -> fmt::Result {
        let feeds = &self.status.feeds;
        let row = |get: fn(&FeedStatus) -> u64| {
            feeds
                .iter()
                .map(move |feed| ([("feed", feed.name.as_str())], get(feed)))
        };
        let help = "Time since the last good pull or push; absent before the first";
        let known = feeds
            .iter()
            .filter_map(|feed| Some(([("feed", feed.name.as_str())], feed.age_s?)));
        out.unit_gauge("feed_age", help, &Unit::Seconds, known)?;
        let help = "1 for a feed that is older than its stale-after, or never came";
        out.gauges("feed_stale", help, row(|feed| u64::from(feed.stale)))?;
        let help = "1 for a feed that is enabled";
        out.gauges("feed_enabled", help, row(|feed| u64::from(feed.enabled)))?;
        let help = "1 for a feed with an update that waits to be accepted";
        out.gauges(
            "feed_held_back",
            help,
            row(|feed| u64::from(feed.quarantined.is_some())),
        )?;
        let help = "Entries in force";
        out.gauges("feed_entries", help, row(|feed| count(feed.entries)))?;
        let help = "Pulls by their result";
        let rows = feeds.iter().flat_map(|feed| {
            feed.pulls.iter().map(|(result, count)| {
                ([("feed", feed.name.as_str()), ("result", *result)], *count)
            })
        });
        out.counters("feed_pulls", help, rows)
    }

    /// Which feeds do not deny yet, or deny by `feedgate deny`.
    fn arming(&self, out: &mut Out<'_>) -> fmt::Result {
        let feeds = &self.status.feeds;
        let help = "1 for what stands between a feed's configuration and what it denies: it is on trial, \
                    or feedgate deny armed it, which is pending or kept";
        let rows = feeds.iter().flat_map(|feed| {
            let state = feed.arming.as_ref().map(|arming| arming.state);
            let row = move |label| {
                (
                    [("feed", feed.name.as_str()), ("state", label)],
                    state == Some(label),
                )
            };
            ["trial", "pending", "kept"].map(row)
        });
        let rows = rows.map(|(labels, is)| (labels, u64::from(is)));
        out.gauges("feed_arming", help, rows)?;
        let armed = || {
            feeds
                .iter()
                .filter_map(|feed| Some(([("feed", feed.name.as_str())], feed.arming.as_ref()?)))
        };
        let help = "Until a trial is over, or what is pending is taken back; absent for others";
        let rows = armed().filter_map(|(labels, arming)| Some((labels, arming.left_s?)));
        out.unit_gauge("feed_arming_left", help, &Unit::Seconds, rows)?;
        let trials = || armed().filter(|(_, arming)| arming.state == "trial");
        let help = "Flows that a feed on trial would have denied, since its trial began";
        let rows = trials().map(|(labels, arming)| (labels, arming.would_have_denied));
        out.counters("feed_trial_flows", help, rows)?;
        let help = "Their sources; 1000 stands for that many or more";
        let rows = trials().map(|(labels, arming)| (labels, count(arming.sources)));
        out.gauges("feed_trial_sources", help, rows)
    }

    /// How the last self-test went; nothing before the first, and where nothing could be tested.
    fn selftest(&self, out: &mut Out<'_>) -> fmt::Result {
        let last = || self.selftest.iter().filter(|report| report.testable);
        let help =
            "1 when every step of the last self-test went as it should; absent before the first";
        out.gauges(
            "selftest_passed",
            help,
            last().map(|report| ([NO; 0], u64::from(report.passed))),
        )?;
        let help = "Time since the last self-test";
        let rows =
            last().map(|report| ([NO; 0], report.at.elapsed().unwrap_or_default().as_secs()));
        out.unit_gauge("selftest_age", help, &Unit::Seconds, rows)?;
        let help = "1 for a step of the last self-test that went as it should";
        let steps = || last().flat_map(|report| &report.steps);
        let rows = steps().map(|step| ([("step", step.name)], u64::from(step.ok)));
        out.gauges("selftest_step_passed", help, rows)?;
        let help = "How long a step of the last self-test took, where that is measured";
        let rows = steps().filter_map(|step| {
            let micros = u64::try_from(step.us?).unwrap_or(u64::MAX);
            let took = Duration::from_micros(micros).as_secs_f64();
            Some(([("step", step.name)], took))
        });
        out.unit_gauge("selftest_step_duration", help, &Unit::Seconds, rows)
    }

    fn alerts(&self, out: &mut Out<'_>) -> fmt::Result {
        let sinks = &self.status.sinks;
        let row = |get: fn(&crate::sink::SinkStats) -> u64| {
            sinks
                .iter()
                .map(move |sink| ([("sink", sink.name.as_str())], get(sink)))
        };
        let help = "Lines that a sink took, since it was opened";
        out.counters("alerts_sent", help, row(|sink| sink.sent))?;
        let help = "Alerts that wait for a sink";
        out.gauges("alerts_queued", help, row(|sink| sink.queued))?;
        let help = "Alerts that wait on disk for a sink";
        out.gauges("alerts_spooled", help, row(|sink| sink.spooled))?;
        let help = "Alerts that a sink did not get; it is told how many";
        out.counters("alerts_dropped", help, row(|sink| sink.dropped))?;
        let help = "1 for a sink whose last attempt failed";
        out.gauges(
            "sink_failing",
            help,
            row(|sink| u64::from(sink.last_error.is_some())),
        )?;
        let suppress::Counts {
            repeats,
            scans,
            floods,
            held_back,
            held_back_ingress,
            ..
        } = self.status.suppressed.0;
        let help = "Flows without an alert of their own, by why; summaries tell of them";
        let rows = [
            ("repeat", repeats),
            ("scan", scans),
            ("flood", floods),
            ("rate-limit", held_back),
            ("rate-limit-ingress", held_back_ingress),
        ];
        out.counters(
            "suppressed_flows",
            help,
            rows.map(|(why, count)| ([("why", why)], count)),
        )?;
        let help = "Windows in which repeats are counted now";
        out.gauge("suppress_windows", help, count(self.windows))?;
        self.store(out)?;
        let log = self.status.flow_log.as_ref();
        let flows = log.map_or((0, 0), |log| (log.seen, log.overflow));
        let help = "Flows for the flow log, and those of them that it knows the number of only";
        let rows = [("seen", flows.0), ("overflow", flows.1)];
        out.counters(
            "flow_log_flows",
            help,
            rows.map(|(what, count)| ([("what", what)], count)),
        )
    }
}

impl Numbers {
    /// The store of alerts; zeros where there is none.
    fn store(&self, out: &mut Out<'_>) -> fmt::Result {
        let store = self.status.store.as_ref();
        let number = |get: fn(&DbStatus) -> u64| store.map_or(0, get);
        let help = "Alerts for the store of alerts, by what became of them";
        let rows = [
            ("stored", number(|store| store.stored)),
            ("dropped", number(|store| store.dropped)),
        ];
        out.counters(
            "store_alerts",
            help,
            rows.map(|(result, count)| ([("result", result)], count)),
        )?;
        let help = "Alerts that wait for the store";
        out.gauge("store_queued", help, number(|store| store.queued))?;
        let help = "Alerts in the store";
        out.gauge("store_records", help, number(|store| store.records))?;
        let (help, size) = ("Size of the store on disk", number(|store| store.bytes));
        out.unit_gauge("store_size", help, &Unit::Bytes, [([NO; 0], size)])?;
        let help = "Verdicts given before their alert was on disk, although alerts.durable is set";
        let late = number(|store| store.late_verdicts);
        out.counters("late_verdicts", help, [([NO; 0], late)])
    }
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

/// No label.
const NO: (&str, &str) = ("", "");

/// Writes metrics, one family after the other.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn metric(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Counter, |metric| {
            rows.into_iter().try_for_each(|(labels, count)| {
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
            })
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, [([NO; 0], value)])
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Gauge, |metric| values(metric, rows))
    }

    fn unit_gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        values(
            &mut self.0.encode_descriptor(name, help, Some(unit), kind)?,
            rows,
        )
    }

    fn histogram(&mut self, name: &str, help: &str, seen: &Seen) -> fmt::Result {
        let (unit, kind) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        metric.encode_histogram::<NoLabelSet>(seen.sum, seen.count, &seen.buckets, None)
    }
}

fn values<'l, const N: usize>(
    metric: &mut MetricEncoder<'_>,
    rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], impl EncodeGaugeValue)>,
) -> fmt::Result {
    rows.into_iter()
        .try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
}
