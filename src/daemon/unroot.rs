//! Root is given up: a daemon that was started as root goes on as a user of its own, with the capabilities
//! that it needs and no way back.
//!
//! With uid 0 and no more than these capabilities it could still write into the memory of every process of
//! root's (/proc/PID/mem belongs to root), so whoever takes it over would have the host. The unit starts it as
//! another user at once; this is for containers and for a start by hand.
//!
//! It keeps root where something would no longer work then, and says what: an alert that is lost is worse.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::{
    sys::prctl,
    unistd::{self, Gid, Uid},
};

use super::hand_over::hand_over;
use crate::config::{Config, HeaderValue, SyslogAddress};

/// Whose name counts, where the host has such a user; it is the unit's.
const NAME: &str = "feedgate";
/// Elsewhere: of those that no distribution gives to anybody (Debian policy 9.2.2). docs/kubernetes.md has it.
const NUMBER: u32 = 64900;
/// In the environment: keep root.
const KEEP: &str = "FEEDGATE_KEEP_ROOT";
/// The last part of the name of a folder that is feedgate's alone.
const OWN_FOLDER: &str = "feedgate";

/// What is kept, as far as it is there.
const KEPT: [Capability; 4] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_SYS_ADMIN,
];
/// What it takes to change the user, and to read as root could afterwards.
const NEEDED: [Capability; 4] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Who the daemon becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: Uid,
    gid: Gid,
}

/// Gives root up, before the first thread and before anything is opened for writing. Where that cannot be,
/// the log says so and the daemon goes on as it is.
pub(super) fn leave_root(config_file: &Path, config: &Config) {
    if !Uid::effective().is_root() {
        return;
    }
    if std::env::var_os(KEEP).is_some() {
        return tracing::info!("root is kept ({KEEP})");
    }
    let user = user();
    let left = match in_the_way(config, user) {
        Some(why) => Err(why),
        None => prepare(config, user)
            .map_err(|e| format!("files cannot be handed over to uid {}: {e}", user.uid))
            .and_then(|()| become_user(user, &kept(config)).map_err(|e| e.to_string())),
    };
    match left {
        Ok(()) => {
            tracing::info!("root is given up: the daemon runs as uid {} now", user.uid);
            tell_unreadable(config_file, config, user);
        }
        Err(why) => {
            tracing::warn!("the daemon keeps root, and who takes it over has root's rights: {why}")
        }
    }
}

fn user() -> User {
    let named = unistd::User::from_name(NAME).ok().flatten();
    let named = named.filter(|user| !user.uid.is_root());
    named.map_or(
        User {
            uid: Uid::from_raw(NUMBER),
            gid: Gid::from_raw(NUMBER),
        },
        |user| User {
            uid: user.uid,
            gid: user.gid,
        },
    )
}

/// What would no longer work.
fn in_the_way(config: &Config, user: User) -> Option<String> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if let Some(missing) = NEEDED.into_iter().find(|capability| !has(*capability)) {
        return Some(format!("the capability {missing} is missing"));
    }
    let folders = [config.daemon.control_socket.as_path()];
    let logs = log_files(config);
    let mut places = folders.into_iter().chain(logs).filter_map(Path::parent);
    if let Some(folder) = places.find(|folder| !can_be_used(folder, user)) {
        return Some(format!(
            "uid {} may make no files in {}; give that folder to it, or use one called {OWN_FOLDER}",
            user.uid,
            folder.display()
        ));
    }
    // What is in a folder of its own is handed over with it.
    let notified = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
    let sockets = sockets(config).chain(notified.as_deref());
    let mut foreign = sockets.filter(|socket| !socket.parent().is_some_and(is_own));
    let socket =
        foreign.find(|socket| fs::metadata(socket).is_ok_and(|found| !user.may_write(&found)));
    socket.map(|socket| format!("uid {} may not write to {}", user.uid, socket.display()))
}

impl User {
    /// As the mode says (inode(7)).
    fn may_write(self, file: &Metadata) -> bool {
        let shift = if file.uid() == self.uid.as_raw() {
            6
        } else if file.gid() == self.gid.as_raw() {
            3
        } else {
            0
        };
        file.permissions().mode() >> shift & 0o2 != 0
    }
}

/// The user can make files there, or will when it is handed over.
fn can_be_used(folder: &Path, user: User) -> bool {
    match fs::metadata(folder) {
        Ok(found) => user.may_write(&found) || is_own(folder),
        // It will be made.
        Err(_) => {
            is_own(folder)
                || folder
                    .parent()
                    .is_some_and(|above| can_be_used(above, user))
        }
    }
}

fn is_own(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name == OWN_FOLDER)
}

fn log_files(config: &Config) -> impl Iterator<Item = &Path> {
    let alerts = &config.alerts;
    let files = alerts.json_file.iter().chain(&alerts.flow_log.file);
    files.map(PathBuf::as_path)
}

fn sockets(config: &Config) -> impl Iterator<Item = &Path> {
    config
        .alerts
        .syslog
        .iter()
        .filter_map(|target| match &target.address {
            SyslogAddress::Unix(path) => Some(path.as_path()),
            _ => None,
        })
}

/// Makes the folders, and hands over what an earlier daemon left in them as root.
fn prepare(config: &Config, user: User) -> io::Result<()> {
    let folders = log_files(config).filter_map(Path::parent);
    for folder in folders.filter(|folder| is_own(folder)) {
        make_all(folder, 0o750);
        hand_over(folder, user.uid)?;
    }
    for file in log_files(config).filter(|file| file.parent().is_none_or(|folder| !is_own(folder)))
    {
        hand_over(file, user.uid)?;
    }
    make(&config.daemon.state_dir, 0o700);
    hand_over(&config.daemon.state_dir, user.uid)?;
    let run = config.daemon.control_socket.parent();
    if let Some(folder) = run.filter(|folder| is_own(folder)) {
        make_all(folder, 0o755);
        // The socket gets the folder's group, root's: root without CAP_DAC_OVERRIDE, as `kubectl exec` gives
        // it, may use it, too.
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o2755));
        hand_over(folder, user.uid)?;
    }
    Ok(())
}

/// A disk that takes no folder is no reason to stay root; what needs it says so.
fn make(folder: &Path, mode: u32) {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Err(e) = fs::DirBuilder::new().mode(mode).create(folder)
        && e.kind() != io::ErrorKind::AlreadyExists
    {
        tracing::debug!("{}: {e}", folder.display());
    }
}

/// The same, with the folders above it.
fn make_all(folder: &Path, mode: u32) {
    if let Some(above) = folder.parent() {
        let _ = fs::create_dir_all(above);
    }
    make(folder, mode);
}

/// Capabilities to keep. A port below 1024 needs one more (ip(7)).
fn kept(config: &Config) -> HashSet<Capability> {
    let low = config.metrics.listen.is_some_and(|at| at.port() < 1024);
    let bind = low.then_some(Capability::CAP_NET_BIND_SERVICE);
    let has = |capability: &Capability| {
        caps::has_cap(None, CapSet::Permitted, *capability).unwrap_or(false)
    };
    KEPT.into_iter().chain(bind).filter(has).collect()
}

/// Changes the user of this thread, and so of all that it starts. On an error it is as before.
fn become_user(user: User, kept: &HashSet<Capability>) -> io::Result<()> {
    prctl::set_keepcaps(true)?;
    let groups = unistd::getgroups()?;
    let changed = unistd::setgroups(&[user.gid])
        .and_then(|()| unistd::setresgid(user.gid, user.gid, user.gid))
        .and_then(|()| unistd::setresuid(user.uid, user.uid, user.uid));
    if let Err(e) = changed {
        let root = Gid::from_raw(0);
        let back = unistd::setresgid(root, root, root).and_then(|()| unistd::setgroups(&groups));
        back?;
        return Err(e.into());
    }
    prctl::set_keepcaps(false)?;
    give_up_the_rest(kept).map_err(io::Error::other)
}

/// The bounding set first: it takes CAP_SETPCAP, which goes next.
fn give_up_the_rest(kept: &HashSet<Capability>) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    caps::set(None, CapSet::Effective, &permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let rest = caps::runtime::thread_all_supported();
        for capability in rest.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::set(None, CapSet::Inheritable, &HashSet::new())?;
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)
}

/// Names files that root could read and this user cannot: a reload would miss them.
fn tell_unreadable(config_file: &Path, config: &Config, user: User) {
    let headers = config.feeds.iter().flat_map(|feed| feed.headers.values());
    let headers = headers.filter_map(|value| match value {
        HeaderValue::File(path) | HeaderValue::OptionalFile(path) => Some(path),
        HeaderValue::Text(_) => None,
    });
    let tls = config.alerts.syslog.iter().map(|target| &target.tls);
    let tls = tls.flat_map(|tls| [&tls.ca, &tls.cert, &tls.key].into_iter().flatten());
    let files = headers.chain(tls).chain(&config.exceptions.files);
    let files = files
        .chain(&config.pull.ca_files)
        .chain(&config.manifests.dir);
    for file in files.map(PathBuf::as_path).chain([config_file]) {
        if let Err(e) = File::open(file)
            && e.kind() == io::ErrorKind::PermissionDenied
        {
            tracing::warn!(
                "{} cannot be read by uid {}, as which the daemon runs: a reload will miss it",
                file.display(),
                user.uid
            );
        }
    }
}
