//! What becomes of a flow: a pure function of the index, the flow and the hook.

mod decide;
mod endpoint;
mod facts;
mod model;
mod policies;
mod regions;
mod selector;
mod walk;

pub use decide::{Decision, decide, decide_toward, stronger};
pub use endpoint::{Endpoint, RESERVED};
pub use model::{
    DEFAULT_TIER, DEFAULT_TIER_ORDER, Entity, Labels, NetworkSet, Order, Policy, Rule, RuleAction,
    Tier,
};
pub use policies::{Fact, Policies, PortRegion, Question, Reach, Ruling};
pub use selector::{Selector, SelectorError};
