//! Protocols and receiver's ports, cut where policies tell them apart, and what of it is in which class.

use super::{Class, PortBox};
use crate::{packet::Protocol, policy::PortRegion};

/// Every port.
const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// The regions of one direction.
#[derive(Debug)]
pub(super) struct Regions {
    pub(super) list: Vec<PortRegion>,
    /// Protocols that have regions of their own.
    named: Vec<u8>,
}

impl Regions {
    pub(super) fn new(list: Vec<PortRegion>) -> Self {
        let mut named: Vec<u8> = list.iter().filter_map(|r| Some(r.proto?.0)).collect();
        named.sort_unstable();
        named.dedup();
        Self { list, named }
    }

    /// True when the region at `at` is the one of `proto`, or one of several of it.
    pub(super) fn is_of(&self, at: usize, proto: Protocol) -> bool {
        let named = self.named.binary_search(&proto.0).is_ok();
        self.list.get(at).is_some_and(|region| match region.proto {
            Some(own) => own == proto,
            None => !named,
        })
    }

    /// The region that holds this receiver's port.
    pub(super) fn holding(&self, proto: Protocol, port: u16) -> Option<usize> {
        (0..self.list.len()).find(|at| {
            let ports = self.list.get(*at).and_then(|region| region.ports);
            self.is_of(*at, proto)
                && ports.is_none_or(|(first, last)| (first..=last).contains(&port))
        })
    }

    /// The region at `at` as ranges of numbers: several where it is what the others leave.
    pub(super) fn boxes(&self, at: usize) -> Vec<PortBox> {
        let Some(region) = self.list.get(at) else {
            return Vec::new();
        };
        let ports = region.ports.unwrap_or(ALL_PORTS);
        let protos = match region.proto {
            Some(proto) => vec![(proto.0, proto.0)],
            None => self.gaps(),
        };
        let boxed = |protos| PortBox { protos, ports };
        protos.into_iter().map(boxed).collect()
    }

    /// Ranges of protocols that no region names.
    fn gaps(&self) -> Vec<(u8, u8)> {
        let mut gaps = Vec::new();
        let mut next = Some(0u8);
        for named in &self.named {
            if let (Some(first), Some(last)) = (next, named.checked_sub(1))
                && first <= last
            {
                gaps.push((first, last));
            }
            next = named.checked_add(1);
        }
        gaps.extend(next.map(|first| (first, u8::MAX)));
        gaps
    }
}

/// How the classes of an address are stored: one for all ports, stronger ones for some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// What holds for every protocol and port that is not below.
    pub(super) base: Option<Class>,
    /// Protocols and ports with a class of their own.
    pub(super) boxes: Vec<(Class, PortBox)>,
}

impl Layout {
    /// From all parts of the protocols and ports. Deny sets are asked first, so that what is only
    /// watched may cover what is denied as well.
    pub(super) fn of(parts: Vec<(Option<Class>, PortBox)>) -> Self {
        let all = |class: Option<Class>| parts.iter().all(|(part, _)| *part == class);
        for class in [None, Some(Class::Watch), Some(Class::Deny)] {
            if all(class) {
                return Self {
                    base: class,
                    boxes: Vec::new(),
                };
            }
        }
        let base = parts
            .iter()
            .all(|(part, _)| part.is_some())
            .then_some(Class::Watch);
        Self::with_base(base, parts)
    }

    /// From some parts: the others are in no class.
    pub(super) fn spelled(parts: Vec<(Option<Class>, PortBox)>) -> Self {
        Self::with_base(None, parts)
    }

    fn with_base(base: Option<Class>, parts: Vec<(Option<Class>, PortBox)>) -> Self {
        let mut boxes: Vec<(Class, PortBox)> = parts
            .into_iter()
            .filter(|(part, _)| *part != base)
            .filter_map(|(part, ports)| Some((part?, ports)))
            .collect();
        boxes.sort_unstable();
        boxes.dedup_by(|next, kept| {
            let joins = next.0 == kept.0
                && next.1.protos == kept.1.protos
                && kept.1.ports.1.checked_add(1) == Some(next.1.ports.0);
            if joins {
                kept.1.ports.1 = next.1.ports.1;
            }
            joins
        });
        Self { base, boxes }
    }
}

/// Cuts single ports out of a part.
pub(super) fn without(part: PortBox, points: &[(u8, u16)]) -> Vec<PortBox> {
    let mut parts = vec![part];
    for (proto, port) in points {
        parts = parts
            .into_iter()
            .flat_map(|part| without_one(part, *proto, *port))
            .collect();
    }
    parts
}

fn without_one(part: PortBox, proto: u8, port: u16) -> Vec<PortBox> {
    let PortBox { protos, ports } = part;
    let inside = (protos.0..=protos.1).contains(&proto) && (ports.0..=ports.1).contains(&port);
    if !inside {
        return vec![part];
    }
    let below = proto.checked_sub(1).filter(|last| *last >= protos.0);
    let above = proto.checked_add(1).filter(|first| *first <= protos.1);
    let left = port.checked_sub(1).filter(|last| *last >= ports.0);
    let right = port.checked_add(1).filter(|first| *first <= ports.1);
    let other = |protos| PortBox { protos, ports };
    let same = |ports| PortBox {
        protos: (proto, proto),
        ports,
    };
    [
        below.map(|last| other((protos.0, last))),
        above.map(|first| other((first, protos.1))),
        left.map(|last| same((ports.0, last))),
        right.map(|first| same((first, ports.1))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(proto: Option<u8>, ports: Option<(u16, u16)>) -> PortRegion {
        PortRegion {
            proto: proto.map(Protocol),
            ports,
        }
    }

    fn part(class: Option<Class>, proto: (u8, u8), ports: (u16, u16)) -> (Option<Class>, PortBox) {
        let protos = proto;
        (class, PortBox { protos, ports })
    }

    #[test]
    fn what_no_region_names_is_the_rest_of_the_protocols() {
        let regions = Regions::new(vec![
            region(None, None),
            region(Some(0), None),
            region(Some(6), Some((0, 79))),
            region(Some(6), Some((80, u16::MAX))),
            region(Some(255), None),
        ]);
        assert_eq!(regions.gaps(), [(1, 5), (7, 254)]);
        assert_eq!(regions.holding(Protocol::TCP, 80), Some(3));
        assert_eq!(regions.holding(Protocol::UDP, 80), Some(0));
        assert_eq!(regions.holding(Protocol(0), 80), Some(1));
        let whole = Regions::new(vec![region(None, None)]);
        assert_eq!(whole.gaps(), [(0, 255)]);
    }

    #[test]
    fn a_layout_keeps_what_differs_and_merges_neighbours() {
        let (deny, watch) = (Some(Class::Deny), Some(Class::Watch));
        let layout = Layout::of(vec![
            part(watch, (6, 6), (0, 24)),
            part(deny, (6, 6), (25, 30)),
            part(deny, (6, 6), (31, 40)),
            part(watch, (6, 6), (41, u16::MAX)),
        ]);
        let (class, ports) = part(deny, (6, 6), (25, 40));
        assert_eq!(
            (layout.base, layout.boxes),
            (watch, vec![(class.unwrap(), ports)])
        );
        let one = Layout::of(vec![
            part(deny, (0, 5), ALL_PORTS),
            part(deny, (6, 255), ALL_PORTS),
        ]);
        assert_eq!((one.base, one.boxes.len()), (deny, 0));
        let none = Layout::of(vec![
            part(None, (0, 5), ALL_PORTS),
            part(watch, (6, 255), ALL_PORTS),
        ]);
        assert_eq!((none.base, none.boxes.len()), (None, 1));
    }

    #[test]
    fn a_port_is_cut_out_of_a_part() {
        let whole = PortBox {
            protos: (0, 255),
            ports: ALL_PORTS,
        };
        let points = [(6, 443), (6, 0), (255, u16::MAX)];
        let parts = without(whole, &points);
        for proto in [0, 5, 6, 7, 254, 255] {
            for port in [0, 1, 442, 443, 444, u16::MAX] {
                let holds = |part: &&PortBox| {
                    (part.protos.0..=part.protos.1).contains(&proto)
                        && (part.ports.0..=part.ports.1).contains(&port)
                };
                let expect = usize::from(!points.contains(&(proto, port)));
                assert_eq!(parts.iter().filter(holds).count(), expect, "{proto} {port}");
            }
        }
    }
}
