use super::*;

const FEED: &str = include_str!("../../tests/fixtures/lab/1-threatfeed.yaml");
const POLICY: &str = include_str!("../../tests/fixtures/lab/2-tier-policy.yaml");

fn good(text: &str) -> Vec<Resource> {
    let parsed = parse(text);
    assert_eq!(render(&parsed.mistakes, "f.yaml"), "");
    let found = parsed.resources.into_iter();
    found.map(|found| found.resource).collect()
}

#[test]
fn the_labs_manifests_parse_as_they_stand() {
    let [feed] = &good(FEED)[..] else {
        unreachable!("one feed")
    };
    assert_eq!(
        feed.id().to_string(),
        "globalthreatfeed/training.ip.threatfeed"
    );
    let Spec::ThreatFeed(spec) = &feed.spec else {
        unreachable!("a feed")
    };
    let labels = spec.network_set.as_ref().unwrap();
    assert_eq!(
        labels.get("feed").map(String::as_str),
        Some("training-ip-threatfeed")
    );
    let [tier, policy] = &good(POLICY)[..] else {
        unreachable!("a tier and a policy")
    };
    assert_eq!(tier.tier().unwrap().order.0, Some(300.0));
    let policy = policy.policy().unwrap();
    assert_eq!((policy.has_ingress, policy.has_egress), (false, true));
    assert_eq!(policy.egress.len(), 2);
}
