//! Cgroups that come and go unseen; any folder does for a hierarchy.

use std::time::Duration;

use dogwatch_ebpf::calls::Call;
use dogwatch_ebpf::record::{Called, Exec, Header, Value};
use tempfile::TempDir;

use super::*;
use crate::clock::Reading;
use crate::config::{Config, RawConfig};
use crate::container::{SocketAnswer, Told};
use crate::sockets::tests::{answer, asked, bench as sockets};

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

impl Bench {
    /// What the gatherer says before a record, and what follows from it.
    fn record(&mut self, record: &Record) -> Vec<Fact> {
        let mut facts = self.gatherer.before(record);
        facts.extend(self.gatherer.after(record));
        facts
    }

    /// `runc run --bundle BUNDLE NAME` by this user, then its cgroup.
    fn runc(&mut self, uid: u32, bundle: &Path, name: &str) -> Vec<Fact> {
        self.announced_and_made(uid, 77, bundle, name)
    }

    fn announced_and_made(&mut self, uid: u32, id: u64, bundle: &Path, name: &str) -> Vec<Fact> {
        let argv = format!("runc\0run\0--bundle\0{}\0{name}\0", bundle.display());
        let mut exec = Exec {
            path: b"/usr/bin/runc".to_vec(),
            argv: argv.into_bytes(),
            cwd: b"/".to_vec(),
            ..Exec::default()
        };
        exec.header.uid = uid;
        let mut facts = self.record(&Record::Exec(Box::new(exec)));
        facts.extend(self.record(&Record::Cgroup {
            header: Header::default(),
            made: true,
            id,
            path: format!("/{name}").into_bytes(),
        }));
        facts
    }
}

fn told(facts: &[Fact]) -> Vec<(Option<&str>, &str)> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Container(container) => Some((container.name.as_deref(), &*container.source)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_sockets_answer_is_waited_for_as_long_as_files_are() {
    const MS: u64 = 1_000_000;
    let mut bench = bench();
    let (sockets, helper) = sockets();
    bench.gatherer.sockets = Some(sockets);
    bench.gatherer.config.metadata_patience = Duration::from_millis(250);
    bench.gatherer.start(0);
    let bundle = bench.root.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let podmans = r#"{"annotations":{"io.container.manager":"libpod"}}"#;
    fs::write(bundle.join("config.json"), podmans).unwrap();
    // No walk finds them gone.
    bench.gatherer.walk_allowed_ns = u64::MAX;
    bench.gatherer.walk_due_ns = u64::MAX;
    let id = "cd".repeat(32);
    let facts = bench.runc(0, &bundle, &id);
    assert_eq!(told(&facts), [], "it is asked about");
    assert_eq!(told(&bench.gatherer.due(249 * MS)), []);
    assert_eq!(asked(&helper), [Text::from(id.clone())], "once");
    // No answer: files alone, and nobody waits for the next while it is silent.
    let facts = bench.gatherer.due(250 * MS);
    assert_eq!(told(&facts), [(None, "bundle")]);
    bench.gatherer.due(2_000 * MS);
    let next = "ef".repeat(32);
    let facts = bench.announced_and_made(0, 78, &bundle, &next);
    assert_eq!(told(&facts), [(None, "bundle")]);
    let known = Told {
        name: Some("web".into()),
        labels: [("team".into(), "shop".into())].into(),
        ..Told::default()
    };
    let known = SocketAnswer::Known(Box::new(known));
    answer(&helper, &id.clone().into(), known);
    answer(&helper, &next.into(), SocketAnswer::Unknown);
    let facts = bench.gatherer.due(2_020 * MS);
    let containers = facts.iter().filter_map(|fact| match fact {
        Fact::Container(container) => Some(container),
        _ => None,
    });
    let mut faults = 0;
    for container in containers {
        match &container.socket_fault {
            Some(_) => faults += 1,
            None => {
                assert_eq!(
                    (&*container.id, container.name.as_deref()),
                    (&*id, Some("web"))
                );
                assert!(
                    container
                        .labels
                        .as_ref()
                        .is_some_and(|labels| &*labels["team"] == "shop")
                );
            }
        }
    }
    assert_eq!((told(&facts).len(), faults), (2, 1), "{facts:?}");
    // The one that nobody knew may be being made; the other is told as it was, without another question.
    assert!(asked(&helper).iter().all(|asked| **asked != *id));
    bench.gatherer.due(3_100 * MS);
    assert_eq!(asked(&helper).len(), 1);
    let repeated = bench.gatherer.due(70_000 * MS);
    assert!(
        told(&repeated).contains(&(Some("web"), "bundle")),
        "{repeated:?}"
    );
}

#[test]
fn an_announced_container_is_known_when_its_cgroup_is_made() {
    let mut bench = bench();
    let bundle = bench.root.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), r#"{"process":{"args":["a"]}}"#).unwrap();
    let facts = bench.runc(0, &bundle, "box");
    assert_eq!(told(&facts), [(Some("box"), "bundle")], "{facts:?}");
    let told = facts
        .iter()
        .position(|fact| matches!(fact, Fact::ContainerCgroup { path, .. } if &**path == "/box"));
    let container = facts
        .iter()
        .position(|fact| matches!(fact, Fact::Container(_)));
    assert!(told.is_some() && told < container, "{facts:?}");
    let normal = bench.gatherer.config.mode;
    let policy = bench
        .gatherer
        .changes
        .iter()
        .find_map(|change| match change {
            ModeChange::Set(77, policy) => Some(policy.mode),
            _ => None,
        });
    assert_eq!(policy, Some(normal), "it is watched as a container");
}

#[test]
fn what_another_user_announces_is_believed_below_his_own_cgroups_alone() {
    let mut bench = bench();
    let bundle = bench.root.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let facts = bench.runc(1000, &bundle, "sshd");
    assert_eq!(told(&facts), []);
}

#[test]
fn a_damaged_bundle_leaves_the_id_and_the_name_it_was_given() {
    let mut bench = bench();
    let bundle = bench.root.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), "{\"process\":").unwrap();
    let facts = bench.runc(0, &bundle, "box");
    assert_eq!(told(&facts), [(Some("box"), "cgroup")], "{facts:?}");
}

#[test]
fn a_renamed_container_is_known_after_a_repeat() {
    let mut bench = bench();
    let docker = tempfile::tempdir().unwrap();
    bench.gatherer.config.docker_root = docker.path().to_owned();
    bench.gatherer.reader = known::reader(&bench.gatherer.config);
    let folder = docker.path().join("containers").join("ab".repeat(32));
    fs::create_dir_all(&folder).unwrap();
    let name = |name: &str| {
        let config = format!(
            r#"{{"Name":"/{name}","State":{{"StartedAt":"2026-01-01T00:00:00Z","Running":true}}}}"#
        );
        fs::write(folder.join("config.v2.json"), config).unwrap();
    };
    name("before");
    fs::write(folder.join("hostconfig.json"), "{}").unwrap();
    fs::create_dir(bench.container()).unwrap();
    let now_ns = Reading::now().boot_ns;
    let facts = bench.gatherer.start(now_ns);
    assert_eq!(told(&facts), [(Some("before"), "docker_files")]);
    name("after");
    let repeat_ns = bench.gatherer.config.repeat.as_nanos() as u64;
    assert!(told(&bench.gatherer.due(now_ns + repeat_ns / 2)).is_empty());
    let facts = bench.gatherer.due(now_ns + repeat_ns);
    assert_eq!(told(&facts), [(Some("after"), "docker_files")]);
}

#[test]
fn a_container_that_goes_before_its_files_are_read_is_told_before_its_end() {
    let mut bench = bench();
    bench.gatherer.config.metadata_patience = Duration::from_secs(1);
    bench.gatherer.start(Reading::now().boot_ns);
    let record = |made| Record::Cgroup {
        header: Header {
            boot_ns: Reading::now().boot_ns,
            ..Header::default()
        },
        made,
        id: u64::MAX,
        path: format!("/docker/{}", "cd".repeat(32)).into_bytes(),
    };
    let told = |facts: Vec<Fact>| {
        facts
            .iter()
            .filter(|fact| matches!(fact, Fact::Container(_)))
            .count()
    };
    bench.gatherer.before(&record(true));
    assert_eq!(
        told(bench.gatherer.after(&record(true))),
        0,
        "it is waited for"
    );
    assert_eq!(told(bench.gatherer.before(&record(false))), 1);
    assert_eq!(told(bench.gatherer.after(&record(false))), 0);
    assert!(!bench.gatherer.warned, "its files went with it");
    assert!(bench.gatherer.containers.is_empty());
}

#[test]
fn a_cgroup_named_like_a_container_that_is_there_takes_nothing_from_it() {
    let mut bench = bench();
    bench.gatherer.start(Reading::now().boot_ns);
    let name = "cd".repeat(32);
    let record = |id, folder: &str, made| Record::Cgroup {
        header: Header {
            boot_ns: Reading::now().boot_ns,
            ..Header::default()
        },
        made,
        id,
        path: format!("{folder}/{name}").into_bytes(),
    };
    let users = "/user.slice/user-1000.slice/user@1000.service";
    let mut see = |id, folder, made| {
        let record = record(id, folder, made);
        bench.gatherer.before(&record);
        bench.gatherer.after(&record);
        let watched = bench.gatherer.containers.iter();
        let mut watched: Vec<(u64, bool)> = watched
            .map(|(id, watched)| (watched.cgroup_id, **id == *name))
            .collect();
        watched.sort();
        watched
    };
    assert_eq!(see(7, "/docker", true), [(7, true)]);
    assert_eq!(see(8, users, true), [(7, true), (8, false)]);
    assert_eq!(see(8, users, false), [(7, true)], "it is there");
    // Where its own goes first, that of the name does not become it, and it may start again.
    assert_eq!(see(9, users, true), [(7, true), (9, false)]);
    assert_eq!(see(7, "/docker", false), [(9, false)]);
    assert_eq!(see(10, "/docker", true), [(9, false), (10, true)]);
    assert_eq!(see(9, users, false), [(10, true)]);
    assert_eq!(see(10, "/docker", false), []);
}

#[test]
fn a_container_in_another_hierarchy_alone_is_told_when_it_stays() {
    let Bench { root, gatherer } = bench();
    let other = root.path().join("other");
    let stray = other.join("docker").join("ef".repeat(32));
    fs::create_dir_all(&stray).unwrap();
    let mut gatherer = gatherer.looking_elsewhere(vec![other.clone()]);
    gatherer.cgroup_root = root.path().join("docker");
    gatherer.start(Reading::now().boot_ns);
    let mut look = || {
        gatherer.walk_due_ns = 0;
        gatherer.due(Reading::now().boot_ns);
        gatherer.strays.warned
    };
    assert!(!look(), "it may be being made");
    fs::rename(&stray, other.join("docker").join("0a".repeat(32))).unwrap();
    assert!(!look(), "another one");
    assert!(look());
}

#[test]
fn names_are_read_again_when_their_databases_are_written_or_replaced() {
    let mut bench = bench();
    fs::create_dir(bench.container()).unwrap();
    let cgroup_id = fs::metadata(bench.container()).unwrap().ino();
    let now_ns = Reading::now().boot_ns;
    bench.gatherer.start(now_ns);
    let header = Header {
        cgroup_id,
        ..Header::default()
    };
    let renamed = |ret: i64, target: &str| {
        let call = Call::named("rename").unwrap();
        let path = |raw: &str| Value::Path {
            raw: raw.into(),
            base: b"/etc".to_vec(),
        };
        Record::Called(Box::new(Called {
            header: Header { ret, ..header },
            call,
            values: vec![(0, path("pw.tmp")), (1, path(target))],
        }))
    };
    let opened = |path: &str| Record::Open {
        header,
        open_flags: 1,
        mode: 0,
        file: Default::default(),
        path: path.into(),
        raw: path.into(),
        base: Vec::new(),
        mnt_ns: 2,
        fold: 0,
        place: Vec::new(),
    };
    // (what happens, to be read at once, to be read in a moment)
    for (record, at_once, later) in [
        (renamed(0, "/etc/passwd"), true, true),
        (renamed(0, "../etc/group"), true, true),
        (renamed(-1, "/etc/passwd"), false, false),
        (renamed(0, "/etc/shadow"), false, false),
        (opened("/etc/passwd"), false, true),
        (opened("/srv/passwd"), false, false),
    ] {
        let watched = |bench: &mut Bench| {
            let watched = bench.gatherer.containers.values_mut().next().unwrap();
            std::mem::take(&mut watched.users_due)
        };
        watched(&mut bench);
        bench.gatherer.after(&record);
        assert_eq!(watched(&mut bench), at_once, "{record:?}");
        bench.gatherer.due(now_ns + SECOND_NS / 2);
        assert!(!watched(&mut bench), "{record:?}");
        bench.gatherer.due(now_ns + 3 * SECOND_NS);
        assert_eq!(watched(&mut bench), later, "{record:?}");
        bench.gatherer.now_ns = now_ns;
    }
}
