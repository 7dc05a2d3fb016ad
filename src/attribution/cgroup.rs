//! A cgroup path into the systemd unit, container and pod it belongs to. Pure.
//!
//! Knows the layouts of systemd, docker, podman, containerd, CRI-O, LXC, systemd-nspawn and the
//! kubelet with both cgroup drivers. Names and images of containers are not in the path.

/// Longest name of a container that has no 64-digit ID, in bytes.
const MAX_NAME: usize = 255;

/// Unit types that hold processes (systemd.unit(5)); slices only group them.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// What a cgroup path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupIdentity {
    /// Innermost systemd unit, with systemd's own escapes.
    pub unit: Option<String>,
    /// Innermost systemd slice above that unit.
    pub slice: Option<String>,
    /// The user whose sessions' slice it is below, `/user.slice/user-UID.slice`.
    pub session_uid: Option<u32>,
    /// Innermost container.
    pub container: Option<ContainerId>,
    /// Kubernetes pod UID: a UUID, or the 32 digits of a static pod.
    pub pod_uid: Option<String>,
}

/// A container by the ID of its runtime: 64 hexadecimal digits, or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerId {
    id: String,
    runtime: Runtime,
}

impl ContainerId {
    /// The ID.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// Who runs it.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    pub(super) fn new(id: &str, runtime: Runtime) -> Option<Self> {
        (!id.is_empty() && id.len() <= MAX_NAME).then(|| Self {
            id: id.to_owned(),
            runtime,
        })
    }
}

/// The container runtime, as far as the path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// A bare ID: a kubelet with the cgroupfs driver, or a runtime used by hand.
    Unknown,
    /// runc by hand; known by its state file.
    Runc,
    /// Docker.
    Docker,
    /// Podman (libpod).
    Podman,
    /// containerd, through CRI or ctr.
    Containerd,
    /// CRI-O.
    Crio,
    /// LXC, LXD, Incus.
    Lxc,
    /// A machine of systemd-nspawn or systemd-machined.
    Machine,
}

/// What the path of a cgroup, relative to the root of its hierarchy, says of its processes.
pub fn identify(path: &str) -> CgroupIdentity {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let unit = parts.iter().rposition(|part| is_unit(part));
    let above_unit = parts.get(..unit.unwrap_or(parts.len())).unwrap_or_default();
    CgroupIdentity {
        unit: unit
            .and_then(|at| parts.get(at))
            .map(|part| unescape_cgroup(part).to_owned()),
        slice: above_unit
            .iter()
            .rfind(|part| part.ends_with(".slice"))
            .map(|part| unescape_cgroup(part).to_owned()),
        session_uid: session(&parts),
        container: container(&parts),
        pod_uid: pod_uid(&parts),
    }
}

/// Only of the host itself: a container may have a logind of its own.
fn session(parts: &[&str]) -> Option<u32> {
    let ["user.slice", user, ..] = parts else {
        return None;
    };
    user.strip_prefix("user-")?
        .strip_suffix(".slice")?
        .parse()
        .ok()
}

fn is_unit(part: &str) -> bool {
    UNIT_SUFFIXES.iter().any(|suffix| {
        part.strip_suffix(suffix)
            .is_some_and(|name| !name.is_empty())
    })
}

/// systemd puts `_` in front of names that would clash with files of the kernel.
fn unescape_cgroup(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

fn container(parts: &[&str]) -> Option<ContainerId> {
    (0..parts.len()).rev().find_map(|at| {
        let part = parts.get(at)?;
        let parent = at
            .checked_sub(1)
            .and_then(|above| parts.get(above))
            .copied();
        by_prefix(part)
            .or_else(|| bare_id(part, parent))
            .or_else(|| by_parent(part, parent, at))
            .or_else(|| lxc(part))
            .or_else(|| machine(part))
    })
}

/// `docker-ID.scope`, `libpod-ID`, `kubepods-x.slice:cri-containerd:ID`. The monitors
/// (`libpod-conmon-ID.scope`) are not inside the container and have no ID after the prefix.
fn by_prefix(part: &str) -> Option<ContainerId> {
    const PREFIXES: [(&str, Runtime); 7] = [
        ("docker", Runtime::Docker),
        ("libpod", Runtime::Podman),
        ("podman", Runtime::Podman),
        ("cri-containerd", Runtime::Containerd),
        ("nerdctl", Runtime::Containerd),
        ("crio", Runtime::Crio),
        ("cri-o", Runtime::Crio),
    ];
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let name = name.rsplit_once(".slice:").map_or(name, |(_, name)| name);
    PREFIXES.iter().find_map(|&(prefix, runtime)| {
        let id = name.strip_prefix(prefix)?.strip_prefix(['-', ':'])?;
        is_id(id).then(|| ContainerId::new(id, runtime)).flatten()
    })
}

fn bare_id(part: &str, parent: Option<&str>) -> Option<ContainerId> {
    let runtime = match parent {
        Some("docker") => Runtime::Docker,
        Some("libpod_parent") => Runtime::Podman,
        _ => Runtime::Unknown,
    };
    is_id(part)
        .then(|| ContainerId::new(part, runtime))
        .flatten()
}

/// Names without a pattern of their own, known by where they are: `/k8s.io/NAME` (containerd's
/// default of NAMESPACE/ID), `/lxc/NAME`.
fn by_parent(part: &str, parent: Option<&str>, at: usize) -> Option<ContainerId> {
    match (parent?, at) {
        ("k8s.io" | "moby", 1) => ContainerId::new(part, Runtime::Containerd),
        ("lxc" | "lxc.payload", _) => ContainerId::new(part, Runtime::Lxc),
        _ => None,
    }
}

/// `lxc.payload.NAME`; `lxc.monitor.NAME` is outside the container.
fn lxc(part: &str) -> Option<ContainerId> {
    ContainerId::new(part.strip_prefix("lxc.payload.")?, Runtime::Lxc)
}

/// `machine-NAME.scope` and `systemd-nspawn@NAME.service`. Virtual machines register too; their
/// processes are QEMU's own.
fn machine(part: &str) -> Option<ContainerId> {
    let escaped = part
        .strip_prefix("machine-")
        .and_then(|name| name.strip_suffix(".scope"))
        .or_else(|| {
            part.strip_prefix("systemd-nspawn@")?
                .strip_suffix(".service")
        })?;
    let name = unescape_unit(escaped);
    if name.starts_with("qemu-") {
        return None;
    }
    ContainerId::new(&name, Runtime::Machine)
}

/// `\x2d` into `-` (systemd-escape(1)); anything else that looks escaped stays.
fn unescape_unit(escaped: &str) -> String {
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((before, after)) = rest.split_once("\\x") {
        name.push_str(before);
        let code = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (code.filter(u8::is_ascii_graphic), after.get(2..)) {
            (Some(byte), Some(behind)) => {
                name.push(char::from(byte));
                rest = behind;
            }
            _ => {
                name.push_str("\\x");
                rest = after;
            }
        }
    }
    name.push_str(rest);
    name
}

/// `podUID` below a `kubepods` group, or `kubepods-besteffort-podUID_WITH_UNDERSCORES.slice`.
fn pod_uid(parts: &[&str]) -> Option<String> {
    let first = parts.iter().position(|part| part.contains("kubepods"))?;
    parts.get(first..)?.iter().rev().find_map(|part| {
        let name = part.split_once(".slice").map_or(*part, |(name, _)| name);
        let uid = name
            .rsplit_once("-pod")
            .map(|(_, uid)| uid)
            .or_else(|| name.strip_prefix("pod"))?
            .replace('_', "-");
        is_pod_uid(&uid).then_some(uid)
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_pod_uid(text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.len() {
        32 => hex(text),
        36 => text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(hex),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "3f1b2c4d-0001-4a2b-9c3d-aabbccddeeff";

    #[track_caller]
    fn check(
        path: &str,
        unit: Option<&str>,
        container: Option<(&str, Runtime)>,
        pod: Option<&str>,
    ) {
        let path = path
            .replace("ID64", ID)
            .replace("UID", UID)
            .replace("U_I_D", &UID.replace('-', "_"));
        let found = identify(&path);
        let unit = unit.map(|unit| unit.replace("ID64", ID));
        assert_eq!(found.unit, unit, "unit of {path}");
        let got = found.container.as_ref().map(|c| (c.as_str(), c.runtime()));
        assert_eq!(got, container, "container of {path}");
        assert_eq!(found.pod_uid.as_deref(), pod, "pod of {path}");
    }

    #[test]
    fn every_runtime_of_the_test_beds_is_known() {
        let id = |runtime| Some((ID, runtime));
        check("/ID64", None, id(Runtime::Unknown), None);
        check(
            "/libpod_parent/libpod-ID64",
            None,
            id(Runtime::Podman),
            None,
        );
        check(
            "/machine.slice/libpod-ID64.scope/container",
            Some("libpod-ID64.scope"),
            id(Runtime::Podman),
            None,
        );
        check("/docker/ID64", None, id(Runtime::Docker), None);
        check(
            "/system.slice/docker-ID64.scope",
            Some("docker-ID64.scope"),
            id(Runtime::Docker),
            None,
        );
        check(
            "/k8s.io/ct1",
            None,
            Some(("ct1", Runtime::Containerd)),
            None,
        );
        check(
            "/kubepods/besteffort/podUID/ID64",
            None,
            id(Runtime::Unknown),
            Some(UID),
        );
        check(
            "/kubepods/podUID/ID64",
            None,
            id(Runtime::Unknown),
            Some(UID),
        );
        check(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/cri-containerd-ID64.scope",
            Some("cri-containerd-ID64.scope"),
            id(Runtime::Containerd),
            Some(UID),
        );
        check(
            "/kubepods.slice/kubepods-podU_I_D.slice/crio-ID64.scope",
            Some("crio-ID64.scope"),
            id(Runtime::Crio),
            Some(UID),
        );
        check(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_I_D.slice/cri-containerd-ID64.scope",
            Some("cri-containerd-ID64.scope"),
            id(Runtime::Containerd),
            Some(UID),
        );
        check(
            "/system.slice/containerd.service/kubepods-burstable-podU_I_D.slice:cri-containerd:ID64",
            Some("containerd.service"),
            id(Runtime::Containerd),
            Some(UID),
        );
        check(
            "/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/ID64",
            None,
            id(Runtime::Unknown),
            Some("0123456789abcdef0123456789abcdef"),
        );
    }

    #[test]
    fn lxc_and_machines_go_by_name() {
        check(
            "/lxc.payload.web/system.slice/nginx.service",
            Some("nginx.service"),
            Some(("web", Runtime::Lxc)),
            None,
        );
        check("/lxc/101/ns", None, Some(("101", Runtime::Lxc)), None);
        check("/lxc.monitor.web", None, None, None);
        check(
            "/machine.slice/machine-my\\x2dbox.scope/payload",
            Some("machine-my\\x2dbox.scope"),
            Some(("my-box", Runtime::Machine)),
            None,
        );
        check(
            "/machine.slice/systemd-nspawn@box.service/payload",
            Some("systemd-nspawn@box.service"),
            Some(("box", Runtime::Machine)),
            None,
        );
        check(
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope",
            Some("machine-qemu\\x2d1\\x2dvm.scope"),
            None,
            None,
        );
    }

    #[test]
    fn the_innermost_unit_counts() {
        check(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            Some("x.service"),
            None,
            None,
        );
        check(
            "/user.slice/user-1000.slice/session-3.scope",
            Some("session-3.scope"),
            None,
            None,
        );
        check(
            "/system.slice/system-getty.slice/getty@tty1.service",
            Some("getty@tty1.service"),
            None,
            None,
        );
        check(
            "/system.slice/dev-disk\\x2done.swap",
            Some("dev-disk\\x2done.swap"),
            None,
            None,
        );
        check(
            "/system.slice/_cpu.service/worker",
            Some("cpu.service"),
            None,
            None,
        );
        check("/init.scope", Some("init.scope"), None, None);
        check("/", None, None, None);
        check("/.service", None, None, None);
        let slice = |path| identify(path).slice;
        assert_eq!(
            slice("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service").as_deref(),
            Some("app.slice")
        );
        assert_eq!(
            slice("/system.slice/a.service/b.slice").as_deref(),
            Some("system.slice")
        );
        assert_eq!(slice("/kubepods.slice").as_deref(), Some("kubepods.slice"));
        assert_eq!(slice("/docker/x"), None);
    }

    #[test]
    fn a_session_is_the_hosts_own() {
        let session = |path| identify(path).session_uid;
        assert_eq!(
            session("/user.slice/user-1000.slice/session-3.scope"),
            Some(1000)
        );
        assert_eq!(session("/user.slice/user-0.slice/user@0.service"), Some(0));
        assert_eq!(session("/user.slice/user-.slice"), None);
        assert_eq!(session("/system.slice/cron.service"), None);
        assert_eq!(
            session("/lxc/box/user.slice/user-1000.slice/session-3.scope"),
            None,
            "a user of a container"
        );
    }

    #[test]
    fn monitors_and_look_alikes_are_no_containers() {
        check(
            "/machine.slice/libpod-conmon-ID64.scope",
            Some("libpod-conmon-ID64.scope"),
            None,
            None,
        );
        check(
            "/system.slice/crio-conmon-ID64.scope",
            Some("crio-conmon-ID64.scope"),
            None,
            None,
        );
        check(
            "/process_api/b83092d129a80d730c3c375e67602db0",
            None,
            None,
            None,
        );
        check(
            "/system.slice/docker-short.scope",
            Some("docker-short.scope"),
            None,
            None,
        );
        check("/podUID/x", None, None, None);
    }

    proptest! {
        #[test]
        fn any_path_never_panics(path in "[a-z0-9/.:_@\\\\xé-]{0,120}") {
            let _ = identify(&path);
        }
    }
}
