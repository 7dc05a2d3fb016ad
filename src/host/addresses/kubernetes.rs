//! The API server that this host's kubelet talks to: a node that loses it is lost to its cluster.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use url::Url;

use super::{Roots, reading};
use crate::config::Host;

/// The variable that every pod has.
pub(super) const VARIABLE: &str = "KUBERNETES_SERVICE_HOST";
/// Larger files are not read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Servers taken from one file.
const MOST: usize = 16;

/// Where a kubelet, k3s or rke2 keeps the address of its API server.
fn files(roots: &Roots) -> Vec<PathBuf> {
    let etc = [
        "kubernetes/kubelet.conf",
        "kubernetes/bootstrap-kubelet.conf",
        "rancher/k3s/k3s.yaml",
        "rancher/k3s/config.yaml",
        "rancher/rke2/rke2.yaml",
        "rancher/rke2/config.yaml",
    ];
    let lib = [
        "kubelet/kubeconfig",
        "rancher/k3s/agent/kubelet.kubeconfig",
        "rancher/rke2/agent/kubelet.kubeconfig",
    ];
    let etc = etc.iter().map(|file| roots.etc.join(file));
    etc.chain(lib.iter().map(|file| roots.lib.join(file)))
        .collect()
}

/// The servers by the environment and by these files, and the files that cannot be read.
pub(super) fn servers(
    roots: &Roots,
    variable: Option<OsString>,
) -> (Vec<Host>, Vec<(PathBuf, io::Error)>) {
    let (mut hosts, mut bad) = (Vec::new(), Vec::new());
    if let Some(name) = variable.as_ref().and_then(|name| name.to_str())
        && !name.is_empty()
    {
        hosts.push(address_or_name(name));
    }
    for file in files(roots) {
        match read(&file) {
            Ok(text) => hosts.extend(in_kubeconfig(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => bad.push((file, e)),
        }
    }
    let mut known: Vec<Host> = Vec::new();
    for host in hosts {
        if !known.contains(&host) {
            known.push(host);
        }
    }
    (known, bad)
}

fn read(file: &Path) -> io::Result<String> {
    let bytes = reading::read(file, LARGEST)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The `server:` lines of a kubeconfig. No YAML parser is needed for them: these files are written by
/// programs, a server stands on a line of its own, and what is no URL counts for nothing.
fn in_kubeconfig(text: &str) -> Vec<Host> {
    let values = text.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix("server:")
    });
    let hosts = values.filter_map(|value| {
        let value = value.trim().trim_matches(['"', '\'']);
        let url = Url::parse(value).ok()?;
        matches!(url.scheme(), "https" | "http")
            .then(|| url.host_str().map(address_or_name))
            .flatten()
    });
    hosts.take(MOST).collect()
}

fn address_or_name(text: &str) -> Host {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .map_or_else(|_| Host::Name(text.to_owned()), Host::Addr)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn servers_of_the_environment_and_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots {
            etc: folder.path().join("etc"),
            lib: folder.path().join("lib"),
            ..Roots::default()
        };
        let write = |file: PathBuf, text: &str| {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write(
            roots.etc.join("kubernetes/kubelet.conf"),
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: x\n    server: https://192.0.2.10:6443\n  name: k\n",
        );
        write(
            roots.lib.join("kubelet/kubeconfig"),
            "clusters:\n- name: a\n  cluster: \n    server: \"https://api.example:6443\"\n- cluster:\n    server: https://[2001:db8::10]:6443\n",
        );
        write(
            roots.etc.join("rancher/k3s/config.yaml"),
            "server: https://192.0.2.10:6443\ntoken: secret\nserver: not a url\nserver: file:///x\n",
        );
        let (found, bad) = servers(&roots, Some("10.96.0.1".into()));
        assert!(bad.is_empty(), "{bad:?}");
        let addr = |text: &str| Host::Addr(text.parse().unwrap());
        let expect = [
            addr("10.96.0.1"),
            addr("192.0.2.10"),
            Host::Name("api.example".into()),
            addr("2001:db8::10"),
        ];
        assert_eq!(found, expect);
        assert_eq!(
            servers(
                &Roots {
                    etc: "/nowhere".into(),
                    lib: "/nowhere".into(),
                    ..Roots::default()
                },
                None
            )
            .0,
            []
        );
    }

    #[test]
    fn a_folder_in_place_of_a_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("kubernetes/kubelet.conf")).unwrap();
        let roots = Roots {
            etc: folder.path().to_owned(),
            lib: folder.path().to_owned(),
            ..Roots::default()
        };
        let (found, bad) = servers(&roots, None);
        assert_eq!((found.len(), bad.len()), (0, 1));
    }
}
