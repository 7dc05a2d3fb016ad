//! Covers for elements with ports: what leaves while something that comes holds a part of it.
//!
//! The element that leaves is its own cover, in a set beside the one that it leaves. It stays in force
//! until the change is done, so a cover holds nothing that the old sets did not hold. Elements of one
//! set never overlap, so those of its cover do not either, which the kernel would refuse.

use super::{Class, Content, Delta, FlowElement, Kind, PortBox, PortElement, SetName, Sets};
use crate::{
    feed::{Direction, Scope},
    prefix::{Address, Range, RangeSet},
};

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The covers of everything with ports that moves.
pub(super) fn with_ports(delta: &Delta, old: &Sets, new: &Sets) -> Sets {
    let mut leaving = List::new();
    let mut coming = List::new();
    delta.each(old, new, |name, content, leaves| {
        if !leaves {
            coming.push((name, content));
        } else if name.kind().has_ports() && !content.is_empty() {
            leaving.push((name, content));
        }
    });

    let mut covers = Sets::default();
    for class in [Class::Deny, Class::Watch] {
        let mut leaving = leaving
            .iter()
            .filter(|(name, _)| is_of(*name, class))
            .peekable();
        if leaving.peek().is_none() {
            continue;
        }
        let v4 = DIRECTIONS.map(|direction| Coming::new(&coming, class, direction, part4));
        let v6 = DIRECTIONS.map(|direction| Coming::new(&coming, class, direction, part6));
        for (name, content) in leaving {
            let SetName::Class { scope, .. } = *name else {
                continue;
            };
            let moving = match content {
                Content::Ports4(list) => Content::Ports4(kept(list, &v4, scope, of_port)),
                Content::Ports6(list) => Content::Ports6(kept(list, &v6, scope, of_port)),
                Content::Flows4(list) => Content::Flows4(kept(list, &v4, scope, |flow, _| *flow)),
                Content::Flows6(list) => Content::Flows6(kept(list, &v6, scope, |flow, _| *flow)),
                Content::V4(_) | Content::V6(_) => continue,
            };
            covers.put(cover_of(*name), moving);
        }
    }
    covers
}

type List<'a> = Vec<(SetName, &'a Content)>;

fn is_of(name: SetName, class: Class) -> bool {
    matches!(name, SetName::Class { class: of, .. } if of == class)
}

fn cover_of(name: SetName) -> SetName {
    match name {
        SetName::Class {
            class,
            scope,
            kind,
            family,
        } => SetName::Class {
            class,
            scope,
            kind: match kind.is_flows() {
                true => Kind::FlowsCover,
                false => Kind::PortsCover,
            },
            family,
        },
        other @ (SetName::Coarse { .. } | SetName::Resolvers { .. }) => other,
    }
}

/// A set's content of one IP version.
enum Part<'a, A> {
    Plain(&'a [Range<A>]),
    Ports(&'a [PortElement<A>]),
    Flows(&'a [FlowElement<A>]),
}

fn part4(content: &Content) -> Option<Part<'_, u32>> {
    match content {
        Content::V4(list) => Some(Part::Plain(list)),
        Content::Ports4(list) => Some(Part::Ports(list)),
        Content::Flows4(list) => Some(Part::Flows(list)),
        Content::V6(_) | Content::Ports6(_) | Content::Flows6(_) => None,
    }
}

fn part6(content: &Content) -> Option<Part<'_, u128>> {
    match content {
        Content::V6(list) => Some(Part::Plain(list)),
        Content::Ports6(list) => Some(Part::Ports(list)),
        Content::Flows6(list) => Some(Part::Flows(list)),
        Content::V4(_) | Content::Ports4(_) | Content::Flows4(_) => None,
    }
}

/// An address with a port as a range. On the way in the port is the sender's, so that any port of the
/// receiver belongs to it.
fn of_port<A: Address>(element: &PortElement<A>, direction: Direction) -> FlowElement<A> {
    FlowElement {
        addr: Range::host(element.addr),
        at: PortBox {
            protos: (element.proto, element.proto),
            ports: match direction {
                Direction::Egress => (element.port, element.port),
                Direction::Ingress => (0, u16::MAX),
            },
        },
    }
}

/// The elements of `list` that something which comes holds a part of, in a direction of `scope`.
fn kept<A: Address, T: Copy>(
    list: &[T],
    coming: &[Coming<A>; 2],
    scope: Scope,
    flow: impl Fn(&T, Direction) -> FlowElement<A>,
) -> Vec<T> {
    let moves = |element: &&T| {
        let mut directions = DIRECTIONS.iter().zip(coming);
        directions.any(|(direction, coming)| {
            scope.covers(*direction) && coming.meets(&flow(element, *direction))
        })
    };
    list.iter().filter(moves).copied().collect()
}

/// Everything of a class and direction that comes.
struct Coming<A> {
    plain: RangeSet<A>,
    /// What has ports, by its first address.
    flows: Vec<FlowElement<A>>,
    /// The highest last address of `flows` up to each of them.
    reach: Vec<A>,
}

impl<A: Address> Coming<A> {
    fn new<'a>(
        coming: &List<'a>,
        class: Class,
        direction: Direction,
        part: impl Fn(&'a Content) -> Option<Part<'a, A>>,
    ) -> Self {
        let (mut plain, mut flows) = (Vec::new(), Vec::new());
        for (name, content) in coming {
            let counts = is_of(*name, class)
                && matches!(name, SetName::Class { scope, .. } if scope.covers(direction));
            match part(content).filter(|_| counts) {
                None => {}
                Some(Part::Plain(list)) => plain.extend_from_slice(list),
                Some(Part::Ports(list)) => {
                    flows.extend(list.iter().map(|element| of_port(element, direction)));
                }
                Some(Part::Flows(list)) => flows.extend_from_slice(list),
            }
        }
        flows.sort_unstable();
        let mut highest = None;
        let reach = flows.iter().map(|flow| {
            let last = highest.map_or(flow.addr.last, |highest: A| highest.max(flow.addr.last));
            highest = Some(last);
            last
        });
        Self {
            plain: RangeSet::new(plain),
            reach: reach.collect(),
            flows,
        }
    }

    fn meets(&self, flow: &FlowElement<A>) -> bool {
        if self.plain.intersects(flow.addr) {
            return true;
        }
        let end = self
            .flows
            .partition_point(|other| other.addr.first <= flow.addr.last);
        let before = self.flows.iter().zip(&self.reach).take(end).rev();
        before
            .take_while(|(_, reach)| **reach >= flow.addr.first)
            .any(|(other, _)| meet(flow, other))
    }
}

fn meet<A: Address>(a: &FlowElement<A>, b: &FlowElement<A>) -> bool {
    let overlap =
        |first: (u16, u16), second: (u16, u16)| first.0 <= second.1 && second.0 <= first.1;
    let wide = |(first, last): (u8, u8)| (u16::from(first), u16::from(last));
    a.addr.first <= b.addr.last
        && b.addr.first <= a.addr.last
        && overlap(wide(a.at.protos), wide(b.at.protos))
        && overlap(a.at.ports, b.at.ports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{prefix::Family, snapshot::steps};

    fn name(scope: Scope, kind: Kind) -> SetName {
        SetName::Class {
            class: Class::Deny,
            scope,
            kind,
            family: Family::V4,
        }
    }

    /// A small world: addresses 0 to 11, protocols 6 and 7, ports 0 to 5.
    const SPACE: u32 = 12;

    /// For each address its class: nothing, all ports, single ports, or ranges of them.
    fn sets() -> impl Strategy<Value = Sets> {
        let at = prop_oneof![
            Just(None),
            (0u8..3, 0u8..2, 0u16..4, 0u16..3).prop_map(Some)
        ];
        (proptest::collection::vec(at, SPACE as usize), any::<bool>()).prop_map(|(list, both)| {
            let (mut nets, mut ports, mut flows) = (Vec::new(), Vec::new(), Vec::new());
            for (addr, at) in (0..SPACE).zip(list) {
                let Some((kind, proto, port, more)) = at else {
                    continue;
                };
                let protos = (6, 6 + proto);
                match kind {
                    0 => nets.push(Range::host(addr)),
                    1 => ports.push(PortElement {
                        addr,
                        proto: 6,
                        port,
                    }),
                    _ => flows.push(FlowElement {
                        addr: Range::host(addr),
                        at: PortBox {
                            protos,
                            ports: (port, port + more),
                        },
                    }),
                }
            }
            let plain = if both { Scope::Both } else { Scope::Out };
            let mut sets = Sets::default();
            sets.put(
                name(plain, Kind::Nets),
                Content::V4(RangeSet::new(nets).ranges().to_vec()),
            );
            sets.put(name(plain, Kind::Ports), Content::Ports4(ports));
            sets.put(name(Scope::Out, Kind::Flows), Content::Flows4(flows));
            sets
        })
    }

    /// Every packet that something of these elements denies on the way out.
    fn denied<'a>(
        elements: impl Iterator<Item = &'a (SetName, Content)>,
    ) -> BTreeSet<(u32, u8, u16)> {
        let mut all = BTreeSet::new();
        for (_, content) in elements {
            let flows: Vec<FlowElement<u32>> = match part4(content) {
                None => continue,
                Some(Part::Plain(list)) => list
                    .iter()
                    .map(|range| FlowElement {
                        addr: *range,
                        at: PortBox {
                            protos: (6, 7),
                            ports: (0, 5),
                        },
                    })
                    .collect(),
                Some(Part::Ports(list)) => list
                    .iter()
                    .map(|element| of_port(element, Direction::Egress))
                    .collect(),
                Some(Part::Flows(list)) => list.to_vec(),
            };
            for flow in flows {
                for addr in flow.addr.first..=flow.addr.last {
                    for proto in flow.at.protos.0..=flow.at.protos.1 {
                        all.extend(
                            (flow.at.ports.0..=flow.at.ports.1).map(|port| (addr, proto, port)),
                        );
                    }
                }
            }
        }
        all
    }

    /// Each element alone, with its set.
    fn elements(sets: &Sets) -> Vec<(SetName, Content)> {
        let mut all = Vec::new();
        for (name, content) in sets.iter() {
            match part4(content) {
                None => {}
                Some(Part::Plain(list)) => {
                    all.extend(list.iter().map(|e| (name, Content::V4(vec![*e]))));
                }
                Some(Part::Ports(list)) => {
                    all.extend(list.iter().map(|e| (name, Content::Ports4(vec![*e]))));
                }
                Some(Part::Flows(list)) => {
                    all.extend(list.iter().map(|e| (name, Content::Flows4(vec![*e]))));
                }
            }
        }
        all
    }

    proptest! {
        /// Elements that a step neither removes nor adds hold, in each step, what is denied before and after,
        /// and no step denies what is denied neither before nor after.
        #[test]
        fn what_stays_denied_is_held_throughout(old in sets(), new in sets()) {
            let [before, after] = [&old, &new].map(|sets| denied(elements(sets).iter()));
            let keep: BTreeSet<_> = before.intersection(&after).copied().collect();
            let mut last = old.clone();
            for (_, next) in steps(&old, &new) {
                let next_elements = elements(&next);
                let steady: Vec<_> = elements(&last)
                    .into_iter()
                    .filter(|element| next_elements.contains(element))
                    .collect();
                let held = denied(steady.iter());
                prop_assert!(keep.is_subset(&held), "{:?} of {:?}", held, keep);
                let more = denied(next_elements.iter());
                prop_assert!(more.iter().all(|at| before.contains(at) || after.contains(at)));
                last = next;
            }
            prop_assert_eq!(last, new);
        }
    }
}
