//! What becomes of a flow: a pure function of the index, the flow and the hook.

#[cfg(test)]
mod class_tests;
mod decide;
mod endpoint;
mod explain;
mod facts;
#[cfg(test)]
mod facts_tests;
mod model;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod naive_tests;
mod policies;
#[cfg(test)]
mod policies_tests;
mod regions;
mod selector;
#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tree_tests;
mod walk;

pub use decide::{Decision, decide, decide_toward, stronger};
pub use endpoint::{Endpoint, RESERVED};
pub use explain::{Finding, Step, Truth};
pub use model::{
    DEFAULT_TIER, DEFAULT_TIER_ORDER, Entity, Labels, NetworkSet, Order, Policy, Rule, RuleAction,
    Tier,
};
pub use policies::{Fact, Policies, PortRegion, Question, Reach, Ruling};
pub use selector::{MAX_KEY, NAMESPACE, Selector, SelectorError};
