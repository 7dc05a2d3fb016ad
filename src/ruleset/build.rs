//! The table of DESIGN.md section 2, for the hooks configured and the sets that hold something.
//!
//! Two base chains a hook. *inspect* finds the first packet of a flow whose address is listed and
//! hands it to the daemon. *guard*, one step later, takes the daemon's verdict from two bits of the
//! packet mark, and enforces the deny sets by itself when there is none.

use std::collections::BTreeSet;

use super::{
    Base, Chain, Counter, FlowKey, ProtoFrom, Remembered, Ruleset, Set, Side,
    Statement::{self, *},
    TableFamily,
};
use crate::{
    config::{DenyWith, Hook, Mode, Nftables},
    feed::Direction,
    packet::Protocol,
    prefix::Family as Ip,
    snapshot::{BLOCK4, BLOCK6, Class, Kind, SetName},
};

/// Priority of the inspect chains, relative to `filter`.
const INSPECT: i32 = -10;
/// Priority of the guard chains.
const GUARD: i32 = -9;
/// The IPv6 authentication header, which connection tracking goes past and nf_tables does not.
const AUTHENTICATION: u8 = 51;
/// Where packets of established flows go.
pub(super) const KNOWN: &str = "known";

/// What the table depends on besides its sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Table name.
    pub table: String,
    /// Nobody else may change the table while the daemon lives, where the kernel can promise that.
    pub owner: bool,
    /// Hooks to watch.
    pub hooks: Vec<Hook>,
    /// First queue number.
    pub queue_first: u16,
    /// Number of queues.
    pub queue_count: u16,
    /// Two bits of the packet mark.
    pub mark_mask: u32,
    /// One bit of the conntrack mark.
    pub cut_mask: u32,
    /// Drop or reject.
    pub deny_with: DenyWith,
    /// The table is the admin's, of this family; `None`: it is the daemon's own, of family inet.
    pub include: Option<TableFamily>,
}

impl Options {
    /// The options of a configuration.
    pub fn new(nftables: &Nftables) -> Self {
        Self {
            table: nftables.table.clone(),
            owner: nftables.owner && nftables.mode == Mode::Own,
            hooks: nftables.hooks.clone(),
            queue_first: nftables.queue_first,
            queue_count: nftables.queue_count,
            mark_mask: nftables.mark_mask,
            cut_mask: nftables.cut_mask,
            deny_with: nftables.deny_with,
            include: (nftables.mode == Mode::Include).then(|| TableFamily::of(&nftables.family)),
        }
    }

    /// The packet-mark bit that means allow: the lower one of the mask.
    pub fn allow_bit(&self) -> u32 {
        self.mark_mask & self.mark_mask.wrapping_neg()
    }

    /// The packet-mark bit that means deny: the higher one.
    pub fn deny_bit(&self) -> u32 {
        self.mark_mask & !self.allow_bit()
    }
}

/// The table for these options and these sets of addresses.
pub fn build(options: &Options, present: &BTreeSet<SetName>) -> Ruleset {
    let builder = Builder { options, present };
    let mut chains = vec![builder.end_denied(), end_denied_repeat(), builder.known()];
    for family in [Ip::V4, Ip::V6] {
        chains.extend([
            builder.ask_syn(family),
            builder.ask(family),
            builder.allowed(family),
            builder.denied(family),
            verdict_syn(family),
            builder.verdict(family),
            judge(Class::Deny, family),
            judge(Class::Watch, family),
        ]);
        for direction in [Direction::Egress, Direction::Ingress] {
            for stage in ["inspect", "guard"] {
                if family == Ip::V6 {
                    chains.push(builder.extended(stage, direction));
                }
                chains.push(builder.matches(stage, direction, family));
            }
        }
    }
    for hook in &options.hooks {
        chains.push(builder.inspect(*hook));
        chains.push(builder.guard(*hook));
    }
    Ruleset {
        table: options.table.clone(),
        sets: builder.sets(),
        chains,
    }
}

struct Builder<'a> {
    options: &'a Options,
    present: &'a BTreeSet<SetName>,
}

impl Builder<'_> {
    fn sets(&self) -> Vec<Set> {
        let mut sets = vec![
            Set::PortProtocols,
            Set::Extensions,
            Set::Echo(Ip::V4),
            Set::Echo(Ip::V6),
        ];
        for family in [Ip::V4, Ip::V6] {
            for verdict in [Remembered::Allow, Remembered::Deny] {
                sets.extend(FlowKey::ALL.map(|key| Set::Recent {
                    verdict,
                    key,
                    family,
                }));
            }
        }
        sets.extend(self.present.iter().copied().map(Set::Addresses));
        sets
    }

    fn inspect(&self, hook: Hook) -> Chain {
        let base = Base {
            route: false,
            hook,
            priority: INSPECT,
        };
        Chain {
            name: format!("inspect_{}", name(hook)),
            base: Some(base),
            rules: self.base_rules("inspect", hook, Goto(KNOWN.into())),
        }
    }

    /// Packets of established flows pass, but for those of a cut flow.
    ///
    /// A chain of its own, so that a new flow does not pay for the look at its conntrack mark.
    fn known(&self) -> Chain {
        Chain {
            name: KNOWN.into(),
            base: None,
            rules: vec![self.cut(), vec![Accept]],
        }
    }

    fn cut(&self) -> Vec<Statement> {
        vec![CtMark(self.options.cut_mask), Count(Counter::Cut), Drop]
    }

    fn guard(&self, hook: Hook) -> Chain {
        // On output a changed mark reroutes the packet: only a route chain routes it back.
        let base = Base {
            route: hook == Hook::Output,
            hook,
            priority: GUARD,
        };
        Chain {
            name: format!("guard_{}", name(hook)),
            base: Some(base),
            rules: self.base_rules("guard", hook, Accept),
        }
    }

    /// Lets go what is established, then jumps to the matches of each direction the hook sees.
    ///
    /// Every new flow of the host pays for each rule here; what else is let go waits until an address
    /// was found in a set ([`let_go`]).
    fn base_rules(&self, stage: &str, hook: Hook, established: Statement) -> Vec<Vec<Statement>> {
        let mut rules = vec![vec![Established, established]];
        let directions: &[Direction] = match hook {
            Hook::Output => &[Direction::Egress],
            Hook::Input => &[Direction::Ingress],
            Hook::Forward => &[Direction::Egress, Direction::Ingress],
        };
        for direction in directions {
            for family in [Ip::V4, Ip::V6] {
                rules.extend(self.prefilter(stage, *direction, family));
            }
        }
        rules
    }

    fn prefilter(&self, stage: &str, direction: Direction, family: Ip) -> Vec<Vec<Statement>> {
        if self.class_sets(direction, family).is_empty() {
            return Vec::new();
        }
        let target = Jump(matches_name(stage, direction, family));
        let coarse = [Kind::Hosts, Kind::Nets].map(|kind| SetName::Coarse { kind, family });
        let rules: Vec<_> = coarse
            .into_iter()
            .filter(|name| self.present.contains(name))
            .map(|name| {
                let mask = (name.kind() == Kind::Hosts).then_some(match family {
                    Ip::V4 => BLOCK4,
                    Ip::V6 => BLOCK6,
                });
                let set = Set::Addresses(name);
                vec![
                    Address {
                        family,
                        side: side(direction),
                        mask,
                        set,
                    },
                    target.clone(),
                ]
            })
            .collect();
        if rules.is_empty() {
            vec![vec![Family(family), target]]
        } else {
            rules
        }
    }

    /// The sets to ask for a direction, deny first, hash sets first.
    fn class_sets(&self, direction: Direction, family: Ip) -> Vec<(Class, SetName)> {
        self.present
            .iter()
            .filter_map(|name| match name {
                SetName::Class {
                    class,
                    scope,
                    family: of,
                    ..
                } if *of == family && scope.covers(direction) => Some((*class, *name)),
                _ => None,
            })
            .collect()
    }

    /// `inspect_egress4`: asks the daemon about a listed address; `guard_egress4`: judges it.
    fn matches(&self, stage: &str, direction: Direction, family: Ip) -> Chain {
        let mut rules = self.resolvers(direction, family);
        if family == Ip::V6 && self.asks_flows6(direction) {
            rules.push(vec![IsExtended, Goto(extended_name(stage, direction))]);
        }
        for (class, name) in self.class_sets(direction, family) {
            let target = Goto(matched_name(stage, class, family));
            rules.push(vec![address(name, family, direction), target]);
        }
        Chain {
            name: matches_name(stage, direction, family),
            base: None,
            rules,
        }
    }

    /// This host's resolvers at their ports leave before any class is asked, so that names are resolved
    /// whatever the daemon does. No accept: the other address of a forwarded packet may be denied.
    ///
    /// Answers are of established flows, but where they are not tracked.
    fn resolvers(&self, direction: Direction, family: Ip) -> Vec<Vec<Statement>> {
        let name = SetName::Resolvers { family };
        if !self.present.contains(&name) {
            return Vec::new();
        }
        let at = address(name, family, direction);
        match direction {
            Direction::Egress => vec![vec![at, Return]],
            Direction::Ingress => vec![vec![Untracked, at, Return]],
        }
    }

    /// `inspect_egress_extended6`: the same for packets with IPv6 extension headers. Their protocol is
    /// known to connection tracking; of those that are not tracked, one by one. Empty where no set needs it.
    ///
    /// A packet of a protocol without ports that is behind an extension header and not tracked either is
    /// found in no set of ranges.
    fn extended(&self, stage: &str, direction: Direction) -> Chain {
        let family = Ip::V6;
        let mut rules = Vec::new();
        let is_needed = self.asks_flows6(direction);
        for (class, name) in self
            .class_sets(direction, family)
            .into_iter()
            .filter(|_| is_needed)
        {
            let target = Goto(matched_name(stage, class, family));
            if !name.kind().is_flows() {
                rules.push(vec![address(name, family, direction), target]);
                continue;
            }
            let by = |proto| flow(name, family, direction, proto);
            rules.push(vec![by(ProtoFrom::Tracked), target.clone()]);
            let numbers = Set::PORT_PROTOCOLS.into_iter().chain([AUTHENTICATION]);
            rules.extend(
                numbers
                    .map(Protocol)
                    .map(|proto| vec![L4(proto), by(ProtoFrom::Given(proto)), target.clone()]),
            );
        }
        Chain {
            name: extended_name(stage, direction),
            base: None,
            rules,
        }
    }

    /// True when a set of IPv6 ranges with ports is asked.
    fn asks_flows6(&self, direction: Direction) -> bool {
        let mut sets = self.class_sets(direction, Ip::V6).into_iter();
        sets.any(|(_, name)| name.kind().is_flows())
    }

    /// Asks the daemon, unless it has just answered for this flow.
    fn ask(&self, family: Ip) -> Chain {
        // Nobody else's bits count as the daemon's verdict.
        let mask = self.options.mark_mask;
        let mut rules = vec![self.cut()];
        rules.extend(let_go(family));
        rules.push(vec![AnyMark(mask), ClearMark(mask)]);
        rules.push(vec![IsSyn, Goto(ask_syn_name(family))]);
        for verdict in [Remembered::Allow, Remembered::Deny] {
            rules.extend(recent(verdict, family, &Accept));
        }
        rules.extend(self.queue());
        Chain {
            name: ask_name(family),
            base: None,
            rules,
        }
    }

    /// Asks the daemon about a TCP SYN, unless it is a retransmit of one that it has answered for.
    fn ask_syn(&self, family: Ip) -> Chain {
        let mut rules = vec![
            vec![in_recent(Remembered::Allow, FlowKey::Syn, family), Accept],
            vec![in_recent(Remembered::Deny, FlowKey::Syn, family), Accept],
        ];
        rules.extend(self.queue());
        Chain {
            name: ask_syn_name(family),
            base: None,
            rules,
        }
    }

    fn queue(&self) -> [Vec<Statement>; 2] {
        let queue = Queue {
            first: self.options.queue_first,
            count: self.options.queue_count,
        };
        [vec![Count(Counter::Queued)], vec![queue]]
    }

    /// The daemon's verdict on a listed packet, or one remembered of its flow; returns when there is none.
    ///
    /// A chain of its own: without the inspect chains, which clear the bits of everybody else, no mark
    /// counts as a verdict, and this chain is empty (see [`super::include`]).
    fn verdict(&self, family: Ip) -> Chain {
        let mask = self.options.mark_mask;
        let mut rules = vec![
            vec![
                Mark {
                    mask,
                    value: self.options.allow_bit(),
                },
                Goto(format!("allowed{}", super::digit(family))),
            ],
            vec![
                Mark {
                    mask,
                    value: self.options.deny_bit(),
                },
                Goto(format!("denied{}", super::digit(family))),
            ],
        ];
        rules.push(vec![IsSyn, Goto(verdict_syn_name(family))]);
        rules.extend(recent(Remembered::Allow, family, &Accept));
        rules.extend(recent(
            Remembered::Deny,
            family,
            &Goto("end_denied_repeat".into()),
        ));
        Chain {
            name: verdict_name(family),
            base: None,
            rules,
        }
    }

    /// The daemon said allow: take the bits off, remember the flow, pass.
    fn allowed(&self, family: Ip) -> Chain {
        let mut rules = vec![
            vec![ClearMark(self.options.mark_mask)],
            vec![Count(Counter::Allowed)],
        ];
        rules.extend(remember(Remembered::Allow, family, &Accept));
        Chain {
            name: format!("allowed{}", super::digit(family)),
            base: None,
            rules,
        }
    }

    /// The daemon said deny: remember the flow, end it.
    fn denied(&self, family: Ip) -> Chain {
        let mut rules = vec![vec![Count(Counter::Denied)]];
        rules.extend(remember(
            Remembered::Deny,
            family,
            &Goto("end_denied".into()),
        ));
        Chain {
            name: format!("denied{}", super::digit(family)),
            base: None,
            rules,
        }
    }

    fn end_denied(&self) -> Chain {
        let rules = match self.options.deny_with {
            DenyWith::Drop => vec![vec![Drop]],
            DenyWith::Reject => vec![vec![L4(Protocol::TCP), RejectTcp], vec![RejectIcmp]],
        };
        Chain {
            name: "end_denied".into(),
            base: None,
            rules,
        }
    }
}

/// The verdict remembered of a TCP SYN that came before; returns to the judging chain when there is none.
fn verdict_syn(family: Ip) -> Chain {
    let seen = |verdict| in_recent(verdict, FlowKey::Syn, family);
    Chain {
        name: verdict_syn_name(family),
        base: None,
        rules: vec![
            vec![seen(Remembered::Allow), Accept],
            vec![seen(Remembered::Deny), Goto("end_denied_repeat".into())],
        ],
    }
}

/// What becomes of a packet that a class listed: the daemon's verdict, or the class's own.
fn judge(class: Class, family: Ip) -> Chain {
    let mut rules = let_go(family);
    rules.push(vec![Jump(verdict_name(family))]);
    match class {
        Class::Deny => {
            rules.push(vec![Count(Counter::DeniedUnattributed)]);
            rules.push(vec![Goto("end_denied".into())]);
        }
        // No accept: a forwarded packet's other address may be denied.
        Class::Watch => rules.push(vec![Count(Counter::PassedUnattributed)]),
    }
    Chain {
        name: judge_name(class, family),
        base: None,
        rules,
    }
}

/// ICMP errors of known flows and loopback are never judged, whatever address they have.
fn let_go(family: Ip) -> Vec<Vec<Statement>> {
    let icmp = match family {
        Ip::V4 => Protocol::ICMP,
        Ip::V6 => Protocol::ICMPV6,
    };
    vec![
        vec![L4(icmp), Related, Accept],
        vec![ToLoopback, Accept],
        vec![FromLoopback, Accept],
    ]
}

fn end_denied_repeat() -> Chain {
    let rules = vec![
        vec![Count(Counter::DeniedRepeat)],
        vec![Goto("end_denied".into())],
    ];
    Chain {
        name: "end_denied_repeat".into(),
        base: None,
        rules,
    }
}

fn address(name: SetName, family: Ip, direction: Direction) -> Statement {
    let (side, set) = (side(direction), Set::Addresses(name));
    match name.kind() {
        Kind::Ports | Kind::PortsCover => AddressPort {
            family,
            side,
            proto: ProtoFrom::Meta,
            port: side,
            set,
        },
        Kind::Flows | Kind::FlowsCover => flow(name, family, direction, ProtoFrom::Header),
        Kind::Hosts | Kind::Nets | Kind::Cover => Address {
            family,
            side,
            mask: None,
            set,
        },
    }
}

/// The look into a set of ranges with ports.
fn flow(name: SetName, family: Ip, direction: Direction, proto: ProtoFrom) -> Statement {
    AddressPort {
        family,
        side: side(direction),
        proto,
        port: Side::Destination,
        set: Set::Addresses(name),
    }
}

/// The looks into the sets of a verdict for what is no TCP SYN.
fn recent(verdict: Remembered, family: Ip, then: &Statement) -> Vec<Vec<Statement>> {
    [FlowKey::Ports, FlowKey::Echo, FlowKey::Addresses]
        .into_iter()
        .map(|key| {
            let mut rule = guard_of(key, family);
            rule.extend([in_recent(verdict, key, family), then.clone()]);
            rule
        })
        .collect()
}

fn in_recent(verdict: Remembered, key: FlowKey, family: Ip) -> Statement {
    InRecent(Set::Recent {
        verdict,
        key,
        family,
    })
}

/// A full set ends the rule, so the update stands alone and `then` follows in the next one.
fn remember(verdict: Remembered, family: Ip, then: &Statement) -> Vec<Vec<Statement>> {
    FlowKey::ALL
        .into_iter()
        .flat_map(|key| {
            let mut update = guard_of(key, family);
            let mut end = update.clone();
            update.push(UpdateRecent(Set::Recent {
                verdict,
                key,
                family,
            }));
            end.push(then.clone());
            // A SYN counts by its ports too: later packets of a one-way flow have another sequence number.
            let rules = [Some(update), (key != FlowKey::Syn).then_some(end)];
            rules.into_iter().flatten()
        })
        .collect()
}

fn guard_of(key: FlowKey, family: Ip) -> Vec<Statement> {
    match key {
        FlowKey::Syn => vec![IsSyn],
        FlowKey::Ports => vec![HasPorts],
        FlowKey::Echo => vec![IsEcho(family)],
        FlowKey::Addresses => vec![],
    }
}

fn side(direction: Direction) -> Side {
    match direction {
        Direction::Egress => Side::Destination,
        Direction::Ingress => Side::Source,
    }
}

fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Output => "output",
        Hook::Input => "input",
        Hook::Forward => "forward",
    }
}

fn matches_name(stage: &str, direction: Direction, family: Ip) -> String {
    format!("{stage}_{direction}{}", super::digit(family))
}

fn extended_name(stage: &str, direction: Direction) -> String {
    format!("{stage}_{direction}_extended6")
}

/// Where a packet goes that a class listed.
fn matched_name(stage: &str, class: Class, family: Ip) -> String {
    match stage {
        "guard" => judge_name(class, family),
        _ => ask_name(family),
    }
}

fn ask_name(family: Ip) -> String {
    format!("ask{}", super::digit(family))
}

fn ask_syn_name(family: Ip) -> String {
    format!("ask_syn{}", super::digit(family))
}

fn verdict_syn_name(family: Ip) -> String {
    format!("verdict_syn{}", super::digit(family))
}

fn verdict_name(family: Ip) -> String {
    format!("verdict{}", super::digit(family))
}

fn judge_name(class: Class, family: Ip) -> String {
    let class = match class {
        Class::Deny => "deny",
        Class::Watch => "watch",
    };
    format!("judge_{class}{}", super::digit(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, feed::Scope};

    fn example() -> Ruleset {
        let present = [
            SetName::Class {
                class: Class::Deny,
                scope: Scope::Both,
                kind: Kind::Hosts,
                family: Ip::V4,
            },
            SetName::Class {
                class: Class::Watch,
                scope: Scope::Out,
                kind: Kind::Nets,
                family: Ip::V6,
            },
            SetName::Coarse {
                kind: Kind::Hosts,
                family: Ip::V4,
            },
        ];
        build(&Options::new(&Config::default().nftables), &present.into())
    }

    #[test]
    fn every_jump_has_its_chain_and_every_lookup_its_set() {
        let ruleset = example();
        let chains: BTreeSet<&str> = ruleset.chains.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(chains.len(), ruleset.chains.len());
        for statement in ruleset.chains.iter().flat_map(|c| &c.rules).flatten() {
            match statement {
                Jump(chain) | Goto(chain) => assert!(chains.contains(chain.as_str()), "{chain}"),
                Address { set, .. }
                | AddressPort { set, .. }
                | InRecent(set)
                | UpdateRecent(set) => {
                    assert!(ruleset.sets.contains(set))
                }
                _ => {}
            }
        }
    }

    #[test]
    fn directions_follow_the_hook_and_the_scope() {
        let text = example().to_string();
        let chain = |name: &str| {
            text.split(&format!("chain {name} {{"))
                .nth(1)
                .unwrap()
                .split('}')
                .next()
                .unwrap()
        };
        assert!(
            chain("inspect_output")
                .contains("ip daddr & 255.255.255.0 @coarse4 jump inspect_egress4")
        );
        assert!(chain("inspect_output").contains("meta nfproto ipv6 jump inspect_egress6"));
        assert!(!chain("inspect_input").contains("egress"));
        assert!(
            !chain("inspect_input").contains("inspect_ingress6"),
            "an out-only feed is not asked on input"
        );
        assert!(chain("guard_egress4").contains("ip daddr @deny_hosts4 goto judge_deny4"));
        assert!(chain("inspect_egress6").contains("ip6 daddr @watch_out_nets6 goto ask6"));
        assert!(chain("guard_output").contains("type route hook output priority filter - 9"));
        assert!(chain("ask4").trim_end().ends_with("queue num 4470 bypass"));
    }

    #[test]
    fn the_mark_bits_are_the_two_of_the_mask() {
        let options = Options {
            mark_mask: 0x0c00_0000,
            ..Options::new(&Config::default().nftables)
        };
        assert_eq!(
            (options.allow_bit(), options.deny_bit()),
            (0x0400_0000, 0x0800_0000)
        );
    }
}
