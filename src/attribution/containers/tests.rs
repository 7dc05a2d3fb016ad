//! Files in the layouts of docker, podman, containerd, runc and CRI-O, shortened and written by hand after
//! what real runs and the documentation show; `make test-containers` reads those of real runtimes.

use std::fs;

use tempfile::TempDir;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const UID: &str = "3f2b1c9e-0d4e-4a55-9c3b-7f0e5d6a1b2c";

struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path.replace("ID64", ID));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("ID64", ID).replace("POD-UID", UID)).unwrap();
    }

    fn containers(&self) -> Containers {
        let at = |name| self.dir.path().join(name);
        let roots = Roots {
            runtimes: RuntimeRoots {
                docker: at("docker"),
                containerd: at("containerd"),
                storage: vec![at("run-storage"), at("storage")],
                runc: at("runc"),
            },
            ..Roots::default()
        };
        Containers::new(&roots, &Helper::new("test", 1))
    }

    #[track_caller]
    fn identity(&self, cgroup: &str) -> Identity {
        let cgroup = cgroup.replace("ID64", ID).replace("POD-UID", UID);
        Arc::unwrap_or_clone(self.containers().of(&cgroup, soon()))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[track_caller]
fn check(
    identity: &Identity,
    container: &str,
    image: Option<&str>,
    pod: Option<&str>,
    namespace: Option<&str>,
) {
    assert_eq!(identity.container.as_deref(), Some(container));
    assert_eq!(identity.image.as_deref(), image);
    assert_eq!(identity.pod.as_deref(), pod);
    assert_eq!(identity.namespace.as_deref(), namespace);
}

#[test]
fn docker_names_container_and_image() {
    let host = Host::new();
    host.write(
        "docker/containers/ID64/config.v2.json",
        r#"{"StreamConfig":{},"State":{"Running":true,"Pid":4711},"ID":"ID64",
            "Config":{"Hostname":"0123456789ab","Image":"nginx:1.25","Labels":{"app":"shop"}},
            "Image":"sha256:aa","Name":"/web","Driver":"overlay2"}"#,
    );
    for path in ["/docker/ID64", "/system.slice/docker-ID64.scope"] {
        let identity = host.identity(path);
        check(&identity, "web", Some("nginx:1.25"), None, None);
        assert_eq!(identity.labels["app"], "shop");
    }
    host.write(
        "docker/containers/ID64/config.v2.json",
        r#"{"Name":"/k8s_app_web-1_shop_u_0","Config":{"Image":"nginx","Labels":{
            "io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-1",
            "io.kubernetes.pod.namespace":"shop"}}}"#,
    );
    let identity = host.identity("/kubepods/podPOD-UID/ID64");
    check(&identity, "app", Some("nginx"), Some("web-1"), Some("shop"));
    // The image's author wrote these.
    host.write(
        "docker/containers/ID64/config.v2.json",
        r#"{"Name":"/evil","Config":{"Image":"nginx","Labels":{
            "io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-1",
            "io.kubernetes.pod.namespace":"shop"}}}"#,
    );
    let identity = host.identity("/docker/ID64");
    check(&identity, "evil", Some("nginx"), None, None);
    host.write(
        "docker/containers/ID64/config.v2.json",
        r#"{"Name":"/web","Config":{"Labels":null}}"#,
    );
    check(&host.identity("/docker/ID64"), "web", None, None, None);
}

#[test]
fn containerd_names_pod_and_container() {
    let host = Host::new();
    host.write(
        "containerd/io.containerd.runtime.v2.task/k8s.io/ID64/config.json",
        r#"{"ociVersion":"1.0.2-dev","process":{"args":["/bin/sleep"]},"annotations":{
            "io.kubernetes.cri.container-name":"app","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"docker.io/library/nginx:1.25","io.kubernetes.cri.sandbox-id":"ff",
            "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop",
            "io.kubernetes.cri.sandbox-uid":"POD-UID"},"linux":{"cgroupsPath":"/kubepods/x"}}"#,
    );
    for path in [
        "/kubepods/besteffort/podPOD-UID/ID64",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod3f2b1c9e_0d4e_4a55_9c3b_7f0e5d6a1b2c.slice/cri-containerd-ID64.scope",
    ] {
        let image = Some("docker.io/library/nginx:1.25");
        check(
            &host.identity(path),
            "app",
            image,
            Some("web-1"),
            Some("shop"),
        );
    }
    host.write(
        "containerd/io.containerd.runtime.v2.task/k8s.io/ID64/config.json",
        r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
            "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#,
    );
    let identity = host.identity("/kubepods/podPOD-UID/ID64");
    check(&identity, "POD", None, Some("web-1"), Some("shop"));
    // ctr: the name is the ID, labels are annotations.
    host.write(
        "containerd/io.containerd.runtime.v2.task/k8s.io/ct1/config.json",
        r#"{"annotations":{"app":"shop"}}"#,
    );
    let identity = host.identity("/k8s.io/ct1");
    check(&identity, "ct1", None, None, None);
    assert_eq!(identity.labels["app"], "shop");
}

#[test]
fn podman_names_container_and_image() {
    let host = Host::new();
    host.write(
        "storage/overlay-containers/containers.json",
        r#"[{"id":"ff","names":["other"],"image":"","layer":"l","metadata":"{}"},
            {"id":"ID64","names":["web"],"image":"aa","layer":"l","flags":{},
             "metadata":"{\"image-name\":\"docker.io/library/nginx:1.25\",\"image-id\":\"aa\",\"name\":\"web\",\"created-at\":1}"}]"#,
    );
    host.write(
        "storage/overlay-containers/ID64/userdata/config.json",
        r#"{"annotations":{"io.container.manager":"libpod","org.opencontainers.image.stopSignal":"15"}}"#,
    );
    let image = Some("docker.io/library/nginx:1.25");
    for path in [
        "/libpod_parent/libpod-ID64",
        "/machine.slice/libpod-ID64.scope/container",
    ] {
        check(&host.identity(path), "web", image, None, None);
    }
    // Of a root folder there is no image.
    host.write(
        "storage/overlay-containers/containers.json",
        r#"[{"id":"ID64","names":["bb"],"metadata":"{\"image-name\":\"\",\"name\":\"bb\"}"}]"#,
    );
    check(
        &host.identity("/libpod_parent/libpod-ID64"),
        "bb",
        None,
        None,
        None,
    );
}

#[test]
fn crio_names_pod_and_container() {
    let host = Host::new();
    host.write(
        "run-storage/overlay-containers/ID64/userdata/config.json",
        r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.ContainerID":"ID64",
            "io.kubernetes.cri-o.Name":"k8s_app_web-1_shop_POD-UID_0","io.kubernetes.cri-o.ImageName":"quay.io/nginx:1",
            "io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.cri-o.Labels":"{\"app\":\"web\",\"io.kubernetes.container.name\":\"app\"}"}}"#,
    );
    let path =
        "/kubepods.slice/kubepods-pod3f2b1c9e_0d4e_4a55_9c3b_7f0e5d6a1b2c.slice/crio-ID64.scope";
    let identity = host.identity(path);
    check(
        &identity,
        "app",
        Some("quay.io/nginx:1"),
        Some("web-1"),
        Some("shop"),
    );
    assert_eq!(identity.labels["app"], "web");
}

#[test]
fn runc_is_known_by_its_state() {
    let host = Host::new();
    host.write("runc/box/state.json", r#"{"id":"box"}"#);
    check(&host.identity("/box"), "box", None, None, None);
    check(&host.identity("/box/inner"), "box", None, None, None);
    assert_eq!(host.identity("/other").container, None);
    assert_eq!(host.identity("/..").container, None);
}

#[test]
fn without_files_the_id_is_what_there_is() {
    let host = Host::new();
    check(&host.identity("/docker/ID64"), ID, None, None, None);
    check(
        &host.identity("/kubepods/podPOD-UID/ID64"),
        ID,
        None,
        Some(UID),
        None,
    );
    let unit = host.identity("/system.slice/nginx.service");
    assert_eq!(
        (unit.unit.as_deref(), unit.container),
        (Some("nginx.service"), None)
    );
    // Damaged, and far too large.
    host.write("docker/containers/ID64/config.v2.json", "{\"Name\":");
    check(&host.identity("/docker/ID64"), ID, None, None, None);
    let long = format!(r#"{{"Name":"/{}"}}"#, "é".repeat(5000));
    host.write("docker/containers/ID64/config.v2.json", &long);
    assert!(host.identity("/docker/ID64").container.unwrap().len() <= MAX_TEXT);
}

#[test]
fn a_name_that_comes_late_is_found() {
    let host = Host::new();
    let mut containers = host.containers();
    let path = format!("/docker/{ID}");
    let late = Instant::now();
    assert_eq!(containers.of(&path, late).container.as_deref(), Some(ID));
    host.write(
        "docker/containers/ID64/config.v2.json",
        r#"{"Name":"/web","Config":{}}"#,
    );
    let end = soon();
    let found = loop {
        let found = containers.of(&path, soon());
        if found.container.as_deref() == Some("web") {
            break found;
        }
        assert!(Instant::now() < end, "{found:?}");
        std::thread::yield_now();
    };
    fs::remove_dir_all(host.dir.path()).unwrap();
    assert!(Arc::ptr_eq(&found, &containers.of(&path, soon())));
}

#[test]
fn annotations_of_an_image_name_no_pod() {
    let host = Host::new();
    host.write(
        "containerd/io.containerd.runtime.v2.task/default/ID64/config.json",
        r#"{"annotations":{"io.kubernetes.cri.container-name":"app","nerdctl/name":"evil",
            "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#,
    );
    check(&host.identity("/x/ID64"), "evil", None, None, None);
    let host = Host::new();
    host.write(
        "storage/overlay-containers/ID64/userdata/config.json",
        r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":"container","io.container.manager":"libpod",
            "io.kubernetes.cri-o.Name":"evil","io.kubernetes.pod.name":"web-1",
            "io.kubernetes.pod.namespace":"shop"}}"#,
    );
    check(&host.identity("/x/ID64"), ID, None, None, None);
}
