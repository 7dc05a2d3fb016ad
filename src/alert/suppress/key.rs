//! Who an alert is about, for telling repeats from news.

use std::{net::IpAddr, sync::Arc};

use crate::{
    alert::Alert,
    attribution::Source,
    feed::{Action, Direction, Indicator},
};

/// What makes two alerts the same: who, which indicator, which way, which verdict, by which policy.
/// Not the ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) origin: Origin,
    pub(super) indicator: Indicator,
}

/// What makes two alerts parts of one scan: the same without the indicator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    who: Who,
    /// Source address, where that is who sent it.
    addr: Option<IpAddr>,
    direction: Direction,
    action: Action,
    policy: Option<Arc<str>>,
}

/// The source, by the best identity that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// A process: the pid alone may be used again.
    Process { pid: u32, start: u64 },
    /// What a process belongs to.
    Owner(Box<Owner>),
    /// A LAN client.
    Client(String),
    /// Nobody was found; the address must do.
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    uid: Option<u32>,
    exe: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
}

impl Key {
    /// The key of `alert`.
    ///
    /// The source address belongs to it when the flow comes from outside (the attribution then
    /// names who receives) or no process or workload is known: one router's MAC address may stand
    /// for many senders.
    pub(super) fn of(alert: &Alert) -> Self {
        let who = Who::of(&alert.source);
        let by_addr =
            alert.direction == Direction::Ingress || matches!(who, Who::Client(_) | Who::Nobody);
        let origin = Origin {
            who,
            addr: by_addr.then_some(alert.flow.src),
            direction: alert.direction,
            action: alert.action,
            policy: alert.policy.clone(),
        };
        Self {
            origin,
            indicator: alert.indicator,
        }
    }

    /// The same whatever address it came from: what makes alerts parts of one flood.
    pub(super) fn of_any_source(&self) -> Self {
        let mut key = self.clone();
        key.origin.addr = None;
        key
    }
}

impl Who {
    fn of(source: &Source) -> Self {
        if let (Some(pid), Some(start)) = (source.pid, source.start) {
            return Self::Process { pid, start };
        }
        let workload = source.exe.is_some()
            || source.unit.is_some()
            || source.container.is_some()
            || source.pod.is_some();
        if source.uid.is_some() || workload {
            return Self::Owner(Box::new(Owner {
                uid: source.uid,
                exe: source.exe.clone(),
                unit: source.unit.clone(),
                container: source.container.clone(),
                pod: source.pod.clone(),
                namespace: source.namespace.clone(),
            }));
        }
        match &source.mac {
            Some(mac) => Self::Client(mac.clone()),
            None => Self::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{alert::example, packet::Transport};

    #[test]
    fn what_makes_a_difference() {
        let base = example::alert();
        let differs = |change: fn(&mut Alert)| {
            let mut other = base.clone();
            change(&mut other);
            Key::of(&base) != Key::of(&other)
        };
        assert!(differs(|a| a.action = Action::Alert));
        assert!(differs(|a| a.policy = Some("default.deny".into())));
        assert!(differs(|a| a.direction = Direction::Ingress));
        assert!(differs(|a| a.indicator = "10.48.0.0/16".parse().unwrap()));
        assert!(differs(|a| a.source.pid = Some(99)));
        assert!(differs(|a| a.source.start = Some(99)), "a pid used again");
        assert!(!differs(|a| a.flow.src = "10.0.0.2".parse().unwrap()));
        assert!(!differs(|a| a.flow.transport = Transport::None));

        let mut lan = base.clone();
        lan.source = Source {
            mac: Some("00:00:5e:00:53:01".into()),
            ..Source::default()
        };
        let mut other = lan.clone();
        other.flow.src = "10.0.0.2".parse().unwrap();
        assert_ne!(
            Key::of(&lan),
            Key::of(&other),
            "two hosts behind one router"
        );
        other = base.clone();
        other.source.start = None;
        assert_ne!(Key::of(&base), Key::of(&other));
        other.source.unit = Some("ssh.service".into());
        let mut third = other.clone();
        third.source.pid = Some(7);
        assert_eq!(
            Key::of(&other),
            Key::of(&third),
            "a pid without a start time is no identity"
        );
    }
}
