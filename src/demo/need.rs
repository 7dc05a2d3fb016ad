//! What the demo needs before it starts: privileges and tools.

use caps::{CapSet, Capability};

use super::DemoError;

/// Programs the demo runs, and the Debian packages that have them.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
];

pub(super) fn privileged() -> Result<(), DemoError> {
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];
    let missing = needed
        .iter()
        .filter(|&&cap| !caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DemoError::NotRoot {
        missing: missing.join(", "),
    })
}

pub(super) fn tools() -> Result<(), DemoError> {
    for (tool, package) in TOOLS {
        if !in_path(tool) {
            return Err(DemoError::Missing { tool, package });
        }
    }
    Ok(())
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}
