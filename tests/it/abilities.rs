//! What the kernel gives is found out at the start, logged once, and shown in the status.

use crate::support::{Conf, Daemon, Lab};

#[test]
fn what_the_kernel_gives_is_logged_once_and_shown() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let output = daemon.output();
    let mut lines = output.lines().filter(|line| line.contains(" kernel "));
    let line = lines.next().unwrap_or_else(|| panic!("{output}"));
    assert_eq!(lines.next(), None);
    // `make test-kernels` collects it for docs/kernels.md.
    let (_, said) = line.split_once("kernel ").unwrap();
    println!("abilities: {said}");

    let status = daemon.status();
    let kernel = &status["kernel"];
    let release = kernel["release"].as_str().unwrap();
    let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(release, running.trim());
    assert!(said.starts_with(&format!("{release}: ")), "{said}");
    // Each is said once, and as the status has it.
    for (key, name) in [
        ("owner_flag", "owner flag"),
        ("persist", "persist"),
        ("cgroup_id", "cgroup id"),
        ("raw_diag", "raw_diag"),
        ("conntrack_glue", "conntrack glue"),
        ("pipapo", "pipapo"),
    ] {
        let has = kernel[key].as_bool().unwrap_or_else(|| panic!("{kernel}"));
        let told = if has {
            name.to_owned()
        } else {
            format!("no {name}")
        };
        assert!(said.split(", ").any(|part| part == told), "{told}: {said}");
    }
    // What the daemon does with it.
    assert_eq!(status["table"]["owned"], kernel["persist"]);
    let kind = status["queue"]["kind"].as_str().unwrap();
    let queue = kernel["queue"].as_str().unwrap();
    assert!(kind.starts_with("native") == (queue == "native"), "{kind}");
    assert!(said.contains(&format!(": {queue} queue, ")) || queue == "none");
}
