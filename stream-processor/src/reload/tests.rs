//! The watch over a folder: what is told, what becomes of a set.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::config::RawConfig;

const READS: &str = "evt_type = 'execve' AND proc_name IN (SELECT name FROM shells)";

/// A folder, and what watches it.
struct Scene {
    folder: tempfile::TempDir,
    compiler: Compiler,
}

impl Scene {
    /// Two detections run, one of which reads a list.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["tactic", "lists"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        write(folder.path(), "lists/shells.csv", "name\nsh\n");
        write(
            folder.path(),
            "tactic/a.sql",
            &detection("a", "evt_type = 'execve'"),
        );
        write(folder.path(), "tactic/b.sql", &detection("b", READS));
        let mut raw = RawConfig::default();
        raw.detections.folder = folder.path().to_owned();
        let config = Config::check(raw).expect("settings");
        let sources = Sources::read(folder.path()).expect("files");
        let report = DetectionSet::load_sources(&sources).expect("detections");
        assert_eq!(report.refused, []);
        let inventory = Inventory::new(&report.set, &sources, &Inventory::default(), 0);
        let compiler = Compiler {
            config,
            place: Place::Folder,
            topics: EvidenceTopics::same("local"),
            inputs: BTreeSet::new(),
            running: Running { sources, inventory },
            told: BTreeSet::new(),
            refused: BTreeMap::new(),
            reporter: Reporter::of_this_process("h", Some("one")),
        };
        Self { folder, compiler }
    }

    fn write(&self, name: &str, text: &str) {
        write(self.folder.path(), name, text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("a file");
    }

    /// What is said, and what becomes of the set.
    fn change(&mut self) -> (Vec<String>, Option<String>) {
        let found = self.compiler.read();
        let Some(change) = self.compiler.change(found, Instant::now()) else {
            return (Vec::new(), None);
        };
        let said = change.alerts.iter().map(|alert| {
            assert_eq!(&*alert.detection_id, "detection_refused");
            alert.message.to_string()
        });
        let said = said.collect();
        let next = change.next.map(|next| {
            assert_eq!(
                next.engine.detections().len(),
                next.inventory.detections().count()
            );
            let changed = &next.alert;
            assert_eq!(&*changed.detection_id, "detections_changed");
            assert!(
                changed.message.ends_with(&next.difference.words()),
                "{}",
                changed.message
            );
            next.difference.words()
        });
        (said, next)
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("a file");
}

fn detection(title: &str, condition: &str) -> String {
    format!(
        "-- title = \"{title}\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n\
         -- status = \"stable\"\nSELECT proc_name FROM events WHERE {condition}\n"
    )
}

#[test]
fn a_broken_file_is_told_once_and_its_last_good_version_runs() {
    let mut scene = Scene::new();
    assert_eq!(scene.change(), (vec![], None));
    scene.write("tactic/a.sql", &detection("a", "evt_type ="));
    scene.write("tactic/c.sql", &detection("c", "evt_type = 'connect'"));
    let (said, next) = scene.change();
    assert_eq!(next.as_deref(), Some("added c"));
    let [said] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(
        said.starts_with("tactic/a.sql: line 6: ")
            && said.ends_with("; its last good version runs on"),
        "{said}"
    );
    assert_eq!(scene.change(), (vec![], None));
    assert_eq!(scene.compiler.refused.len(), 1);
    // It is mended, and broken once more.
    scene.write("tactic/a.sql", &detection("A", "evt_type = 'execve'"));
    let well = |file: &str| format!("{file}: it is no longer refused");
    assert_eq!(
        scene.change(),
        (vec![well("tactic/a.sql")], Some("changed a".to_owned()))
    );
    assert!(scene.compiler.refused.is_empty());
    scene.write("tactic/a.sql", &detection("a", "evt_type ="));
    let (said, next) = scene.change();
    assert_eq!((said.len(), next), (1, None));
    // One that was never good is left out.
    scene.write("tactic/d.sql", "SELECT");
    let (said, next) = scene.change();
    assert_eq!((said.len(), next), (1, None));
    assert!(said[0].ends_with("; it is left out"), "{said:?}");
    scene.remove("tactic/a.sql");
    // Nothing is wrong with a file that is gone.
    assert_eq!(
        scene.change(),
        (vec![well("tactic/a.sql")], Some("removed a".to_owned()))
    );
    scene.write("tactic/d.sql", &detection("d", "evt_type = 'connect'"));
    let (said, next) = scene.change();
    assert_eq!(
        (said, next.as_deref()),
        (vec![well("tactic/d.sql")], Some("added d"))
    );
}

#[test]
fn a_list_changes_those_that_read_it() {
    let mut scene = Scene::new();
    scene.write("lists/shells.csv", "name\nsh\nbash\n");
    let changed = "changed b; lists lists/shells.csv";
    assert_eq!(scene.change(), (vec![], Some(changed.to_owned())));
    scene.write("lists/shells.csv", "name\nsh,what\n");
    let (said, next) = scene.change();
    assert_eq!((said.len(), next), (1, None));
    assert!(
        said[0].starts_with("lists/shells.csv: line 2: ")
            && said[0].ends_with("; its last good version runs on"),
        "{said:?}"
    );
    scene.remove("lists/shells.csv");
    let (said, next) = scene.change();
    let removed = "removed b; lists lists/shells.csv";
    assert_eq!(next.as_deref(), Some(removed));
    assert!(
        said.len() == 2
            && said[0] == "lists/shells.csv: it is no longer refused"
            && said[1].starts_with("tactic/b.sql: line ")
            && said[1].ends_with("; it is left out"),
        "{said:?}"
    );
}

#[test]
fn where_nothing_can_be_used_what_runs_goes_on() {
    let mut scene = Scene::new();
    let files: Vec<PathBuf> = ["tactic/a.sql", "tactic/b.sql"].map(PathBuf::from).to_vec();
    for file in &files {
        scene.remove(file.to_str().expect("text"));
    }
    let (said, next) = scene.change();
    assert_eq!((said.len(), next), (1, None));
    assert!(
        said[0].contains(": no detections in ") && said[0].ends_with("; what runs goes on"),
        "{said:?}"
    );
    assert_eq!(scene.change(), (vec![], None));
    scene.write("tactic/a.sql", &detection("a", "evt_type = 'execve'"));
    scene.write("tactic/b.sql", &detection("b", READS));
    assert_eq!(scene.change(), (vec![], None));
}

#[test]
fn a_change_arrives_when_the_folder_is_twice_the_same() {
    let mut scene = Scene::new();
    scene.compiler.config.detections_watch = Some(Duration::from_millis(100));
    let Running { sources, inventory } = scene.compiler.running;
    let config = scene.compiler.config.clone();
    let reload = Reload::start(
        &config,
        (Place::Folder, None),
        (EvidenceTopics::same("local"), Vec::new()),
        sources,
        &[],
        inventory,
    )
    .expect("a watch");
    let file = scene.folder.path().join("tactic/c.sql");
    let whole = detection("c", "evt_type = 'connect'");
    // It is written piece by piece, and never seen in pieces.
    for end in (0..whole.len()).step_by(40).chain([whole.len()]) {
        fs::write(&file, &whole[..end]).expect("a file");
        std::thread::sleep(Duration::from_millis(20));
    }
    let change = reload.changes.recv_timeout(Duration::from_secs(60));
    let change = change.expect("a change");
    assert_eq!(change.alerts.len(), 0);
    let next = change.next.expect("a set");
    assert_eq!(next.difference.words(), "added c");
    assert_eq!(next.inventory.detections().count(), 3);
}
