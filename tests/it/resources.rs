//! Manifests: applied, shown, described, deleted; and the folder of them.

use std::{fs, path::PathBuf, process::Output};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Conf, Daemon, Lab, Reply, Site, connect, dropped, eventually, nft, web};

/// Where the feeds of these tests are.
const FEEDS: &str = "198.51.100.2:8099";
const FEED: &str = "kind: GlobalThreatFeed
apiVersion: projectcalico.org/v3
metadata:
  name: training.ip.threatfeed
  labels: {team: red}
spec:
  globalNetworkSet:
    labels: {feed: training}
  pull:
    http:
      url: http://198.51.100.2:8099/list?token=lab
";
const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.block}
spec:
  tier: security
  selector: all()
  types: [Egress]
  egress:
  - action: Deny
    destination: {selector: feed == 'training'}
  - action: Pass
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 300}
";
const STAGED: &str = "apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: security.maybe}
spec: {tier: security, egress: [{action: Deny, destination: {selector: all()}}]}
";
const SET: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners, labels: {group: partners}}
spec: {nets: [203.0.113.5, 203.0.113.64/26]}
";
/// Denies what is in [`SET`].
const DENY_SET: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.partners}
spec:
  types: [Egress]
  egress:
  - {action: Deny, destination: {selector: group == 'partners'}}
  - {action: Pass}
";

/// A server with feeds that list these addresses.
fn site(lab: &Lab, list: &'static str) -> Site {
    Site::start(&lab.server, FEEDS, move |_| Reply::ok(list))
}

fn file(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.path(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Applies texts from standard input; gives what was printed.
#[track_caller]
fn apply(daemon: &Daemon<'_>, text: &str) -> String {
    let output = daemon.ctl_with(&["apply", "-f", "-"], text.as_bytes());
    assert!(output.status.success(), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Applies what must be refused; gives what was said.
#[track_caller]
fn refused(daemon: &Daemon<'_>, text: &str) -> String {
    let output = daemon.ctl_with(&["apply", "-f", "-"], text.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(output.stdout.is_empty(), "{}", both(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn both(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).unwrap()
}

#[track_caller]
fn json(daemon: &Daemon<'_>, arguments: &[&str]) -> Value {
    serde_json::from_str(&daemon.ok(arguments)).unwrap()
}

/// The problems of `feedgate status`, each on a line.
fn problems(daemon: &Daemon<'_>) -> String {
    let status = daemon.status();
    let lines = status["problems"].as_array().unwrap().iter();
    lines
        .map(|line| line.as_str().unwrap().to_owned() + "\n")
        .collect()
}

#[test]
fn every_kind_is_applied_shown_described_and_deleted() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let _site = site(&lab, "203.0.113.1\n203.0.113.2\n");
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let before = nft(&lab.host, &["list", "ruleset"]);
    let files = [
        file(&lab, "feed.yaml", FEED),
        file(&lab, "policy.yaml", &format!("{POLICY}---\n{STAGED}")),
        file(&lab, "set.yaml", SET),
    ];
    let [feed, policy, set] = files.each_ref().map(String::as_str);
    let all = ["-f", feed, "-f", policy, "-f", set];
    let created = "tier.projectcalico.org/security created\n\
                   globalnetworkset.projectcalico.org/partners created\n\
                   globalthreatfeed.projectcalico.org/training.ip.threatfeed created\n\
                   globalnetworkpolicy.projectcalico.org/security.block created\n\
                   stagedglobalnetworkpolicy.projectcalico.org/security.maybe created\n";
    let dry = daemon.ok(&[&["apply", "--dry-run"][..], &all].concat());
    assert_eq!(dry, created.replace(" created", " created (dry run)"));
    assert_eq!(daemon.ok(&["get", "gtf", "-o", "name"]), "");
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), before);

    assert_eq!(daemon.ok(&[&["apply"][..], &all].concat()), created);
    let again = daemon.ok(&[&["apply"][..], &all].concat());
    assert_eq!(again, created.replace(" created", " unchanged"));
    daemon.ok(&["refresh", "training.ip.threatfeed"]);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    connect(&lab.host, "203.0.113.200:80").expect("not listed");
    let changed = FEED.replace("team: red", "team: blue");
    assert_eq!(
        apply(&daemon, &changed),
        "globalthreatfeed.projectcalico.org/training.ip.threatfeed configured\n"
    );

    // Any form of a kind's name; tables, names, objects.
    for kind in [
        "gtf",
        "GlobalThreatFeed",
        "globalthreatfeeds",
        "globalthreatfeeds.projectcalico.org",
    ] {
        let table = daemon.ok(&["get", kind]);
        assert!(table.starts_with("NAME "), "{table}");
        assert!(
            table.contains("training.ip.threatfeed  Enabled  2"),
            "{table}"
        );
    }
    let wide = daemon.ok(&["get", "gtf", "-o", "wide"]);
    assert!(
        wide.contains("http://198.51.100.2:8099/list") && !wide.contains("token"),
        "{wide}"
    );
    let names = daemon.ok(&["get", "all", "-o", "name"]);
    for name in [
        "tier.projectcalico.org/default",
        "tier.projectcalico.org/security",
        "globalnetworkset.projectcalico.org/partners",
        "globalnetworkset.projectcalico.org/threatfeed.training.ip.threatfeed",
        "globalthreatfeed.projectcalico.org/training.ip.threatfeed",
        "globalnetworkpolicy.projectcalico.org/security.block",
        "stagedglobalnetworkpolicy.projectcalico.org/security.maybe",
    ] {
        assert!(names.lines().any(|line| line == name), "{name}: {names}");
    }
    // What is only reported is not called in force.
    let staged = daemon.ok(&["get", "stagedglobalnetworkpolicies.v3.projectcalico.org"]);
    assert!(
        staged.contains("staged") && !staged.contains("in force"),
        "{staged}"
    );
    let object = json(&daemon, &["get", "gtf", "training.ip.threatfeed", "--json"]);
    assert_eq!(object["kind"], "GlobalThreatFeed");
    assert_eq!(object["metadata"]["labels"]["team"], "blue");
    let status = &object["status"];
    assert!(status["lastSuccessfulSync"].is_string(), "{object}");
    assert_eq!(status["errorConditions"], serde_json::json!([]), "{object}");
    eventually("live flows were searched", || {
        let object = json(
            &daemon,
            &["get", "gtf/training.ip.threatfeed", "-o", "json"],
        );
        object["status"]["lastSuccessfulSearch"]
            .is_string()
            .then_some(())
    });
    let yaml = daemon.ok(&["get", "gtf/training.ip.threatfeed", "-o", "yaml"]);
    assert!(yaml.contains("lastSuccessfulSync"), "{yaml}");
    // What is shown can be applied again.
    assert!(apply(&daemon, &yaml).ends_with("unchanged\n"));
    let kept = "globalnetworkset/threatfeed.training.ip.threatfeed";
    let set_object = json(&daemon, &["get", kept, "-o", "json"]);
    assert_eq!(
        set_object["spec"]["nets"],
        serde_json::json!(["203.0.113.1/32", "203.0.113.2/32"])
    );
    assert_eq!(set_object["metadata"]["labels"]["feed"], "training");
    assert_eq!(
        set_object["metadata"]["ownerReferences"][0]["name"],
        "training.ip.threatfeed"
    );
    let list = json(&daemon, &["get", "tiers,gns", "-o", "json"]);
    assert_eq!(
        (&list["kind"], list["items"].as_array().unwrap().len()),
        (&"List".into(), 4)
    );
    let labelled = daemon.ok(&[
        "get",
        "gns",
        "-l",
        "group in (partners),feed!=x",
        "-o",
        "name",
    ]);
    assert_eq!(labelled, "globalnetworkset.projectcalico.org/partners\n");
    let nothing = daemon.ctl(&["get", "gns", "-l", "group=nobody"]);
    assert_eq!(both(&nothing), "No resources found\n");
    assert!(nothing.status.success());
    let told = daemon.ok(&["describe", "gnp", "security.block"]);
    assert!(told.starts_with("Name:         security.block\n"), "{told}");
    assert!(told.contains("Tier:  security"), "{told}");
    let told = daemon.ok(&["describe", "gtf", "training.ip.threatfeed"]);
    assert!(told.contains("Last Successful Sync:"), "{told}");

    // A tier with policies stays.
    let said = daemon.fails(&["delete", "tier", "security"]);
    assert!(
        said.contains("still has policies: ") && said.contains("security.block"),
        "{said}"
    );
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    let said = daemon.fails(&["delete", kept]);
    assert!(said.contains("the feed keeps it"), "{said}");

    let stored = lab.path("state/feeds/training.ip.threatfeed.last");
    assert!(stored.exists());
    let deleted = daemon.ok(&[&["delete"][..], &all].concat());
    assert_eq!(deleted.lines().count(), 5, "{deleted}");
    assert!(
        deleted.lines().all(|line| line.ends_with(" deleted")),
        "{deleted}"
    );
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), before);
    assert!(!stored.exists());
    connect(&lab.host, "203.0.113.1:80").expect("nothing is denied any more");
    let said = daemon.fails(&["delete", "gtf", "training.ip.threatfeed"]);
    assert_eq!(
        said,
        "Error: globalthreatfeeds.projectcalico.org \"training.ip.threatfeed\" not found; \
         feedgate get globalthreatfeeds lists them\n"
    );
    daemon.ok(&[
        "delete",
        "--ignore-not-found",
        "gtf",
        "training.ip.threatfeed",
    ]);
    let said = daemon.fails(&["get", "gtf/x"]);
    assert!(said.contains("\"x\" not found"), "{said}");
    for usage in [
        &["get", "pods"][..],
        &["get", "all", "x"],
        &["delete", "gtf"],
        &["get", "gtf", "-l", "a=b)("],
        &["apply"],
        &["apply", "-f", "-", "-f", "-"],
    ] {
        assert_eq!(daemon.ctl(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_nothing_is_applied() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("configured", "alert", &["198.18.0.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let before = daemon.ok(&["get", "all", "-o", "name"]);
    let bad = FEED.replace("  globalNetworkSet:", "  globalNetworkSets:");
    let path = file(&lab, "bad.yaml", &format!("{SET}---\n{bad}"));
    let said = daemon.fails(&["apply", "-f", &path]);
    assert!(said.contains(&format!("{path}:12:3: error: ")), "{said}");
    assert!(
        said.contains("spec.globalNetworkSets: unknown field; did you mean globalNetworkSet?"),
        "{said}"
    );
    assert!(
        said.ends_with("Error: 1 mistake; nothing was applied\n"),
        "{said}"
    );

    let said = refused(&daemon, POLICY.split("---").next().unwrap());
    assert!(said.contains("its tier security is not there"), "{said}");
    let named = |name: &str| FEED.replace("training.ip.threatfeed", name);
    let said = refused(&daemon, &named("configured"));
    assert!(
        said.contains("a [[feed]] of the configuration is named configured"),
        "{said}"
    );
    let set = |name: &str| SET.replace("name: partners", &format!("name: {name}"));
    assert!(refused(&daemon, &set("configured")).contains("a feed is named configured"));
    let said = refused(&daemon, &set("threatfeed.x"));
    assert!(said.contains("threatfeed."), "{said}");
    apply(&daemon, SET);
    // Not even by the back door: the feed of that name comes later.
    assert!(refused(&daemon, &named("partners")).contains("a feed is named partners"));
    let twice = daemon.ctl(&[
        "apply",
        "-f",
        &file(&lab, "a.yaml", SET),
        "-f",
        &file(&lab, "b.yaml", SET),
    ]);
    assert!(
        both(&twice).contains("globalnetworkset/partners is in "),
        "{}",
        both(&twice)
    );
    assert!(refused(&daemon, "---\n").contains("hold no resource"));
    let said = daemon.fails(&["delete", "gtf/configured", "gns/threatfeed.configured"]);
    assert_eq!(
        said.matches("[[feed]] of the configuration").count(),
        2,
        "{said}"
    );
    assert!(
        daemon
            .fails(&["delete", "tier", "default"])
            .contains("always there")
    );
    daemon.ok(&["delete", "gns", "--all"]);
    assert_eq!(daemon.ok(&["get", "all", "-o", "name"]), before);
    let shown = json(&daemon, &["get", "gtf/configured", "-o", "json"]);
    let source = shown["metadata"]["annotations"]["feedgate/source"]
        .as_str()
        .unwrap();
    assert!(source.ends_with("feedgate.toml"), "{shown}");
}

#[test]
fn what_was_applied_survives_a_restart_and_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let _site = site(&lab, "203.0.113.1\n");
    let conf = Conf::new(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    apply(
        &daemon,
        &format!("{FEED}---\n{POLICY}---\n{SET}---\n{DENY_SET}"),
    );
    let _ = daemon.ok(&["refresh"]);
    let names = daemon.ok(&["get", "all", "-o", "name"]);
    assert!(dropped(&lab.host, "203.0.113.5:80"));
    daemon.kill();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(daemon.ok(&["get", "all", "-o", "name"]), names);
    for address in ["203.0.113.1:80", "203.0.113.5:80"] {
        assert!(dropped(&lab.host, address), "{address}");
    }
    // A reload loses nothing either.
    daemon.reload(&conf.clone().feed("new", "alert", &["198.18.0.1"]).text());
    eventually("the new feed is there", || {
        daemon
            .ok(&["get", "gtf", "-o", "name"])
            .contains("/new\n")
            .then_some(())
    });
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert_eq!(daemon.row("training.ip.threatfeed")["entries"], 1);
    daemon.stop();

    let folder = lab.path("state/resources");
    let stored = folder.join("globalnetworkset.partners.yaml");
    let text = fs::read_to_string(&stored).unwrap();
    fs::write(&stored, text.replace("203.0.113.5", "203.0.113.6")).unwrap();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let corrupt = folder.join("globalnetworkset.partners.yaml.corrupt");
    assert!(corrupt.exists() && !stored.exists());
    assert!(
        problems(&daemon).contains("its checksum does not fit"),
        "{}",
        problems(&daemon)
    );
    assert!(
        dropped(&lab.host, "203.0.113.1:80"),
        "the others are in force"
    );
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(
        problems(&daemon).contains("is damaged and not in force"),
        "{}",
        problems(&daemon)
    );
    apply(&daemon, SET);
    assert!(!corrupt.exists());
    assert!(
        !problems(&daemon).contains("damaged"),
        "{}",
        problems(&daemon)
    );
    assert!(dropped(&lab.host, "203.0.113.5:80"));
}

/// Killed in the middle of an apply of many: at the next start there is all of it, or nothing.
#[test]
fn an_apply_that_is_killed_is_whole() {
    const MANY: usize = 600;
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab);
    let set = |number: usize| SET.replace("partners", &format!("set-{number}"));
    let all: Vec<String> = (0..MANY).map(set).collect();
    let many = file(&lab, "many.yaml", &all.join("---\n"));
    let folder = lab.path("state/resources");
    let files = || {
        let entries = fs::read_dir(&folder).unwrap().flatten();
        let names = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".yaml"));
        names.count()
    };
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let kill_when = |daemon: Daemon<'_>, command: &[&str], until: &dyn Fn(usize) -> bool| {
        let mut command = daemon.ctl_command(command);
        let mut client = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let start = std::time::Instant::now();
        while !until(files()) {
            assert!(start.elapsed().as_secs() < 60, "{} files", files());
        }
        daemon.kill();
        let _ = client.wait();
        files()
    };
    let left = kill_when(daemon, &["apply", "-f", &many], &|files| files > 20);
    assert!(left > 20 && left < MANY, "{left} files: not in the middle");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(
        (
            files(),
            daemon.ok(&["get", "gns", "-o", "name"]).lines().count()
        ),
        (MANY, MANY)
    );
    assert!(daemon.output().contains("the rest is done now"));
    let left = kill_when(daemon, &["delete", "-f", &many], &|files| files < MANY - 20);
    assert!(left > 0 && left < MANY, "{left} files: not in the middle");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(files(), 0);
    assert_eq!(daemon.ok(&["get", "gns", "-o", "name"]), "");
}

/// Puts a file into the folder as editors do: written beside, then renamed.
fn put(folder: &std::path::Path, name: &str, text: &str) -> PathBuf {
    let (new, path) = (folder.join(format!(".{name}.new")), folder.join(name));
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

#[test]
fn the_folder_is_followed_and_a_broken_file_keeps_its_last_good_version() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let folder = lab.path("manifests.d");
    fs::create_dir(&folder).unwrap();
    put(&folder, "policy.yml", DENY_SET);
    let path = put(&folder, "set.yaml", SET);
    eventually("the set is denied", || {
        dropped(&lab.host, "203.0.113.5:80").then_some(())
    });
    let object = json(&daemon, &["get", "gns/partners", "-o", "json"]);
    let source = object["metadata"]["annotations"]["feedgate/source"]
        .as_str()
        .unwrap();
    assert_eq!(source, format!("{}:1", path.display()));
    let is_kept = |said: &str| {
        let place = format!("is kept in {}:1", path.display());
        assert!(said.contains(&place), "{said}");
    };
    is_kept(&daemon.fails(&["delete", "gns/partners"]));
    is_kept(&refused(
        &daemon,
        &SET.replace("203.0.113.5", "203.0.113.8"),
    ));
    assert!(apply(&daemon, SET).contains("unchanged"));
    // A file that is rewritten in place, too.
    fs::write(&path, SET.replace("203.0.113.5", "203.0.113.6")).unwrap();
    eventually("the other address is denied", || {
        dropped(&lab.host, "203.0.113.6:80").then_some(())
    });
    connect(&lab.host, "203.0.113.5:80").expect("no longer in the set");

    put(
        &folder,
        "set.yaml",
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: partners}\nspec: {nest: []}\n",
    );
    put(
        &folder,
        "other.json",
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "later"}, "spec": {"order": 5}}"#,
    );
    eventually("the other file is read", || {
        daemon
            .ok(&["get", "tiers", "-o", "name"])
            .contains("/later\n")
            .then_some(())
    });
    let said = problems(&daemon);
    assert!(
        said.contains(&format!("{}:4:8: error: ", path.display())),
        "{said}"
    );
    assert!(said.contains("spec.nest: unknown field"), "{said}");
    assert!(
        said.contains("its last good version stays in force"),
        "{said}"
    );
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(
        dropped(&lab.host, "203.0.113.6:80"),
        "the last good version is kept on disk"
    );
    assert!(
        problems(&daemon).contains("spec.nest"),
        "{}",
        problems(&daemon)
    );
    let checked = daemon.ctl(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{}", both(&checked));
    assert!(
        both(&checked).contains("spec.nest") && both(&checked).contains('^'),
        "{}",
        both(&checked)
    );

    put(&folder, "set.yaml", SET);
    daemon.signal(Signal::SIGHUP);
    eventually("the mended file is in force", || {
        dropped(&lab.host, "203.0.113.5:80").then_some(())
    });
    assert!(
        !problems(&daemon).contains("set.yaml"),
        "{}",
        problems(&daemon)
    );
    assert!(daemon.ctl(&["check"]).status.success());
    fs::remove_file(&path).unwrap();
    eventually("the set is gone", || {
        daemon
            .ok(&["get", "gns", "-o", "name"])
            .is_empty()
            .then_some(())
    });
    connect(&lab.host, "203.0.113.5:80").expect("the set is gone");
}

#[test]
fn of_what_is_there_twice_the_same_wins_each_time() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("configured", "alert", &["198.18.0.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let nets = |nets: &str| SET.replace("203.0.113.5, 203.0.113.64/26", nets);
    apply(&daemon, &nets("198.51.100.77, 198.18.77.0/24"));
    let folder = lab.path("manifests.d");
    fs::create_dir(&folder).unwrap();
    put(&folder, "b.yaml", &nets("198.51.100.78, 198.18.78.0/24"));
    put(&folder, "a.yaml", &nets("198.51.100.79, 198.18.79.0/24"));
    put(
        &folder,
        "feed.yaml",
        &FEED.replace("training.ip.threatfeed", "configured"),
    );
    let said = eventually("all of it is read", || {
        let said = problems(&daemon);
        let all = ["a.yaml:1", "b.yaml:1", "was applied too", "[[feed]]"];
        all.iter().all(|part| said.contains(part)).then_some(said)
    });
    assert!(said.contains("the first is in force"), "{said}");
    let shown = json(&daemon, &["get", "gns/partners", "-o", "json"]);
    assert_eq!(shown["spec"]["nets"][1], "198.18.79.0/24");
    let shown = json(&daemon, &["get", "gtf/configured", "-o", "json"]);
    assert!(
        shown["metadata"]["annotations"]["feedgate/source"]
            .as_str()
            .unwrap()
            .ends_with(".toml")
    );
    // The applied one can still be deleted.
    daemon.ok(&["delete", "gns/partners"]);
    assert!(!problems(&daemon).contains("was applied too"));
    let shown = json(&daemon, &["get", "gns/partners", "-o", "json"]);
    assert_eq!(shown["spec"]["nets"][1], "198.18.79.0/24");
}

#[test]
fn long_network_sets_are_shown_page_by_page() {
    let Some(lab) = Lab::new() else { return };
    let lines: Vec<String> = (0..2_500)
        .map(|n| format!("198.18.{}.{}", n / 250, n % 250))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let daemon = Daemon::start(
        &lab,
        &lab.host,
        &Conf::new(&lab).feed("long", "alert", &lines),
    );
    let page = |arguments: &[&str]| {
        let output =
            daemon.ctl(&[&["get", "gns/threatfeed.long", "-o", "json"], arguments].concat());
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let nets = object["spec"]["nets"].as_array().unwrap().len();
        (
            nets,
            object["spec"]["nets"][0].clone(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (nets, first, said) = page(&[]);
    assert_eq!((nets, first), (1_000, "198.18.0.0/32".into()));
    assert_eq!(
        said,
        "# long: nets 1 to 1000 of 2500; the next with --offset 1000, all with --limit 0\n"
    );
    let (nets, first, said) = page(&["--limit", "10", "--offset", "2495"]);
    assert_eq!((nets, first), (5, "198.18.9.245/32".into()));
    assert_eq!(said, "# long: nets 2496 to 2500 of 2500\n");
    assert_eq!(page(&["--limit", "0"]).0, 2_500);
    let table = daemon.ok(&["get", "gns"]);
    assert!(table.contains("threatfeed.long  2500  long"), "{table}");
}

#[test]
fn a_feed_without_pull_is_pushed() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let feed = "apiVersion: projectcalico.org/v3\nkind: GlobalThreatFeed\nmetadata: {name: pushed}\nspec: {}\n";
    apply(&daemon, feed);
    let table = daemon.ok(&["get", "gtf"]);
    assert!(
        table.contains("yes") && table.contains("has not been pushed yet"),
        "{table}"
    );
    let output = daemon.ctl_with(&["push", "pushed", "-"], br#"{"ips": ["203.0.113.1"]}"#);
    assert!(output.status.success(), "{}", both(&output));
    let status = json(&daemon, &["get", "gtf/pushed", "-o", "json"])["status"].clone();
    assert!(status["lastSuccessfulSync"].is_string(), "{status}");
    assert!(
        daemon
            .ok(&["lookup", "203.0.113.1"])
            .contains("listed by pushed")
    );
    // It keeps no network set: its manifest does not ask for one.
    assert_eq!(daemon.ok(&["get", "gns", "-o", "name"]), "");
    daemon.ok(&["delete", "gtf/pushed"]);
    assert!(daemon.ok(&["lookup", "203.0.113.1"]).contains("left alone"));
    connect(&lab.host, "203.0.113.1:80").unwrap();
}

#[test]
fn a_feed_that_cannot_be_pulled_says_so_in_its_status() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.server, FEEDS, |_| {
        Reply::status("503 Service Unavailable")
    });
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    apply(&daemon, FEED);
    let status = eventually("the pull failed", || {
        let object = json(
            &daemon,
            &["get", "gtf/training.ip.threatfeed", "-o", "json"],
        );
        let conditions = object["status"]["errorConditions"].as_array()?.clone();
        (conditions.first()?["type"] == "PullFailed").then_some(object)
    });
    let message = status["status"]["errorConditions"][0]["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("503"), "{status}");
    site.reply(Reply::ok("203.0.113.1\n"));
    daemon.ok(&["refresh", "training.ip.threatfeed"]);
    let object = json(
        &daemon,
        &["get", "gtf/training.ip.threatfeed", "-o", "json"],
    );
    assert_eq!(object["status"]["errorConditions"], serde_json::json!([]));
}

#[test]
fn an_established_flow_is_cut_when_a_policy_comes_that_denies_it() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, Conf::new(&lab));
    apply(&daemon, SET);
    let _stream = connect(&lab.host, "203.0.113.5:80").expect("nothing denies it yet");
    apply(&daemon, DENY_SET);
    let cut = eventually("the flow is cut", || {
        daemon.status()["packets"]["cut_flows"]
            .as_u64()
            .filter(|cut| *cut > 0)
    });
    assert_eq!(cut, 1);
    alerts.wait(&[
        ("method", "live-flow"),
        ("action", "deny"),
        ("policy", "default.partners"),
        ("feed", "partners"),
    ]);
    daemon.ok(&["delete", "gnp/default.partners"]);
    connect(&lab.host, "203.0.113.5:80").expect("nothing denies it any more");
}

#[test]
fn a_threat_feed_is_armed_by_hand_like_any_other() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let _site = site(&lab, "203.0.113.5\n");
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    apply(&daemon, FEED);
    daemon.ok(&["refresh", "training.ip.threatfeed"]);
    connect(&lab.host, "203.0.113.5:80").expect("it only alerts");
    daemon.ok(&["deny", "--confirm", "1h", "training.ip.threatfeed"]);
    assert!(dropped(&lab.host, "203.0.113.5:80"));
    daemon.ok(&["deny", "--keep", "training.ip.threatfeed"]);
    // Applied again and reloaded, it stays what it is.
    assert!(apply(&daemon, FEED).contains("unchanged"));
    daemon.signal(Signal::SIGHUP);
    assert!(dropped(&lab.host, "203.0.113.5:80"));
    daemon.ok(&["delete", "gtf", "training.ip.threatfeed"]);
    connect(&lab.host, "203.0.113.5:80").expect("the feed is gone");
}

#[test]
fn verdicts_that_the_kernel_remembers_go_with_a_policy() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(
        &lab,
        &lab.host,
        &Conf::new(&lab).daemon("on-daemon-down = \"deny\""),
    );
    apply(&daemon, SET);
    // It hangs on the source, so the kernel's sets stay as they are when it is denied, and then allowed.
    let by_user = DENY_SET.replace("spec:\n", "spec:\n  selector: user == 'nobody'\n");
    apply(&daemon, &by_user);
    let _stream = connect(&lab.host, "203.0.113.5:80").expect("root is not nobody");
    let remembered = || {
        let table = nft(
            &lab.host,
            &["list", "set", "inet", "feedgate", "recent_allow4"],
        );
        table.contains("203.0.113.5")
    };
    eventually("the verdict is remembered", || remembered().then_some(()));
    let updates = || daemon.output().matches("kernel updated").count();
    let before = updates();
    apply(&daemon, &by_user.replace("'nobody'", "'games'"));
    assert!(!remembered(), "an apply forgets what was decided before it");
    assert_eq!(updates(), before, "and no set has changed");
}

#[test]
fn what_get_prints_may_be_applied_as_it_is() {
    let Some(lab) = Lab::new() else { return };
    let _site = site(&lab, "203.0.113.5\n203.0.113.6\n");
    let conf = Conf::new(&lab).feed("own", "deny", &["203.0.113.7"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    apply(
        &daemon,
        &format!("{FEED}---\n{POLICY}---\n{SET}---\n{STAGED}"),
    );
    daemon.ok(&["refresh", "training.ip.threatfeed"]);
    let all = daemon.ok(&["get", "all", "-o", "yaml"]);
    let output = daemon.ctl_with(&["apply", "-f", "-"], all.as_bytes());
    assert!(output.status.success(), "{}", both(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(
        said.lines().all(|line| line.ends_with(" unchanged")),
        "{said}"
    );
    let warned = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warned.matches("left out: ").count(), 4, "{warned}");
    assert!(warned.contains("left out: it is kept in"), "{warned}");
    assert!(warned.contains("left out: its feed keeps it"), "{warned}");
}

#[test]
fn what_get_prints_may_be_put_back_into_the_folder() {
    let Some(lab) = Lab::new() else { return };
    let folder = lab.path("manifests.d");
    fs::create_dir(&folder).unwrap();
    put(&folder, "set.yaml", SET);
    let path = put(&folder, "deny.yaml", DENY_SET);
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let denied = || {
        let found = json(
            &daemon,
            &["lookup", "203.0.113.5", "--direction", "egress", "--json"],
        );
        found["egress"]["action"] == "deny"
    };
    assert!(denied());
    let printed = daemon.ok(&["get", "gnp", "default.partners", "-o", "yaml"]);
    assert!(printed.contains("feedgate/source"), "{printed}");
    // It can only be changed where it is.
    let edited = printed.replace("  selector: all()", "  order: 7\n  selector: all()");
    assert!(apply(&daemon, &printed).ends_with(" unchanged\n"));
    assert!(refused(&daemon, &edited).contains("deny.yaml:1: change it there"));
    let output = daemon.ctl_with(
        &["delete", "-f", "-"],
        format!("{printed}---\n{FEED}").as_bytes(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("deny.yaml:1"), "{}", both(&output));
    let changes = || {
        let output = daemon.output();
        output
            .matches("the manifests folder changed: in force")
            .count()
    };
    // As it is, and then edited: it is in force each time, and no word of another place is kept.
    for text in [&printed, &edited] {
        let before = changes();
        put(&folder, "deny.yaml", text);
        eventually("the folder is read again", || {
            (changes() > before).then_some(())
        });
        assert!(denied(), "{text}");
    }
    let wide = daemon.ok(&["get", "gnp", "-o", "wide"]);
    assert!(
        wide.contains("deny.yaml:1") && wide.contains(" 7 "),
        "{wide}"
    );
    // Where the file was renamed, too; `check` sees what the daemon sees.
    fs::rename(&path, folder.join("other.yaml")).unwrap();
    eventually("it is kept in the other file", || {
        let wide = daemon.ok(&["get", "gnp", "-o", "wide"]);
        wide.contains("other.yaml:1").then_some(())
    });
    assert!(denied());
    let checked = both(&daemon.ctl(&["check"]));
    assert!(!checked.contains("left out"), "{checked}");
    let told = problems(&daemon);
    assert!(!told.contains("manifests.d"), "{told}");
    // When no file keeps it any more, what was printed can be applied.
    fs::remove_file(folder.join("other.yaml")).unwrap();
    eventually("nothing denies", || (!denied()).then_some(()));
    assert!(apply(&daemon, &printed).ends_with(" created\n"));
    assert!(denied());
}
