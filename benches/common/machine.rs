//! The machine and the peers, for the header: a figure without them says little.

use std::{fs, process::Command};

/// Lines for the head of the table.
pub fn header() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    vec![
        format!(
            "{}, {cores} cores, {} MB, Linux {kernel}, load {}",
            cpu(),
            memory_mb(),
            load.join(" ")
        ),
        format!(
            "feedgate {}; peers: {}, {}",
            env!("CARGO_PKG_VERSION"),
            version("iprange", "--version"),
            version("nft", "--version")
        ),
    ]
}

/// First line of a peer's version, or that it is missing.
fn version(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return format!("{program} not installed");
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    if line.to_lowercase().contains(program) || line.starts_with("nftables") {
        line.to_owned()
    } else {
        format!("{program} {line}")
    }
}

fn cpu() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory_mb() -> u64 {
    field("/proc/meminfo", "MemTotal")
        .and_then(|value| value.trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
