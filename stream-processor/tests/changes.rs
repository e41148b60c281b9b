//! What survives which change of a detection: the table of `docs/detections.md`, row by row.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::checkpoint::Renewal;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::Engine;

/// The detection that changes, one of its parts a line.
const DETECTION: [(&str, &str); 9] = [
    ("title", "-- title = \"t\""),
    ("dedup", "-- dedup = { key = [], period = \"1h\" }"),
    ("lateness", "-- lateness = \"1s\""),
    ("select", "SELECT container_id, count(*) AS n"),
    (
        "from",
        "FROM hop(events, INTERVAL '1 minute', INTERVAL '5 minutes')",
    ),
    ("where", "WHERE proc_name IN (SELECT name FROM shells)"),
    ("group", "GROUP BY window_start, window_end, container_id"),
    ("having", "HAVING count(*) >= 3"),
    ("end", ""),
];

/// A folder of detections: the one above with a part replaced, its lists, and perhaps others.
fn state(replaced: &[(&str, &str)], files: &[(&str, &str)], name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let header = "-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n-- status = \"stable\"\n";
    let parts = DETECTION.map(|(part, text)| {
        let other = replaced.iter().find(|(replaced, _)| *replaced == part);
        other.map_or(text, |(_, text)| *text)
    });
    let (comments, query): (Vec<&str>, Vec<&str>) =
        parts.iter().partition(|line| line.starts_with("--"));
    let text = format!("{}\n{header}{}\n", comments.join("\n"), query.join("\n"));
    let mut all: BTreeMap<&str, String> = BTreeMap::from([
        ("lists/shells.csv", "name\nsh\n".to_owned()),
        ("lists/others.csv", "name\nsh\n".to_owned()),
    ]);
    let own = format!("a/{name}.sql");
    all.insert(&own, text.clone());
    for (file, content) in files {
        all.insert(file, content.replace("{}", &text));
    }
    for (file, text) in all {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let report = DetectionSet::load(folder.path()).unwrap();
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let mut engine = Engine::new(report.set, AlertMode::Test).unwrap();
    let records = engine.checkpoint(0, &Renewal::default()).unwrap();
    let list = records.iter().find(|record| record.key == "detections");
    let list: serde_json::Value =
        serde_json::from_slice(list.unwrap().value.as_ref().unwrap()).unwrap();
    let own = list
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["id"] == name);
    own.unwrap()["state"].as_str().unwrap().to_owned()
}

/// The state's name after a change that a row of the table tells.
fn changed(change: &str) -> String {
    let part = |part: &str, text: &str| state(&[(part, text)], &[], "own");
    let file = |name: &str, text: &str| state(&[], &[(name, text)], "own");
    match change {
        "its title, severity, message or another line of its header" => {
            part("title", "-- title = \"other\"")
        }
        "the number of a threshold in `HAVING`" => part("having", "HAVING count(*) > 90"),
        "its `SELECT`, over the same aggregates" => part(
            "select",
            "SELECT window_start, container_id, count(*) * 2 AS twice",
        ),
        "how its repeats are folded" => {
            part("dedup", "-- dedup = { key = [\"n\"], period = \"2h\" }")
        }
        "another detection is added, removed or changed" => file("a/neighbour.sql", "{}\n"),
        "a list that it does not read" => file("lists/others.csv", "name\nbash\n"),
        "the name of its file" => state(&[], &[], "other"),
        "a list that it reads in `WHERE`" => file("lists/shells.csv", "name\nsh\nbash\n"),
        "its `WHERE`" => part("where", "WHERE proc_name = 'bash'"),
        "an aggregate more or less" => part(
            "select",
            "SELECT container_id, count(*) AS n, max(fd_num) AS most",
        ),
        "its keys" => state(
            &[
                ("select", "SELECT container_id, proc_name, count(*) AS n"),
                (
                    "group",
                    "GROUP BY window_start, window_end, container_id, proc_name",
                ),
            ],
            &[],
            "own",
        ),
        "the length of its windows" => part(
            "from",
            "FROM hop(events, INTERVAL '1 minute', INTERVAL '6 minutes')",
        ),
        "the slide of its windows" => part(
            "from",
            "FROM hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')",
        ),
        "`lateness` or `out_of_orderness`" => part("lateness", "-- out_of_orderness = \"5s\""),
        "a `HAVING` that fires early instead of at the end, or the other way round" => {
            part("having", "HAVING count(*) BETWEEN 3 AND 9")
        }
        other => panic!("{other}: say here what it is"),
    }
}

#[test]
fn the_documentation_says_what_survives_which_change() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/detections.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("\n### When detections change\n").unwrap();
    let rows = rest.lines().skip_while(|line| !line.starts_with("| ---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let before = state(&[], &[], "own");
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [change, windows] = cells[..] else {
            panic!("{row}")
        };
        let kept = match windows {
            "go on" => true,
            "begin anew" => false,
            other => panic!("{other}"),
        };
        assert_eq!(changed(change) == before, kept, "{change}");
        count += 1;
    }
    assert_eq!(count, 15);
}
