//! Texts, patterns, keys and numbers that a column never has by its kind, and conditions that ask for nothing.

use super::tests::{check, check_refused, check_where, check_where_clean};

#[test]
fn texts_that_no_column_of_a_kind_has_are_told() {
    for (condition, reason, mend) in [
        (
            "fd_sip = '10.0.0.256'",
            "fd_sip is never '10.0.0.256'",
            "an address such as",
        ),
        (
            "fd_rip IN ('10.0.0.1', 'localhost')",
            "never 'localhost'",
            "an address",
        ),
        (
            "fd_lip = '::ffff:10.0.0.1'",
            "never '::ffff:10.0.0.1'",
            "an address",
        ),
        (
            "fd_cip LIKE '10.0.0.0/8'",
            "never LIKE '10.0.0.0/8'",
            "cidr_match(fd_cip, ",
        ),
        (
            "fd_filename = '/shadow' AND evt_type = 'connect'",
            "never '/shadow'",
            "without a slash",
        ),
        (
            "fd_filename LIKE '%/shadow' AND evt_type = 'unlink'",
            "never LIKE '%/shadow'",
            "last part",
        ),
        (
            "fd_directory = '/etc/' AND evt_type = 'unlink'",
            "never '/etc/'",
            "such as '/etc'",
        ),
        (
            "fd_directory LIKE '/etc/%/' AND evt_type = 'unlink'",
            "never LIKE",
            "at its end",
        ),
        ("proc_key = '1234'", "never '1234'", "16 hexadecimal digits"),
        (
            "proc_pkey = 'ABCDEF0123456789'",
            "never 'ABCDEF0123456789'",
            "lower case",
        ),
        (
            "proc_exe_sha256 = 'abcd'",
            "never 'abcd'",
            "64 hexadecimal digits",
        ),
        (
            "proc_name = '/bin/sh'",
            "never '/bin/sh'",
            "without its folder",
        ),
        (
            "proc_name LIKE '/usr/%'",
            "never LIKE '/usr/%'",
            "without its folder",
        ),
        (
            "container_image_tag = 'nginx:1.27'",
            "never 'nginx:1.27'",
            "behind the image's colon",
        ),
        (
            "proc_name LIKE 'a-very-long-program%'",
            "has at most 15 bytes",
            "ask program(",
        ),
        (
            "array_has(proc_aname, 'a-very-long-ancestor')",
            "has at most 15 bytes",
            "write",
        ),
        (
            "proc_aname[1] = '/bin/sh'",
            "proc_aname is never '/bin/sh'",
            "without its folder",
        ),
        (
            "evt_args['fd'] = '3'",
            "evt_args never has 'fd'",
            "docs/events.md",
        ),
        (
            "evt_args['signal'] = 'SIGKILL'",
            "never has 'signal'",
            "docs/events.md",
        ),
        (
            "evt_args['requst'] = 'PTRACE_ATTACH'",
            "never has 'requst'",
            "evt_args['request']?",
        ),
        (
            "proc_env['LD_PRELOD'] IS NOT NULL",
            "never has 'LD_PRELOD'",
            "proc_env['LD_PRELOAD']?",
        ),
        (
            "cidr_match(fd_name, '10.0.0.0/8')",
            "fd_name is no address alone",
            "ask fd_rip",
        ),
        (
            "fd_mode = 755",
            "fd_mode = 755 is decimal",
            "write 493 for 0755",
        ),
        (
            "fd_mode IN (420, 644)",
            "fd_mode = 644 is decimal",
            "write 420 for 0644",
        ),
        ("evt_type = 'mark'", "not shown rows of 'mark'", "losses"),
        (
            "date_part('hour', ts) > 23",
            "no event that sensors send",
            "between 0 and 23",
        ),
        (
            "extract(month FROM ts) = 0",
            "no event that sensors send",
            "between 1 and 12",
        ),
    ] {
        check_where(condition, reason, mend);
    }
}

#[test]
fn what_columns_of_a_kind_may_have_is_left_alone() {
    for condition in [
        "fd_sip = '10.0.0.1' OR fd_sip = 'fe80::1'",
        "fd_rip LIKE '10.%' OR fd_rip LIKE '%:1'",
        "fd_filename = 'shadow' AND evt_type = 'unlink'",
        "fd_directory IN ('/', '/etc') AND evt_type = 'unlink'",
        "fd_directory LIKE '/etc/%' AND evt_type = 'unlink'",
        "fd_directory LIKE '%/' AND evt_type = 'unlink'",
        "proc_key = '0123456789abcdef'",
        "proc_name LIKE 'kworker/%' OR proc_name LIKE '%-agent-%'",
        "container_image_tag LIKE '1.2%'",
        "array_has(proc_aname, 'sshd') AND proc_aname[1] = 'bash'",
        "evt_args['sig'] = 'SIGKILL' OR evt_args['filename'] LIKE '/tmp/%'",
        "proc_env['LD_PRELOAD'] IS NOT NULL",
        "cidr_match(fd_rip, '10.0.0.0/8')",
        "fd_mode = 420",
        "date_part('hour', ts) BETWEEN 0 AND 23",
        "left(proc_name, 3) = 'bas' AND substr(proc_name, 2, 2) = 'as'",
        "trim(proc_cmdline) = 'a b' AND split_part(fd_name, '->', 2) LIKE '%:22'",
        "program(proc_exepath, proc_exe, proc_args) = 'sh'",
        "proc_name LIKE 'a%' AND proc_name LIKE 'ab%' AND proc_name NOT LIKE 'abc%'",
        "proc_name LIKE 'a%' OR proc_name LIKE 'b%'",
        "starts_with(fd_name, '/etc/') AND fd_name LIKE '/etc/%.d' AND evt_type = 'unlink'",
        "proc_name LIKE 'a_b%' AND proc_name LIKE 'ax%'",
    ] {
        check_where_clean(condition);
    }
}

#[test]
fn what_a_function_never_comes_to_is_refused() {
    for (condition, reason, mend) in [
        (
            "left(proc_name, 3) = 'bash'",
            "longer than what is compared",
            "3 characters",
        ),
        ("substr(proc_name, 1, 2) = 'bas'", "longer", "2 characters"),
        ("substr(proc_name, 0, 3) = 'bas'", "longer", "2 characters"),
        (
            "trim(proc_name) = ' sh'",
            "the blanks are taken away",
            "compare with 'sh'",
        ),
        (
            "split_part(fd_name, '->', 2) = 'a->b'",
            "what it is split by",
            "without '->'",
        ),
        (
            "program(proc_exepath, proc_exe, proc_args) = '/bin/sh'",
            "told without its folder",
            "compare with 'sh'",
        ),
        ("upper(proc_name) = 'sh'", "of the other case", "upper-case"),
    ] {
        check_refused(condition, reason, mend);
    }
}

#[test]
fn texts_that_are_to_begin_in_two_ways_are_refused() {
    for condition in [
        "proc_name LIKE 'a%' AND proc_name LIKE 'b%'",
        "fd_name LIKE '/etc/%' AND starts_with(fd_name, '/usr/')",
        "proc_cmdline LIKE 'curl %' AND proc_cmdline NOT LIKE 'curl%'",
        "proc_name LIKE 'ab%' AND proc_name NOT LIKE 'a%'",
        "proc_name LIKE 'a_%' AND proc_name LIKE 'b_%'",
    ] {
        check_refused(
            condition,
            "they contradict each other",
            "correct one of them",
        );
    }
}

#[test]
fn conditions_that_ask_for_nothing_are_told() {
    for condition in [
        "evt_type <> 'execve' OR evt_type <> 'openat'",
        "evt_type = 'execve' OR evt_type <> 'execve'",
        "proc_pid > 5 OR proc_pid < 10",
        "NOT (evt_type = 'execve' AND evt_type = 'openat')",
        "evt_failed OR true",
    ] {
        check_where(
            condition,
            "it asks for nothing",
            "write AND where both are meant",
        );
    }
    for condition in [
        "evt_type <> 'execve' OR proc_name <> 'sh' OR proc_name IS NULL",
        "evt_type = 'execve' OR evt_type = 'openat'",
    ] {
        check_where_clean(condition);
    }
}

#[test]
fn what_columns_never_hold_together_is_told() {
    for (condition, fact) in [
        (
            "evt_type = 'unlink' AND fd_sport = 22",
            "of files have no fd_sport",
        ),
        (
            "evt_type = 'connect' AND fd_is_server",
            "whoever connects is no server",
        ),
        (
            "evt_type = 'renameat2' AND fd_name = '/x'",
            "fs_path_target, and no fd_name",
        ),
        (
            "evt_type = 'mkdirat' AND fs_path_target = '/x'",
            "such as rename and link",
        ),
        (
            "evt_type = 'execve' AND evt_call = 'vfork'",
            "evt_call of an execve",
        ),
        (
            "evt_outcome = 'failed' AND evt_rawres >= 0",
            "less than 0 where evt_outcome",
        ),
        (
            "CASE WHEN evt_type = 'unlink' THEN true ELSE false END AND evt_type = 'execve'",
            "contradict",
        ),
    ] {
        if fact == "contradict" {
            check_refused(condition, fact, "correct one of them");
        } else {
            check_where(condition, fact, "");
        }
    }
}

#[test]
fn aggregates_that_no_group_reaches_are_told() {
    let window = "FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id";
    for (having, reason) in [
        ("max(proc_pid) < 0", "no event that sensors send passes"),
        ("sum(proc_argc) < 0", "no event that sensors send passes"),
        (
            "count(*) FILTER (WHERE evt_type = 'openat') > 2",
            "it counts none",
        ),
    ] {
        let query = format!(
            "SELECT window_start, window_end, container_id, count(*) AS n\n{window}\nHAVING {having}"
        );
        check(&query, 3, reason, "");
    }
}

#[test]
fn facts_hold_whatever_events_are_called() {
    for alias in ["a", "e", "t", "z"] {
        let query = format!(
            "SELECT container_id FROM events {alias}\nWHERE {alias}.evt_type = 'execve' AND {alias}.proc_exit_code > 0"
        );
        check(&query, 2, "proc_exit_code is known at procexit alone", "");
    }
}

#[test]
fn columns_are_known_behind_a_subquery() {
    for query in [
        "SELECT container_id FROM (SELECT * FROM events WHERE evt_failed) t\nWHERE t.evt_type = 'exceve'",
        "WITH t AS (SELECT container_id, evt_type FROM events WHERE evt_failed) SELECT container_id FROM t\nWHERE evt_type = 'exceve'",
    ] {
        check(
            query,
            2,
            "evt_type is never 'exceve'",
            "did you mean 'execve'?",
        );
    }
}

#[test]
fn a_negation_that_thinks_of_null_is_not_blamed_for_one_that_does_not() {
    check(
        "SELECT container_id FROM events WHERE coalesce(proc_stage, '') <> 'runtime'\nAND proc_stage <> 'exec'",
        2,
        "proc_stage <> 'exec' is not true where proc_stage is unknown",
        "proc_stage IS DISTINCT FROM 'exec'",
    );
}
