//! Cgroups that come and go unseen; any folder does for a hierarchy.

use std::time::Duration;

use dogwatch_ebpf::calls::Call;
use dogwatch_ebpf::record::{Called, Header};
use tempfile::TempDir;

use super::*;
use crate::clock::Reading;
use crate::config::{Config, RawConfig};

struct Bench {
    root: TempDir,
    gatherer: Gatherer,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().unwrap();
    let mut containers = Config::check(RawConfig::default()).unwrap().containers;
    containers.docker_root = root.path().join("none");
    containers.metadata_patience = Duration::ZERO;
    fs::create_dir(root.path().join("docker")).unwrap();
    let gatherer = Gatherer::new(containers, root.path(), Some(1));
    Bench { root, gatherer }
}

impl Bench {
    fn container(&self) -> std::path::PathBuf {
        self.root.path().join("docker").join("ab".repeat(32))
    }

    fn due(&mut self) -> Vec<Fact> {
        self.gatherer.due(Reading::now().boot_ns)
    }

    fn hear(&mut self, boot_ns: u64) {
        let call = Call::named("execve").unwrap();
        let called = Called {
            header: Header {
                boot_ns,
                cgroup_id: fs::metadata(self.root.path()).unwrap().ino(),
                call: Some(call),
                ..Header::default()
            },
            call,
            values: Vec::new(),
        };
        self.gatherer.before(&Record::Called(Box::new(called)));
    }
}

fn gone(facts: &[Fact]) -> Vec<u64> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::CgroupGone { id } => Some(*id),
            _ => None,
        })
        .collect()
}

#[test]
fn a_removal_that_was_lost_is_found_and_told_once() {
    let mut bench = bench();
    fs::create_dir(bench.container()).unwrap();
    let id = fs::metadata(bench.container()).unwrap().ino();
    let facts = bench.gatherer.start(Reading::now().boot_ns);
    let cgroups = facts
        .iter()
        .filter(|fact| matches!(fact, Fact::Cgroup { .. }))
        .count();
    assert_eq!(cgroups, 3, "the host's own are told too: {facts:?}");
    fs::remove_dir(bench.container()).unwrap();
    bench.hear(Reading::now().boot_ns);
    bench.gatherer.walk_allowed_ns = 0;
    bench.gatherer.lost_cgroups();
    bench.gatherer.changes.clear();
    assert!(gone(&bench.due()).is_empty(), "the walk comes first");
    assert_eq!(gone(&bench.due()), [id]);
    assert_eq!(bench.gatherer.changes, [ModeChange::Forget(id)]);
    assert!(bench.gatherer.containers.is_empty());
    assert!(gone(&bench.due()).is_empty());
}

#[test]
fn what_is_still_in_the_ring_comes_before_the_walk_is_believed() {
    let mut bench = bench();
    fs::create_dir(bench.container()).unwrap();
    let before_ns = Reading::now().boot_ns;
    bench.gatherer.start(before_ns);
    fs::remove_dir(bench.container()).unwrap();
    bench.gatherer.walk_allowed_ns = 0;
    bench.gatherer.lost_cgroups();
    bench.due();
    bench.hear(before_ns);
    assert!(
        gone(&bench.due()).is_empty(),
        "a record older than the walk came"
    );
    bench.hear(Reading::now().boot_ns);
    assert_eq!(gone(&bench.due()).len(), 1);
}
