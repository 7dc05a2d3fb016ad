//! What the daemon needs to know of its host.

pub mod addresses;
pub mod clock;
pub mod journal;
pub mod links;
pub mod modes;
pub mod transition;
pub mod wires;
