//! The verdict on one flow with its source: matched first, then attributed, then decided again.

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
