//! (fetch)
