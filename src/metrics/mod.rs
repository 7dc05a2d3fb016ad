//! Serves short texts over HTTP, for Prometheus and health checks: GET and HEAD, one answer a
//! connection, bounded in connections, size and time. Does not know what it serves.
//!
//! hyper does the protocol: it is in the tree by reqwest, fuzzed and kept, and has limits of its own
//! for heads and for slow ones. What it has not is a limit on connections and on a whole answer.

mod seats;
mod server;

pub use server::{Asked, MetricsError, Page, Server};
