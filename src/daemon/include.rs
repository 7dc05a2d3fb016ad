//! Mode include: the admin's table is filled, watched, and told about; never made or mended.

use super::{core::Core, start};
use crate::{
    nft::{Included, Kernel, NftError},
    prefix::Family,
    ruleset::TableFamily,
    snapshot::SetName,
};

/// The turn of the health timer in mode include; `None` in mode own. `changed`: exceptions differ.
pub(super) fn health(core: &mut Core, changed: bool) -> Option<Result<(), NftError>> {
    core.kernel.included()?;
    let result = match core.kernel.reloaded() {
        // The sets hold what was loaded at boot; there is nothing better yet.
        Ok(_) if core.inherited => Ok(()),
        Ok(true) => {
            core.heals += 1;
            let done = core.install();
            tracing::warn!(
                "the table or a set of it was made again or changed by somebody else: its sets are filled"
            );
            done
        }
        Ok(false) if changed => core.sync(),
        Ok(false) if core.broken.is_some() => core.install(),
        Ok(false) => Ok(()),
        Err(e) => Err(e),
    };
    tell(core);
    Some(result)
}

/// Logs what is not enforced or not attributed, each once until it changes.
pub(super) fn tell(core: &mut Core) {
    let problems = problems(core);
    start::warn_of_news(problems, &mut core.told);
}

/// What is wrong with the admin's table, each in words; empty in mode own.
pub(super) fn problems(core: &Core) -> Vec<String> {
    let Some(seen) = core.kernel.included() else {
        return Vec::new();
    };
    if seen.handle.is_none() {
        return vec![format!(
            "table {} does not exist: nothing is enforced until it is loaded",
            seen.table
        )];
    }
    let mut all = seen.problems.clone();
    all.extend(seen.missing(&core.path.view.current().sets));
    if !seen.asks {
        all.push(format!(
            "enforces only: no rule of table {} queues to {}, so nothing is attributed and nothing is alerted",
            seen.table, core.kernel.options().queue_first
        ));
    }
    all
}

/// True when the rules let resolvers pass at their ports: in an admin's table, where the files that it
/// includes have the sets for that.
pub(super) fn has_resolver_rule(kernel: &Kernel) -> bool {
    let Some(seen) = kernel.included() else {
        return true;
    };
    let table = kernel.options().include.unwrap_or(TableFamily::Inet);
    let mut families = [Family::V4, Family::V6].into_iter();
    families.all(|family| {
        let name = SetName::Resolvers { family };
        !table.sees(family) || seen.sets.contains_key(&name)
    })
}

/// What a log and status say of the sets.
pub(super) fn sets(seen: &Included) -> Vec<String> {
    seen.sets.keys().map(ToString::to_string).collect()
}
