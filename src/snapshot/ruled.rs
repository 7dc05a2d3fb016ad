//! The class of every piece of the address space where there are policies.
//!
//! For each piece, direction and region of protocols and ports the answer over all endpoints decides:
//! all are denied: deny, which works without the daemon; some may be: deny or watch, as
//! `on-daemon-down` says; else watch where there is something to say, and else nothing.
//! The same law as [`crate::policy::decide`] for a packet; a test holds both together.

mod facts;

use std::collections::HashMap;

use super::{
    Class, FlowElement, Input, Options, PortElement,
    classes::{Family, Pools, protocols},
    index::Rules,
    regions::{Layout, without},
    sweep::{Marked, Piece, State, States, sweep},
};
use crate::{
    config::PrivateNetworks,
    feed::{Direction, Scope, bound_size},
    packet::Protocol,
    prefix::{Address, Range},
};
use facts::{Facts, Judge, Mark};

/// More ranges than this, for one direction and IP version, load for too long: 100,000 take 4 seconds,
/// 300,000 take 45 (Linux 6.18). The answer for each port is then left to the daemon.
pub(super) const MAX_FLOWS: usize = 100_000;
/// A single address denied at no more ports than this goes into a hash set, port by port.
const FEW_PORTS: u32 = 8;
const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// What is in each class, and how many ranges with ports were too many.
pub(super) fn pools<A: Address>(
    family: &Family<'_, A>,
    inputs: &[Input],
    options: &Options,
    rules: &Rules,
) -> (Pools<A>, usize) {
    let mut judge = Judge::new(inputs, options, rules);
    let bound = bound(family, inputs, &judge, rules.private);
    let items = items(family, inputs, options, &judge, &bound);
    let mut work = Work {
        judge: &mut judge,
        bound: &bound,
        layouts: Layouts::default(),
        answers: Vec::new(),
        pools: Pools::default(),
        flows: [Vec::new(), Vec::new()],
    };
    sweep(items, &mut States::default(), |states, piece| {
        work.take(states, piece);
    });
    work.finish()
}

/// An entry with a port at one of its addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BoundAt<A> {
    addr: A,
    proto: u8,
    port: u16,
    mark: u32,
}

/// Entries with a port, address by address, sorted.
fn bound<A: Address>(
    family: &Family<'_, A>,
    inputs: &[Input],
    judge: &Judge<'_>,
    private: PrivateNetworks,
) -> Vec<BoundAt<A>> {
    let mut list = Vec::new();
    for (feed, input) in inputs.iter().enumerate() {
        for item in input.data.parsed.items() {
            let (Some(port), Some(_)) = (item.port, bound_size(&item.prefix)) else {
                continue;
            };
            let Some(range) = A::bounds(&item.prefix) else {
                continue;
            };
            let action = input.action_now(item.score());
            let mut next = Some(range.first);
            while let Some(addr) = next {
                next = addr.next().filter(|next| *next <= range.last);
                let refused = !range.is_host() && family.reserved.contains(addr);
                if refused && private == PrivateNetworks::Refuse {
                    continue;
                }
                let mark = judge.entry(feed, action, !range.is_host());
                let at = |proto: &Protocol| BoundAt {
                    addr,
                    proto: proto.0,
                    port: port.port,
                    mark,
                };
                list.extend(protocols(&port).iter().map(at));
            }
        }
    }
    list.sort_unstable();
    list.dedup();
    list
}

/// Everything that bounds a piece.
fn items<A: Address>(
    family: &Family<'_, A>,
    inputs: &[Input],
    options: &Options,
    judge: &Judge<'_>,
    bound: &[BoundAt<A>],
) -> Vec<Marked<A>> {
    let mut items = Vec::new();
    for (feed, input) in inputs.iter().enumerate() {
        for item in input.data.parsed.items().filter(|item| item.port.is_none()) {
            let action = input.action_now(item.score());
            items.extend(A::bounds(&item.prefix).map(|range| Marked {
                range,
                mark: judge.entry(feed, action, !range.is_host()),
            }));
        }
    }
    for (number, set) in options.network_sets.iter().enumerate() {
        let mark = judge.number(Mark::Set(number));
        let ranges = set.nets.iter().filter_map(A::bounds);
        items.extend(ranges.map(|range| Marked { range, mark }));
    }
    for (number, net) in judge.nets.iter().enumerate() {
        let mark = judge.number(Mark::Net(number));
        items.extend(A::bounds(net).map(|range| Marked { range, mark }));
    }
    let spared = [
        (family.except, Mark::Exception),
        (family.special, Mark::Special),
        (family.found, Mark::Found),
        (family.reserved, Mark::Private),
    ];
    for (ranges, mark) in spared {
        let mark = judge.number(mark);
        for range in ranges.ranges() {
            // Merged ranges are no prefixes; what nests must be.
            items.extend(
                aligned(*range)
                    .into_iter()
                    .map(|range| Marked { range, mark }),
            );
        }
    }
    let mut last = None;
    for at in bound {
        if last.replace(at.addr) != Some(at.addr) {
            let (range, mark) = (Range::host(at.addr), judge.number(Mark::Bound));
            items.push(Marked { range, mark });
        }
    }
    items
}

/// Layouts by number.
#[derive(Default)]
struct Layouts {
    list: Vec<Layout>,
    numbers: HashMap<Layout, usize>,
}

impl Layouts {
    fn number(&mut self, layout: Layout) -> usize {
        let list = &mut self.list;
        *self.numbers.entry(layout).or_insert_with_key(|layout| {
            list.push(layout.clone());
            list.len() - 1
        })
    }

    fn base(&self, number: usize) -> Option<Class> {
        self.list.get(number)?.base
    }

    fn bases(&self, numbers: [usize; 2]) -> [Option<Class>; 2] {
        numbers.map(|number| self.base(number))
    }
}

/// What is known of a state, once it was asked about.
#[derive(Clone, Copy)]
struct Answer {
    /// Numbers of the layouts, by direction.
    layouts: [usize; 2],
    has_bound: bool,
}

struct Work<'a, 'b, A> {
    judge: &'a mut Judge<'b>,
    bound: &'a [BoundAt<A>],
    layouts: Layouts,
    /// By state.
    answers: Vec<Option<Answer>>,
    pools: Pools<A>,
    /// Address ranges with the number of a layout that has boxes, by direction, in order.
    flows: [Vec<(Range<A>, usize)>; 2],
}

impl<A: Address> Work<'_, '_, A> {
    fn take(&mut self, states: &States, piece: Piece<A>) {
        let answer = self.answer(states, piece.state, piece.range.first);
        let mut layouts = answer.layouts;
        if answer.has_bound {
            let facts = self.judge.facts(states.marks(piece.state));
            if !facts.is_excepted {
                layouts = self.at_ports(piece.range.first, &facts, layouts);
            }
        }
        let bases = self.layouts.bases(layouts);
        let is_host = piece.host.is_some_and(|around| {
            // Asked about only at addresses of its own, which may come later.
            let known = around.and_then(|state| *self.answers.get(state.number())?);
            known.is_none_or(|around| self.layouts.bases(around.layouts) != bases)
        });
        self.put(piece.range, bases, is_host);
        for (direction, (layout, flows)) in
            DIRECTIONS.iter().zip(layouts.iter().zip(&mut self.flows))
        {
            let boxes = self.layouts.list.get(*layout).map_or(&[][..], |l| &l.boxes);
            if boxes.is_empty() {
                continue;
            }
            if *direction == Direction::Egress && piece.range.is_host() && few(boxes) {
                for (class, at) in boxes {
                    let pool = self.pools.entry((*class, Scope::Out)).or_default();
                    pool.ports
                        .extend((at.ports.0..=at.ports.1).map(|port| PortElement {
                            addr: piece.range.first,
                            proto: at.protos.0,
                            port,
                        }));
                }
                continue;
            }
            match flows.last_mut() {
                Some((range, same))
                    if same == layout && range.last.next() == Some(piece.range.first) =>
                {
                    range.last = piece.range.last;
                }
                _ => flows.push((piece.range, *layout)),
            }
        }
    }

    fn answer(&mut self, states: &States, state: State, far: A) -> Answer {
        if let Some(Some(answer)) = self.answers.get(state.number()) {
            return *answer;
        }
        let facts = self.judge.facts(states.marks(state));
        let layouts = DIRECTIONS.map(|direction| {
            let parts = self.judge.parts(&facts, far.ip(), direction);
            self.layouts.number(Layout::of(parts))
        });
        let answer = Answer {
            layouts,
            has_bound: facts.has_bound,
        };
        if self.answers.len() <= state.number() {
            self.answers.resize(state.number() + 1, None);
        }
        if let Some(place) = self.answers.get_mut(state.number()) {
            *place = Some(answer);
        }
        answer
    }

    fn put(&mut self, range: Range<A>, bases: [Option<Class>; 2], is_host: bool) {
        let [egress, ingress] = bases;
        let scoped = match egress == ingress {
            true => [(egress, Scope::Both), (None, Scope::Both)],
            false => [(egress, Scope::Out), (ingress, Scope::In)],
        };
        for (class, scope) in scoped {
            let Some(class) = class else { continue };
            let pool = self.pools.entry((class, scope)).or_default();
            if is_host {
                pool.hosts.push(range);
            } else {
                pool.nets.push(range);
            }
        }
    }

    /// What entries with a port change at an address; gives its layouts.
    fn at_ports(&mut self, addr: A, facts: &Facts, layouts: [usize; 2]) -> [usize; 2] {
        let from = self.bound.partition_point(|at| at.addr < addr);
        let here = self.bound.get(from..).unwrap_or_default();
        let here: Vec<BoundAt<A>> = here
            .iter()
            .take_while(|at| at.addr == addr)
            .copied()
            .collect();
        let points: Vec<(u8, u16, Facts)> = here
            .chunk_by(|a, b| (a.proto, a.port) == (b.proto, b.port))
            .filter_map(|same| {
                let first = same.first()?;
                let marks = same.iter().map(|at| at.mark);
                Some((first.proto, first.port, self.judge.with(facts, marks)))
            })
            .collect();
        let mut stronger: Vec<(Class, Direction, u8, u16)> = Vec::new();
        let [out, back] = layouts;
        let out = self
            .bound_egress(addr, facts, &points, &mut stronger)
            .unwrap_or(out);
        let back = self
            .bound_ingress(addr, facts, &points, &mut stronger)
            .unwrap_or(back);
        for (class, direction, proto, port) in &stronger {
            let both = DIRECTIONS.map(|d| stronger.contains(&(*class, d, *proto, *port)));
            let scope = match direction {
                _ if both == [true, true] => Scope::Both,
                Direction::Egress => Scope::Out,
                Direction::Ingress => Scope::In,
            };
            let pool = self.pools.entry((*class, scope)).or_default();
            pool.ports.push(PortElement {
                addr,
                proto: *proto,
                port: *port,
            });
        }
        [out, back]
    }

    /// The port of the far end is the receiver's. Stronger classes at it are elements of their own; a
    /// weaker one is cut out of what holds around it.
    fn bound_egress(
        &mut self,
        addr: A,
        facts: &Facts,
        points: &[(u8, u16, Facts)],
        stronger: &mut Vec<(Class, Direction, u8, u16)>,
    ) -> Option<usize> {
        let direction = Direction::Egress;
        let whole = self.judge.classes(facts, addr.ip(), direction);
        let (mut cut, mut alone) = (Vec::new(), Vec::new());
        for (proto, port, facts) in points {
            let region = self
                .judge
                .regions(direction)
                .holding(Protocol(*proto), *port)?;
            let classes = self.judge.classes(facts, addr.ip(), direction);
            let here = classes.get(region).copied().flatten();
            let around = whole.get(region).copied().flatten();
            if strength(here) < strength(around) {
                cut.push((*proto, *port));
                alone.extend(here.map(|class| (class, direction, *proto, *port)));
            } else if here != around {
                stronger.extend(here.map(|class| (class, direction, *proto, *port)));
            }
        }
        if cut.is_empty() {
            return None;
        }
        stronger.extend(alone);
        let parts = self.judge.parts(facts, addr.ip(), direction);
        let parts = parts.into_iter().flat_map(|(class, part)| {
            let left = without(part, &cut);
            left.into_iter().map(move |part| (class, part))
        });
        Some(self.layouts.number(Layout::spelled(parts.collect())))
    }

    /// The port of the far end is the sender's, which the sets of receiver's ports do not tell. Where
    /// the class at it is not the same for all receiver's ports, or not as strong as around it, the
    /// daemon has to tell.
    fn bound_ingress(
        &mut self,
        addr: A,
        facts: &Facts,
        points: &[(u8, u16, Facts)],
        stronger: &mut Vec<(Class, Direction, u8, u16)>,
    ) -> Option<usize> {
        let direction = Direction::Ingress;
        let whole = self.judge.classes(facts, addr.ip(), direction);
        let mut mixed = whole.clone();
        for (proto, port, facts) in points {
            let classes = self.judge.classes(facts, addr.ip(), direction);
            let regions = self.judge.regions(direction);
            let of: Vec<usize> = (0..whole.len())
                .filter(|at| regions.is_of(*at, Protocol(*proto)))
                .collect();
            let pick = |list: &[Option<Class>]| -> Vec<Option<Class>> {
                of.iter()
                    .map(|at| list.get(*at).copied().flatten())
                    .collect()
            };
            let (here, around) = (pick(&classes), pick(&whole));
            if here == around {
                continue;
            }
            let first = here.first().copied().flatten();
            let class = match here.iter().all(|class| *class == first) {
                true => first,
                false if here.contains(&Some(Class::Deny)) => Some(self.judge.when_unknown()),
                false => Some(Class::Watch),
            };
            stronger.extend(class.map(|class| (class, direction, *proto, *port)));
            for ((at, here), around) in of.iter().zip(&here).zip(&around) {
                let spares = *around == Some(Class::Deny) && *here != *around;
                if spares && let Some(place) = mixed.get_mut(*at) {
                    *place = Some(self.judge.when_unknown());
                }
            }
        }
        if mixed == whole {
            return None;
        }
        let parts = self.judge.boxed(&mixed, direction);
        Some(self.layouts.number(Layout::of(parts)))
    }

    fn finish(mut self) -> (Pools<A>, usize) {
        let when_unknown = self.judge.when_unknown();
        let mut too_many = 0;
        for (scope, flows) in [Scope::Out, Scope::In].into_iter().zip(&self.flows) {
            let layout = |number: &usize| self.layouts.list.get(*number);
            let layouts = flows
                .iter()
                .filter_map(|(addr, number)| Some((*addr, layout(number)?)));
            let count: usize = layouts.clone().map(|(_, layout)| layout.boxes.len()).sum();
            if count > MAX_FLOWS {
                too_many += count;
                let all = self.pools.entry((when_unknown, scope)).or_default();
                let rest = layouts.filter(|(_, layout)| layout.base != Some(when_unknown));
                all.nets.extend(rest.map(|(addr, _)| addr));
                continue;
            }
            for (addr, layout) in layouts {
                for (class, at) in &layout.boxes {
                    let pool = self.pools.entry((*class, scope)).or_default();
                    pool.flows.push(FlowElement { addr, at: *at });
                }
            }
        }
        (self.pools, too_many)
    }
}

/// True when a hash set holds them port by port.
fn few(boxes: &[(Class, super::PortBox)]) -> bool {
    let ports = |at: &super::PortBox| u32::from(at.ports.1 - at.ports.0) + 1;
    boxes.iter().all(|(_, at)| at.protos.0 == at.protos.1)
        && boxes.iter().map(|(_, at)| ports(at)).sum::<u32>() <= FEW_PORTS
}

fn strength(class: Option<Class>) -> u8 {
    match class {
        None => 0,
        Some(Class::Watch) => 1,
        Some(Class::Deny) => 2,
    }
}

/// The prefixes that make up a range.
fn aligned<A: Address>(range: Range<A>) -> Vec<Range<A>> {
    let mut prefixes = Vec::new();
    let mut next = Some(range.first);
    while let Some(first) = next.filter(|first| *first <= range.last) {
        let fits = |len: &u8| first.masked(*len) == first && first.filled(*len) <= range.last;
        let last = (0..=A::BITS)
            .find(fits)
            .map_or(first, |len| first.filled(len));
        prefixes.push(Range { first, last });
        next = last.next();
    }
    prefixes
}
