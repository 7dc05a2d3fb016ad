//! What a question knows, and what was assumed of the rest.
//!
//! A condition on an unknown fact is first assumed to be false, later to be true, where both agree
//! with what is assumed already: the trail. Whether it agrees is exact: the trail's conditions on
//! one fact are tried on candidates, of which one meets them if anything does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Entity, Fact, Question, Rule,
    selector::{Atom, NAMESPACE, Selector, Test},
};
use crate::{
    feed::Direction,
    packet::Protocol,
    prefix::{Address, Family, Prefix},
};

/// Labels of a namespace that are known: its name.
const NAMESPACE_NAMES: [&str; 2] = ["projectcalico.org/name", "kubernetes.io/metadata.name"];
/// Has a namespace.
static EXISTS: Test = Test::Exists;
/// In no value of a selector: control characters are refused there.
const STRANGE: char = '\0';

/// A condition on an unknown fact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ask<'a> {
    /// A label of the endpoint.
    Label(&'a str, &'a Test),
    /// The endpoint's address is in one of these.
    Near(&'a [Prefix]),
    /// It is this protocol.
    Protocol(Protocol),
    /// It is a protocol with ports.
    HasPorts,
    /// The port is in one of these ranges.
    Port(End, &'a [(u16, u16)]),
}

/// Whose port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Sender,
    Receiver,
}

/// An assumption.
#[derive(Clone, Copy, Debug)]
struct Assumed<'a, P> {
    ask: Ask<'a>,
    is_true: bool,
    /// Where to go on when it is assumed to be true instead.
    place: P,
}

/// A question and the trail of assumptions, each made at a place `P`.
#[derive(Debug)]
pub(super) struct Facts<'a, P> {
    question: &'a Question<'a>,
    near: Fact<IpAddr>,
    far: IpAddr,
    trail: Vec<Assumed<'a, P>>,
    /// Labels whose value the trail says: key, value, and where in the trail.
    values: Vec<(&'a str, &'a str, usize)>,
    place: P,
    work: usize,
}

impl<'a, P: Copy> Facts<'a, P> {
    pub(super) fn new(question: &'a Question<'a>, place: P) -> Self {
        Self {
            question,
            near: match question.near {
                Fact::Known(addr) => Fact::Known(addr.to_canonical()),
                Fact::Unknown => Fact::Unknown,
            },
            far: question.far.to_canonical(),
            trail: Vec::new(),
            values: Vec::new(),
            place,
            work: 0,
        }
    }

    /// Assumptions from here on are made at `place`.
    pub(super) fn at(&mut self, place: P) {
        self.place = place;
    }

    /// True when the answers so far hold whatever is unknown.
    pub(super) fn is_certain(&self) -> bool {
        self.trail.is_empty()
    }

    /// How many conditions were compared so far.
    pub(super) fn work(&self) -> usize {
        self.work
    }

    /// Takes the last assumption of falsehood back, and all after it: now it is true. Where it was
    /// made; `None` when everything has been assumed.
    pub(super) fn next(&mut self) -> Option<P> {
        while let Some(last) = self.trail.pop() {
            let length = self.trail.len();
            while self.values.pop_if(|(.., at)| *at >= length).is_some() {}
            if !last.is_true {
                if let Ask::Label(key, Test::Equals(value)) = last.ask {
                    self.values.push((key, value, length));
                }
                let is_true = true;
                self.trail.push(Assumed { is_true, ..last });
                return Some(last.place);
            }
        }
        None
    }

    /// The conditions that the answers so far hang on.
    pub(super) fn asked(&self) -> impl Iterator<Item = Ask<'a>> {
        self.trail.iter().map(|assumed| assumed.ask)
    }

    /// A policy of these selectors is for the endpoint.
    pub(super) fn selects(
        &mut self,
        selector: &'a Selector,
        namespace: Option<&'a Selector>,
    ) -> bool {
        self.endpoint(selector) && namespace.is_none_or(|selector| self.namespace(selector))
    }

    /// A rule matches. What is known is asked first.
    pub(super) fn matches(&mut self, rule: &'a Rule) -> bool {
        self.far_matches(rule) && self.rest_matches(rule)
    }

    /// The far end, which is known, is as the rule asks.
    pub(super) fn far_matches(&self, rule: &Rule) -> bool {
        let (_, far) = self.ends(rule);
        rule.ip_version
            .is_none_or(|version| version == self.version())
            && in_nets(&far.nets, self.far)
            && !holds(&far.not_nets, self.far)
            && far
                .selector
                .as_ref()
                .is_none_or(|selector| self.in_set(selector))
            && !far
                .not_selector
                .as_ref()
                .is_some_and(|selector| self.in_set(selector))
    }

    fn rest_matches(&mut self, rule: &'a Rule) -> bool {
        let (near, _) = self.ends(rule);
        rule.protocol.is_none_or(|proto| self.protocol(proto))
            && !rule.not_protocol.is_some_and(|proto| self.protocol(proto))
            && self.ports(End::Receiver, &rule.destination)
            && self.ports(End::Sender, &rule.source)
            && (near.nets.is_empty() || self.near(&near.nets))
            && (near.not_nets.is_empty() || !self.near(&near.not_nets))
            && near
                .selector
                .as_ref()
                .is_none_or(|selector| self.endpoint(selector))
            && !near
                .not_selector
                .as_ref()
                .is_some_and(|selector| self.endpoint(selector))
    }

    /// What the rule asks of the endpoint, and of the far end.
    pub(super) fn ends<'r>(&self, rule: &'r Rule) -> (&'r Entity, &'r Entity) {
        match self.question.direction {
            Direction::Egress => (&rule.source, &rule.destination),
            Direction::Ingress => (&rule.destination, &rule.source),
        }
    }

    /// The IP version of the flow.
    pub(super) fn version(&self) -> u8 {
        if self.far.is_ipv4() { 4 } else { 6 }
    }

    /// The far end is in one of `nets`.
    pub(super) fn is_far_in(&self, nets: &[Prefix]) -> bool {
        holds(nets, self.far)
    }

    /// The far end is in a network set with such labels.
    pub(super) fn in_set(&self, selector: &Selector) -> bool {
        self.question
            .far_sets
            .iter()
            .any(|labels| selector.eval_set(labels))
    }

    /// The endpoint has such labels.
    pub(super) fn endpoint(&mut self, selector: &'a Selector) -> bool {
        selector.holds(&mut |atom, negated| {
            let is_true = match atom {
                Atom::All => true,
                Atom::Global => !self.label(NAMESPACE, &EXISTS),
                Atom::Label(key, test) => self.label(key, test),
            };
            is_true != negated
        })
    }

    /// The endpoint's namespace has such labels. Without one, only `global()` is true.
    pub(super) fn namespace(&mut self, selector: &'a Selector) -> bool {
        selector.holds(&mut |atom, negated| {
            if !self.label(NAMESPACE, &EXISTS) {
                return !negated && *atom == Atom::Global;
            }
            let is_true = match atom {
                Atom::All => true,
                Atom::Global => false,
                Atom::Label(key, test) => {
                    NAMESPACE_NAMES.contains(&key.as_str()) && self.label(NAMESPACE, test)
                }
            };
            is_true != negated
        })
    }

    /// The endpoint's address is in one of `nets`.
    pub(super) fn near(&mut self, nets: &'a [Prefix]) -> bool {
        match self.near {
            Fact::Known(addr) => holds(nets, addr),
            Fact::Unknown => self.assume(Ask::Near(nets)),
        }
    }

    /// It is this protocol.
    pub(super) fn protocol(&mut self, proto: Protocol) -> bool {
        match self.question.proto {
            Fact::Known(known) => known == proto,
            Fact::Unknown => self.assume(Ask::Protocol(proto)),
        }
    }

    /// The port of an end is as the rule asks. No port is in no range.
    pub(super) fn ports(&mut self, end: End, entity: &'a Entity) -> bool {
        (entity.ports.is_empty() || self.port(end, &entity.ports))
            && (entity.not_ports.is_empty() || !self.port(end, &entity.not_ports))
    }

    fn port(&mut self, end: End, ranges: &'a [(u16, u16)]) -> bool {
        let fact = match end {
            End::Sender => self.question.src_port,
            End::Receiver => self.question.dst_port,
        };
        match fact {
            Fact::Known(port) => port.is_some_and(|port| in_ranges(ranges, port)),
            Fact::Unknown => self.has_ports() && self.assume(Ask::Port(end, ranges)),
        }
    }

    fn has_ports(&mut self) -> bool {
        match (self.question.proto, self.knows_ports()) {
            (Fact::Known(proto), _) => proto.has_ports(),
            (Fact::Unknown, Some(known)) => known,
            (Fact::Unknown, None) => self.assume(Ask::HasPorts),
        }
    }

    /// Whether the protocol has ports, from a port that is known.
    fn knows_ports(&self) -> Option<bool> {
        [self.question.src_port, self.question.dst_port]
            .into_iter()
            .find_map(|fact| match fact {
                Fact::Known(port) => Some(port.is_some()),
                Fact::Unknown => None,
            })
    }

    fn label(&mut self, key: &'a str, test: &'a Test) -> bool {
        let endpoint = self.question.endpoint;
        match endpoint.labels.get(key) {
            Some(value) => test.holds(Some(value)),
            None if endpoint.is_complete => false,
            None => match self.values.iter().find(|(known, ..)| *known == key) {
                Some((_, value, _)) => test.holds(Some(value)),
                None => self.assume(Ask::Label(key, test)),
            },
        }
    }

    /// What the trail says, or else false.
    fn assume(&mut self, ask: Ask<'a>) -> bool {
        self.work += 2 * self.trail.len() + 1;
        if let Some(found) = self.trail.iter().find(|assumed| assumed.ask == ask) {
            return found.is_true;
        }
        let is_true = !self.agrees(ask, false);
        if !is_true && self.agrees(ask, true) {
            let place = self.place;
            self.trail.push(Assumed {
                ask,
                is_true,
                place,
            });
        }
        is_true
    }

    /// Some value meets the trail and also `ask`, or its negation.
    fn agrees(&self, ask: Ask<'a>, is_true: bool) -> bool {
        let trail = || {
            let asked = self
                .trail
                .iter()
                .map(|assumed| (assumed.ask, assumed.is_true));
            asked.chain([(ask, is_true)])
        };
        match ask {
            Ask::Label(key, _) => some_value(|| {
                trail().filter_map(move |(ask, is_true)| match ask {
                    Ask::Label(other, test) if other == key => Some((test, is_true)),
                    _ => None,
                })
            }),
            Ask::Near(_) => some_address(self.far, || {
                trail().filter_map(|(ask, is_true)| match ask {
                    Ask::Near(nets) => Some((nets, is_true)),
                    _ => None,
                })
            }),
            Ask::Protocol(_) | Ask::HasPorts => {
                let known = self.knows_ports();
                (0..=u8::MAX).map(Protocol).any(|proto| {
                    known.is_none_or(|known| known == proto.has_ports())
                        && trail().all(|(ask, is_true)| match ask {
                            Ask::Protocol(wanted) => (wanted == proto) == is_true,
                            Ask::HasPorts => proto.has_ports() == is_true,
                            _ => true,
                        })
                })
            }
            Ask::Port(end, _) => some_port(|| {
                trail().filter_map(move |(ask, is_true)| match ask {
                    Ask::Port(other, ranges) if other == end => Some((ranges, is_true)),
                    _ => None,
                })
            }),
        }
    }
}

/// Some value of a label, or its absence, meets all tests.
///
/// Candidates: absence; the values that tests of equality name; and the value that has what it must
/// have and nothing else. In that one the parts stand apart from each other, with a character
/// between them that no test names: it contains, starts with and ends with only what any value has
/// that meets the positive tests.
fn some_value<'t, I: Iterator<Item = (&'t Test, bool)>>(tests: impl Fn() -> I) -> bool {
    let meets = |value: Option<&str>| tests().all(|(test, is_true)| test.holds(value) == is_true);
    let mut positive = false;
    for test in tests().filter_map(|(test, is_true)| is_true.then_some(test)) {
        positive = true;
        match test {
            // No other value meets it.
            Test::Equals(value) => return meets(Some(value)),
            Test::In(values) => return values.iter().any(|value| meets(Some(value))),
            _ => {}
        }
    }
    if positive {
        meets(Some(&least_value(&tests)))
    } else {
        meets(None)
    }
}

fn least_value<'t, I: Iterator<Item = (&'t Test, bool)>>(tests: &impl Fn() -> I) -> String {
    let (mut start, mut end, mut parts) = ("", "", String::new());
    for test in tests().filter_map(|(test, is_true)| is_true.then_some(test)) {
        match test {
            Test::StartsWith(part) if part.len() > start.len() => start = part,
            Test::EndsWith(part) if part.len() > end.len() => end = part,
            Test::Contains(part) => {
                parts.push(STRANGE);
                parts.push_str(part);
            }
            _ => {}
        }
    }
    format!("{start}{parts}{STRANGE}{end}")
}

/// Some address of the family of `far` meets all conditions. Between the first addresses of the
/// prefixes, and those behind their last ones, the answers do not change.
pub(super) fn some_address<'t, I: Iterator<Item = (&'t [Prefix], bool)>>(
    far: IpAddr,
    nets: impl Fn() -> I,
) -> bool {
    let meets = |addr| nets().all(|(nets, is_true)| holds(nets, addr) == is_true);
    let (family, first) = match far {
        IpAddr::V4(_) => (Family::V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Family::V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    meets(first)
        || nets()
            .flat_map(|(nets, _)| nets)
            .filter(|net| net.family() == family)
            .any(|net| meets(net.addr()) || behind(net.last()).is_some_and(meets))
}

fn behind(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).next().map(Address::ip),
        IpAddr::V6(addr) => u128::from(addr).next().map(Address::ip),
    }
}

/// Some port meets all conditions.
pub(super) fn some_port<'t, I: Iterator<Item = (&'t [(u16, u16)], bool)>>(
    ranges: impl Fn() -> I,
) -> bool {
    let meets = |port| ranges().all(|(ranges, is_true)| in_ranges(ranges, port) == is_true);
    meets(0)
        || ranges()
            .flat_map(|(ranges, _)| ranges)
            .any(|(first, last)| meets(*first) || last.checked_add(1).is_some_and(meets))
}

/// In one of them.
fn holds(nets: &[Prefix], addr: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(addr))
}

fn in_nets(nets: &[Prefix], addr: IpAddr) -> bool {
    nets.is_empty() || holds(nets, addr)
}

fn in_ranges(ranges: &[(u16, u16)], port: u16) -> bool {
    ranges
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&port))
}
