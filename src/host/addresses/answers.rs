//! What each part of the look at the host found last: it holds while that part cannot be looked at.
//!
//! A daemon that is out of file descriptors, say, must not take the gateway for a stranger.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{Exception, LifelineError, Lifelines, Roots, resolver_files};
use crate::snapshot::RESOLVER;

/// Exceptions that one part keeps while it cannot be looked at.
const MOST: usize = 65_536;

/// What is looked at by itself, and may fail by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Interfaces,
    Routes,
    /// This file of resolvers.
    Resolvers(PathBuf),
}

impl Part {
    /// The parts that an exception may be of, by its reason.
    fn of(why: &str, roots: &Roots) -> Vec<Self> {
        let what = why.split_once(" on ").map_or(why, |(what, _)| what);
        match what {
            "own address" | "broadcast address" | "peer" => vec![Self::Interfaces],
            "default gateway" | "gateway" => vec![Self::Routes],
            RESOLVER => resolver_files(roots).map(Self::Resolvers).into(),
            _ => Vec::new(),
        }
    }
}

/// The last answers, by part.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<Part, BTreeSet<Exception>>);

impl Answers {
    /// Answers of an earlier run.
    pub fn known(exceptions: Vec<Exception>, roots: &Roots) -> Self {
        let mut answers = Self::default();
        for exception in exceptions {
            for part in Part::of(&exception.why, roots) {
                let part = answers.0.entry(part).or_default();
                part.insert(exception.clone());
            }
        }
        answers
    }

    /// What holds after this look: what it found, and what held before if it failed.
    pub(super) fn take(&mut self, part: Part, look: Lifelines) -> Lifelines {
        let mut holds: BTreeSet<Exception> = look.exceptions.into_iter().collect();
        if look.problems.iter().any(LifelineError::is_of_a_failure) {
            let before = self.0.remove(&part).unwrap_or_default();
            let room = MOST.saturating_sub(holds.len());
            holds.extend(before.into_iter().take(room));
        }
        let exceptions = holds.iter().cloned().collect();
        self.0.insert(part, holds);
        Lifelines {
            exceptions,
            problems: look.problems,
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use proptest::prelude::*;

    use super::*;

    fn gateway(number: u8) -> Exception {
        super::super::host([192, 0, 2, number].into(), "gateway on eth0".to_owned())
    }

    fn look(found: &BTreeSet<u8>, failed: bool) -> Lifelines {
        let cause = Errno::EMFILE;
        Lifelines {
            exceptions: found.iter().copied().map(gateway).collect(),
            problems: failed
                .then_some(LifelineError::Routes { cause })
                .into_iter()
                .collect(),
        }
    }

    proptest! {
        /// A look that fails takes nothing away, and one that succeeds replaces all.
        #[test]
        fn only_a_look_that_succeeds_takes_away(
            looks in prop::collection::vec((prop::collection::btree_set(any::<u8>(), 0..4), any::<bool>()), 1..20),
        ) {
            let mut answers = Answers::default();
            let mut expect = BTreeSet::new();
            for (found, failed) in looks {
                let holds = answers.take(Part::Routes, look(&found, failed));
                if !failed {
                    expect.clear();
                }
                expect.extend(found.into_iter().map(gateway));
                prop_assert_eq!(&holds.exceptions, &expect.iter().cloned().collect::<Vec<_>>());
                prop_assert_eq!(holds.problems.len(), usize::from(failed));
            }
        }
    }

    #[test]
    fn parts_fail_by_themselves() {
        let mut answers = Answers::default();
        let file = || Part::Resolvers("/etc/resolv.conf".into());
        answers.take(file(), look(&BTreeSet::from([1]), false));
        answers.take(Part::Routes, look(&BTreeSet::from([2]), false));
        let holds = answers.take(Part::Routes, look(&BTreeSet::new(), true));
        assert_eq!(holds.exceptions, [gateway(2)]);
        let holds = answers.take(file(), look(&BTreeSet::new(), false));
        assert!(holds.exceptions.is_empty());
    }

    #[test]
    fn a_first_look_that_fails_keeps_what_an_earlier_run_knew() {
        let mut answers = Answers::known(vec![gateway(1)], &Roots::default());
        let holds = answers.take(Part::Routes, look(&BTreeSet::new(), true));
        assert_eq!(holds.exceptions, [gateway(1)]);
        let holds = answers.take(Part::Routes, look(&BTreeSet::from([2]), false));
        assert_eq!(holds.exceptions, [gateway(2)]);
    }

    #[test]
    fn each_exception_of_the_host_is_of_a_part() {
        let roots = Roots::default();
        let found = super::super::own(&roots, &mut Answers::default());
        for exception in found.exceptions {
            let why = &exception.why;
            assert!(!Part::of(why, &roots).is_empty(), "{why}");
        }
    }
}
