//! What the kernel's nf_tables knows: each thing is sent to be checked, and never applied.

use std::ffi::CStr;

use nftnl::{Chain, ProtoFamily, Rule, Table};
use nix::errno::Errno;

use super::{
    NftError, QueueKind, expression,
    message::{RawMessage, SetMessage},
    transaction::{Netlink, Transaction},
};
use crate::{
    feed::Scope,
    prefix::Family,
    ruleset::{self, Set},
    snapshot::{Class, Kind, SetName},
};

/// The table of which everything here is asked.
const TABLE: &CStr = c"feedgate-probe";

/// What kernels differ in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// A table can be its program's alone (5.12).
    pub owner: bool,
    /// And outlive it (6.9).
    pub persist: bool,
    /// Sets of concatenated ranges (5.6, pipapo): entries with ports.
    pub concatenated_ranges: bool,
}

/// Asks for each of them.
pub(super) fn abilities(netlink: &Netlink) -> Result<Abilities, NftError> {
    Ok(Abilities {
        owner: table(netlink, &RawMessage::fleeting_table(TABLE), "owned tables")?,
        persist: table(
            netlink,
            &RawMessage::owned_table(TABLE),
            "tables with owner and persist",
        )?,
        concatenated_ranges: concatenated_ranges(netlink)?,
    })
}

/// Lets the kernel check, and not apply, a rule with each kind of queue.
pub(super) fn queue(netlink: &Netlink, first: u16) -> Result<QueueKind, NftError> {
    for kind in [QueueKind::Native, QueueKind::Compat] {
        let mut transaction = Transaction::new();
        transaction.add(&RawMessage::table(TABLE), "probe table");
        let table = Table::new(TABLE, ProtoFamily::Inet);
        let chain = Chain::new(c"probe", &table);
        transaction.add(&chain, "probe chain");
        let mut rule = Rule::new(&chain);
        for expr in expression::compile(&ruleset::Statement::Queue { first, count: 1 }, kind) {
            rule.add_expr(&expr);
        }
        transaction.add(&rule, "probe rule");
        if is_known(transaction, netlink, kind.as_str())? {
            return Ok(kind);
        }
    }
    Ok(QueueKind::Missing)
}

fn table(netlink: &Netlink, table: &RawMessage, what: &str) -> Result<bool, NftError> {
    let mut transaction = Transaction::new();
    transaction.add(table, format!("probe of {what}"));
    is_known(transaction, netlink, what)
}

fn concatenated_ranges(netlink: &Netlink) -> Result<bool, NftError> {
    let what = "sets of concatenated ranges";
    let name = SetName::Class {
        class: Class::Deny,
        scope: Scope::Both,
        kind: Kind::Flows,
        family: Family::V4,
    };
    let set = SetMessage::new(TABLE, Set::Addresses(name), 1)
        .ok_or_else(|| NftError::Build(TABLE.to_string_lossy().into_owned()))?;
    let mut transaction = Transaction::new();
    transaction.add(&RawMessage::table(TABLE), "probe table");
    transaction.add(&set, "probe set");
    is_known(transaction, netlink, what)
}

/// False when the kernel refuses for another reason than permission.
fn is_known(transaction: Transaction, netlink: &Netlink, what: &str) -> Result<bool, NftError> {
    match transaction.check(netlink) {
        Ok(()) => Ok(true),
        Err(NftError::Refused {
            what: message,
            errno,
            ..
        }) if errno != Errno::EPERM => {
            tracing::debug!("{what}: not available: {message}: {errno}");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}
