//! The verdict on one flow with its source: matched first, then attributed, then decided again.

use std::net::IpAddr;

use crate::{
    attribution::Source,
    config::Hook,
    feed::{Action, Direction},
    packet::Flow,
    policy::{Decision, Endpoint, decide_toward},
    snapshot::Index,
};

/// Behind what is missing of a source when the verdict hangs on it.
const UNKNOWN: &str = "policies ask for what is not known of the source; on-daemon-down decides";

/// What is said of a flow before its source is known: about its far end, and of a forwarded one about
/// both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct First {
    out: Option<Decision>,
    back: Option<Decision>,
}

impl First {
    /// What the index says whoever it is; `None` when nothing lists the flow.
    pub(super) fn of(index: &Index, flow: &Flow, hook: Hook) -> Option<Self> {
        let anybody = &index.regime().anybody;
        let ask = |direction| decide_toward(index, flow, direction, anybody);
        let first = match hook {
            Hook::Output => Self {
                out: ask(Direction::Egress),
                back: None,
            },
            Hook::Input => Self {
                out: None,
                back: ask(Direction::Ingress),
            },
            Hook::Forward => Self {
                out: ask(Direction::Egress),
                back: ask(Direction::Ingress),
            },
        };
        (first != Self::default()).then_some(first)
    }

    /// The one that counts.
    pub(super) fn leading(&self) -> Option<&Decision> {
        match (&self.out, &self.back) {
            (Some(out), Some(back)) if back.outranks(out) => Some(back),
            (out, back) => out.as_ref().or(back.as_ref()),
        }
    }

    /// What is left when each end that leads and is not due is left out; `None` when nothing is.
    ///
    /// `is_due` is asked with the listed address.
    pub(super) fn due(
        mut self,
        flow: &Flow,
        mut is_due: impl FnMut(&Decision, IpAddr) -> bool,
    ) -> Option<Self> {
        while let Some(leading) = self.leading() {
            let direction = leading.direction;
            let far = match direction {
                Direction::Egress => flow.dst,
                Direction::Ingress => flow.src,
            };
            if is_due(leading, far) {
                return Some(self);
            }
            match direction {
                Direction::Egress => self.out = None,
                Direction::Ingress => self.back = None,
            }
        }
        None
    }

    /// It is denied, for sure or as long as the source is not known.
    pub(super) fn denies(&self) -> bool {
        self.leading().map(Decision::action) == Some(Action::Deny)
    }

    /// Whoever it is, it passes and there is nothing to say.
    pub(super) fn is_quiet(&self) -> bool {
        let quiet = self.leading().is_some_and(|decision| decision.is_quiet);
        quiet && !self.depends()
    }

    /// The verdict hangs on who it is.
    pub(super) fn depends(&self) -> bool {
        let mut both = self.out.iter().chain(&self.back);
        !self.leading().is_some_and(is_settled) && both.any(|decision| decision.depends)
    }
}

/// A verdict and whom it is about.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) decision: Decision,
    pub(super) source: Source,
}

/// Decides about a flow whose source `attribute` finds: the sender (egress), the receiver (ingress).
///
/// Of a forwarded flow whose both ends are listed the second is looked up only where it counts.
pub(super) fn judge(
    index: &Index,
    flow: &Flow,
    first: &First,
    mut attribute: impl FnMut(Direction) -> Source,
) -> Option<Judged> {
    let leading = first.leading()?;
    let mut known = with_source(index, flow, leading, attribute(leading.direction));
    let other = match leading.direction {
        Direction::Egress => &first.back,
        Direction::Ingress => &first.out,
    };
    if let Some(other) = other {
        let mut other = Judged {
            decision: other.clone(),
            source: Source::default(),
        };
        let may_deny = other.decision.depends && !is_settled(&known.decision);
        if may_deny || other.decision.outranks(&known.decision) {
            let source = attribute(other.decision.direction);
            other = with_source(index, flow, &other.decision, source);
        }
        if other.decision.outranks(&known.decision) {
            known = other;
        }
    }
    annotate(&mut known);
    Some(known)
}

/// Denied, whoever it is at the other end.
fn is_settled(decision: &Decision) -> bool {
    decision.action == Action::Deny && !decision.depends
}

/// A decision that does not hang on the source, with the source that was found or not looked up.
pub(super) fn annotated(decision: Decision, source: Source) -> Judged {
    let mut judged = Judged { decision, source };
    annotate(&mut judged);
    judged
}

fn with_source(index: &Index, flow: &Flow, first: &Decision, source: Source) -> Judged {
    let regime = index.regime();
    let again = (!regime.policies.is_empty()).then(|| {
        let endpoint = Endpoint::of(&source, regime.host());
        decide_toward(index, flow, first.direction, &endpoint)
    });
    Judged {
        decision: again.flatten().unwrap_or_else(|| first.clone()),
        source,
    }
}

/// Adds to the cause what policies have to say.
fn annotate(judged: &mut Judged) {
    let Judged { decision, source } = judged;
    let unknown = decision.depends.then(|| UNKNOWN.to_owned());
    let logged = decision.logged_by.as_ref();
    let logged = logged.map(|policy| format!("logged by {policy}"));
    for note in [unknown, decision.staged.clone(), logged]
        .into_iter()
        .flatten()
    {
        source.cause = Some(match source.cause.take() {
            Some(cause) => format!("{cause}; {note}"),
            None => note,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::OnDaemonDown,
        daemon::policed::{Rules, flow, policed},
        policy::RuleAction,
    };

    fn source(user: &str) -> Source {
        Source {
            user: Some(user.to_owned()),
            is_complete: true,
            ..Source::default()
        }
    }

    /// Judges a flow to a listed address of which `source` is found.
    fn judged(rules: &Rules<'_>, hook: Hook, source: &Source) -> (Judged, Vec<Direction>) {
        let snapshot = policed(rules);
        let first = First::of(&snapshot.index, &flow(), hook).unwrap();
        let mut asked = Vec::new();
        let judged = judge(&snapshot.index, &flow(), &first, |direction| {
            asked.push(direction);
            source.clone()
        });
        (judged.unwrap(), asked)
    }

    #[test]
    fn the_source_decides_where_a_policy_asks_for_it() {
        let rules = Rules::denying("user == 'red'");
        let (red, _) = judged(&rules, Hook::Output, &source("red"));
        assert_eq!(red.decision.action(), Action::Deny);
        assert_eq!(red.decision.policy.as_deref(), Some("default.p"));
        assert_eq!(red.source.cause, None);
        let (blue, _) = judged(&rules, Hook::Output, &source("blue"));
        assert_eq!(blue.decision.action(), Action::Alert);
        assert!(!blue.decision.depends);
    }

    #[test]
    fn what_is_not_known_is_left_to_on_daemon_down_and_told() {
        for (down, action) in [
            (OnDaemonDown::Allow, Action::Alert),
            (OnDaemonDown::Deny, Action::Deny),
        ] {
            let rules = Rules {
                on_daemon_down: down,
                ..Rules::denying("user == 'red'")
            };
            let lost = Source {
                cause: Some("timeout after 50ms".into()),
                ..Source::default()
            };
            let (judged, _) = judged(&rules, Hook::Output, &lost);
            assert!(judged.decision.depends && judged.decision.action() == action);
            let cause = judged.source.cause.unwrap();
            assert_eq!(cause, format!("timeout after 50ms; {UNKNOWN}"));
            // What is known is enough, even if not all is.
            let partial = Source {
                is_complete: false,
                ..source("red")
            };
            let (judged, _) = self::judged(&rules, Hook::Output, &partial);
            assert_eq!(judged.decision.action(), Action::Deny);
            assert!(!judged.decision.depends && judged.source.cause.is_none());
        }
    }

    #[test]
    fn staged_policies_and_logs_are_told_and_change_nothing() {
        let rules = Rules {
            is_staged: true,
            ..Rules::denying("user == 'red'")
        };
        let (red, _) = judged(&rules, Hook::Output, &source("red"));
        assert_eq!(red.decision.action(), Action::Alert);
        assert_eq!(
            red.source.cause.as_deref(),
            Some("staged default.p would deny")
        );
        let (blue, _) = judged(&rules, Hook::Output, &source("blue"));
        assert_eq!(blue.source.cause, None);
        let passes = Rules {
            is_staged: true,
            action: RuleAction::Pass,
            ..Rules::denying("user == 'red'")
        };
        let (red, _) = judged(&passes, Hook::Output, &source("red"));
        assert_eq!(
            red.source.cause.as_deref(),
            Some("staged default.p would pass it to the next tier")
        );
        let logs = Rules {
            action: RuleAction::Log,
            ..Rules::denying("user == 'red'")
        };
        let (red, _) = judged(&logs, Hook::Output, &source("red"));
        assert_eq!(red.decision.action(), Action::Alert);
        assert_eq!(red.source.cause.as_deref(), Some("logged by default.p"));
    }

    #[test]
    fn of_a_forwarded_flow_each_end_is_looked_up_once_where_it_counts() {
        // Both ends are listed; only what goes out is asked for its source.
        let rules = Rules {
            lists_both: true,
            ..Rules::denying("user == 'red'")
        };
        let (red, asked) = judged(&rules, Hook::Forward, &source("red"));
        assert_eq!(red.decision.action(), Action::Deny);
        assert_eq!(red.decision.direction, Direction::Egress);
        assert_eq!(asked, [Direction::Egress]);
        let (blue, asked) = judged(&rules, Hook::Forward, &source("blue"));
        assert_eq!(blue.decision.action(), Action::Alert);
        assert_eq!(asked, [Direction::Egress]);
        // In both directions.
        let both = Rules {
            is_ingress_too: true,
            ..rules
        };
        let (blue, asked) = judged(&both, Hook::Forward, &source("blue"));
        assert_eq!(blue.decision.action(), Action::Alert);
        assert_eq!(asked, [Direction::Egress, Direction::Ingress]);
    }

    #[test]
    fn what_hangs_on_the_source_depends_and_what_is_denied_to_all_does_not() {
        let depends = |selector: &str| {
            let snapshot = policed(&Rules::denying(selector));
            let first = First::of(&snapshot.index, &flow(), Hook::Output).unwrap();
            first.depends()
        };
        assert!(depends("user == 'red'"));
        assert!(!depends("all()"));
        assert!(!depends("role == 'gateway'"), "a label of the host");
    }
}
