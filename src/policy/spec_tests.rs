//! Random tiers, policies, network sets, endpoints and flows for the model test.

use std::net::IpAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    Endpoint, Entity, Labels, Order, Policies, Policy, Rule, RuleAction, Tier,
    tree_tests::{NAMESPACE, Tree, VALUES, trees},
};
use crate::{feed::Direction, packet::Protocol, prefix::Prefix};

/// Labels of endpoints that policies ask for.
pub const KEYS: [&str; 3] = ["unit", "app", NAMESPACE];
const SET_KEYS: [&str; 2] = ["threatfeed", "app"];
const NAMESPACE_KEYS: [&str; 3] = [
    "projectcalico.org/name",
    "kubernetes.io/metadata.name",
    "env",
];
const NETS: [&str; 6] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "203.0.113.0/24",
    "203.0.113.128/25",
    "0.0.0.0/0",
    "2001:db8::/32",
];
/// One address for every combination of those prefixes, and one outside of each family's.
pub const ADDRESSES: [&str; 7] = [
    "10.0.0.1",
    "10.1.0.1",
    "203.0.113.1",
    "203.0.113.200",
    "192.0.2.1",
    "2001:db8::1",
    "2001:db9::1",
];
const RANGES: [(u16, u16); 5] = [(0, 0), (80, 80), (80, 443), (400, 1000), (1000, 65535)];
/// One port for every combination of those ranges.
pub const PORTS: [u16; 8] = [0, 1, 80, 81, 400, 500, 1000, 65535];
/// Two that rules name, with ports and without, and others of both kinds.
pub const PROTOCOLS: [Protocol; 5] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::SCTP,
    Protocol::ICMP,
    Protocol(47),
];

#[derive(Clone, Debug)]
pub struct Spec {
    pub tiers: Vec<Tier>,
    pub policies: Vec<SpecPolicy>,
}

#[derive(Clone, Debug)]
pub struct SpecPolicy {
    pub name: String,
    pub tier: String,
    pub order: Option<f64>,
    pub selector: Tree,
    pub namespace: Option<Tree>,
    pub ingress: Option<Vec<SpecRule>>,
    pub egress: Option<Vec<SpecRule>>,
    pub is_staged: bool,
}

#[derive(Clone, Debug)]
pub struct SpecRule {
    pub action: RuleAction,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub ip_version: Option<u8>,
    pub source: SpecEnd,
    pub destination: SpecEnd,
}

#[derive(Clone, Debug)]
pub struct SpecEnd {
    pub selector: Option<Tree>,
    pub not_selector: Option<Tree>,
    pub nets: Vec<Prefix>,
    pub not_nets: Vec<Prefix>,
    pub ports: Vec<(u16, u16)>,
    pub not_ports: Vec<(u16, u16)>,
}

/// A flow of which everything is known.
#[derive(Clone, Debug)]
pub struct Case {
    pub direction: Direction,
    pub labels: Labels,
    pub near: IpAddr,
    pub far: IpAddr,
    pub far_sets: Vec<Labels>,
    pub proto: Protocol,
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
}

impl Spec {
    pub fn build(&self) -> Policies {
        let policies = self.policies.iter().map(SpecPolicy::build);
        Policies::new(self.tiers.clone(), policies.collect())
    }

    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = &SpecRule> {
        let policies = self.policies.iter();
        policies.flat_map(move |policy| policy.rules(direction).into_iter().flatten())
    }
}

impl SpecPolicy {
    pub fn rules(&self, direction: Direction) -> Option<&Vec<SpecRule>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }

    fn build(&self) -> Policy {
        let rules = |rules: &Option<Vec<SpecRule>>| {
            let rules = rules.iter().flatten();
            rules.map(SpecRule::build).collect()
        };
        Policy {
            name: self.name.as_str().into(),
            tier: self.tier.clone(),
            order: Order(self.order),
            selector: self.selector.selector(),
            namespace_selector: self.namespace.as_ref().map(Tree::selector),
            has_ingress: self.ingress.is_some(),
            has_egress: self.egress.is_some(),
            ingress: rules(&self.ingress),
            egress: rules(&self.egress),
            is_staged: self.is_staged,
        }
    }
}

impl SpecRule {
    pub fn near(&self, direction: Direction) -> &SpecEnd {
        match direction {
            Direction::Ingress => &self.destination,
            Direction::Egress => &self.source,
        }
    }

    fn build(&self) -> Rule {
        Rule {
            action: self.action,
            protocol: self.protocol,
            not_protocol: self.not_protocol,
            ip_version: self.ip_version,
            source: self.source.build(),
            destination: self.destination.build(),
        }
    }
}

impl SpecEnd {
    fn build(&self) -> Entity {
        Entity {
            selector: self.selector.as_ref().map(Tree::selector),
            not_selector: self.not_selector.as_ref().map(Tree::selector),
            nets: self.nets.clone(),
            not_nets: self.not_nets.clone(),
            ports: self.ports.clone(),
            not_ports: self.not_ports.clone(),
        }
    }
}

impl Case {
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            labels: self.labels.clone(),
            is_complete: true,
        }
    }
}

pub fn specs() -> impl Strategy<Value = Spec> {
    let tiers = prop_oneof![
        3 => Just(vec![]),
        3 => order().prop_map(|order| vec![("a", order)]),
        2 => (order(), order()).prop_map(|(a, b)| vec![("a", a), ("b", b)]),
    ];
    (tiers, vec(policies(), 1..6)).prop_map(|(tiers, mut policies)| {
        for (i, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("{}.p{i}", policy.tier);
        }
        let tiers = tiers.into_iter().map(|(name, order)| Tier {
            name: name.to_owned(),
            order: Order(order),
        });
        Spec {
            tiers: tiers.collect(),
            policies,
        }
    })
}

fn order() -> impl Strategy<Value = Option<f64>> {
    option::weighted(0.7, select(vec![1.0, 2.0, 2_000_000.0]))
}

fn policies() -> impl Strategy<Value = SpecPolicy> {
    let rules = || option::weighted(0.8, vec(rules(), 0..4));
    (
        select(vec!["a", "b", "default"]),
        order(),
        trees(&KEYS),
        option::weighted(0.2, trees(&NAMESPACE_KEYS)),
        rules(),
        rules(),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(tier, order, selector, namespace, ingress, egress, is_staged)| SpecPolicy {
                name: String::new(),
                tier: tier.to_owned(),
                order,
                selector,
                namespace,
                ingress,
                egress,
                is_staged,
            },
        )
}

fn rules() -> impl Strategy<Value = SpecRule> {
    use RuleAction::{Allow, Deny, Log, Pass};
    let protocol = || option::weighted(0.15, select(vec![Protocol::TCP, Protocol::ICMP]));
    (
        select(vec![Allow, Deny, Deny, Log, Pass]),
        protocol(),
        protocol(),
        option::weighted(0.1, select(vec![4, 6])),
        ends(),
        ends(),
    )
        .prop_map(
            |(action, protocol, not_protocol, ip_version, source, destination)| SpecRule {
                action,
                protocol,
                not_protocol,
                ip_version,
                source,
                destination,
            },
        )
}

fn ends() -> impl Strategy<Value = SpecEnd> {
    // As far end and as near end.
    let tree = || option::weighted(0.2, prop_oneof![trees(&KEYS), trees(&SET_KEYS)]);
    let some = |chance| prop::bool::weighted(chance);
    let nets = move || {
        let net = select(&NETS[..]).prop_map(|net| net.parse().unwrap());
        (some(0.15), vec(net, 1..3)).prop_map(|(some, nets)| if some { nets } else { vec![] })
    };
    let ports = move || {
        (some(0.15), vec(select(&RANGES[..]), 1..3))
            .prop_map(|(some, ports)| if some { ports } else { vec![] })
    };
    (tree(), tree(), nets(), nets(), ports(), ports()).prop_map(
        |(selector, not_selector, nets, not_nets, ports, not_ports)| SpecEnd {
            selector,
            not_selector,
            nets,
            not_nets,
            ports,
            not_ports,
        },
    )
}

pub fn cases() -> impl Strategy<Value = Case> {
    let address = || select(&ADDRESSES[..]).prop_map(|text| text.parse::<IpAddr>().unwrap());
    let far_sets = vec(labels(&SET_KEYS), 0..3);
    let port = || select(&PORTS[..]);
    (
        select(vec![Direction::Ingress, Direction::Egress]),
        labels(&KEYS),
        (address(), address()).prop_filter("of one family", |(near, far)| {
            near.is_ipv4() == far.is_ipv4()
        }),
        far_sets,
        select(&PROTOCOLS[..]),
        (port(), port()),
    )
        .prop_map(
            |(direction, labels, (near, far), far_sets, proto, ports)| Case {
                direction,
                labels,
                near,
                far,
                far_sets,
                proto,
                src_port: proto.has_ports().then_some(ports.0),
                dst_port: proto.has_ports().then_some(ports.1),
            },
        )
}

fn labels(keys: &'static [&'static str]) -> impl Strategy<Value = Labels> {
    let value = option::of(select(&VALUES[..]));
    vec(value, keys.len()).prop_map(move |values| {
        let pairs = keys.iter().zip(values);
        let known = pairs.filter_map(|(key, value)| Some(((*key).to_owned(), value?.to_owned())));
        known.collect()
    })
}
