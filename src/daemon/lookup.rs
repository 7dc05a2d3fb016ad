//! What becomes of flows to and from an address, and why: for `feedgate lookup`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use super::arming::Trials;
use crate::{
    control::Asked,
    feed::{Action, Direction, FeedName, Indicator, PortMatch},
    packet::Protocol,
    policy::{Endpoint, Fact, Finding, Labels, NAMESPACE, Policies, Question, Step, Truth},
    snapshot::{Exception, Index, Port, hit_of},
};

/// What a lookup found.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    address: IpAddr,
    /// The IPv4 address that it stands for (NAT64, 6to4).
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    /// For each direction what becomes of a flow, `null`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<Option<Verdict>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Option<Verdict>>,
    /// The same at the ports that entries are bound to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<AtPort>,
    /// Network sets that hold the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_sets: Vec<String>,
    /// Labels of the endpoint that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Labels>,
    /// Every entry that covers the address, most specific first.
    listings: Vec<Listed>,
    /// Why it is never blocked and never alerted; empty: no reason.
    exceptions: Vec<Exception>,
}

/// What becomes of a flow at one port of the address.
#[derive(Debug, Serialize)]
struct AtPort {
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<Option<Verdict>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Option<Verdict>>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    /// What becomes of it; where it depends: while what it depends on is not known.
    action: Action,
    /// The kernel's sets that hold it: `deny`, `watch`, `none`, or `by-port`.
    class: &'static str,
    indicator: Indicator,
    /// The feeds, or the network sets written by hand.
    feeds: Vec<FeedName>,
    severity: &'static str,
    /// What becomes of it when a feed on trial is armed.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<String>,
    /// An exception that the daemon found: it is let pass, with an alert a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<String>,
    /// It is let pass without an alert.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    quiet: bool,
    /// What the verdict hangs on and is not known, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    #[serde(flatten)]
    by: Option<By>,
    /// The way through the policies, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explanation: Vec<String>,
}

/// Which policy decided.
#[derive(Debug, Serialize)]
struct By {
    tier: String,
    policy: String,
    /// Its rule, from 1; `null`: the end of the tier.
    rule: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Listed {
    feed: FeedName,
    indicator: Indicator,
    action: Action,
    /// The feed is on trial: what it denies only alerts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    trial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<&'static str>,
    /// Why it is not denied although the feed denies it: an exception that the daemon found.
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<String>,
}

/// What an address is looked up in.
pub(super) struct Place<'a> {
    /// That of the snapshot in force.
    pub(super) index: &'a Index,
    /// Feeds on trial.
    pub(super) trials: &'a Trials,
    /// All exceptions.
    pub(super) exceptions: &'a [Exception],
}

/// Looks an address up.
pub(super) fn lookup(place: &Place<'_>, address: IpAddr, asked: &Asked) -> Result<Answer, String> {
    let index = place.index;
    let address = address.to_canonical();
    let exceptions = place.exceptions.iter();
    let v4 = index.stands_for(address);
    let holds = |exception: &&Exception| {
        let holds = |address| exception.prefix.contains(address);
        holds(address) || v4.is_some_and(holds)
    };
    let exceptions = exceptions.filter(holds);
    let port: Option<PortMatch> = match &asked.port {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| format!("{text:?} is not a port"))?,
        ),
    };
    let readings = || v4.into_iter().chain([address]);
    let listings: Vec<_> = readings()
        .flat_map(|address| index.listings(address))
        .collect();
    let ports: BTreeSet<PortMatch> = match port {
        None => listings.iter().filter_map(|l| l.indicator.port).collect(),
        Some(_) => BTreeSet::new(),
    };
    let look = Look {
        index,
        trials: place.trials,
        address,
        endpoint: endpoint(index, asked.endpoint.as_ref()),
    };
    let verdict = |direction: Direction, port, of: Of| {
        let is_asked = asked.direction.is_none_or(|asked| asked == direction);
        is_asked.then(|| look.verdict(direction, port, of))
    };
    let port = port.map(whole);
    let at_port = |bound: PortMatch| {
        let port = Some(whole(bound));
        AtPort {
            port: bound.to_string(),
            egress: verdict(Direction::Egress, port, Of::FarEnd),
            ingress: verdict(Direction::Ingress, port, Of::FarEnd),
        }
    };
    let members = readings().flat_map(|address| index.members(address, port));
    let mut network_sets: Vec<String> = members.map(|member| member.set_name()).collect();
    let mut seen = BTreeSet::new();
    network_sets.retain(|name| seen.insert(name.clone()));
    let exemption = readings()
        .find_map(|address| index.exemption(address, port, Direction::Egress))
        .map(|why| why.to_string());
    Ok(Answer {
        address,
        ipv4: v4,
        egress: verdict(Direction::Egress, port, Of::Receiver),
        ingress: verdict(Direction::Ingress, port, Of::Receiver),
        ports: ports.into_iter().map(at_port).collect(),
        network_sets,
        endpoint: asked
            .endpoint
            .as_ref()
            .map(|_| look.endpoint.labels.clone()),
        listings: listings
            .into_iter()
            .map(|l| Listed {
                feed: l.feed,
                indicator: l.indicator,
                action: l.action,
                trial: l.trial,
                exception: exemption.clone().filter(|_| l.action == Action::Deny),
                ignored: l.ignored,
            })
            .collect(),
        exceptions: exceptions
            .cloned()
            .chain(Exception::special(address))
            .collect(),
    })
}

/// TCP where no protocol is named.
fn whole(port: PortMatch) -> (Protocol, u16) {
    (port.proto.unwrap_or(Protocol::TCP), port.port)
}

/// An endpoint with these labels and the host's, and no others; without them any.
fn endpoint(index: &Index, labels: Option<&BTreeMap<String, String>>) -> Endpoint {
    let host = index.regime().host();
    let Some(labels) = labels else {
        return Endpoint::any(host);
    };
    let mut all = labels.clone();
    // What is found has both.
    for (given, other) in [("namespace", NAMESPACE), (NAMESPACE, "namespace")] {
        if let Some(namespace) = labels.get(given) {
            all.entry(other.to_owned())
                .or_insert_with(|| namespace.clone());
        }
    }
    all.extend(host.clone());
    Endpoint {
        labels: all,
        is_complete: true,
    }
}

/// Whose port is given.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// The receiver's.
    Receiver,
    /// That of the address.
    FarEnd,
}

struct Look<'a> {
    index: &'a Index,
    trials: &'a Trials,
    address: IpAddr,
    endpoint: Endpoint,
}

impl Look<'_> {
    /// An IPv6 form of an IPv4 address is asked about as both, and the stronger answer counts.
    fn verdict(
        &self,
        direction: Direction,
        port: Option<(Protocol, u16)>,
        of: Of,
    ) -> Option<Verdict> {
        let as_written = self.verdict_at(self.address, direction, port, of);
        let Some(v4) = self.index.ipv4(self.address) else {
            return as_written;
        };
        let as_v4 = self.verdict_at(v4, direction, port, of);
        let rank = |verdict: &Option<Verdict>| {
            verdict
                .as_ref()
                .map(|verdict| (verdict.action, !verdict.quiet))
        };
        if rank(&as_written) > rank(&as_v4) {
            as_written
        } else {
            as_v4
        }
    }

    fn verdict_at(
        &self,
        address: IpAddr,
        direction: Direction,
        port: Option<(Protocol, u16)>,
        of: Of,
    ) -> Option<Verdict> {
        let is_far = of == Of::FarEnd || direction == Direction::Egress;
        let far_port: Port = port.filter(|_| is_far);
        let hit = self.index.lookup(address, far_port, direction);
        let regime = self.index.regime();
        let exempt = hit.as_ref().is_some_and(|hit| hit.exception.is_some());
        if regime.policies.is_empty() || exempt {
            return hit.map(|hit| Verdict {
                exception: hit.exception.as_deref().map(str::to_owned),
                action: hit.action,
                class: class(hit.action),
                indicator: hit.indicator,
                trial: self.trials.words(&hit.would_deny),
                feeds: hit.feeds,
                severity: hit.severity.as_str(),
                quiet: false,
                depends_on: Vec::new(),
                by: None,
                explanation: Vec::new(),
            });
        }
        let members = self.index.members(address, far_port);
        let listed = hit.is_some();
        let hit = hit.or_else(|| hit_of(&members))?;
        let sets: Vec<&Labels> = members.iter().map(|member| member.labels).collect();
        let at = |is_known: bool| match port {
            Some((_, port)) if is_known => Fact::Known(Some(port)),
            _ => Fact::Unknown,
        };
        let is_senders = of == Of::FarEnd && direction == Direction::Ingress;
        let question = Question {
            direction,
            endpoint: &self.endpoint,
            near: Fact::Unknown,
            far: address,
            far_sets: &sets,
            proto: port.map_or(Fact::Unknown, |(proto, _)| Fact::Known(proto)),
            src_port: at(is_senders),
            dst_port: at(!is_senders),
        };
        let reach = regime.policies.explore(&question);
        let certain = reach.action(Some(hit.action));
        let steps = regime.policies.explain(&question);
        let depends_on = match certain {
            Some(_) => Vec::new(),
            None => unknown(&steps),
        };
        let action = certain.unwrap_or_else(|| regime.when_unknown());
        let by = by(&regime.policies, &question);
        // Trials are of what feeds deny by themselves.
        let trial = match by {
            None => self.trials.words(&hit.would_deny),
            Some(_) => None,
        };
        Some(Verdict {
            action,
            class: self.class(&question, listed, hit.action),
            indicator: hit.indicator,
            feeds: hit.feeds,
            severity: hit.severity.as_str(),
            exception: None,
            quiet: certain == Some(Action::Alert) && !listed && !reach.log,
            depends_on,
            by,
            trial,
            explanation: steps.iter().map(ToString::to_string).collect(),
        })
    }

    /// What the kernel's sets hold, whoever it is.
    fn class(&self, question: &Question<'_>, listed: bool, by_feeds: Action) -> &'static str {
        let regime = self.index.regime();
        let regions = regime.policies.port_regions(question.direction);
        if question.proto == Fact::Unknown && regions.len() > 1 {
            return "by-port";
        }
        let anybody = Question {
            endpoint: &regime.anybody,
            ..*question
        };
        let reach = regime.policies.explore(&anybody);
        match reach.action(Some(by_feeds)) {
            Some(Action::Alert) if !listed && !reach.log => "none",
            Some(action) => class(action),
            None => class(regime.when_unknown()),
        }
    }
}

fn class(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Alert => "watch",
    }
}

/// The policy that decides, where one does whatever is not known.
fn by(policies: &Policies, question: &Question<'_>) -> Option<By> {
    let ruling = policies.rule(question)?;
    ruling.verdict?;
    let name = ruling.policy?;
    let mut tiers = policies.tiers().iter();
    let (tier, _) = tiers.find(|(_, policies)| policies.iter().any(|p| p.name == name))?;
    Some(By {
        tier: tier.name.clone(),
        policy: name.to_string(),
        rule: ruling.rule.map(|rule| rule + 1),
    })
}

/// What steps depend on.
fn unknown(steps: &[Step]) -> Vec<String> {
    let mut words = BTreeSet::new();
    for step in steps {
        // What staged policies hang on does not matter.
        if let Finding::TakesPart(Truth::Depends(on), _)
        | Finding::Rule(_, Truth::Depends(on), _)
        | Finding::EndDenies(Truth::Depends(on)) = &step.finding
        {
            words.extend(on.iter().cloned());
        }
    }
    words.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::OnDaemonDown,
        policy::{Entity, NetworkSet, Order, Policy, Rule, RuleAction},
        snapshot::{Options, Regime, build},
    };

    /// A set written by hand, denied to one unit at one port.
    fn index() -> Index {
        let rule = |action, ports: &[(u16, u16)]| Rule {
            action,
            protocol: (!ports.is_empty()).then_some(Protocol::TCP),
            not_protocol: None,
            ip_version: None,
            source: Entity::default(),
            destination: Entity {
                selector: Some("has(group)".parse().unwrap()),
                ports: ports.to_vec(),
                ..Entity::default()
            },
        };
        let pass = Rule {
            destination: Entity::default(),
            ..rule(RuleAction::Pass, &[])
        };
        let policy = Policy {
            name: "default.web".into(),
            tier: "default".into(),
            order: Order(None),
            selector: "unit == 'nginx.service'".parse().unwrap(),
            namespace_selector: None,
            has_ingress: false,
            has_egress: true,
            ingress: vec![],
            egress: vec![rule(RuleAction::Deny, &[(443, 443)]), pass],
            is_staged: false,
        };
        let policies = Arc::new(Policies::new(vec![], vec![policy]));
        let set = NetworkSet {
            name: "partners".parse().unwrap(),
            labels: [("group".to_owned(), "a".to_owned())].into(),
            nets: vec!["203.0.113.0/24".parse().unwrap()],
        };
        let options = Options {
            network_sets: vec![Arc::new(set)],
            regime: Regime::new(policies, &Labels::new(), OnDaemonDown::Allow),
            ..Options::default()
        };
        build(&[], &[], options).index
    }

    fn asked(unit: Option<&str>, port: Option<&str>) -> Asked {
        let labels = |unit: &str| [("unit".to_owned(), unit.to_owned())].into();
        Asked {
            endpoint: unit.map(labels),
            port: port.map(str::to_owned),
            direction: None,
        }
    }

    #[test]
    fn a_namespace_is_given_by_either_of_its_labels() {
        let index = index();
        for key in ["namespace", NAMESPACE] {
            let given = [(key.to_owned(), "shop".to_owned())].into();
            let labels = endpoint(&index, Some(&given)).labels;
            for label in ["namespace", NAMESPACE] {
                assert_eq!(labels.get(label).map(String::as_str), Some("shop"), "{key}");
            }
        }
    }

    #[test]
    fn it_tells_who_decides_or_on_what_it_depends() {
        let index = index();
        let ask = |unit, port| {
            let place = Place {
                index: &index,
                trials: &Trials::default(),
                exceptions: &[],
            };
            let address = "203.0.113.9".parse().unwrap();
            let answer = lookup(&place, address, &asked(unit, port)).unwrap();
            assert!(answer.network_sets == ["partners"] && answer.listings.is_empty());
            let ingress = answer.ingress.unwrap().unwrap();
            assert!(ingress.quiet && ingress.class == "none");
            answer.egress.unwrap().unwrap()
        };
        let nginx = ask(Some("nginx.service"), Some("443/tcp"));
        assert_eq!((nginx.action, nginx.class), (Action::Deny, "watch"));
        let by = nginx.by.unwrap();
        assert_eq!(
            (by.tier.as_str(), by.policy.as_str(), by.rule),
            ("default", "default.web", Some(1))
        );
        let other = ask(Some("ssh.service"), Some("443/tcp"));
        assert_eq!((other.action, other.quiet), (Action::Alert, true));
        assert!(ask(Some("nginx.service"), Some("80/tcp")).quiet);
        let anybody = ask(None, Some("443/tcp"));
        assert_eq!(anybody.action, Action::Alert, "on-daemon-down");
        assert_eq!(anybody.depends_on, ["the label unit"]);
        let anywhere = ask(Some("nginx.service"), None);
        assert_eq!(anywhere.class, "by-port");
        assert!(!anywhere.depends_on.is_empty() && anywhere.by.is_none());
    }
}
