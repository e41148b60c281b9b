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
fn paths_that_begin_nowhere_are_told() {
    for (condition, reason, mend) in [
        (
            "proc_cwd = '/tmp/'",
            "proc_cwd is never '/tmp/'",
            "write '/tmp'",
        ),
        (
            "proc_cwd = 'tmp'",
            "proc_cwd is never 'tmp'",
            "write '/tmp'",
        ),
        (
            "proc_cwd LIKE '%/tmp/'",
            "never LIKE '%/tmp/'",
            "without a slash at its end",
        ),
        (
            "proc_exepath = 'bash'",
            "proc_exepath is never 'bash'",
            "LIKE '%/bash'",
        ),
        (
            "proc_exepath IN ('/bin/sh', 'bash')",
            "never 'bash'",
            "program(",
        ),
        (
            "proc_exepath LIKE 'bin/%'",
            "never LIKE 'bin/%'",
            "write '/bin/%'",
        ),
        (
            "starts_with(proc_exepath, 'usr/')",
            "starts_with(proc_exepath, 'usr/') is never true",
            "write '/usr/'",
        ),
        (
            "regexp_like(proc_pexepath, '^bin/')",
            "is never true",
            "write '^/bin/'",
        ),
        (
            "proc_exepath ~ '^bin/'",
            "proc_exepath is never ~ '^bin/'",
            "from the root",
        ),
        (
            "array_has(proc_aexepath, 'sshd')",
            "proc_aexepath is never 'sshd'",
            "write '/sshd'",
        ),
        (
            "fd_name = 'etc/shadow' AND evt_type = 'openat'",
            "never 'etc/shadow'",
            "write '/etc/shadow'",
        ),
        (
            "fd_name = 'shadow' AND evt_type = 'openat'",
            "never 'shadow'",
            "write fd_filename = 'shadow'",
        ),
        (
            "fd_name LIKE '~/.ssh/%' AND evt_type = 'openat'",
            "never LIKE '~/.ssh/%'",
            "no shell expands it",
        ),
        (
            "fd_name = '$HOME/.ssh/id_rsa' AND evt_type = 'openat'",
            "never '$HOME",
            "LIKE '/home/%/.ssh/%'",
        ),
        (
            "fd_directory = 'etc' AND evt_type = 'openat'",
            "fd_directory is never 'etc'",
            "write '/etc'",
        ),
        (
            "fd_host_name = 'etc/passwd' AND evt_type = 'openat'",
            "never 'etc/passwd'",
            "write '/etc/passwd'",
        ),
        (
            "fs_path_target LIKE 'etc/%' AND evt_type = 'rename'",
            "never LIKE",
            "write '/etc/%'",
        ),
        (
            "proc_stdin_name LIKE 'dev/pts%' AND evt_type = 'execve'",
            "never LIKE",
            "write '/dev/pts%'",
        ),
    ] {
        check_where(condition, reason, mend);
    }
}

#[test]
fn paths_and_what_only_looks_wrong_are_left_alone() {
    for condition in [
        "proc_cwd = '/' OR proc_cwd = '/tmp' OR proc_cwd LIKE '/tmp/%' OR proc_cwd LIKE '%/'",
        "proc_exepath LIKE '%/bash' OR proc_exepath LIKE 'memfd:%' OR proc_exepath LIKE '_bin/%'",
        "regexp_like(proc_exepath, '^(/tmp/|/?memfd:)') OR regexp_like(proc_exepath, 'bash$')",
        "coalesce(proc_exepath, '') = '' OR coalesce(proc_exepath, 'none') = 'none'",
        "fd_name LIKE '10.0.0.1:%' OR fd_name LIKE '%->1.2.3.4:80' OR fd_name LIKE '->%'",
        "fd_name LIKE '[::1]:%' OR fd_name = '@/tmp/.X11-unix/X0' OR fd_name LIKE 'memfd:%'",
        "strpos(fd_name, 'etc/shadow') > 0 OR ends_with(fd_name, 'etc/shadow')",
        "fd_name ~ 'etc/(passwd|shadow)' OR fd_name ~* 'shadow$'",
        "fs_path_source = '../x' AND evt_type = 'symlink'",
        "proc_exe = 'bash' OR fd_nameraw = 'etc/shadow'",
    ] {
        check_where_clean(condition);
    }
}

#[test]
fn words_that_flags_never_have_are_told() {
    for (condition, reason, mend) in [
        (
            "fd_flags LIKE '%O_CREATE%'",
            "fd_flags is never LIKE '%O_CREATE%'",
            "did you mean 'O_CREAT'?",
        ),
        ("fd_flags ILIKE '%o_creatt%'", "never ILIKE", "'O_CREAT'"),
        (
            "regexp_like(fd_flags, 'O_WRITE|O_RDWR')",
            "regexp_like(fd_flags, 'O_WRITE|O_RDWR') is never true",
            "O_",
        ),
        (
            "fd_flags LIKE '%write%'",
            "never LIKE '%write%'",
            "joined by |",
        ),
        (
            "fd_flags = 'O_CREAT'",
            "never 'O_CREAT'",
            "write LIKE '%O_CREAT%'",
        ),
        (
            "fd_flags = 'O_CREAT|O_WRONLY'",
            "never",
            "write 'O_WRONLY|O_CREAT'",
        ),
        (
            "thread_cap_effective LIKE '%CAP_SYSADMIN%'",
            "never LIKE",
            "'CAP_SYS_ADMIN'",
        ),
        (
            "strpos(thread_cap_permitted, 'cap_sys_admin') > 0",
            "is never true",
            "'CAP_SYS_ADMIN'",
        ),
        (
            "evt_args['flags'] LIKE '%CLONE_NEWUSR%'",
            "evt_args['flags'] is never LIKE",
            "'CLONE_NEWUSER'",
        ),
        (
            "evt_args['sig'] LIKE 'KILL%'",
            "evt_args['sig'] is never LIKE 'KILL%'",
            "'SIGKILL'",
        ),
        (
            "starts_with(evt_args['request'], 'ATTACH')",
            "starts_with(evt_args['request'], 'ATTACH')",
            "'PTRACE_ATTACH'",
        ),
        (
            "CAST(evt_args['sig'] AS BIGINT) = 9",
            "evt_args['sig'] is never '9'",
            "'SIGKILL'",
        ),
        (
            "TRY_CAST(evt_args['sig'] AS INT) IN (9, 15)",
            "evt_args['sig'] is never '9'",
            "'SIGKILL'",
        ),
        (
            "evt_args['cmd'] = 'BPF_MAP_CREATE'",
            "evt_args['cmd'] is never 'BPF_MAP_CREATE'",
            "which calls are sent",
        ),
        (
            "evt_args['cmd'] IN ('BPF_PROG_LOAD', 'BPF_MAP_LOOKUP_ELEM')",
            "never 'BPF_MAP_LOOKUP_ELEM'",
            "",
        ),
        (
            "coalesce(evt_args['sig'], '-') = 'KILL'",
            "never 'KILL'",
            "'SIGKILL'",
        ),
    ] {
        check_where(condition, reason, mend);
    }
    for condition in [
        "fd_flags LIKE '%O_CREAT%' AND fd_flags NOT LIKE '%O_EXCL%'",
        "fd_flags = 'O_WRONLY|O_CREAT|O_TRUNC' OR fd_flags LIKE 'O_RDWR%' OR fd_flags LIKE '%CREAT|O_T%'",
        "regexp_like(fd_flags, 'O_(WRONLY|RDWR)') OR regexp_like(fd_flags, 'O_CREAT|O_TRUNC')",
        "thread_cap_effective LIKE '%CAP_SYS_ADMIN%' OR thread_cap_effective = ''",
        "evt_args['sig'] LIKE 'SIG%' OR CAST(evt_args['sig'] AS BIGINT) = 34",
        "CAST(evt_args['uid'] AS BIGINT) = 0 OR evt_args['flags'] LIKE '%NEWUSER%'",
        "coalesce(evt_args['sig'], 'none') = 'none' OR evt_args['filename'] LIKE '%sh'",
    ] {
        check_where_clean(condition);
    }
}

#[test]
fn columns_that_a_call_never_has_are_told() {
    for (condition, fact) in [
        (
            "evt_type = 'mkdir' AND fd_type = 'directory'",
            "are given a descriptor have fd_type",
        ),
        ("evt_type = 'kill' AND fd_type = 'file'", "have fd_type"),
        (
            "evt_type = 'setuid' AND fd_name LIKE '/etc/%'",
            "only calls of one file or connection have fd_name",
        ),
        (
            "evt_type = 'unlink' AND fd_flags LIKE '%O_TRUNC%'",
            "only calls that open files have fd_flags",
        ),
        (
            "evt_type = 'chmod' AND fd_mode = 511",
            "only calls that open files have fd_mode",
        ),
        (
            "evt_type = 'unlink' AND evt_is_open_write",
            "only calls that open files",
        ),
        ("evt_type = 'ptrace' AND fd_sport = 22", "have no fd_sport"),
        (
            "evt_type IN ('chmod', 'unlink') AND fd_ino = 5",
            "have fd_ino",
        ),
        (
            "evt_type = 'connect' AND fs_path_target = '/x'",
            "calls with two paths alone",
        ),
        (
            "evt_type = 'openat' AND thread_cap_effective LIKE '%CAP_SYS_ADMIN%'",
            "calls that change who a process is",
        ),
        (
            "evt_type = 'connect' AND proc_argc > 5",
            "proc_argc is known at exec alone",
        ),
    ] {
        check_where(condition, fact, "");
    }
    for condition in [
        "evt_type = 'fchmod' AND fd_type = 'file'",
        "evt_type = 'mkdir' AND fd_name LIKE '/etc/%'",
        "evt_type = 'setuid' AND thread_cap_effective LIKE '%CAP_SYS_ADMIN%'",
        "evt_type IN ('openat', 'mkdir') AND fd_type = 'file'",
        "evt_type = 'sendto' AND fd_sport = 53",
        "evt_type = 'memfd_create' AND fd_name LIKE 'memfd:%'",
    ] {
        check_where_clean(condition);
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
