//! The evaluator against the naive interpreter: for flows of which everything is known, and for
//! incomplete ones against all complete ones that agree with them.

use std::{collections::HashSet, hash::Hash, net::IpAddr};

use proptest::prelude::*;

use super::{
    Fact, Labels, Question, Reach, RuleAction, Ruling,
    naive_tests::{Answer, answer},
    spec_tests::{ADDRESSES, Case, KEYS, PORTS, PROTOCOLS, Spec, SpecEnd, cases, specs},
    tree_tests::{NAMESPACE, Tree, universe},
};
use crate::packet::Protocol;

/// Most complete flows that an incomplete one is compared with; more of it is made known.
const MOST: usize = 3000;

/// Which facts of a case are kept from the evaluator.
#[derive(Clone, Debug)]
struct Hidden {
    labels: [bool; 3],
    is_complete: bool,
    near: bool,
    proto: bool,
    src_port: bool,
    dst_port: bool,
}

fn hidden() -> impl Strategy<Value = Hidden> {
    let often = || prop::bool::weighted(0.6);
    let rarely = || prop::bool::weighted(0.3);
    let labels = [often(), often(), often()];
    (labels, rarely(), often(), rarely(), often(), often()).prop_map(
        |(labels, is_complete, near, proto, src_port, dst_port)| Hidden {
            labels: labels.map(|hidden| hidden && !is_complete),
            is_complete,
            near,
            proto,
            src_port,
            dst_port,
        },
    )
}

proptest! {
    #[test]
    fn a_flow_of_which_all_is_known(spec in specs(), case in cases(), fragment: bool) {
        let mut case = case;
        if fragment {
            (case.src_port, case.dst_port) = (None, None);
        }
        let policies = spec.build();
        let naive = answer(&spec, &case);
        ask(&case, &all_known(), |question| {
            let ruling = policies.rule(question);
            prop_assert_eq!(ruling.map(plain), Some(naive.clone()));
            prop_assert_eq!(policies.explore(question), union([naive.clone()]));
            Ok(())
        })?;
    }

    #[test]
    fn a_flow_of_which_something_is_unknown(spec in specs(), case in cases(), hidden in hidden()) {
        let (hidden, answers) = completions(&spec, &case, hidden);
        let policies = spec.build();
        ask(&case, &hidden, |question| {
            let reach = policies.explore(question);
            prop_assert_eq!(reach, union(answers.clone()));
            let verdicts: HashSet<_> = answers.iter().map(|answer| answer.verdict).collect();
            let ruling = policies.rule(question).map(plain);
            prop_assert_eq!(ruling.is_some(), verdicts.len() == 1, "{:?}", &ruling);
            if let Some(ruling) = ruling {
                check_details(&ruling, &answers)?;
            }
            Ok(())
        })?;
    }

    #[test]
    fn regions_are_disjoint_and_complete_and_of_one_answer(
        spec in specs(),
        case in cases(),
        hidden in hidden(),
    ) {
        let policies = spec.build();
        let regions = policies.port_regions(case.direction);
        let named: HashSet<_> = regions.iter().filter_map(|region| region.proto).collect();
        let mine: Vec<_> = regions
            .iter()
            .filter(|region| match region.proto {
                None => !named.contains(&case.proto),
                Some(proto) => {
                    let ports = region.ports;
                    let within = |port| ports.is_none_or(|(a, b)| (a..=b).contains(&port));
                    proto == case.proto && case.dst_port.is_none_or(within)
                }
            })
            .collect();
        prop_assert_eq!(mine.len(), 1, "{:?}", regions);
        let mut hidden = hidden;
        (hidden.proto, hidden.src_port, hidden.dst_port) = (false, true, false);
        let mut whole = Reach::default();
        ask(&case, &hidden, |question| {
            whole = policies.explore(question);
            let (proto, dst_port) = policies.facts_of(case.direction, *mine[0]);
            let question = Question { proto, dst_port, ..*question };
            prop_assert_eq!(policies.explore(&question), whole);
            Ok(())
        })?;
        // Any other address in the same of the prefixes, too.
        let nets = policies.far_nets(case.direction);
        let inside = |addr: IpAddr| nets.iter().map(|net| net.contains(addr)).collect::<Vec<_>>();
        for far in addresses(case.far) {
            if inside(far) == inside(case.far) {
                ask(&Case { far, ..case.clone() }, &hidden, |question| {
                    prop_assert_eq!(policies.explore(question), whole);
                    Ok(())
                })?;
            }
        }
    }
}

#[test]
fn the_universe_has_what_tests_of_values_can_tell_apart() {
    let text: HashSet<_> = universe().iter().map(String::as_str).collect();
    assert!(text.len() > 40, "{}", text.len());
    for value in ["", "a", "ab", "ba", "aba", "b"] {
        assert!(text.contains(value), "{value}");
    }
}

/// A detail that a ruling names is the same in all answers.
fn check_details(ruling: &Answer, answers: &[Answer]) -> Result<(), TestCaseError> {
    let logs = answers.iter().any(|answer| answer.logged_by.is_some());
    prop_assert_eq!(ruling.logged_by.is_some(), logs);
    for answer in answers {
        prop_assert_eq!(ruling.verdict, answer.verdict);
        if ruling.policy.is_some() {
            prop_assert_eq!(&ruling.policy, &answer.policy);
        }
        if ruling.rule.is_some() {
            prop_assert_eq!(ruling.rule, answer.rule);
        }
        for staged in &ruling.staged {
            prop_assert!(answer.staged.contains(staged));
        }
    }
    Ok(())
}

fn all_known() -> Hidden {
    Hidden {
        labels: [false; 3],
        is_complete: true,
        near: false,
        proto: false,
        src_port: false,
        dst_port: false,
    }
}

/// Asks about what is not hidden of a case.
fn ask(
    case: &Case,
    hidden: &Hidden,
    check: impl FnOnce(&Question<'_>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut endpoint = case.endpoint();
    endpoint.is_complete = hidden.is_complete;
    for key in hidden_keys(hidden) {
        endpoint.labels.remove(key);
    }
    let far_sets: Vec<&Labels> = case.far_sets.iter().collect();
    let known = |hidden, port| {
        if hidden {
            Fact::Unknown
        } else {
            Fact::Known(port)
        }
    };
    check(&Question {
        direction: case.direction,
        endpoint: &endpoint,
        near: if hidden.near {
            Fact::Unknown
        } else {
            Fact::Known(case.near)
        },
        far: case.far,
        far_sets: &far_sets,
        proto: if hidden.proto {
            Fact::Unknown
        } else {
            Fact::Known(case.proto)
        },
        src_port: known(hidden.src_port, case.src_port),
        dst_port: known(hidden.dst_port, case.dst_port),
    })
}

/// The answers for all endpoints and sender's ports; `None`: they are too many to ask one by one.
pub fn everybody(spec: &Spec, case: &Case) -> Option<Vec<Answer>> {
    let mut case = case.clone();
    case.labels.clear();
    let hidden = Hidden {
        labels: [true; 3],
        is_complete: false,
        near: true,
        src_port: true,
        ..all_known()
    };
    let universe = Universe::new(spec, &case, &hidden);
    (universe.size() <= MOST).then(|| universe.answers(spec, &case))
}

fn hidden_keys(hidden: &Hidden) -> impl Iterator<Item = &'static str> {
    let pairs = KEYS.into_iter().zip(hidden.labels);
    pairs.filter_map(|(key, hidden)| hidden.then_some(key))
}

/// The answers for all complete flows that agree with what is not hidden, each once. Where they are
/// too many, less is hidden.
fn completions(spec: &Spec, case: &Case, mut hidden: Hidden) -> (Hidden, Vec<Answer>) {
    loop {
        let universe = Universe::new(spec, case, &hidden);
        if universe.size() <= MOST {
            return (hidden, universe.answers(spec, case));
        }
        let facts = [
            &mut hidden.src_port,
            &mut hidden.dst_port,
            &mut hidden.near,
            &mut hidden.proto,
        ];
        match facts.into_iter().find(|fact| **fact) {
            Some(fact) => *fact = false,
            None => (hidden.labels, hidden.is_complete) = ([false; 3], true),
        }
    }
}

/// What each fact may be; of values that no rule tells apart, one.
struct Universe {
    labels: Vec<(&'static str, Vec<Option<String>>)>,
    near: Vec<IpAddr>,
    protocols: Vec<Protocol>,
    src_ports: Vec<Option<u16>>,
    dst_ports: Vec<Option<u16>>,
}

impl Universe {
    fn new(spec: &Spec, case: &Case, hidden: &Hidden) -> Self {
        let known = |key: &str| case.labels.contains_key(key);
        let gone: Vec<_> = hidden_keys(hidden).collect();
        // Rules may ask the endpoint for the labels of network sets, too.
        let keys = KEYS.into_iter().chain(["threatfeed"]);
        let unknown = keys.filter(|key| !hidden.is_complete && (gone.contains(key) || !known(key)));
        let rules = || spec.rules(case.direction);
        let ends = rules().map(|rule| rule.near(case.direction));
        let nets: Vec<_> = ends.flat_map(|end| [&end.nets, &end.not_nets]).collect();
        let near = match hidden.near {
            true => distinct(addresses(case.far), |addr| {
                let within =
                    |nets: &&Vec<crate::prefix::Prefix>| nets.iter().any(|n| n.contains(*addr));
                nets.iter().map(within).collect::<Vec<_>>()
            }),
            false => vec![case.near],
        };
        let (src, dst): (Vec<_>, Vec<_>) = rules()
            .map(|rule| (&rule.source, &rule.destination))
            .unzip();
        let protocols = match hidden.proto {
            true => {
                let fits = |proto: &Protocol| {
                    let is_open = hidden.src_port && hidden.dst_port;
                    is_open || proto.has_ports() == case.proto.has_ports()
                };
                PROTOCOLS.into_iter().filter(fits).collect()
            }
            false => vec![case.proto],
        };
        Self {
            labels: unknown.map(|key| (key, values(spec, case, key))).collect(),
            near,
            protocols,
            src_ports: ports(hidden.src_port, case.src_port, &src),
            dst_ports: ports(hidden.dst_port, case.dst_port, &dst),
        }
    }

    fn size(&self) -> usize {
        let labels = self.labels.iter().map(|(_, values)| values.len());
        labels.product::<usize>()
            * self.near.len()
            * self.protocols.len()
            * self.src_ports.len()
            * self.dst_ports.len()
    }

    fn answers(&self, spec: &Spec, case: &Case) -> Vec<Answer> {
        let mut found: Vec<Answer> = Vec::new();
        for labels in self.all_labels(case) {
            for near in &self.near {
                for proto in &self.protocols {
                    for src_port in fitting(&self.src_ports, *proto) {
                        for dst_port in fitting(&self.dst_ports, *proto) {
                            let answer = answer(
                                spec,
                                &Case {
                                    labels: labels.clone(),
                                    near: *near,
                                    proto: *proto,
                                    src_port,
                                    dst_port,
                                    ..case.clone()
                                },
                            );
                            if !found.contains(&answer) {
                                found.push(answer);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    fn all_labels(&self, case: &Case) -> Vec<Labels> {
        let mut all = vec![case.labels.clone()];
        for (key, values) in &self.labels {
            let with = |labels: &Labels| {
                let mut labels = labels.clone();
                values
                    .iter()
                    .map(move |value| {
                        match value {
                            Some(value) => labels.insert((*key).to_owned(), value.clone()),
                            None => labels.remove(*key),
                        };
                        labels.clone()
                    })
                    .collect::<Vec<_>>()
            };
            all = all.iter().flat_map(with).collect();
        }
        all
    }
}

/// The ports that a protocol can have.
fn fitting(ports: &[Option<u16>], proto: Protocol) -> Vec<Option<u16>> {
    if proto.has_ports() {
        return ports.to_vec();
    }
    vec![None]
}

fn ports(hidden: bool, known: Option<u16>, ends: &[&SpecEnd]) -> Vec<Option<u16>> {
    if !hidden {
        return vec![known];
    }
    let ranges: Vec<_> = ends
        .iter()
        .flat_map(|end| [&end.ports, &end.not_ports])
        .collect();
    let ports = distinct(PORTS, |port| {
        let within =
            |ranges: &&Vec<(u16, u16)>| ranges.iter().any(|(a, b)| (a..=b).contains(&port));
        ranges.iter().map(within).collect::<Vec<_>>()
    });
    ports.into_iter().map(Some).collect()
}

/// Values of a label, and its absence.
fn values(spec: &Spec, case: &Case, key: &'static str) -> Vec<Option<String>> {
    let policies = spec.policies.iter();
    let ends = spec
        .rules(case.direction)
        .map(|rule| rule.near(case.direction));
    let asked = ends.flat_map(|end| end.selector.iter().chain(&end.not_selector));
    let leaves: Vec<&Tree> = policies
        .clone()
        .map(|policy| &policy.selector)
        .chain(asked)
        .flat_map(Tree::leaves)
        .collect();
    let namespaces = policies.filter_map(|policy| policy.namespace.as_ref());
    let of_namespace: Vec<&Tree> = namespaces.flat_map(Tree::leaves).collect();
    let all = universe().iter().cloned().map(Some).chain([None]);
    distinct(all, |value| {
        let mut labels = Labels::new();
        if let Some(value) = value {
            labels.insert(key.to_owned(), value.clone());
        }
        let mut answers: Vec<_> = leaves.iter().map(|leaf| leaf.is_true(&labels)).collect();
        if key == NAMESPACE {
            let name = value.as_deref();
            answers.extend(
                of_namespace
                    .iter()
                    .map(|leaf| leaf.is_true_of_namespace(name)),
            );
            answers.push(name.is_some());
        }
        answers
    })
}

/// One of `all` for each answer.
fn distinct<T, A: Eq + Hash>(all: impl IntoIterator<Item = T>, answer: impl Fn(&T) -> A) -> Vec<T> {
    let mut seen = HashSet::new();
    let fresh = |value: &T| seen.insert(answer(value));
    all.into_iter().filter(fresh).collect()
}

/// Addresses of the family of `far`.
fn addresses(far: IpAddr) -> impl Iterator<Item = IpAddr> {
    let all = ADDRESSES
        .into_iter()
        .map(|text| text.parse::<IpAddr>().unwrap());
    all.filter(move |addr| addr.is_ipv4() == far.is_ipv4())
}

fn union(answers: impl IntoIterator<Item = Answer>) -> Reach {
    let mut reach = Reach::default();
    for answer in answers {
        reach.log |= answer.logged_by.is_some();
        match answer.verdict {
            Some(RuleAction::Allow) => reach.allow = true,
            Some(RuleAction::Deny) => reach.deny = true,
            None => reach.fall = true,
            Some(other) => panic!("{other} is no verdict"),
        }
    }
    reach
}

/// A ruling in the interpreter's words.
fn plain(ruling: Ruling) -> Answer {
    let name = |name: std::sync::Arc<str>| name.to_string();
    let staged = ruling.staged.into_iter();
    Answer {
        verdict: ruling.verdict,
        policy: ruling.policy.map(name),
        rule: ruling.rule,
        logged_by: ruling.logged_by.map(name),
        staged: staged
            .map(|(policy, action)| (name(policy), action))
            .collect(),
    }
}
