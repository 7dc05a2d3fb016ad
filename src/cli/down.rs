//! `feedgate down`: through the daemon when it runs, else straight in the kernel.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Failure, ask, check};
use crate::{
    config::{Config, Mode},
    conntrack::Conntrack,
    control::{self, ClientError, Request},
    nft::{Kernel, NftError},
    ruleset::Options,
};

pub(super) fn down(file: &Path) -> Result<(), Failure> {
    let config = check::read(file)?;
    let table = &config.nftables.table;
    if config.nftables.mode == Mode::Include {
        return empty(&config);
    }
    match control::call(&config.daemon.control_socket, &Request::Down) {
        Ok(_) => println!("table inet {table} is removed, the daemon stops"),
        Err(ClientError::NotRunning { .. }) => {
            privileged()?;
            let removed =
                Kernel::open(Options::new(&config.nftables)).and_then(|kernel| kernel.remove());
            if removed.is_ok() {
                // No rule asks for the cut bit any more; a kernel without ctnetlink has none set.
                let until = Instant::now() + Duration::from_secs(5);
                let _ = Conntrack::open()
                    .and_then(|mut table| table.unmark_all(config.nftables.cut_mask, until));
            }
            match removed {
                Ok(true) => println!("table inet {table} is removed; no daemon was running"),
                Ok(false) => println!(
                    "nothing to do: there is no table inet {table}, and no daemon is running"
                ),
                Err(e @ NftError::Foreign { .. }) => return Err(Failure::failed(e)),
                Err(e) => {
                    return Err(Failure::failed(format!(
                        "{e}; `nft delete table inet {table}` removes it without feedgate"
                    )));
                }
            }
        }
        Err(e @ (ClientError::Broken { .. } | ClientError::Unanswered(_))) => {
            return Err(Failure::failed(format!(
                "{e}. While it lives, a table that it owns is refused to everybody else. If it hangs: \
                 `systemctl kill -s KILL feedgate && systemctl stop feedgate` (or kill -9), then \
                 `nft delete table inet {table}`"
            )));
        }
        Err(e) => return Err(ask::failure(e)),
    }
    Ok(())
}

/// Mode include: the table is the admin's, only its sets are emptied.
fn empty(config: &Config) -> Result<(), Failure> {
    let table = format!("{} {}", config.nftables.family, config.nftables.table);
    match control::call(&config.daemon.control_socket, &Request::Down) {
        Ok(_) => println!("the sets of table {table} are emptied, the daemon stops"),
        Err(ClientError::NotRunning { .. }) => {
            privileged()?;
            match Kernel::open(Options::new(&config.nftables)).and_then(|kernel| kernel.remove()) {
                Ok(true) => {
                    println!("the sets of table {table} are emptied; no daemon was running")
                }
                Ok(false) => {
                    println!("nothing to do: there is no table {table}, and no daemon is running")
                }
                Err(e) => return Err(Failure::failed(e)),
            }
        }
        Err(e) => return Err(ask::failure(e)),
    }
    Ok(())
}

fn privileged() -> Result<(), Failure> {
    let capability = caps::Capability::CAP_NET_ADMIN;
    if caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false) {
        return Ok(());
    }
    Err(Failure::permission(
        "CAP_NET_ADMIN is missing: run this as root",
    ))
}
