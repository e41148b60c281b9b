//! `dogwatch detections` on folders made for the test: whole outputs and exit codes.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::path::Path;
use std::process::Command;

const HEADER: &str = "\
-- title = \"Shell on a socket\"
-- description = \"A shell talks to somebody else.\"
-- message = \"{proc_name} talks\"
-- severity = \"high\"
-- status = \"stable\"
-- attack = [\"T1059.004\"]
";
const QUERY: &str = "SELECT proc_name FROM events WHERE evt_type = 'execve' AND proc_name = 'sh'\n";

/// Runs `dogwatch detections` and returns exit code and output, with `folder` written as DIR.
fn detections(arguments: &[&str], folder: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dogwatch"))
        .arg("detections")
        .args(arguments)
        .arg(folder)
        .output()
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (
        output.status.code().unwrap(),
        text.replace(&folder.display().to_string(), "DIR"),
    )
}

fn folder(query: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tactic = folder.path().join("execution");
    std::fs::create_dir(&tactic).unwrap();
    std::fs::write(tactic.join("shell_talks.sql"), format!("{HEADER}{query}")).unwrap();
    let event = |name: &str| format!("{{\"evt_type\":\"execve\",\"proc_name\":\"{name}\"}}\n");
    std::fs::write(
        tactic.join("shell_talks.events.jsonl"),
        event("sh") + &event("cat"),
    )
    .unwrap();
    let alert = r#"{"event":1,"message":"sh talks","row":{"proc_name":"sh"}}"#;
    std::fs::write(
        tactic.join("shell_talks.alerts.jsonl"),
        format!("{alert}\n"),
    )
    .unwrap();
    folder
}

#[test]
fn list() {
    let folder = folder(QUERY);
    let expected = "\
execution
  shell_talks  high           stable        Shell on a socket  T1059.004
1 detection in DIR
";
    assert_eq!(
        detections(&["list"], folder.path()),
        (0, expected.to_owned())
    );
}

#[test]
fn lint_passes_what_loads() {
    let folder = folder(QUERY);
    let (code, text) = detections(&["lint"], folder.path());
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with("1 detection loaded\n"), "{text}");
}

#[test]
fn warnings_fail_where_lint_is_strict() {
    let query = "SELECT proc_name FROM events WHERE evt_type = 'exceve'\n";
    let folder = self::folder(query);
    std::fs::create_dir(folder.path().join("lists")).unwrap();
    std::fs::write(folder.path().join("lists/shells.csv"), "name\nsh\nsh\n").unwrap();
    let (code, text) = detections(&["lint"], folder.path());
    assert_eq!(code, 0, "{text}");
    for expected in [
        "DIR/lists/shells.csv:3: warning: the row stands in line 2 already; take one of them out\n",
        "DIR/execution/shell_talks.sql:7: warning: evt_type is never 'exceve'; did you mean 'execve'? [unknown-value]\n",
        "1 detection loaded, 2 warnings\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert_eq!(detections(&["lint", "--strict"], folder.path()), (1, text));
    let clean = self::folder(QUERY);
    let (code, text) = detections(&["lint", "--strict"], clean.path());
    assert_eq!(code, 0, "remarks do not count: {text}");
}

#[test]
fn strict_lets_pass_what_a_header_allows() {
    let query = "SELECT proc_name FROM events WHERE evt_type = 'bpf_of_a_newer_sensor'\n";
    let folder = self::folder(query);
    assert_eq!(detections(&["lint", "--strict"], folder.path()).0, 1);
    let file = folder.path().join("execution/shell_talks.sql");
    let allowed = |codes: &str| {
        std::fs::write(&file, format!("{HEADER}-- allow = [{codes}]\n{query}")).unwrap();
        detections(&["lint", "--strict"], folder.path())
    };
    let (code, text) = allowed("\"unknown-value\"");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 detection loaded\n"), "{text}");
    let (code, text) = allowed("\"unknown-value\", \"glob-in-like\"");
    assert_eq!(code, 1, "{text}");
    let unused = "DIR/execution/shell_talks.sql:7: warning: allow names \"glob-in-like\", and there is no such warning; take it out [allow]\n";
    assert!(text.contains(unused), "{text}");
    let (code, text) = allowed("\"unknown_value\"");
    assert_eq!(code, 1, "{text}");
    let unknown = "allow names \"unknown_value\", which is no code of a warning; did you mean \"unknown-value\"? [allow]\n";
    assert!(
        text.contains(unknown) && text.contains("[unknown-value]\n"),
        "{text}"
    );
}

#[test]
fn lint_names_file_line_and_mend() {
    let folder = folder("SELECT proc_nam FROM events WHERE evt_type = 'execve'\n");
    let (code, text) = detections(&["lint"], folder.path());
    assert_eq!(code, 1, "{text}");
    assert!(
        text.starts_with("0 detections loaded, 1 file refused:\nDIR/execution/shell_talks.sql:7: "),
        "{text}"
    );
    assert!(text.contains("proc_name"), "{text}");
}

#[test]
fn lint_names_reads_that_are_not_declared_or_not_published() {
    let query =
        "SELECT proc_name FROM events WHERE evt_type = 'openat' AND fd_name = '/srv/app/key'\n";
    let folder = folder(query);
    let (code, text) = detections(&["lint"], folder.path());
    assert_eq!(code, 0, "{text}");
    let remark = "shell_talks.sql:7: warning: the query asks for reads of /srv/app/key that its header does not declare; \
        add reads = [\"/srv/app/key\"] to the header";
    assert!(text.contains(remark), "{text}");

    let file = folder.path().join("execution/shell_talks.sql");
    let declared = format!("{HEADER}-- reads = [\"/srv/app/key\"]\n{query}");
    std::fs::write(&file, declared).unwrap();
    let (_, text) = detections(&["lint"], folder.path());
    assert!(!text.contains("does not declare"), "{text}");
    let remark = "shell_talks.sql:7: warning: reads of /srv/app/key are published once an hour";
    assert!(text.contains(remark), "{text}");

    let config = folder.path().join("sensor.toml");
    std::fs::write(&config, "[kernel]\nsensitive_read_paths = ['/srv/app']\n").unwrap();
    let option = format!("--sensor-config={}", config.display());
    let (_, text) = detections(&["lint", &option], folder.path());
    assert!(!text.contains("reads of"), "{text}");

    // Whether these are published depends on the sensors, so that nobody is told that it is allowed in vain.
    let allowed = format!(
        "{HEADER}-- reads = [\"/srv/app/key\"]\n-- allow = [\"unpublished-reads\"]\n{query}"
    );
    std::fs::write(&file, allowed).unwrap();
    for arguments in [&["lint", "--strict"][..], &["lint", "--strict", &option]] {
        let (code, text) = detections(arguments, folder.path());
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn test_passes_and_fails_with_the_difference() {
    let folder = folder(QUERY);
    let passed = "ok      shell_talks: 1 alert from 2 events\n1 detection passed\n";
    assert_eq!(detections(&["test"], folder.path()), (0, passed.to_owned()));

    let expected_file = folder.path().join("execution/shell_talks.alerts.jsonl");
    let alert = r#"{"event":2,"message":"cat talks","row":{"proc_name":"cat"}}"#;
    std::fs::write(&expected_file, format!("{alert}\n")).unwrap();
    let failed = "\
FAILED  shell_talks: 1 alert from 2 events
        line 2: expected, but not said: cat talks {\"proc_name\":\"cat\"}
        line 1: said, but not expected: sh talks {\"proc_name\":\"sh\"}
1 of 1 detection failed
";
    assert_eq!(detections(&["test"], folder.path()), (1, failed.to_owned()));
}

#[test]
fn update_writes_what_comes_out() {
    let folder = folder(QUERY);
    let expected_file = folder.path().join("execution/shell_talks.alerts.jsonl");
    std::fs::write(&expected_file, "").unwrap();
    assert_eq!(detections(&["test"], folder.path()).0, 1);
    assert_eq!(detections(&["test", "--update"], folder.path()).0, 0);
    assert_eq!(detections(&["test"], folder.path()).0, 0);
}

#[test]
fn explain_prints_the_bound_of_windows() {
    let query = "SELECT window_start, container_id, count(*) AS count, 'x' AS proc_name \
        FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve' \
        GROUP BY window_start, window_end, container_id HAVING count(*) >= 3\n";
    let folder = folder(query);
    let (code, text) = detections(&["explain"], folder.path());
    assert_eq!(code, 0, "{text}");
    for expected in [
        "looks at  execve",
        "windows   tumble 1 minute, close 1 second after their end",
        "keys      container_id",
        "fires     at the row that crosses its threshold",
        "20 MiB a task, shared with all others (windows.state_bytes_max); 3 panes, a key at most ",
        "1 detection, 1 over windows: with hosts, repeats and alerts at most 44 MiB a task; 8 partitions at most 352 MiB",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
}

#[test]
fn folder_without_detections_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = detections(&["list"], folder.path());
    assert_eq!(code, 2, "{text}");
    assert_eq!(
        text,
        "dogwatch: no detections in DIR: put them there as <tactic>/<name>.sql\n"
    );
}
