//! What is accepted, what is refused with which mend, and that the plans say what plain SQL says.

use std::fs;

use super::*;

const HEADER: &str = r#"-- title = "t"
-- description = "d"
-- message = "found {container_id}"
-- severity = "low"
-- status = "stable"
-- risk = 10
-- attack = []
-- false_positives = []
-- blind_spots = []
"#;

/// Line of the file on which the query after [`HEADER`] starts.
const QUERY_LINE: usize = 10;

/// Loads a folder of these files.
fn load(files: &[(&str, &str)]) -> Result<LoadReport, LoadError> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("below the folder")).expect("folders");
        fs::write(file, text).expect("a file");
    }
    DetectionSet::load(folder.path())
}

const SHELLS: (&str, &str) = ("lists/shells.csv", "name,kind\nsh,posix\nfish,other\n");

fn load_query(query: &str) -> LoadReport {
    let good = format!("{HEADER}SELECT container_id FROM events WHERE evt_type = 'good'");
    let tried = format!("{HEADER}{query}");
    load(&[("a/good.sql", &good), ("a/tried.sql", &tried), SHELLS]).expect("a folder")
}

/// What the query asks of reads and the header, with these declared, does not.
pub(super) fn load_query_with_reads(query: &str, declared: &str) -> Vec<Fault> {
    let tried = format!("{HEADER}-- reads = [{declared}]\n{query}");
    let files = ("lists/files.csv", "name\n/srv/key\n");
    let report = load(&[("a/tried.sql", &tried), files]).expect("a folder");
    assert_eq!(report.refused, Vec::new());
    let warnings = report.set.at(0).warnings.iter();
    let mut warnings: Vec<Fault> = warnings.map(|doubt| doubt.fault.clone()).collect();
    warnings.retain(|fault| fault.reason.contains("does not declare"));
    warnings
}

/// Loads queries, each a file of its own, with these lists.
pub(super) fn load_queries(queries: &[&str], lists: &[(&str, &str)]) -> LoadReport {
    let texts: Vec<(String, String)> = queries
        .iter()
        .enumerate()
        .map(|(place, query)| (format!("a/tried_{place}.sql"), format!("{HEADER}{query}")))
        .collect();
    let files = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let files: Vec<_> = files.chain(lists.iter().copied()).collect();
    load(&files).expect("a folder")
}

/// What is wrong with a query that loads, each with its line in the query; else why it does not.
pub(super) fn load_query_warnings(query: &str) -> Result<Vec<(usize, String)>, (usize, String)> {
    let report = load_queries(&[query], &[SHELLS]);
    let told = |fault: &Refusal| {
        let line = fault.line + 1 - QUERY_LINE;
        (line, format!("{}; {}", fault.reason, fault.mend))
    };
    match report.refused.first() {
        Some(refusal) => Err(told(refusal)),
        None => Ok(report
            .warnings()
            .map(|warning| told(&warning.fault))
            .collect()),
    }
}

#[track_caller]
fn check_loads(query: &str, filters: bool) {
    let report = load_query(query);
    assert_eq!(report.refused, Vec::new());
    let tried = report
        .set
        .iter()
        .find(|detection| detection.id == "tried")
        .expect("loaded");
    assert_eq!(tried.filters(), filters);
}

#[track_caller]
fn check_refused(query: &str, line: usize, reason: &str, mend: &str) {
    let report = load_query(query);
    let ids: Vec<&str> = report
        .set
        .iter()
        .map(|detection| detection.id.as_str())
        .collect();
    assert_eq!(ids, ["good"], "the rest loads");
    let [refusal] = &report.refused[..] else {
        panic!("{:?}", report.refused)
    };
    assert!(refusal.file.ends_with("a/tried.sql"));
    assert!(refusal.reason.contains(reason), "{refusal}");
    assert!(refusal.mend.contains(mend), "{refusal}");
    assert_eq!(refusal.line, QUERY_LINE - 1 + line, "{refusal}");
}

#[test]
fn filters_are_filters_and_the_rest_runs_as_a_plan() {
    check_loads(
        "SELECT container_id FROM events WHERE evt_type = 'open'",
        true,
    );
    check_loads(
        "SELECT e.container_id FROM events e WHERE e.evt_type = 'open'",
        true,
    );
    check_loads(
        "SELECT container_id FROM events WHERE proc_name IN (SELECT name FROM shells)",
        true,
    );
    check_loads(
        "SELECT container_id FROM (SELECT * FROM events WHERE evt_failed) WHERE proc_tty > 0",
        false,
    );
    check_loads(
        "WITH e AS (SELECT container_id FROM events) SELECT container_id FROM e",
        false,
    );
    check_loads(
        "SELECT container_id FROM events WHERE EXISTS (SELECT 1 FROM shells s WHERE s.name = proc_name)",
        false,
    );
    check_loads(
        "SELECT container_id, s.kind FROM events JOIN shells s ON s.name = proc_name",
        false,
    );
    check_loads(
        "SELECT container_id, s.kind FROM events LEFT JOIN shells s ON s.name = proc_name",
        false,
    );
    check_loads(
        "SELECT container_id FROM events WHERE proc_tty > (SELECT count(*) FROM shells)",
        true,
    );
    check_loads(
        "SELECT container_id, container_labels['app'] AS app FROM events WHERE cidr_match(fd_rip, '10.0.0.0/8')",
        true,
    );
}

#[test]
fn misspelt_names_come_with_the_nearest() {
    check_refused(
        "SELECT container_id\nFROM events\nWHERE proc_nme = 'sh'",
        3,
        "there is no column proc_nme",
        "did you mean proc_name?",
    );
    check_refused(
        "SELECT container_id\nFROM event",
        2,
        "there is no table event",
        "did you mean events?",
    );
    check_refused(
        "SELECT container_id FROM zzz",
        1,
        "there is no table zzz",
        "tables are events, shells; a list is a file lists/zzz.csv in the folder of detections, whose first line names its columns",
    );
    check_refused(
        "SELECT container_id FROM events\nWHERE proc_name IN (SELECT value FROM shells)",
        2,
        "there is no column value",
        "there are the columns name, kind",
    );
    for (query, mend) in [
        ("SELECT evt.type FROM events", "write evt_type"),
        (
            "SELECT container_id FROM events WHERE proc.name = 'sh'",
            "write proc_name",
        ),
        (
            "SELECT e.container_id FROM events e WHERE k8s.ns.name = 'sh'",
            "write k8s_ns_name",
        ),
        (
            "SELECT container_id FROM events WHERE evt.arg.flags = 'x'",
            "write evt_args['flags']",
        ),
    ] {
        check_refused(query, 1, "there is no column ", mend);
    }
    check_refused(
        "SELECT container_id FROM events\nWHERE evt_type = \"execve\"",
        2,
        "there is no column execve",
        "write 'execve' where a text is meant",
    );
    check_refused(
        "SELECT container_id FROM events\nWHERE evt_type = execve",
        2,
        "there is no column execve",
        "write 'execve' where a text is meant",
    );
    check_refused(
        "SELECT container_id FROM events\nWHERE evt_failed = 'yes'",
        1,
        "Boolean = Utf8",
        "numbers, true and false without",
    );
    check_refused(
        "SELECT container_id FROM events\nWHERE starts_wth(proc_name, 'a')",
        2,
        "there is no function starts_wth",
        "did you mean starts_with?",
    );
}

#[test]
fn falcos_words_come_with_ours() {
    for (condition, reason, mend) in [
        (
            "spawned_process AND proc_name = 'sh'",
            "there is no column spawned_process",
            "write evt_type IN ('execve', 'execveat') AND evt_outcome = 'success'",
        ),
        (
            "container",
            "there is no column container",
            "write container_id <> 'host'",
        ),
        (
            "proc_name IN (shell_binaries)",
            "there is no column shell_binaries",
            "write SELECT name FROM shells",
        ),
        (
            "fd_name startswith '/etc'",
            "startswith is an operator of Falco's, not of SQL",
            "write starts_with(column, 'text')",
        ),
        (
            "proc_cmdline contains '-e'",
            "contains is an operator of Falco's",
            "write column LIKE '%text%'",
        ),
        (
            "fd_name glob '/etc/*'",
            "glob is an operator",
            "with % for Falco's *",
        ),
        (
            "evt_dir = '<'",
            "there is no column evt_dir",
            "leave it out: each call is one event",
        ),
        (
            "evt.dir = '<'",
            "there is no column evt.dir",
            "leave it out",
        ),
        ("evt_time > 5", "there is no column evt_time", "write ts"),
        (
            "evt.rawtime > 5",
            "there is no column evt.rawtime",
            "write ts",
        ),
        (
            "fd.ip = '10.0.0.1'",
            "there is no column fd.ip",
            "write fd_rip",
        ),
        (
            "evt.arg[0] = 'x'",
            "there is no column evt.arg",
            "write evt_args['name']",
        ),
        (
            "proc_name IN (shells)",
            "shells is a list, and no column",
            "write IN (SELECT name FROM shells)",
        ),
        (
            "proc_name IN (shells.kind)",
            "shells is a list",
            "write IN (SELECT kind FROM shells)",
        ),
        (
            "proc_name IN shells",
            "IN shells is no list of values",
            "write IN (SELECT name FROM shells)",
        ),
        (
            "EXISTS (shells)",
            "asks nothing of shells",
            "write EXISTS (SELECT 1 FROM shells WHERE",
        ),
        (
            "proc_name IN (SELECT name FROM shells.csv)",
            "there is no table shells.csv",
            "write shells: a list goes by its file's name without .csv",
        ),
        (
            "evt_failed && proc_name = 'a'",
            "&& is no operator here",
            "write AND",
        ),
        (
            "evt_failed || evt_is_open_write",
            "|| joins texts",
            "write OR",
        ),
        (
            "evt_failed || proc_name = 'a'",
            "|| joins texts",
            "write OR",
        ),
        (
            "proc_name = 'a' || proc_name = 'b'",
            "|| joins texts",
            "write OR",
        ),
        ("!evt_failed", "! is no operator here", "write NOT"),
        (
            "proc_name = bash",
            "there is no column bash",
            "write 'bash' where a text is meant",
        ),
        (
            "proc_name IN ('sh', bash)",
            "there is no column bash",
            "write 'bash'",
        ),
        (
            "container_id != host",
            "there is no column host",
            "write 'host'",
        ),
        (
            "proc_name = `bash`",
            "there is no column bash",
            "backticks are for names",
        ),
        (
            "proc_name = proc_pnme",
            "there is no column proc_pnme",
            "did you mean proc_pname?",
        ),
        (
            "proc_name = /bin/bash",
            "/bin/bash is a text without quotes",
            "write '/bin/bash'",
        ),
        (
            "proc_name RLIKE 'a'",
            "rlike is no operator here",
            "write regexp_like(column, 'pattern')",
        ),
        (
            "user_uid = 'root'",
            "'root' is no number, and user_uid is one",
            "write user_uid = 0 for root, or user_name = 'root'",
        ),
        (
            "fd_sport IN ('http')",
            "'http' is no number, and fd_sport is one",
            "write a number",
        ),
    ] {
        let query = format!("SELECT container_id FROM events\nWHERE {condition}");
        check_refused(&query, 2, reason, mend);
    }
}

#[test]
fn a_filter_in_the_place_of_a_query_comes_with_the_query() {
    check_refused(
        "proc.name = bash and fd.name contains /etc",
        1,
        "this is a filter as Falco and sysdig have it, and no query",
        "write SELECT container_id, proc_name, proc_cmdline FROM events WHERE proc_name = 'bash' AND fd_name LIKE '%/etc%'",
    );
    check_refused(
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 month') GROUP BY window_start, container_id",
        1,
        "tumble: INTERVAL '1 month' is no fixed span of time",
        "write tumble(events, INTERVAL '1 minute')",
    );
}

#[test]
fn a_header_that_is_not_at_the_top_gets_the_sentence_that_helps() {
    fn check(text: &str, line: usize, reason: &str, mend: &str) {
        let report = load(&[("a/x.sql", text)]).expect("a folder");
        let [refusal] = &report.refused[..] else {
            panic!("{text}: {:?}", report.refused)
        };
        assert_eq!(refusal.line, line, "{refusal}");
        assert!(
            refusal.reason.contains(reason) && refusal.mend.contains(mend),
            "{refusal}"
        );
    }
    let query = "SELECT container_id FROM events WHERE evt_type = 'open'\n";
    let good = format!("{HEADER}{query}");
    check(query, 1, "this is no -- line", "write -- title");
    check(
        &format!("/* mine */\n{good}"),
        1,
        "this is no -- line",
        "write -- title",
    );
    let cut = good.replacen("-- severity", "\n-- severity", 1);
    check(&cut, 4, "the header ends here", "no blank line");
    for before in ["\u{feff}", "\n", "\r\n\n", "\u{feff}\n"] {
        let report = load(&[("a/x.sql", &format!("{before}{good}"))]).expect("a folder");
        assert_eq!(report.refused, []);
        assert_eq!(
            report.set.at(0).query_line,
            QUERY_LINE + before.matches('\n').count()
        );
    }
    let report = load(&[("a/x.sql", &good.replace('\n', "\r\n"))]).expect("a folder");
    assert_eq!(report.refused, []);
}

#[test]
fn lists_of_one_name_are_refused() {
    let good = format!("{HEADER}SELECT container_id FROM events WHERE evt_type = 'open'");
    let lists = [
        "a/shells.csv",
        "b/shells.csv",
        "process_samples.csv",
        "tumble.csv",
    ];
    let lists = lists.map(|name| format!("lists/{name}"));
    let mut files: Vec<(&str, &str)> = lists
        .iter()
        .map(|name| (name.as_str(), "name\nsh\n"))
        .collect();
    files.push(("a/x.sql", &good));
    let refused = load(&files).expect("a folder").refused;
    let reasons: Vec<&str> = refused
        .iter()
        .map(|refusal| refusal.reason.as_str())
        .collect();
    assert!(
        reasons[0].ends_with("lists/a/shells.csv has the same name, and a table has one"),
        "{reasons:?}"
    );
    assert!(
        reasons[1].contains("there is a table process_samples"),
        "{reasons:?}"
    );
    assert!(
        reasons[2].contains("\"tumble\" cannot be a table's name"),
        "{reasons:?}"
    );
}

#[test]
fn who_reads_a_list_or_a_view_that_is_refused_is_told_of_that_file() {
    let of_list = format!(
        "{HEADER}SELECT container_id FROM events WHERE proc_name IN (SELECT name FROM shells)"
    );
    let of_view = format!("{HEADER}SELECT container_id FROM shell_events WHERE proc_name = 'sh'");
    let files = [
        ("a/of_list.sql", of_list.as_str()),
        ("a/of_view.sql", &of_view),
        ("lists/shells.csv", "name,why\nsh\n"),
        ("views/shell_events.sql", "SELECT * FROM events"),
    ];
    let refused = load(&files).expect("a folder").refused;
    for (file, name, source) in [
        ("of_list.sql", "shells", "lists/shells.csv"),
        ("of_view.sql", "shell_events", "views/shell_events.sql"),
    ] {
        let mut own = refused
            .iter()
            .filter(|refusal| refusal.file.ends_with(format!("a/{file}")));
        let own = own.next().expect("refused");
        assert_eq!(own.reason, format!("{name} is refused itself"));
        assert!(
            own.mend.starts_with("correct ") && own.mend.contains(source),
            "{own}"
        );
    }
}

#[test]
fn the_message_may_only_name_what_is_selected() {
    let [refusal] = &load_query("SELECT proc_pid FROM events").refused[..] else {
        panic!("one refusal")
    };
    assert_eq!(refusal.line, 3);
    assert_eq!(
        refusal.reason,
        "message names container_id, which the SELECT does not yield"
    );
}

#[test]
fn what_is_no_query_on_single_events_is_refused() {
    let over = "FROM tumble(events";
    check_refused(
        "SELECT container_id FROM events WHERE",
        1,
        "Expected",
        "correct",
    );
    check_refused("", 1, "there is no query", "exactly one SELECT");
    check_refused(
        "SELECT container_id FROM events; SELECT 1",
        1,
        "2 statements",
        "exactly one SELECT",
    );
    check_refused(
        "DROP TABLE events",
        1,
        "the statement is DROP",
        "exactly one SELECT",
    );
    check_refused("SET a = 1", 1, "the statement is SET", "exactly one SELECT");
    check_refused(
        "COPY events TO '/tmp/x.csv'",
        1,
        "no SELECT",
        "exactly one SELECT",
    );
    check_refused(
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/'",
        1,
        "no SELECT",
        "exactly one SELECT",
    );
    check_refused(
        "INSERT INTO shells VALUES ('a', 'b')",
        1,
        "the statement is INSERT",
        "exactly one SELECT",
    );
    check_refused(
        "EXPLAIN SELECT container_id FROM events",
        1,
        "no SELECT",
        "exactly one SELECT",
    );
    check_refused(
        "SELECT *\nFROM events",
        1,
        "every column",
        "name the columns",
    );
    check_refused(
        "SELECT container_id INTO x FROM events",
        1,
        "INTO",
        "exactly one SELECT",
    );
    check_refused(
        "SELECT '1' AS container_id",
        1,
        "does not read events",
        "FROM events",
    );
    check_refused(
        "SELECT name AS container_id FROM shells",
        1,
        "does not read events",
        "FROM events",
    );
    check_refused(
        "SELECT container_id\nFROM events\nGROUP BY container_id",
        3,
        "GROUP BY",
        over,
    );
    check_refused(
        "SELECT max(container_id) AS container_id FROM events",
        1,
        "aggregate",
        over,
    );
    check_refused(
        "SELECT container_id,\n row_number() OVER (ORDER BY ts) AS n FROM events",
        2,
        "window function",
        over,
    );
    check_refused(
        "SELECT DISTINCT container_id FROM events",
        1,
        "DISTINCT",
        over,
    );
    check_refused(
        "SELECT container_id FROM events\nORDER BY ts",
        2,
        "ORDER BY",
        over,
    );
    check_refused("SELECT container_id FROM events LIMIT 3", 1, "LIMIT", over);
    check_refused(
        "SELECT a.container_id FROM events a\nJOIN events b ON a.proc_key = b.proc_pkey",
        2,
        "a join of events with events",
        over,
    );
    check_refused(
        "SELECT container_id FROM events WHERE proc_key IN (SELECT proc_pkey FROM events)",
        1,
        "a subquery",
        over,
    );
    check_refused(
        "SELECT container_id FROM events UNION ALL SELECT container_id FROM events",
        1,
        "SELECT",
        "SELECT",
    );
    check_refused(
        "SELECT container_id FROM events RIGHT JOIN shells ON name = proc_name",
        1,
        "rows that are no event",
        "",
    );
}

#[test]
fn what_would_break_a_replay_is_refused() {
    check_refused(
        "SELECT container_id FROM events\nWHERE ts > now()",
        2,
        "now does not give",
        "ts and ingest_ts",
    );
    check_refused(
        "SELECT container_id FROM events WHERE random() > 0.5",
        1,
        "random does not give",
        "ts",
    );
    check_refused(
        "SELECT container_id FROM events WHERE proc_name = $1",
        1,
        "a placeholder",
        "",
    );
}

#[test]
fn no_file_of_the_machine_is_to_be_had() {
    check_refused(
        "SELECT container_id FROM '/etc/passwd'",
        1,
        "no table",
        "events",
    );
    check_refused(
        "SELECT container_id FROM events, generate_series(1, 1000000000)",
        1,
        "generate_series",
        "",
    );
    check_refused(
        "SELECT table_name AS container_id FROM information_schema.tables",
        1,
        "no table",
        "events",
    );
}

#[test]
fn a_folder_beside_the_one_that_is_meant_is_told_with_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own");
    fs::create_dir_all(own.join("execution")).expect("folders");
    let text = format!("{HEADER}SELECT container_id FROM events WHERE evt_type = 'open'");
    let file = own.join("execution/x.sql");
    fs::write(&file, text).expect("a file");
    let check = |named: &Path, words: &str| {
        let Err(error) = DetectionSet::load(named) else {
            panic!("{} loads", named.display())
        };
        let said = error.to_string();
        let ending = format!("{words} {}", own.display());
        assert!(said.ends_with(&ending), "{said}");
    };
    check(
        folder.path(),
        "but own/execution/x.sql is there: put it so, or name",
    );
    check(
        &own.join("execution"),
        "but x.sql is there: put it so, or name",
    );
    check(
        &file,
        "x.sql is a file: name the folder of detections that it lies in,",
    );
    assert!(DetectionSet::load(&own).is_ok());
}

#[test]
fn folders_and_names_are_checked() {
    let good = format!("{HEADER}SELECT container_id FROM events WHERE evt_type = 'open'");
    let reasons = |files: &[(&str, &str)]| -> Vec<String> {
        load(files)
            .expect("a folder")
            .refused
            .iter()
            .map(|refusal| refusal.reason.clone())
            .collect()
    };
    assert!(matches!(load(&[]), Err(LoadError::Empty { .. })));
    assert!(matches!(load(&[SHELLS]), Err(LoadError::Empty { .. })));
    assert!(matches!(
        DetectionSet::load(Path::new("/nowhere")),
        Err(LoadError::Unreadable { .. })
    ));
    assert_eq!(
        reasons(&[("a/x.sql", &good), ("b/.hidden.sql", "nonsense")]),
        Vec::<String>::new()
    );
    assert_eq!(
        reasons(&[("x.sql", &good), ("a/y.sql", &good)]),
        ["x.sql is no place of a detection"]
    );
    assert_eq!(
        reasons(&[("a/b/x.sql", &good), ("a/y.sql", &good)]),
        ["a/b/x.sql is no place of a detection"]
    );
    assert_eq!(
        reasons(&[("a/Tool Name.sql", &good)]),
        ["a/Tool Name.sql is no place of a detection"]
    );
    let [double] = &reasons(&[("a/x.sql", &good), ("b/x.sql", &good)])[..] else {
        panic!("one refusal")
    };
    assert!(double.ends_with("a/x.sql has the same name"), "{double}");
    let [list] = &reasons(&[("a/x.sql", &good), ("lists/bad.csv", "a,b\n1\n")])[..] else {
        panic!("one refusal")
    };
    assert!(list.starts_with("the row's cells are 1"), "{list}");
}

#[test]
fn the_content_hash_is_the_files() {
    let hash = |text: &str| {
        load_query(text)
            .set
            .iter()
            .map(|detection| detection.content_hash.clone())
            .collect::<Vec<_>>()
    };
    let (first, second) = (
        hash("SELECT container_id FROM events"),
        hash("SELECT container_id FROM events -- note"),
    );
    assert_eq!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
}

#[test]
fn only_what_must_be_is_shown_to_a_detection() {
    let types = |predicate: &str| {
        let report = load_query(&format!(
            "SELECT container_id FROM events WHERE {predicate}"
        ));
        assert_eq!(report.refused, Vec::new());
        let tried = report
            .set
            .iter()
            .find(|detection| detection.id == "tried")
            .expect("loaded");
        tried
            .event_types()
            .map(|types| types.iter().cloned().collect::<Vec<_>>())
    };
    let some = |types: &[&str]| {
        Some(
            types
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(types("evt_type = 'open'"), some(&["open"]));
    assert_eq!(
        types("evt_failed AND evt_type IN ('open', 'creat')"),
        some(&["creat", "open"])
    );
    assert_eq!(
        types("evt_type = 'a' AND proc_tty > 0 OR evt_type = 'b' AND evt_failed"),
        some(&["a", "b"])
    );
    assert_eq!(types("evt_type = 'a' OR evt_failed"), None);
    assert_eq!(types("evt_type <> 'a'"), None);
    assert_eq!(types("NOT (evt_type = 'a')"), None);
    assert_eq!(types("evt_type LIKE 'open%'"), None);
    assert_eq!(
        types("evt_type IN (SELECT name FROM shells)"),
        some(&["fish", "sh"])
    );
}

#[test]
fn the_examples_of_the_documentation_load() {
    let page = include_str!("../../../docs/detections.md");
    let examples: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 3);
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    for (number, example) in examples.iter().enumerate() {
        let file = folder.path().join(format!("tactic/example_{number}.sql"));
        fs::write(file, example).expect("a file");
    }
    let report = DetectionSet::load(folder.path()).expect("detections");
    assert_eq!(report.refused, Vec::new());
    assert_eq!(report.set.len(), examples.len());
}

#[test]
fn a_distinct_from_that_takes_what_comes_after_it_is_refused() {
    let check = |condition: &str| {
        let query = format!("SELECT container_id FROM events\nWHERE {condition}");
        check_refused(
            &query,
            2,
            "for a part of what it compares with",
            "(a IS DISTINCT FROM b) AND c",
        );
    };
    check("fd_created IS DISTINCT FROM true AND proc_name = 'a'");
    check("container_privileged IS NOT DISTINCT FROM true OR evt_failed");
    check("NOT (proc_name IS DISTINCT FROM 'runc' AND evt_failed)");
    for condition in [
        "(fd_created IS DISTINCT FROM true) AND proc_name = 'a'",
        "proc_name = 'a' AND fd_created IS DISTINCT FROM true",
    ] {
        let query = format!("SELECT container_id FROM events WHERE {condition}");
        check_loads(&query, true);
    }
}

#[test]
fn what_would_be_parsed_and_not_obeyed_is_refused() {
    let check = |query: &str, line: usize, clause: &str| {
        check_refused(query, line, clause, "leave it out");
    };
    let select = "SELECT container_id";
    check(
        &format!("{select}\nFROM events TABLESAMPLE BERNOULLI (50)"),
        2,
        "TABLESAMPLE is no part",
    );
    check(
        &format!("{select} FROM events\nFOR UPDATE"),
        2,
        "FOR UPDATE is no part",
    );
    check(
        &format!(
            "{select} FROM events\nWHERE proc_name IN (SELECT name FROM shells\nTABLESAMPLE (50 PERCENT))"
        ),
        3,
        "TABLESAMPLE is no part",
    );
    check(
        &format!("{select} FROM events\nQUALIFY row_number() OVER () = 1"),
        2,
        "QUALIFY is no part",
    );
    check(
        &format!(
            "{select}, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, container_id\nFETCH FIRST 3 ROWS WITH TIES"
        ),
        3,
        "FETCH is no part",
    );
}

#[test]
fn what_windows_cannot_keep_is_refused() {
    let window = "FROM tumble(events, INTERVAL '1 minute')";
    let keys = "GROUP BY window_start, container_id";
    check_refused(
        "SELECT container_id, count(*) AS n\nFROM tumble(events)\nGROUP BY container_id",
        2,
        "without an end",
        "INTERVAL '1 minute'",
    );
    check_refused(
        "SELECT container_id, count(*) AS n\nFROM hop(events, INTERVAL '7 seconds', INTERVAL '1 minute')\nGROUP BY window_start, container_id",
        1,
        "does not divide",
        "the nearest that does is INTERVAL '6 seconds'",
    );
    check_refused(
        "SELECT container_id, count(*) AS n\nFROM hop(events, INTERVAL '5 minutes', INTERVAL '30 seconds')\nGROUP BY window_start, container_id",
        2,
        "hop takes the slide first and then the size",
        "write hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')",
    );
    check_refused(
        &format!("SELECT container_id, count(*) AS n\n{window}\nGROUP BY container_id"),
        3,
        "lacks the window",
        "window_start",
    );
    check_refused(
        &format!(
            "SELECT 'x' AS container_id, first_value(host_id ORDER BY ts, seq) AS first\n{window}\nGROUP BY window_start, proc_name"
        ),
        1,
        "does not tell rows of several hosts apart",
        "ORDER BY ts, host_id, sensor_run, seq",
    );
    for span in [
        "INTERVAL '0 seconds'",
        "INTERVAL '31 days'",
        "INTERVAL '1 month'",
    ] {
        check_refused(
            &format!(
                "SELECT 'x' AS container_id, hosts_known({span}) AS n\n{window}\nGROUP BY window_start, proc_name"
            ),
            1,
            "takes a span from 1 second to 30 days",
            "hosts_known(INTERVAL '10 minutes')",
        );
    }
    check_refused(
        &format!("SELECT container_id\n{window}"),
        1,
        "keeps every row",
        "GROUP BY",
    );
    for (aggregate, reason, mend) in [
        ("array_agg(proc_name)", "keeps every value", "sample"),
        ("median(proc_pid)", "keeps every value", "avg"),
        (
            "hosts_known(INTERVAL '1 minute')",
            "counts hosts, and the window is of one",
            "GROUP BY",
        ),
        (
            "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY proc_pid)",
            "order in which states",
            "avg",
        ),
        (
            "first_value(proc_name)",
            "whichever row comes first",
            "ORDER BY ts, seq",
        ),
        (
            "first_value(proc_name ORDER BY ts)",
            "does not end its order with seq",
            "ORDER BY ts, seq",
        ),
        (
            "sum(DISTINCT proc_pid)",
            "keeps every value",
            "count(DISTINCT",
        ),
    ] {
        check_refused(
            &format!("SELECT container_id, {aggregate} AS n\n{window}\n{keys}"),
            1,
            reason,
            mend,
        );
    }
    check_refused(
        &format!("SELECT container_id, count(*) AS n\n{window}\nWHERE ts > now()\n{keys}"),
        3,
        "does not give the same answer",
        "ts and ingest_ts",
    );
    check_refused(
        "SELECT container_id,\nversion() AS v FROM events",
        2,
        "does not give the same answer",
        "the event's own columns",
    );
    check_refused(
        &format!("SELECT container_id, count(*) AS n\n{window}\nWHERE random() < 0.5\n{keys}"),
        3,
        "does not give the same answer",
        "ts and ingest_ts",
    );
    check_refused(
        "SELECT a.container_id, count(*) AS n\nFROM tumble(events, INTERVAL '1 minute') a\nJOIN tumble(events, INTERVAL '1 minute') b ON a.proc_key = b.proc_pkey\nGROUP BY a.window_start, a.container_id",
        3,
        "a join without a bound",
        "lists",
    );
}

/// Detections that share their keys share their states, and one key's state cannot be cut over several records.
#[test]
fn a_row_of_state_that_fits_no_record_is_refused() {
    let query = |column: &str, least: u32, slide: &str| {
        format!(
            "{HEADER}SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '{slide}')\n\
             GROUP BY window_start, window_end, container_id HAVING count(DISTINCT {column}) >= {least}"
        )
    };
    let columns = [
        "fd_name",
        "proc_name",
        "fd_sip",
        "proc_exepath",
        "user_name",
        "container_name",
    ];
    let mut files: Vec<(String, String)> = (0..)
        .zip(columns)
        .map(|(place, column)| {
            (
                format!("a/many_{place}.sql"),
                query(column, 5_000, "1 minute"),
            )
        })
        .collect();
    // These take nothing more: one asks for the same, one for little, one has windows of its own.
    files.push((
        "a/more_same.sql".to_owned(),
        query("fd_name", 5_000, "1 minute"),
    ));
    files.push((
        "a/more_small.sql".to_owned(),
        query("evt_type", 5, "1 minute"),
    ));
    files.push((
        "a/other.sql".to_owned(),
        query("user_name", 5_000, "2 minutes"),
    ));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let report = load(&files).expect("a folder");
    let [refusal] = &report.refused[..] else {
        panic!("{:?}", report.refused)
    };
    assert!(refusal.file.ends_with("a/many_5.sql"), "{refusal}");
    let said = "with that of many_0, many_1, many_2, many_3, many_4, which it shares its keys and slide with";
    assert!(refusal.reason.contains(said), "{refusal}");
    assert!(
        refusal.mend.contains("fewer values in count(DISTINCT ..)"),
        "{refusal}"
    );
    assert_eq!(report.set.len(), 8);
}
