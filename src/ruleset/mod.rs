//! (ruleset)
