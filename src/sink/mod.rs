//! (sink)
