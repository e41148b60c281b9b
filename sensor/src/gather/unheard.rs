//! What no record tells, and walks of the hierarchies find.

use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;

use super::walk;
use crate::container::membership;

/// Cgroups that are gone though no record has said so. One may still be in the ring, with the last events of the cgroup
/// before it, so they count as gone only when everything that was in the ring at the walk has been read.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub ids: Vec<u64>,
    pub walked_ns: u64,
    /// The latest record that was read.
    pub heard_ns: u64,
    /// None was read since the last look.
    pub quiet: bool,
}

impl Gone {
    pub fn take(&mut self) -> Vec<u64> {
        let quiet = std::mem::replace(&mut self.quiet, true);
        if quiet || self.heard_ns > self.walked_ns {
            std::mem::take(&mut self.ids)
        } else {
            Vec::new()
        }
    }
}

/// Containers in other hierarchies than the one that is watched, on a host that has several.
#[derive(Debug, Default)]
pub(super) struct Strays {
    roots: Vec<PathBuf>,
    /// Those of the last look: a runtime makes a container's cgroups one after the other.
    before: Vec<Text>,
    pub warned: bool,
}

impl Strays {
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            ..Self::default()
        }
    }

    /// The hierarchy was chosen by what ran at the start; a runtime that uses another one since then is told of once.
    pub fn look(&mut self, watched: &Path, is_known: impl Fn(&Text) -> bool) {
        let mut found = Vec::new();
        for root in &self.roots {
            for (_, path) in walk(root) {
                let stray = membership(&path).map(|membership| membership.id);
                let Some(id) = stray.filter(|id| !is_known(id)) else {
                    continue;
                };
                if self.before.contains(&id) && !self.warned {
                    self.warned = true;
                    tracing::warn!(
                        container = %id,
                        hierarchy = %root.display(),
                        watched = %watched.display(),
                        "a container is not in the cgroup hierarchy that is watched, so its events are taken for the \
                         host's: restart the sensor, which chooses the hierarchy by the containers that run"
                    );
                }
                found.push(id);
            }
        }
        self.before = found;
    }
}
