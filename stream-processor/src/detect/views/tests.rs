//! What a view is, what is put into a query, and that it says what the text written out says.

use std::fs;

use crate::detect::{DetectionSet, LoadReport};

const HEADER: &str = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"found {container_id}\"\n-- severity = \"low\"\n-- status = \"stable\"\n";
const VIEW: &str = "-- description = \"what containers execute\"\nSELECT *, coalesce(proc_name, '?') AS program, proc_name || 'x' AS twice FROM events WHERE evt_type = 'execve' OR evt_type = 'execveat'";
const SHELLS: (&str, &str) = ("lists/shells.csv", "name,container_id\nsh,c\n");

/// Loads a detection with views beside it, each with its name.
fn load(query: &str, views: &[(&str, &str)]) -> LoadReport {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("below the folder")).expect("folders");
        fs::write(file, text).expect("a file");
    };
    put("a/tried.sql", &format!("{HEADER}{query}"));
    put(
        "a/good.sql",
        &format!("{HEADER}SELECT container_id FROM events WHERE evt_type = 'open'"),
    );
    put(SHELLS.0, SHELLS.1);
    for (name, text) in views {
        put(&format!("views/{name}.sql"), text);
    }
    DetectionSet::load(folder.path()).expect("a folder")
}

/// The hashes of a query, and what is asked.
fn hashes(query: &str) -> (String, String, Option<String>) {
    let report = load(query, &[("execs", VIEW)]);
    assert_eq!(report.refused, [], "{query}");
    let mut detections = report.set.iter();
    let tried = detections.find(|detection| detection.id == "tried");
    let tried = tried.expect("a detection");
    (
        tried.query_hash.clone(),
        tried.content_hash.clone(),
        tried.asked.clone(),
    )
}

#[test]
fn a_query_with_views_is_the_query_written_out() {
    fn check(with_view: &str, written_out: &str) {
        let (view, _, asked) = hashes(with_view);
        let (plain, _, none) = hashes(written_out);
        assert_eq!(view, plain, "{asked:?}\n{written_out}");
        assert_eq!(none, None);
    }
    let of = "(evt_type = 'execve' OR evt_type = 'execveat')";
    let program = "coalesce(proc_name, '?')";
    check(
        "SELECT container_id, program FROM execs",
        &format!("SELECT container_id, {program} AS program FROM events AS execs WHERE {of}"),
    );
    check(
        "SELECT container_id, Program AS p, upper(e.program) AS u FROM Execs e WHERE e.program = 'sh' OR proc_tty > 0",
        &format!(
            "SELECT container_id, {program} AS p, upper({program}) AS u FROM events e WHERE {of} AND ({program} = 'sh' OR proc_tty > 0)"
        ),
    );
    check(
        "SELECT container_id, CASE WHEN program = 'sh' THEN twice ELSE program END AS program FROM execs WHERE program IN (SELECT name FROM shells)",
        &format!(
            "SELECT container_id, CASE WHEN {program} = 'sh' THEN (proc_name || 'x') ELSE {program} END AS program FROM events AS execs WHERE {of} AND {program} IN (SELECT name FROM shells)"
        ),
    );
    check(
        "SELECT window_start, container_id, program, count(*) AS n, count(DISTINCT program) AS d FROM tumble(execs, INTERVAL '1 minute') \
         WHERE proc_tty > 0 GROUP BY window_start, window_end, container_id, program HAVING count(DISTINCT program) >= 3 ORDER BY program",
        &format!(
            "SELECT window_start, container_id, {program} AS program, count(*) AS n, count(DISTINCT {program}) AS d FROM tumble(events, INTERVAL '1 minute') \
             WHERE {of} AND (proc_tty > 0) GROUP BY window_start, window_end, container_id, {program} HAVING count(DISTINCT {program}) >= 3 ORDER BY {program}"
        ),
    );
    check(
        "SELECT e.container_id FROM execs e JOIN shells ON e.program = shells.name",
        "SELECT e.container_id FROM events e JOIN shells ON coalesce(e.proc_name, '?') = shells.name WHERE e.evt_type = 'execve' OR e.evt_type = 'execveat'",
    );
}

#[test]
fn a_columns_of_a_list_stay_the_lists_where_a_view_stands_beside_it() {
    let view = "-- description = \"d\"\nSELECT * FROM events WHERE evt_type = 'execve' AND container_id <> 'host'";
    let query = "SELECT e.container_id FROM c e JOIN shells ON e.proc_name = shells.name";
    assert_eq!(load(query, &[("c", view)]).refused, []);
}

#[test]
fn a_name_that_the_query_gives_itself_is_no_view() {
    let query = "WITH execs AS (SELECT container_id, evt_type FROM events) SELECT container_id FROM execs WHERE evt_type = 'open'";
    let (_, _, asked) = hashes(query);
    assert_eq!(asked, None);
}

#[test]
fn a_detection_changes_with_its_views_and_with_no_other() {
    let query = "SELECT container_id, program FROM execs";
    let hashes = |query: &str, views: &[(&str, &str)]| {
        let report = load(query, views);
        assert_eq!(report.refused, []);
        let tried = report.set.iter().find(|detection| detection.id == "tried");
        let tried = tried.expect("a detection");
        (tried.query_hash.clone(), tried.content_hash.clone())
    };
    let before = hashes(query, &[("execs", VIEW)]);
    assert_eq!(before, hashes(query, &[("execs", VIEW), ("more", VIEW)]));
    let changed = VIEW.replace("'?'", "'!'");
    let after = hashes(query, &[("execs", &changed)]);
    assert!(before.0 != after.0 && before.1 != after.1);
    // What a view says of itself is in no state.
    let described = VIEW.replace("what containers execute", "programs");
    let after = hashes(query, &[("execs", &described)]);
    assert!(before.0 == after.0 && before.1 != after.1);
    let plain = "SELECT container_id FROM events WHERE evt_type = 'open'";
    assert_eq!(
        hashes(plain, &[("execs", VIEW)]),
        hashes(plain, &[("execs", &changed)])
    );
}

#[test]
fn what_is_no_view_is_refused_with_its_line_and_so_is_who_names_it() {
    #[track_caller]
    fn check(name: &str, text: &str, line: usize, reason: &str) {
        let report = load(&format!("SELECT container_id FROM {name}"), &[(name, text)]);
        let refused: Vec<String> = report.refused.iter().map(ToString::to_string).collect();
        let of_view = report
            .refused
            .iter()
            .find(|refusal| refusal.file.to_string_lossy().contains("views/"));
        let of_view = of_view.unwrap_or_else(|| panic!("{refused:?}"));
        assert_eq!(of_view.line, line, "{refused:?}");
        assert!(of_view.reason.contains(reason), "{refused:?}");
        // The other detection loads.
        assert!(report.set.iter().any(|detection| detection.id == "good"));
        assert!(
            report.set.iter().all(|detection| detection.id != "tried"
                || ["process_samples", "shells"].contains(&name))
        );
    }
    let with = |query: &str| format!("-- description = \"d\"\n{query}");
    check(
        "Execs",
        &with("SELECT * FROM events"),
        1,
        "cannot be a view's name",
    );
    check(
        "tumble",
        &with("SELECT * FROM events"),
        1,
        "cannot be a view's name",
    );
    check(
        "process_samples",
        &with("SELECT * FROM events"),
        1,
        "there is a table process_samples",
    );
    check(
        "shells",
        &with("SELECT * FROM events"),
        1,
        "there is a list shells",
    );
    check(
        "v",
        "SELECT * FROM events",
        1,
        "missing field `description`",
    );
    check(
        "v",
        "-- description = \"d\"\n-- severity = \"low\"\nSELECT * FROM events",
        1,
        "unknown field `severity`",
    );
    check("v", &with(""), 2, "there is no query");
    check(
        "v",
        &with("SELECT * FROM events; SELECT * FROM events"),
        2,
        "2 statements",
    );
    check("v", &with("DROP TABLE events"), 2, "the statement is DROP");
    check(
        "v",
        &with("SELECT container_id FROM events"),
        2,
        "does not begin with all columns",
    );
    check(
        "v",
        &with("SELECT *, proc_tty + 1 FROM events"),
        2,
        "a column has no name",
    );
    check(
        "v",
        &with("SELECT *,\n 'x' AS proc_name FROM events"),
        3,
        "a column proc_name already",
    );
    check(
        "v",
        &with("SELECT *, 1 AS a, 2 AS a FROM events"),
        2,
        "there twice",
    );
    check(
        "v",
        &with("SELECT * FROM shells"),
        2,
        "does not read events",
    );
    check(
        "v",
        &with("SELECT * FROM events, shells"),
        2,
        "does not read events",
    );
    check(
        "v",
        &with("SELECT * FROM tumble(events, INTERVAL '1 minute')"),
        2,
        "does not read events",
    );
    check("v", &with("SELECT * FROM v"), 2, "does not read events");
    check(
        "v",
        &with("SELECT DISTINCT * FROM events"),
        2,
        "more than columns and a condition",
    );
    check(
        "v",
        &with("SELECT * FROM events ORDER BY ts"),
        2,
        "more than columns and a condition",
    );
    check(
        "v",
        &with("SELECT * FROM events LIMIT 3"),
        2,
        "more than columns and a condition",
    );
    check("v", &with("SELECT *, count(*) AS n FROM events"), 2, "");
    check(
        "v",
        &with("SELECT * FROM events WHERE proc_nme = 'sh'"),
        2,
        "there is no column proc_nme",
    );
    check(
        "v",
        &with("SELECT * FROM events WHERE random() > 0.5"),
        2,
        "does not give the same answer",
    );
    check(
        "v",
        &with("SELECT *, row_number() OVER (ORDER BY ts) AS n FROM events"),
        2,
        "a window function",
    );
    check(
        "v",
        &with("SELECT * FROM events WHERE host_id IN (SELECT host_id FROM events)"),
        2,
        "a subquery over events",
    );
}

#[test]
fn what_views_put_in_is_bounded() {
    let long = format!("'{}' || proc_name", "x".repeat(2_000));
    let view = format!(
        "-- description = \"d\"\nSELECT *, {long} AS long FROM events WHERE evt_type = 'open'"
    );
    let many = vec!["long = proc_exe"; 100].join(" OR ");
    let query = format!("SELECT container_id FROM v WHERE {many}");
    let report = load(&query, &[("v", &view)]);
    let [refusal] = &report.refused[..] else {
        panic!("{:?}", report.refused)
    };
    assert!(refusal.reason.contains("puts more than"), "{refusal}");
}

#[test]
fn what_is_wrong_with_a_query_is_told_in_its_own_lines_and_what_a_view_narrows_is_not() {
    let far = "\n".repeat(40);
    let view = format!(
        "-- description = \"d\"\nSELECT *{far}FROM events\nWHERE evt_type IN ('execve', 'execveat')\nAND (container_id <> 'host' OR container_origin_id IS NOT NULL)"
    );
    let views = [("far", view.as_str())];
    let report = load(
        "SELECT container_id\nFROM far\nWHERE evt_type = 'openat'",
        &views,
    );
    let [refused] = &report.refused[..] else {
        panic!("{:?}", report.refused)
    };
    assert_eq!(refused.line, 8, "{refused}");
    assert!(refused.reason.contains("contradict"), "{refused}");
    let narrowed = "SELECT container_id\nFROM far\nWHERE container_id = 'host'";
    let report = load(narrowed, &views);
    let warnings: Vec<_> = report.warnings().collect();
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    assert!(warnings.is_empty(), "{warnings:?}");
}
