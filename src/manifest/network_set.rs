//! `spec` of a GlobalNetworkSet.

use super::{
    NetworkSetSpec,
    cursor::Table,
    log::{Log, Problem},
    scalar,
    tree::short,
};

pub(super) const FIELDS: [&str; 2] = ["nets", "allowedEgressDomains"];

pub(super) fn read(log: &mut Log, root: &Table<'_, '_>) -> NetworkSetSpec {
    let Some(spec) = root.table(log, "spec", &FIELDS) else {
        return NetworkSetSpec::default();
    };
    let domains = spec.list(log, "allowedEgressDomains", |node| {
        let name = scalar::text(node)?;
        if is_domain(name) {
            Ok(name.to_owned())
        } else {
            let problem = Problem::new(format!("{} is not a domain name", short(name)));
            Err(problem.help("write a name such as example.com or *.example.com"))
        }
    });
    if spec.has("allowedEgressDomains") {
        let problem = Problem::new("kept and shown, but not matched");
        let problem = problem.help("feedgate matches addresses only: add nets for them");
        spec.warning(log, "allowedEgressDomains", problem);
    }
    NetworkSetSpec {
        nets: spec.prefixes(log, "nets"),
        domains,
    }
}

/// A DNS name, with `*` for labels.
fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_*".contains(&b);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
    name.len() <= 253 && name.split('.').all(label)
}
