//! What runc and crun wrote down about containers that run: where their bundles are.
//!
//! It is needed for those that nobody stands beside (`runc run -d`); of all others a shim or `conmon` tells.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::announced::Announcement;
use super::bounded::{Line, List};
use super::files::Files;

/// Folders of states, and folders of such folders, of root.
const FOLDERS: [&str; 2] = ["/run/runc", "/run/crun"];
const FOLDERS_BELOW: [&str; 2] = ["/run/containerd/runc", "/run/docker/runtime-runc"];
/// Every user's own are below this one.
const OF_USERS: &str = "/run/user";
/// Names looked at in each folder.
const NAMES_MAX: usize = 4_096;

/// The part of runc's `state.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncState {
    config: RuncConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncConfig {
    labels: Option<List>,
}

/// The part of crun's `status` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CrunStatus {
    bundle: Line,
}

/// Every container with a state, and whose it is.
pub(crate) fn of_running(files: &Files) -> Vec<(Announcement, u32)> {
    let plain = FOLDERS.map(|folder| (PathBuf::from(folder), 0));
    let below = FOLDERS_BELOW.iter().flat_map(|folder| {
        let folder = Path::new(folder);
        let names = files.names(folder, NAMES_MAX).into_iter();
        names.map(|name| (folder.join(name), 0)).collect::<Vec<_>>()
    });
    let users = files.names(Path::new(OF_USERS), NAMES_MAX);
    let of_users = users.iter().flat_map(|user| {
        let uid = user.parse().unwrap_or(u32::MAX);
        ["runc", "crun"].map(|runtime| (Path::new(OF_USERS).join(user).join(runtime), uid))
    });
    let folders = plain.into_iter().chain(below).chain(of_users);
    folders
        .flat_map(|(folder, uid)| {
            let ids = files.names(&folder, NAMES_MAX);
            let found = ids.into_iter().filter_map(|id| of(files, &folder, id));
            found.map(|one| (one, uid)).collect::<Vec<_>>()
        })
        .collect()
}

fn of(files: &Files, folder: &Path, id: String) -> Option<Announcement> {
    let state = folder.join(&id);
    let bundle = runcs(files, &state).or_else(|| cruns(files, &state))?;
    Some(Announcement {
        id: id.into(),
        bundle,
        pid_file: None,
    })
}

fn runcs(files: &Files, state: &Path) -> Option<PathBuf> {
    let state: RuncState = files.json(&state.join("state.json")).ok()?;
    let labels = state.config.labels?.items;
    let bundle = labels
        .iter()
        .find_map(|label| label.strip_prefix("bundle="));
    bundle.map(PathBuf::from)
}

fn cruns(files: &Files, state: &Path) -> Option<PathBuf> {
    let status: CrunStatus = files.json(&state.join("status")).ok()?;
    Some(status.bundle.text)
        .filter(|bundle| bundle.starts_with('/'))
        .map(|bundle| PathBuf::from(&*bundle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_name_their_bundles() {
        let host = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = host.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "run/runc/box/state.json",
            r#"{"id":"box","config":{"rootfs":"/r","labels":["a=b","bundle=/srv/b"]}}"#,
        );
        write(
            "run/containerd/runc/default/web/state.json",
            r#"{"config":{"labels":["bundle=/run/t/web"]}}"#,
        );
        write(
            "run/user/1000/crun/aa/status",
            r#"{"pid":1,"cgroup-path":"/x","bundle":"/home/a/b"}"#,
        );
        write("run/crun/damaged/status", "{");
        write("run/runc/none/state.json", r#"{"config":{"labels":null}}"#);
        let found = of_running(&Files::below(host.path()));
        // What runs on this very machine is told beside them.
        let own = ["box", "web", "aa", "damaged", "none"];
        let found: Vec<_> = found
            .iter()
            .filter(|(one, _)| own.contains(&&*one.id))
            .map(|(one, uid)| (&*one.id, one.bundle.to_str().unwrap(), *uid))
            .collect();
        assert_eq!(
            found,
            [
                ("box", "/srv/b", 0),
                ("web", "/run/t/web", 0),
                ("aa", "/home/a/b", 1000)
            ]
        );
    }
}
