use std::{collections::BTreeMap, fs};

use super::{
    Resources,
    apply::{self, Plan},
    catalog::{Catalog, Item, Origin},
    delete, folder,
};
use crate::{
    config::{self, Config},
    daemon::engine::lock,
    manifest::{self, Id, Resource},
    resources::LastGoodTexts,
};

const TIER: &str =
    "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\nspec: {order: 1}\n";
const POLICY: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: t.p}\n\
                      spec: {tier: t, egress: [{action: Deny}]}\n";

fn feed(name: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalThreatFeed\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    )
}

fn set(name: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: {name}}}\n\
         spec: {{nets: [198.18.0.0/24]}}\n"
    )
}

fn read(texts: &[&str]) -> BTreeMap<Id, Resource> {
    let found = texts
        .iter()
        .flat_map(|text| manifest::parse(text).resources);
    found
        .map(|found| (found.resource.id(), found.resource))
        .collect()
}

fn plan(catalog: &Catalog, config: &Config, texts: &[&str]) -> Result<Plan, String> {
    apply::plan(catalog, config, read(texts))
}

fn with(texts: &[&str]) -> Catalog {
    let mut catalog = Catalog::default();
    for (id, resource) in read(texts) {
        catalog.applied.insert(id, Item::new(resource));
    }
    catalog
}

fn configured(name: &str) -> Config {
    Config {
        feeds: vec![config::Feed::new(name.parse().unwrap())],
        ..Config::default()
    }
}

/// Plans a deletion; gives how many go, or why none does.
fn deletes(catalog: &Catalog, words: &[&str]) -> Result<usize, String> {
    let targets = manifest::targets(words.iter().copied()).unwrap();
    delete::plan(catalog, &Config::default(), &targets).map(|(plan, missing)| {
        assert!(missing.is_empty(), "{missing:?}");
        plan.writes.len()
    })
}

#[test]
fn the_order_inside_one_apply_does_not_matter() {
    let config = Config::default();
    for texts in [[POLICY, TIER], [TIER, POLICY]] {
        let plan = plan(&Catalog::default(), &config, &texts).unwrap();
        assert!(plan.results.iter().all(|(_, result)| *result == "created"));
        assert!(plan.catalog.resolve(&config).problems.is_empty());
    }
    let refused = plan(&Catalog::default(), &config, &[POLICY]).err().unwrap();
    assert!(refused.contains("its tier t is not there"), "{refused}");
    let catalog = with(&[TIER]);
    assert_eq!(plan(&catalog, &config, &[POLICY]).unwrap().writes.len(), 1);
    assert_eq!(plan(&catalog, &config, &[TIER]).unwrap().writes.len(), 0);
}

#[test]
fn a_tier_goes_only_with_or_after_its_policies() {
    let catalog = with(&[TIER, POLICY]);
    let refused = deletes(&catalog, &["tier/t"]).unwrap_err();
    assert!(refused.contains("globalnetworkpolicy/t.p"), "{refused}");
    assert_eq!(deletes(&catalog, &["gnp/t.p"]), Ok(1));
    assert_eq!(deletes(&catalog, &["tier/t", "gnp/t.p"]), Ok(2));
    assert_eq!(deletes(&catalog, &["all"]), Ok(2));
}

#[test]
fn names_are_one_space_for_feeds_and_network_sets() {
    let config = configured("a");
    let refused = |catalog: &Catalog, text: &str| plan(catalog, &config, &[text]).err();
    let none = Catalog::default();
    assert!(refused(&none, &feed("a")).unwrap().contains("[[feed]]"));
    assert!(
        refused(&none, &set("a"))
            .unwrap()
            .contains("a feed is named a")
    );
    assert!(refused(&with(&[&feed("b")]), &set("b")).is_some());
    assert!(refused(&with(&[&set("b")]), &feed("b")).is_some());
    assert!(refused(&none, &set("b")).is_none());
}

#[test]
fn the_configuration_wins_then_the_folder_then_what_was_applied() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let texts = LastGoodTexts::open(state.path()).unwrap();
    for name in ["b.yaml", "a.yaml"] {
        fs::write(folder.path().join(name), format!("---\n{}", set("s"))).unwrap();
    }
    let catalog = folder::read(&with(&[&set("s"), &feed("f")]), &texts, Some(folder.path()));
    let resolved = catalog.resolve(&configured("f"));
    let id = read(&[&set("s")]).into_keys().next().unwrap();
    let path = folder.path().join("a.yaml");
    assert_eq!(resolved.entries[&id].origin, Origin::File { path, line: 2 });
    assert_eq!((resolved.sets.len(), resolved.feeds.len()), (1, 0));
    assert_eq!(resolved.problems.len(), 3, "{:?}", resolved.problems);
    let resolved = catalog.resolve(&Config::default());
    assert_eq!(
        resolved.feeds.len(),
        1,
        "another configuration, the same catalog"
    );
    // What the folder has too can be taken back, and only that.
    assert_eq!(deletes(&catalog, &["gns/s"]), Ok(1));
    let catalog = folder::read(&Catalog::default(), &texts, Some(folder.path()));
    assert!(
        deletes(&catalog, &["gns/s"])
            .unwrap_err()
            .contains("is kept in")
    );
}

#[test]
fn a_broken_file_keeps_what_it_held_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let texts = LastGoodTexts::open(state.path()).unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let look = |before: &Catalog| folder::read(before, &texts, Some(folder.path()));
    let state = |catalog: &Catalog| {
        let resolved = catalog.resolve(&Config::default());
        let names = resolved
            .entries
            .keys()
            .map(|id| id.name.clone())
            .collect::<Vec<_>>();
        (names.join(" "), resolved.problems.join("\n"))
    };
    put("a.yaml", &set("a"));
    put("b.yaml", &set("b"));
    let first = look(&Catalog::default());
    assert_eq!(state(&first), ("a b".into(), String::new()));
    assert!(!folder::differs(&first, &look(&first)));
    put("a.yaml", &set("a").replace("nets:", "nest:"));
    put("b.yaml", &set("c"));
    put("d.yaml", "kind: [");
    let second = look(&first);
    assert!(folder::differs(&first, &second));
    for catalog in [&second, &look(&second), &look(&Catalog::default())] {
        let (names, problems) = state(catalog);
        assert_eq!(names, "a c", "{problems}");
        assert!(problems.contains("a.yaml:4:8: error: "), "{problems}");
        assert!(
            problems.contains("a.yaml: its last good version stays in force"),
            "{problems}"
        );
        assert!(
            problems.contains("d.yaml: nothing of it is in force"),
            "{problems}"
        );
    }
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    assert_eq!(state(&look(&second)).0, "c");
    put("a.yaml", "kind: [");
    assert_eq!(
        state(&look(&Catalog::default())).0,
        "c",
        "what was removed does not come back"
    );
    // A folder that cannot be listed at all, such as a file in its place.
    let gone = folder.path().join("b.yaml");
    let lost = folder::read(&second, &texts, Some(&gone));
    assert!(state(&lost).1.contains("cannot list the manifests folder"));
}

/// What fails halfway is taken back, also where that takes until the next start.
#[test]
fn a_change_that_fails_halfway_leaves_nothing_also_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.daemon.state_dir = state.path().to_owned();
    let files = state.path().join("resources");
    let open = || Resources::open(&config).unwrap();
    let names = |resources: &Resources| -> Vec<String> {
        let catalog = lock(&resources.catalog);
        catalog.applied.keys().map(|id| id.name.clone()).collect()
    };
    let resources = open();
    resources
        .keep(plan(&Catalog::default(), &config, &[&set("old")]).unwrap())
        .unwrap();
    let catalog = lock(&resources.catalog).clone();
    let change = || plan(&catalog, &config, &[&set("a"), &set("b"), &set("c")]).unwrap();
    // The rename goes well and what follows it does not: `b` is there.
    let obstacle = files.join("globalnetworkset.b.yaml.corrupt");
    fs::create_dir(&obstacle).unwrap();
    let refused = resources.keep(change()).unwrap_err();
    assert!(refused.contains("nothing was changed"), "{refused}");
    // Nor does the way back go, as long as the obstacle is there.
    assert!(files.join("journal").exists());
    fs::remove_dir(&obstacle).unwrap();
    let resources = open();
    assert_eq!(names(&resources), ["old"]);
    assert!(!files.join("globalnetworkset.b.yaml").exists());
    assert!(!files.join("journal").exists());
    resources.keep(change()).unwrap();
    assert_eq!(names(&open()), ["a", "b", "c", "old"]);
}
