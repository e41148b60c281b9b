//! What is refused, what is warned of and with which words, and what is left alone.

use arrow::datatypes::DataType;

use crate::detect::tests::{load_queries, load_query_warnings};

/// The one warning of a query.
#[track_caller]
pub(super) fn check(query: &str, line: usize, reason: &str, mend: &str) {
    let warnings = load_query_warnings(query).expect("loaded");
    let [(at, text)] = &warnings[..] else {
        panic!("{query}: {warnings:#?}")
    };
    assert!(
        text.contains(reason) && text.contains(mend),
        "{query}: {text}"
    );
    assert_eq!(*at, line, "{query}: {text}");
}

/// As [`check`], of the condition alone.
#[track_caller]
pub(super) fn check_where(condition: &str, reason: &str, mend: &str) {
    let query = format!("SELECT container_id FROM events\nWHERE {condition}");
    check(&query, 2, reason, mend);
}

#[track_caller]
pub(super) fn check_refused(condition: &str, reason: &str, mend: &str) {
    let query = format!("SELECT container_id FROM events\nWHERE {condition}");
    let (line, text) = load_query_warnings(&query).expect_err(condition);
    assert!(
        text.contains(reason) && text.contains(mend),
        "{condition}: {text}"
    );
    assert_eq!(line, 2, "{text}");
}

#[track_caller]
fn check_clean(query: &str) {
    assert_eq!(load_query_warnings(query), Ok(Vec::new()), "{query}");
}

#[track_caller]
pub(super) fn check_where_clean(condition: &str) {
    check_clean(&format!(
        "SELECT container_id FROM events WHERE {condition}"
    ));
}

#[test]
fn values_that_no_sensor_sends_are_told_with_what_was_meant() {
    check_where(
        "evt_type = 'exceve'",
        "evt_type is never 'exceve'",
        "did you mean 'execve'?",
    );
    check_where(
        "evt_type = 'EXECVE'",
        "never 'EXECVE'",
        "did you mean 'execve'?",
    );
    check_where(
        "evt_type IN ('execve', 'vfork')",
        "never 'vfork'",
        "it is sent as 'clone', and evt_call has its own name",
    );
    check_where(
        "evt_type = 'getpid'",
        "never 'getpid'",
        "sensors of this version send none such",
    );
    check_where(
        "'failure' = evt_outcome",
        "never 'failure'",
        "did you mean 'failed'?",
    );
    check_where(
        "evt_outcome <> 'sucess'",
        "never 'sucess'",
        "did you mean 'success'?",
    );
    check_where("fd_type = 'IPv4'", "never 'IPv4'", "did you mean 'ipv4'?");
    check_where(
        "evt_failed AND evt_res = 'EACCESS'",
        "never 'EACCESS'",
        "did you mean 'EACCES'?",
    );
    check_where(
        "coalesce(proc_stage, '') <> 'runtme'",
        "never 'runtme'",
        "did you mean 'runtime'?",
    );
    check_where(
        "proc_stage IS DISTINCT FROM 'init'",
        "never 'init'",
        "sensors of this version send runtime, ",
    );
    check_where(
        "CASE evt_type WHEN 'exceve' THEN true ELSE evt_failed END",
        "never 'exceve'",
        "'execve'",
    );
    check_where(
        "evt_type IN (SELECT name FROM shells)",
        "evt_type is never 'sh' nor 'fish', which a list or a view gives",
        "sensors",
    );
    check_where(
        "evt_type LIKE 'EXEC%'",
        "no event that sensors send passes evt_type LIKE 'EXEC%'",
        "correct",
    );
    check_where(
        "starts_with(evt_type, 'sys_')",
        "no event that sensors send passes",
        "correct",
    );
    check_where(
        "fd_sport = 70000",
        "passes fd_sport = 70000",
        "fd_sport lies between 0 and 65535",
    );
    check_where(
        "user_uid = -1",
        "passes user_uid = -1",
        "user_uid is never less than 0",
    );
    check_where(
        "length(proc_name) > 60",
        "passes character_length(proc_name) > 60",
        "proc_name has at most 15 bytes, each written as \\xNN where it is no text",
    );
    check_where(
        "proc_name = 'kube-controller-manager'",
        "at most 15 bytes, and 'kube-controller-manager' has 23",
        "write 'kube-controller'",
    );
    check_where(
        "container_id = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'",
        "at most 12 bytes",
        "write '0123456789ab', or compare container_full_id",
    );
}

#[test]
fn values_are_looked_at_wherever_they_stand() {
    let window = "FROM tumble(events, INTERVAL '1 minute')";
    let keys = "GROUP BY window_start, window_end, container_id";
    check(
        &format!(
            "SELECT container_id, count(*) FILTER (WHERE evt_type = 'exceve') AS n\n{window}\n{keys}"
        ),
        1,
        "never 'exceve'",
        "execve",
    );
    check(
        &format!(
            "SELECT container_id, proc_stage, count(*) AS n\n{window}\n{keys}, proc_stage\nHAVING proc_stage = 'exce'"
        ),
        4,
        "never 'exce'",
        "'exec'",
    );
    check(
        "SELECT e.container_id,\nCASE WHEN e.evt_type = 'exceve' THEN 1 END AS n\nFROM events e",
        2,
        "never 'exceve'",
        "execve",
    );
    check(
        "SELECT container_id FROM events\nJOIN shells s ON s.name = proc_name AND evt_type = 'exceve'",
        2,
        "never 'exceve'",
        "execve",
    );
}

#[test]
fn what_no_event_can_pass_is_refused() {
    check_refused(
        "proc_name = 'a' AND proc_name = 'b'",
        "no event can pass proc_name = 'a' and proc_name = 'b': they contradict each other",
        "IN (..)",
    );
    check_refused("evt_failed AND NOT evt_failed", "contradict", "correct");
    check_refused(
        "evt_failed AND (proc_name = 'a' AND NOT proc_name IN ('a', 'b'))",
        "contradict",
        "",
    );
    check_refused("fd_sport > 10 AND fd_sport < 11", "contradict", "");
    check_refused(
        "fd_sport BETWEEN 10 AND 5",
        "no event can pass fd_sport BETWEEN 10 AND 5",
        "",
    );
    check_refused("proc_name IS NULL AND proc_name <> 'a'", "contradict", "");
    check_refused("proc_name = NULL", "nothing equals NULL", "write IS NULL");
    check_refused(
        "proc_name NOT IN ('a', NULL)",
        "the list holds a NULL",
        "fill the cell",
    );
    check_refused(
        "lower(proc_name) = 'Bash'",
        "letters are of the other case",
        "lower-case letters",
    );
    check_refused("false", "no event can pass false", "");
    check_refused(
        "proc_args[0] = '-c'",
        "no event can pass proc_args[0] = '-c': the first item of a list is [1]",
        "write [1]",
    );
    check_refused("proc_pid <> proc_pid", "pass proc_pid <> proc_pid", "");
    check_refused(
        "strpos(proc_cmdline, 'x') < 0",
        "no event can pass strpos(",
        "",
    );
    check_refused(
        "(proc_name = 'a' OR proc_name = 'b') AND proc_name = 'c'",
        "contradict",
        "",
    );
    check_refused(
        "evt_type IN ('open', 'openat') AND evt_type = 'execve'",
        "contradict",
        "",
    );
    let windows = "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')
        WHERE evt_failed GROUP BY window_start, window_end, container_id HAVING count(*) = 0";
    let (_, text) = load_query_warnings(windows).expect_err("a group has a row");
    assert!(text.contains("no event can pass count("), "{text}");
}

/// A newer sensor may send more: what this one does not send is no reason to refuse.
#[test]
fn what_a_newer_sensor_may_send_is_never_refused() {
    for condition in [
        "evt_type = 'getpid'",
        "reverse(evt_type) = 'dipteg'",
        "evt_type LIKE 'getp%'",
        "evt_outcome NOT IN ('success', 'failed', 'attempted')",
        "fd_sport = 70000",
        "proc_name = 'kube-controller-manager'",
        "evt_failed AND evt_outcome = 'success'",
        "evt_type = 'execveat' AND evt_outcome = 'success'",
    ] {
        let query = format!("SELECT container_id FROM events WHERE {condition}");
        let warnings = load_query_warnings(&query).expect(condition);
        assert!(!warnings.is_empty(), "{condition}");
    }
}

#[test]
fn a_list_that_is_still_empty_is_told_and_loads() {
    check_where(
        "proc_name IN (SELECT name FROM shells WHERE name = 'none')",
        "is true for nothing: what it asks of lists yields no row",
        "fill the list",
    );
}

/// Whoever writes a detection chooses how many alternatives it has, and every start waits for it.
#[test]
fn many_alternatives_take_no_time() {
    let all = |joint: &str, part: &dyn Fn(usize) -> String| {
        (0..100).map(part).collect::<Vec<_>>().join(joint)
    };
    let alternatives = all(" AND ", &|number| {
        format!("(proc_name = 'a{number}' OR fd_sport = {number})")
    });
    let started = std::time::Instant::now();
    let _ = load_query_warnings(&format!(
        "SELECT container_id FROM events WHERE {alternatives}"
    ));
    let values: String = (0..5_000).map(|number| format!(", 'a{number}'")).collect();
    let long = format!(
        "proc_name IN (''{values}) AND ({})",
        all(" OR ", &|number| format!("proc_name <> 'b{number}'"))
    );
    let _ = load_query_warnings(&format!("SELECT container_id FROM events WHERE {long}"));
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn equalities_that_double_take_no_time() {
    let events = crate::decode::events_schema();
    let texts = events.fields().iter();
    let texts = texts.filter(|field| *field.data_type() == DataType::Utf8View);
    let mut names: Vec<&str> = texts.map(|field| field.name().as_str()).take(41).collect();
    assert_eq!(names.len(), 41);
    let started = std::time::Instant::now();
    // Each is of the one before it, and of the one behind it.
    for _ in 0..2 {
        let pairs = names.windows(2);
        let conditions = pairs.map(|pair| format!("{} = concat({1}, {1})", pair[1], pair[0]));
        let conditions = conditions.collect::<Vec<_>>().join(" AND ");
        check_where_clean(&conditions);
        names.reverse();
    }
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn a_blank_cell_refuses_the_detection_that_it_silences() {
    let query = "SELECT container_id FROM events WHERE proc_name NOT IN (SELECT name FROM allowed)";
    let list = (
        "lists/allowed.csv",
        "name,why\ncron,jobs\n,to be filled in\nsh,shell\n",
    );
    let report = load_queries(&[query], &[list]);
    assert!(
        report.refused[0].reason.contains("such as a blank cell"),
        "{:?}",
        report.refused
    );
    let warnings: Vec<String> = report
        .warnings()
        .map(|warning| warning.to_string())
        .collect();
    assert!(
        warnings[0].contains("allowed.csv:3: warning: the cell of name is blank"),
        "{warnings:?}"
    );

    let query = format!("{query} OR proc_name IS NULL");
    let query = query.replace("FROM allowed", "FROM allowed WHERE name IS NOT NULL");
    assert_eq!(load_queries(&[&query], &[list]).refused, []);
}

#[test]
fn what_no_sensor_sends_together_is_told_with_the_reason() {
    check_where(
        "evt_type = 'execveat' AND evt_outcome = 'success'",
        "no event that sensors send passes evt_type = 'execveat' and evt_outcome = 'success'",
        "an execveat that succeeds is sent as 'execve'",
    );
    check_where(
        "evt_failed AND evt_outcome = 'attempted'",
        "evt_failed is true where",
        "",
    );
    check_where(
        "evt_type = 'execve' AND fd_sport = 4444",
        "have no fd_sport",
        "",
    );
    check_where(
        "evt_type = 'execve' AND fd_name = '/etc/shadow'",
        "only calls of one file or connection have fd_name",
        "",
    );
    check_where(
        "evt_type = 'connect' AND proc_env['LD_PRELOAD'] IS NOT NULL AND proc_stdin_type = 'pipe'",
        "proc_stdin_type is known at exec alone",
        "",
    );
    check_where(
        "evt_type = 'execve' AND evt_is_open_write",
        "only calls that open files",
        "",
    );
    check_where(
        "evt_type = 'open' AND proc_exit_code = 1",
        "at procexit alone",
        "",
    );
    check_where(
        "evt_type = 'execve' AND (proc_name = 'a' OR fd_sport = 4444)",
        "this alternative is true for no event that sensors send: fd_sport = 4444",
        "leave it out",
    );
}

#[test]
fn a_shells_pattern_in_like_is_told() {
    check_where(
        "evt_type = 'connect' AND fd_name LIKE '/run/*.sock'",
        "LIKE '/run/*.sock' looks for a *",
        "write '/run/%.sock'",
    );
    check_where_clean("evt_type = 'connect' AND fd_name LIKE '%*%'");
}

/// A window over what passes `condition`, with this HAVING in line 5.
fn counted(condition: &str, having: &str) -> String {
    format!(
        "SELECT container_id, count(*) AS n\nFROM tumble(events, INTERVAL '1 minute')\nWHERE {condition}\n\
         GROUP BY window_start, window_end, container_id\nHAVING {having}"
    )
}

#[test]
fn counts_of_values_that_no_group_has_are_told() {
    for (condition, having, column, most) in [
        (
            "evt_type = 'connect'",
            "count(DISTINCT evt_type) > 3",
            "evt_type",
            1,
        ),
        (
            "evt_type = 'connect'",
            "count(*) > 9 AND count(DISTINCT evt_type) >= 2",
            "evt_type",
            1,
        ),
        (
            "evt_type IN ('open', 'openat')",
            "count(DISTINCT evt_type) = 3",
            "evt_type",
            2,
        ),
        (
            "evt_type IN ('open', 'openat')",
            "approx_distinct(evt_type) > 2",
            "evt_type",
            2,
        ),
        (
            "proc_name IN ('a', 'b')",
            "count(DISTINCT proc_name) >= 3",
            "proc_name",
            2,
        ),
        (
            "fd_sport = 22",
            "count(DISTINCT fd_sport) >= 2",
            "fd_sport",
            1,
        ),
        (
            "fd_sport BETWEEN 80 AND 81",
            "count(DISTINCT fd_sport) >= 3",
            "fd_sport",
            2,
        ),
        (
            "evt_type = 'open'",
            "count(DISTINCT evt_failed) > 2",
            "evt_failed",
            2,
        ),
        (
            "evt_failed",
            "count(DISTINCT evt_outcome) BETWEEN 2 AND 5",
            "evt_outcome",
            1,
        ),
        (
            "evt_type = 'open'",
            "count(DISTINCT evt_outcome) > 3",
            "evt_outcome",
            3,
        ),
        (
            "evt_type = 'open'",
            "count(DISTINCT container_id) >= 2",
            "container_id",
            1,
        ),
        (
            "evt_type = 'open'",
            "count(DISTINCT host_id) >= 2",
            "host_id",
            1,
        ),
    ] {
        let values = if most == 1 { "value" } else { "values" };
        check(
            &counted(condition, having),
            5,
            &format!("is never true: {column} has at most {most} {values} in a group"),
            "count another column",
        );
    }
    // With no key of a host a window has many.
    let fleet = counted("evt_type = 'open'", "count(DISTINCT host_id) >= 2")
        .replace("SELECT container_id", "SELECT 'x' AS container_id")
        .replace("window_end, container_id", "window_end, proc_name");
    assert_eq!(load_query_warnings(&fleet).expect("loaded"), []);
    let (_, told) = &load_query_warnings(&counted(
        "evt_type = 'connect'",
        "count(DISTINCT evt_type) > 3",
    ))
    .expect("loaded")[0];
    assert!(
        told.starts_with("count(DISTINCT evt_type) > 3 is never true"),
        "{told}"
    );
}

#[test]
fn counts_of_values_that_a_group_may_have_are_left_alone() {
    for (condition, having) in [
        ("evt_type = 'connect'", "count(DISTINCT fd_sport) > 30"),
        (
            "evt_type = 'connect' AND fd_sport > 1024",
            "count(DISTINCT fd_sport) > 30",
        ),
        ("fd_sport BETWEEN 80 AND 82", "count(DISTINCT fd_sport) = 3"),
        (
            "evt_type IN ('open', 'openat')",
            "count(DISTINCT evt_type) = 2",
        ),
        (
            "evt_type IN ('open', 'openat')",
            "count(DISTINCT evt_type) <> 3",
        ),
        ("evt_type LIKE 'open%'", "count(DISTINCT evt_type) >= 3"),
        ("proc_name LIKE 'ssh%'", "count(DISTINCT proc_name) >= 3"),
        ("proc_name > 'a'", "count(DISTINCT proc_name) >= 3"),
        (
            "evt_type = 'open' OR proc_name = 'x'",
            "count(DISTINCT evt_type) > 3",
        ),
        ("evt_type = 'connect'", "count(DISTINCT evt_type) < 3"),
        (
            "evt_type = 'connect'",
            "count(DISTINCT lower(proc_name)) > 3",
        ),
    ] {
        check_clean(&counted(condition, having));
    }
}

#[test]
fn negations_that_leave_out_what_is_unknown_are_told() {
    check_where(
        "evt_failed AND proc_stage NOT IN ('runtime', 'healthcheck')",
        "proc_stage NOT IN ('runtime', 'healthcheck') is not true where proc_stage is unknown (NULL): such rows never pass",
        "write (proc_stage IS NULL OR proc_stage NOT IN ('runtime', 'healthcheck')), or add proc_stage IS NOT NULL",
    );
    check_where(
        "proc_stage <> 'runtime'",
        "unknown (NULL)",
        "write (proc_stage IS DISTINCT FROM 'runtime')",
    );
    check_where(
        "NOT proc_stage = 'runtime'",
        "NOT proc_stage = 'runtime' is",
        "proc_stage IS DISTINCT FROM 'runtime'",
    );
    check_where(
        "NOT (evt_failed OR proc_stage = 'runtime')",
        "unknown (NULL)",
        "IS DISTINCT FROM",
    );
    check_where(
        "fd_name NOT LIKE '/tmp/%'",
        "fd_name is unknown",
        "(fd_name IS NULL OR fd_name NOT LIKE '/tmp/%')",
    );
    check_where(
        "fd_name !~ '^/tmp/'",
        "fd_name is unknown",
        "coalesce(fd_name !~ '^/tmp/', true)",
    );
    check_where(
        "NOT regexp_like(fd_name, '^/tmp/')",
        "fd_name is unknown",
        "NOT coalesce(regexp_like(fd_name, '^/tmp/'), false)",
    );
    check_where(
        "NOT container_privileged",
        "container_privileged is unknown",
        "NOT coalesce(container_privileged, false)",
    );
    check_where(
        "user_uid <> 0",
        "user_uid is unknown",
        "user_uid IS DISTINCT FROM 0",
    );
    check_where(
        "proc_name NOT IN (SELECT name FROM shells)",
        "proc_name is unknown",
        "proc_name IS NULL OR",
    );
    check_where(
        "proc_name <> proc_pname",
        "a part of it is unknown",
        "proc_name IS DISTINCT FROM proc_pname",
    );
    check_where(
        "program(proc_exepath, proc_exe, proc_args) <> 'sh'",
        "unknown (NULL)",
        "IS DISTINCT FROM 'sh'",
    );
    let window = "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')";
    let keys = "GROUP BY window_start, window_end, container_id";
    check(
        &format!("{window}\nWHERE proc_stage <> 'runtime' {keys}"),
        2,
        "proc_stage is unknown",
        "",
    );
}

#[test]
fn each_mend_is_clean() {
    for condition in [
        "(proc_stage IS NULL OR proc_stage NOT IN ('runtime', 'healthcheck'))",
        "proc_stage IS DISTINCT FROM 'runtime'",
        "coalesce(proc_stage, '') NOT IN ('runtime', 'healthcheck')",
        "proc_stage IS NOT NULL AND proc_stage <> 'runtime'",
        "coalesce(fd_name !~ '^/tmp/', true)",
        "NOT coalesce(regexp_like(fd_name, '^/tmp/'), false)",
        "NOT coalesce(container_privileged, false)",
        "user_uid IS DISTINCT FROM 0",
        "proc_name IS DISTINCT FROM proc_pname",
        "proc_name IS NOT NULL AND proc_pname IS NOT NULL AND proc_name <> proc_pname",
    ] {
        check_where_clean(condition);
    }
}

#[test]
fn what_is_right_is_left_alone() {
    for condition in [
        "evt_type IN ('execve', 'execveat') AND evt_outcome = 'success'",
        "container_id <> 'host'",
        "evt_failed AND evt_res <> 'ENOENT'",
        "evt_type = 'connect' AND fd_family IN ('ipv4', 'ipv6') AND fd_sport <> 0",
        "proc_name = 'sh' OR proc_stage <> 'runtime' OR proc_stage IS NULL",
        "(proc_name = 'sh' AND fd_sport = 1) OR (proc_name = 'bash' AND fd_sport = 2)",
        "proc_name LIKE 'a%' AND proc_name <> 'ab'",
        "fd_sport > 1024 AND fd_sport <= 2048 AND fd_sport <> 2000",
        "lower(proc_name) = 'sh' AND proc_name = 'Sh'",
        "proc_args[1] = '-c' AND proc_args[2] = 'id'",
        "evt_args['filename'] = '/a'",
        "date_trunc('hour', ts) = ts",
        "CAST(proc_args[1] AS BIGINT) > 3",
        "cidr_match(fd_rip, '10.0.0.0/8')",
        "ts >= '2025-06-15 16:00:00'",
        "proc_cmdline ~ 'a.*b' AND coalesce(proc_cmdline, '') !~ 'c'",
        "fd_sport = 8000 + 80",
        "proc_name = lower('SH')",
        "proc_name = 'a' || 'b'",
        "evt_rawres = -1 OR evt_rawres > 10.5",
        "evt_failed = (proc_pid > 5)",
        "concat(proc_name, 'x') = 'ax' AND proc_name = 'a'",
        "proc_name IS NULL OR proc_name NOT IN (SELECT name FROM shells WHERE name = 'none')",
    ] {
        check_where_clean(condition);
    }
    check_clean(
        "SELECT container_id FROM events e WHERE NOT EXISTS (SELECT 1 FROM shells s WHERE s.name = e.proc_name)",
    );
}

#[test]
fn constants_that_cannot_be_computed_are_refused() {
    check_refused(
        "proc_pid = 1 / 0",
        "1 / 0 cannot be computed",
        "the same for every event",
    );
    check_refused("proc_pid > CAST('abc' AS BIGINT)", "cannot be computed", "");
    check_refused(
        "cidr_match(fd_rip, '10.0.0.0/33')",
        "\"10.0.0.0/33\" is no network",
        "write cidr_match(fd_rip, '10.0.0.0/32')",
    );
    for (call, mend) in [
        ("fd_sip, '10.1.2.3'", "fd_sip, '10.1.2.3/32'"),
        ("fd_lip, 'fe80::/129'", "fd_lip, 'fe80::/128'"),
        ("fd_cip, 'localhost'", "fd_cip, '10.0.0.0/8'"),
        ("lower(fd_cip), '10.0.0.0'", "fd_rip, '10.0.0.0/32'"),
    ] {
        let mend = format!("write cidr_match({mend})");
        check_refused(&format!("cidr_match({call})"), "is no network", &mend);
    }
    check_refused(
        "cidr_match(fd_rip, fd_lip)",
        "takes its network as a constant",
        "write cidr_match",
    );
    check_refused(
        "proc_name ~ '('",
        "'(' is no pattern: unclosed group",
        "correct it",
    );
    check_where(
        "date_trunc('mnute', ts) = ts",
        "date_trunc('mnute', ts) fails on whatever it is tried on",
        "correct its constants",
    );
    check_refused(
        "regexp_replace(proc_name, '(', '') = 'x'",
        "'(' is no pattern: unclosed group",
        "",
    );
}

#[test]
fn a_broken_pattern_in_a_list_is_refused_where_it_is_used() {
    let list = ("lists/patterns.csv", "pattern\n^a\n(b\n");
    for query in [
        "SELECT container_id FROM events WHERE EXISTS (SELECT 1 FROM patterns p WHERE proc_cmdline ~ p.pattern)",
        "SELECT container_id FROM events JOIN patterns ON regexp_like(proc_cmdline, pattern)",
    ] {
        let report = load_queries(&[query], &[list]);
        let [refusal] = &report.refused[..] else {
            panic!("{query}: {:?}", report.refused)
        };
        assert!(
            refusal
                .reason
                .contains("the list patterns has \"(b\" in pattern"),
            "{refusal}"
        );
    }
}

#[test]
fn and_and_or_side_by_side_are_told() {
    for (condition, mend) in [
        (
            "evt_type = 'execve' AND proc_name = 'sh' OR proc_name = 'bash'",
            "(evt_type = 'execve' AND proc_name = 'sh') OR proc_name = 'bash', or evt_type = 'execve' AND (proc_name = 'sh' OR proc_name = 'bash')",
        ),
        (
            "evt_failed OR proc_tty > 0 AND proc_name = 'sh'",
            "proc_tty > 0 AND (proc_name = 'sh' OR evt_failed)",
        ),
        (
            "user_uid = 0 AND (proc_tty > 0 AND proc_name = 'a' OR evt_failed)",
            "proc_name = 'a' OR evt_failed)",
        ),
    ] {
        check_where(condition, "AND binds before OR", mend);
    }
    for condition in [
        "(evt_type = 'execve' AND proc_name = 'sh') OR proc_name = 'bash'",
        "evt_type = 'execve' AND (proc_name = 'sh' OR proc_name = 'bash')",
        "evt_type = 'execve' AND proc_name = 'sh' OR evt_type = 'connect' AND fd_sport = 22",
        "evt_type = 'execve' OR evt_type = 'connect' AND fd_sport = 22",
        "proc_name = 'a' OR proc_name = 'b' OR evt_failed",
    ] {
        check_where_clean(condition);
    }
}
