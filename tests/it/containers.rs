//! A container that `tests/containers/run` started with a real runtime.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use feedgate::{
    attribution::{Attributor, Clues, Grade, Roots, Source, containers::RuntimeRoots},
    feed::Direction,
    host::wires::Wires,
    packet::{Flow, Protocol, Transport},
};

/// Interfaces of the test's namespace that are looked at.
const MAX_INDEX: u32 = 64;

#[test]
#[ignore = "needs container runtimes: make test-containers"]
fn a_real_container_is_named() {
    let var = |name: &str| env::var(format!("FEEDGATE_TEST_{name}")).unwrap();
    let some = |name: &str| Some(var(name)).filter(|value| !value.is_empty());
    let pid: u32 = var("PID").parse().unwrap();
    let flow = flow_of(pid);
    let mut attributor = Attributor::new(&roots(&var("BED")), Duration::from_secs(5)).unwrap();
    let netns = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    let (source, method) = if netns(&pid.to_string()) == netns("self") {
        let source = attributor.local(&flow, Direction::Egress, &Clues::default());
        (source, "sock-diag")
    } else {
        (behind_a_pair(&mut attributor, &flow), "netns-sock-diag")
    };
    assert_eq!(source.pid, Some(pid), "{source:?}");
    assert_eq!((source.grade, source.method), (Grade::Exact, Some(method)));
    assert_eq!(source.container, some("NAME"));
    assert_eq!(source.image, some("IMAGE"));
    assert_eq!(source.pod, some("POD"));
    assert_eq!(source.namespace, some("NAMESPACE"));
}

/// Asks for the namespace behind each virtual pair; one of them has the flow.
fn behind_a_pair(attributor: &mut Attributor, flow: &Flow) -> Source {
    let mut wires = Wires::new();
    let sources = (1..MAX_INDEX).filter_map(|index| {
        let clues = Clues {
            peer: Some(wires.peer(index, None)?),
            ..Clues::default()
        };
        Some(attributor.forwarded(flow, Direction::Egress, &clues))
    });
    let mut sources: Vec<Source> = sources.filter(|source| source.pid.is_some()).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    sources.remove(0)
}

/// The runtimes' folders below the test's own.
fn roots(bed: &str) -> Roots {
    let bed = PathBuf::from(bed);
    Roots {
        runtimes: RuntimeRoots {
            docker: bed.join("docker"),
            containerd: bed.join("containerd"),
            storage: vec![bed.join("podman")],
            runc: bed.join("runc"),
        },
        ..Roots::default()
    }
}

/// The connection in the namespace of `pid`.
fn flow_of(pid: u32) -> Flow {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let ends = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [local, remote] = [end(fields[1]), end(fields[2])];
        (remote.port() == 53).then_some((local, remote))
    });
    let (src, dst) = ends.expect("a connection to port 53");
    Flow {
        src: src.ip(),
        dst: dst.ip(),
        proto: Protocol::TCP,
        transport: Transport::Ports {
            src: src.port(),
            dst: dst.port(),
        },
        fragment: false,
    }
}

fn end(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let ip = u32::from_str_radix(ip, 16).unwrap().to_ne_bytes();
    let port = u16::from_str_radix(port, 16).unwrap();
    SocketAddr::from((Ipv4Addr::from(ip), port))
}
