//! Policies that ask for the source: who is denied what, with the daemon and without it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Output,
    time::Duration,
};

use feedgate::demo::Netns;
use nix::{
    sys::signal::Signal,
    unistd::{Uid, setfsuid},
};
use serde_json::Value;

use crate::{
    attribution::{Container, Groups, add_bridge},
    live::{alive, echo_tcp, silent},
    support::{Conf, Daemon, Lab, connect, dropped, echo, eventually, exchange, web},
};

/// The user of that name: there on every system.
const NOBODY: u32 = 65_534;

/// Denies the feed `watch` to endpoints of `selector`.
fn deny(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: {name}}}
spec:
  selector: {selector}
  types: [Egress]
  egress:
  - {{action: Deny, destination: {{selector: feed == 'watch'}}}}
  - {{action: Pass}}
"
    )
}

fn deny_nobody() -> String {
    deny("default.nobody", "user == 'nobody'")
}

/// A feed that alerts, with a label for policies.
fn conf(lab: &Lab, listed: &[&str]) -> Conf {
    Conf::new(lab)
        .feed("watch", "alert", listed)
        .key("labels = { feed = \"watch\" }")
}

/// Applies manifests.
#[track_caller]
fn apply(daemon: &Daemon<'_>, text: &str) {
    let output = daemon.ctl_with(&["apply", "-f", "-"], text.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).unwrap()
}

/// Does something as another user: sockets that are made then belong to them.
fn as_nobody<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        setfsuid(Uid::from_raw(NOBODY));
        work()
    };
    netns.enter(work).unwrap()
}

/// True when a connection of nobody is made; false when its packets are dropped.
fn nobody_reaches(netns: &Netns, address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    // Two SYNs' worth.
    let limit = Duration::from_millis(1_500);
    as_nobody(netns, || TcpStream::connect_timeout(&address, limit)).is_ok()
}

/// Asks the web server over a connection that is there.
fn asks_on(mut stream: TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut answer = Vec::new();
    let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
    asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.ends_with(b"hello\n")
}

#[track_caller]
fn one_user_is_denied_and_the_rest_is_left_alone(on_daemon_down: &str) {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = conf(&lab, &["203.0.113.1", "203.0.113.2", "2001:db8:bad::1"])
        .daemon(&format!("on-daemon-down = \"{on_daemon_down}\""))
        .json_file(&lab.path("alerts.json"));
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    apply(&daemon, &deny_nobody());

    for (at, address) in ["203.0.113.1", "2001:db8:bad::1"].into_iter().enumerate() {
        let socket = SocketAddr::new(address.parse().unwrap(), 80).to_string();
        let stream = connect(&lab.host, &socket).expect("root is not denied");
        let port = stream.local_addr().unwrap().port().to_string();
        alerts.wait(&[("spt", &port)]).assert(&[
            ("action", "alert"),
            ("policy", ""),
            ("user", "root"),
            ("cause", ""),
        ]);
        assert!(asks_on(stream), "what was allowed goes on");
        assert!(!nobody_reaches(&lab.host, &socket));
        alerts
            .wait(&[("dst", address), ("user", "nobody")])
            .assert(&[
                ("action", "deny"),
                ("policy", "default.nobody"),
                ("feed", "watch"),
                ("attribution", "exact"),
            ]);
        // Its second SYN is denied by what the kernel remembers.
        eventually("a retransmit was denied", || {
            let repeats = daemon.status()["counters"]["denied_repeat"]["packets"].as_u64();
            (repeats.unwrap() > u64::try_from(at).unwrap()).then_some(())
        });
    }
    let denied = |alert: &&crate::support::Alert| alert.get("action") == "deny";
    assert_eq!(alerts.all().iter().filter(denied).count(), 2);
    let is_by_policy = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["rule"]["name"] == "default.nobody"
    };
    eventually("both are in the file", || {
        let events = std::fs::read_to_string(lab.path("alerts.json")).unwrap();
        let whole = events.split_inclusive('\n');
        let whole = whole.filter(|line| line.ends_with('\n'));
        (whole.filter(|line| is_by_policy(line)).count() == 2).then_some(())
    });

    eventually("it is stored", || {
        let stored = daemon.ok(&["alerts", "list", "--action", "deny", "--json"]);
        let stored: Value = serde_json::from_str(&stored).unwrap();
        let id = stored[0]["alert"]["event"]["id"].as_str()?;
        let shown = daemon.ok(&["alerts", "show", id]);
        assert!(
            shown.contains("\ndenied by policy default.nobody\n"),
            "{shown}"
        );
        Some(())
    });
    let status = daemon.status();
    assert_eq!(status["last_hour"]["denied_by"]["default.nobody"], 2);
    assert_eq!(status["policies"]["by_source"], 1, "{status}");
    let text = daemon.ok(&["status"]);
    let line = format!("unknown source: {on_daemon_down} (on-daemon-down)");
    assert!(
        text.contains("policies   1 enforced") && text.contains(&line),
        "{text}"
    );

    let before = connect(&lab.host, "203.0.113.2:80").unwrap();
    let _daemon = daemon.killed();
    assert!(asks_on(before), "what is established goes on");
    match on_daemon_down {
        "allow" => {
            assert!(nobody_reaches(&lab.host, "203.0.113.1:80"));
            connect(&lab.host, "203.0.113.1:80").unwrap();
        }
        _ => {
            assert!(!nobody_reaches(&lab.host, "203.0.113.1:80"));
            assert!(
                dropped(&lab.host, "203.0.113.1:80"),
                "nobody says who it is"
            );
        }
    }
    connect(&lab.host, "203.0.113.200:80").expect("it is in no feed");
}

#[test]
fn one_user_is_denied_and_without_the_daemon_nobody_is() {
    one_user_is_denied_and_the_rest_is_left_alone("allow");
}

#[test]
fn one_user_is_denied_and_without_the_daemon_everybody_is() {
    one_user_is_denied_and_the_rest_is_left_alone("deny");
}

#[test]
fn one_container_is_denied_and_drawn_by_its_name() {
    let Some(lab) = Lab::new() else { return };
    let Some(groups) = Groups::create() else {
        return;
    };
    let _web = web(&lab.server);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.gateway, conf(&lab, &["203.0.113.0/29"]));
    add_bridge(&lab);
    let ids = ["d", "e"].map(|digit| digit.repeat(64));
    let mut containers: Vec<Container> = (0..2)
        .map(|at| Container::start(&lab, at + 31, groups.add(&format!("docker/{}", ids[at]))))
        .collect();
    apply(
        &daemon,
        &deny("default.red", &format!("container == '{}'", ids[0])),
    );
    for (container, verdict) in containers.iter_mut().zip(["deny", "alert"]) {
        container.connect("203.0.113.1");
        alerts.wait(&[("action", verdict)]);
    }
    for (id, verdict, policy) in [(&ids[0], "deny", "default.red"), (&ids[1], "alert", "")] {
        alerts.wait(&[("container", id)]).assert(&[
            ("action", verdict),
            ("policy", policy),
            ("attribution", "exact"),
        ]);
    }
    // A machine behind the gateway is no container, but who says that of one without a name?
    connect(&lab.host, "203.0.113.1:80").unwrap();
    let alert = alerts.wait(&[("src", "192.0.2.2")]);
    assert!(
        alert.get("cause").contains("on-daemon-down decides"),
        "{}",
        alert.line
    );

    let dot = eventually("all are stored", || {
        let dot = daemon.ok(&["graph", "--dot"]);
        (dot.matches(" -> ").count() == 3).then_some(dot)
    });
    for (id, label) in [
        (&ids[0], "1 denied: 203.0.113.0/29\", color=red"),
        (&ids[1], "1 allowed: 203.0.113.0/29\", color=orange"),
    ] {
        let edge = format!("\"source {id}\" -> \"feed threatfeed.watch\" [label=\"{label}");
        assert!(dot.contains(&edge), "{edge} is not in\n{dot}");
    }
    let text = daemon.ok(&["graph"]);
    let edge = format!("{} -> threatfeed.watch\n  1 x denied egress", ids[0]);
    assert!(text.contains(&edge), "{text}");
}

#[test]
fn tiers_allow_pass_log_and_stage_by_source() {
    const TIER: &str = "apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 10}
";
    let first = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: first.{name}}}\n\
             spec: {{tier: first, types: [Egress], {spec}}}\n"
        )
    };
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf(&lab, &["203.0.113.1"]));
    // A staged policy is told to whom it is for, and changes nothing.
    let to_feed = "destination: {selector: feed == 'watch'}";
    let staged = first(
        "StagedGlobalNetworkPolicy",
        "trial",
        &format!("selector: user == 'nobody', egress: [{{action: Deny, {to_feed}}}]"),
    );
    apply(&daemon, &format!("{TIER}{staged}"));
    assert!(nobody_reaches(&lab.host, "203.0.113.1:80"));
    alerts.wait(&[("user", "nobody")]).assert(&[
        ("action", "alert"),
        ("policy", ""),
        ("cause", "staged first.trial would deny"),
    ]);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    alerts.wait(&[("user", "root")]).assert(&[("cause", "")]);
    daemon.ok(&["delete", "stagedglobalnetworkpolicy/first.trial"]);

    // Root is allowed before the default tier denies; who passes the first tier is denied there.
    let allow = first(
        "GlobalNetworkPolicy",
        "allow",
        &format!(
            "order: 1, egress: [{{action: Allow, {to_feed}, source: {{selector: user == 'root'}}}}, \
             {{action: Pass}}]"
        ),
    );
    apply(
        &daemon,
        &format!("{allow}---\n{}", deny("default.all", "all()")),
    );
    let stream = connect(&lab.host, "203.0.113.1:80").unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    alerts
        .wait(&[("spt", &port)])
        .assert(&[("action", "alert"), ("policy", "first.allow")]);
    assert!(!nobody_reaches(&lab.host, "203.0.113.1:80"));
    alerts.wait(&[
        ("user", "nobody"),
        ("action", "deny"),
        ("policy", "default.all"),
    ]);
    daemon.ok(&["delete", "gnp/first.allow", "gnp/default.all"]);

    // What is in a network set of ours alone is told where a rule logs it.
    let set = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n\
               metadata: {name: partners, labels: {group: partners}}\nspec: {nets: [203.0.113.5]}\n";
    let log = first(
        "GlobalNetworkPolicy",
        "log",
        "selector: user == 'nobody', egress: [{action: Log, destination: \
         {selector: group == 'partners'}}, {action: Pass}]",
    );
    apply(&daemon, &format!("{set}{log}"));
    connect(&lab.host, "203.0.113.5:80").unwrap();
    eventually("it is counted", || {
        (daemon.status()["packets"]["quiet"] == 1).then_some(())
    });
    assert!(nobody_reaches(&lab.host, "203.0.113.5:80"));
    alerts.wait(&[("dst", "203.0.113.5")]).assert(&[
        ("action", "alert"),
        ("user", "nobody"),
        ("feed", "partners"),
        ("cause", "logged by first.log"),
    ]);
}

#[test]
fn a_policy_cuts_the_streams_of_its_source_only_and_lets_them_go_again() {
    let Some(lab) = Lab::new() else { return };
    echo_tcp(&lab.server);
    let _echo = echo(&lab.server, "203.0.113.3:53");
    let (alerts, daemon) =
        Daemon::alerting(&lab, &lab.host, conf(&lab, &["203.0.113.1", "203.0.113.3"]));
    let open = || TcpStream::connect("203.0.113.1:7").unwrap();
    let mut of_nobody = as_nobody(&lab.host, open);
    let mut of_root = connect(&lab.host, "203.0.113.1:7").unwrap();
    let datagrams = as_nobody(&lab.host, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("203.0.113.3:53").unwrap();
        socket
    });
    let answered = |limit: Duration| {
        datagrams.set_read_timeout(Some(limit)).unwrap();
        let _ = datagrams.send(b"hello");
        datagrams.recv(&mut [0; 16]).is_ok()
    };
    let soon = Duration::from_secs(1);
    eventually("the datagrams are answered", || {
        answered(soon).then_some(())
    });
    let _other = exchange(&lab.host, "203.0.113.3:53").unwrap();
    assert!(alive(&mut of_nobody) && alive(&mut of_root));
    let known = 4;
    eventually("each was alerted", || {
        (alerts.all().len() == known).then_some(())
    });

    apply(&daemon, &deny_nobody());
    for address in ["203.0.113.1", "203.0.113.3"] {
        alerts
            .wait(&[("dst", address), ("action", "deny")])
            .assert(&[
                ("method", "live-flow"),
                ("policy", "default.nobody"),
                ("user", "nobody"),
            ]);
    }
    eventually("both are cut", || {
        (daemon.status()["packets"]["cut_flows"] == 2).then_some(())
    });
    assert!(silent(&mut of_nobody) && !answered(soon));
    assert!(alive(&mut of_root));

    // Another policy that says nothing new of them: nothing is alerted again.
    apply(&daemon, &deny("default.other", "user == 'daemon'"));
    apply(&daemon, &deny("default.third", "comm == 'nothing'"));
    assert!(!answered(soon) && alive(&mut of_root));

    daemon.ok(&["delete", "gnp/default.nobody"]);
    eventually("the datagrams are answered again", || {
        answered(soon).then_some(())
    });
    assert!(alive(&mut of_root));
    let told: Vec<String> = alerts.all().into_iter().map(|alert| alert.line).collect();
    assert_eq!(told.len(), known + 2, "{told:#?}");
}

#[test]
fn a_new_verdict_is_alerted_at_once_and_is_no_repeat() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = conf(&lab, &["203.0.113.1"]).alerting("suppress = \"1h\"");
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    for _ in 0..2 {
        connect(&lab.host, "203.0.113.1:80").unwrap();
    }
    alerts.wait(&[("action", "alert")]);
    apply(&daemon, &deny("default.root", "user == 'root'"));
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    alerts.wait(&[("action", "deny"), ("policy", "default.root")]);
    // By another policy, which is asked first.
    apply(&daemon, &deny("default.earlier", "has(user)"));
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    alerts.wait(&[("action", "deny"), ("policy", "default.earlier")]);
    assert_eq!(alerts.all().len(), 3);
    daemon.ok(&["delete", "gnp/default.root", "gnp/default.earlier"]);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    assert_eq!(alerts.all().len(), 3, "a repeat of the first");
}

#[track_caller]
fn a_source_that_is_not_found(on_daemon_down: &str, action: &str) {
    let Some(lab) = Lab::new() else { return };
    let _echo = echo(&lab.server, "203.0.113.3:53");
    let conf =
        conf(&lab, &["203.0.113.3"]).daemon(&format!("on-daemon-down = \"{on_daemon_down}\""));
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    apply(&daemon, &deny("default.curl", "exe == '/usr/bin/curl'"));
    daemon.freeze();
    let script = "echo hello > /dev/udp/203.0.113.3/53";
    let status = lab.host.command("bash").args(["-c", script]).status();
    assert!(status.unwrap().success());
    daemon.signal(Signal::SIGCONT);
    let alert = alerts.wait(&[("dst", "203.0.113.3")]);
    alert.assert(&[("attribution", "unknown"), ("pid", ""), ("action", action)]);
    let cause = alert.get("cause");
    assert!(
        cause.ends_with("; on-daemon-down decides"),
        "{}",
        alert.line
    );
    // Who is known is judged as ever.
    exchange(&lab.host, "203.0.113.3:53").expect("this is not curl");
}

#[test]
fn a_source_that_is_not_found_is_allowed_where_on_daemon_down_allows() {
    a_source_that_is_not_found("allow", "alert");
}

#[test]
fn a_source_that_is_not_found_is_denied_where_on_daemon_down_denies() {
    a_source_that_is_not_found("deny", "deny");
}

/// Sends a datagram from each of so many sockets of nobody while the daemon stands still, and lets it go on.
fn pile_up(lab: &Lab, daemon: &Daemon<'_>, flows: usize) -> Vec<UdpSocket> {
    daemon.freeze();
    let sockets = as_nobody(&lab.host, || {
        let send = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"hello", "203.0.113.3:53").unwrap();
            socket
        };
        (0..flows).map(send).collect()
    });
    daemon.signal(Signal::SIGCONT);
    sockets
}

#[test]
fn a_flow_whose_verdict_hangs_on_its_source_is_looked_up_however_many_wait() {
    const FLOWS: usize = 500;
    let Some(lab) = Lab::new() else { return };
    let conf = conf(&lab, &["203.0.113.3"]).nftables("queue-max-len = 1024");
    let (_alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let hour = |verdict: &str| daemon.status()["last_hour"][verdict].as_u64().unwrap();
    let many = u64::try_from(FLOWS).unwrap();
    let _sockets = pile_up(&lab, &daemon, FLOWS);
    eventually("all are judged", || (hour("alerted") == many).then_some(()));
    let folded = daemon.status()["packets"]["folded"].clone();
    assert!(
        folded.as_u64().unwrap() > 100,
        "most are only counted: {folded}"
    );

    apply(&daemon, &deny("default.it", "exe != '/usr/bin/curl'"));
    let _sockets = pile_up(&lab, &daemon, FLOWS);
    eventually("all have come", || {
        let received = daemon.status()["packets"]["received"].as_u64();
        (received.unwrap() >= 2 * many).then_some(())
    });
    eventually("all are denied", || {
        let denied = &daemon.status()["last_hour"]["denied_by"]["default.it"];
        (denied.as_u64().unwrap_or(0) >= many).then_some(())
    });
    assert_eq!(daemon.status()["packets"]["folded"], folded);
}

#[test]
fn lookup_tells_who_decides_for_whom() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &["203.0.113.1"]));
    let plain = daemon.ok(&["lookup", "203.0.113.1"]);
    assert!(
        plain.starts_with("egress: flows to 203.0.113.1 are let pass with an alert: "),
        "{plain}"
    );
    apply(&daemon, &deny_nobody());
    let lookup = |more: &[&str]| daemon.ok(&[&["lookup", "203.0.113.1"][..], more].concat());

    let nobody = lookup(&["--as", "user=nobody", "--direction", "egress"]);
    for line in [
        "as user=nobody\n",
        "egress: flows to 203.0.113.1 are denied by policy default.nobody, rule 1: 203.0.113.1 in watch",
        "  result: denied by default.nobody, egress rule 1\n",
        "in network sets: threatfeed.watch\n",
    ] {
        assert!(nobody.contains(line), "{line} is not in\n{nobody}");
    }
    assert!(!nobody.contains("ingress:"), "{nobody}");
    let root = lookup(&[
        "--as",
        "user=root",
        "--as",
        "unit=a.service",
        "--port",
        "TCP/443",
    ]);
    assert!(
        root.contains("egress: flows to 203.0.113.1 are let pass with an alert: "),
        "{root}"
    );
    assert!(
        root.contains("default.nobody: not for this endpoint"),
        "{root}"
    );
    let anybody = lookup(&[]);
    assert!(
        anybody.contains("depends on the source (the label user)"),
        "{anybody}"
    );
    let json: Value = serde_json::from_str(&lookup(&["--as", "user=nobody", "--json"])).unwrap();
    let egress = &json["egress"];
    assert_eq!(egress["action"], "deny");
    assert_eq!(egress["policy"], "default.nobody");
    assert_eq!(
        (&egress["tier"], &egress["rule"]),
        (&"default".into(), &1.into())
    );
    assert_eq!(json["ingress"]["action"], "alert");
    let json: Value = serde_json::from_str(&lookup(&["--json"])).unwrap();
    assert_eq!(json["egress"]["depends_on"][0], "the label user");

    for (bad, message) in [
        (&["--as", "nobody"][..], "write it as KEY=VALUE"),
        (&["--as", "=nobody"], "is not the key of a label"),
        (
            &["--as", "user=a", "--as", "user=b"],
            "--as gives user twice",
        ),
        (&["--port", "443/icmp"], "write it as PROTOCOL/PORT"),
        (&["--direction", "out"], "egress"),
    ] {
        let output = daemon.ctl(&[&["lookup", "203.0.113.1"][..], bad].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(said(&output).contains(message), "{}", said(&output));
    }
}
