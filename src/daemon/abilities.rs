//! What this kernel gives: found out at the start, logged in one line, and shown in the status.
//!
//! Kernels are patched and configured by whoever builds them, so each thing is tried; the version only
//! names the kernel. docs/kernels.md has what Debian's give.

use std::fmt;

use serde::Serialize;

use crate::{
    attribution,
    nft::{Kernel, QueueKind},
    queue::Queue,
};

/// What kernels differ in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// As `uname -r` has it.
    pub release: String,
    /// How packets get to the daemon: `native`, `compat` or `none`.
    pub queue: &'static str,
    /// Tables that are their program's alone.
    pub owner_flag: bool,
    /// And outlive it. The daemon uses both or none.
    pub persist: bool,
    /// Sockets come with the ID of their control group; `None`: it could not be found out.
    pub cgroup_id: Option<bool>,
    /// The kernel lists raw sockets, likewise.
    pub raw_diag: Option<bool>,
    /// Packets come with their connection.
    pub conntrack_glue: bool,
    /// Sets of concatenated ranges, which entries with ports need.
    pub pipapo: bool,
}

impl Abilities {
    /// Asks the kernel.
    pub(super) fn find(kernel: &Kernel, queues: &[Queue]) -> Self {
        let nft = kernel.abilities();
        let sockets = attribution::Abilities::find().unwrap_or_default();
        let release = nix::sys::utsname::uname().map_or_else(
            |_| "of unknown version".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Self {
            release,
            queue: match kernel.queue_kind() {
                QueueKind::Native => "native",
                QueueKind::Compat => "compat",
                QueueKind::Missing => "none",
            },
            owner_flag: nft.owner,
            persist: nft.persist,
            cgroup_id: sockets.cgroup_id,
            raw_diag: sockets.raw_sockets,
            conntrack_glue: queues.iter().all(Queue::is_tracked) && !queues.is_empty(),
            pipapo: nft.concatenated_ranges,
        }
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = [
            ("owner flag", Some(self.owner_flag)),
            ("persist", Some(self.persist)),
            ("cgroup id", self.cgroup_id),
            ("raw_diag", self.raw_diag),
            ("conntrack glue", Some(self.conntrack_glue)),
            ("pipapo", Some(self.pipapo)),
        ];
        write!(f, "kernel {}: ", self.release)?;
        match self.queue {
            "none" => f.write_str("no queue")?,
            kind => write!(f, "{kind} queue")?,
        }
        for (name, has) in rest {
            match has {
                Some(true) => write!(f, ", {name}")?,
                Some(false) => write!(f, ", no {name}")?,
                None => write!(f, ", {name} not known")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_all() {
        let found = Abilities {
            release: "6.1.0-40-amd64".into(),
            queue: "native",
            owner_flag: true,
            cgroup_id: Some(true),
            conntrack_glue: true,
            pipapo: true,
            ..Abilities::default()
        };
        assert_eq!(
            found.to_string(),
            "kernel 6.1.0-40-amd64: native queue, owner flag, no persist, cgroup id, raw_diag not known, \
             conntrack glue, pipapo"
        );
        let none = Abilities {
            queue: "none",
            ..found
        };
        assert!(none.to_string().contains(": no queue, "));
    }
}
