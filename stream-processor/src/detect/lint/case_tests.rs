//! A table of queries of every shape that people write: those that are right pass without a word, those that are wrong are told
//! with line, reason and mend.

use crate::detect::tests::load_query_warnings;

/// Conditions on single events that are right.
const RIGHT: &[&str] = &[
    // Lengths, and what functions make of values.
    "array_length(proc_args) = 1 AND proc_args[1] = '-c'",
    "cardinality(proc_args) >= 1 AND (proc_args[2] IS NULL OR proc_args[2] = 'x')",
    "cardinality(proc_args) = 0 OR proc_args[1] = '-c'",
    "empty(proc_args) OR array_has(proc_args, '-c')",
    "proc_args[1] = '-c' AND array_has(proc_args, 'x')",
    "proc_name IN ('sh', 'bash') AND length(proc_name) = 4",
    "proc_name = 'sh' AND upper(proc_name) = 'SH' AND left(proc_name, 1) = 's'",
    "proc_exepath IN ('/usr/bin/a', '/usr/bin/b.sh') AND right(proc_exepath, 3) = '.sh'",
    "length(proc_name) > 15",
    "octet_length(proc_name) BETWEEN 16 AND 60",
    "proc_name = 'a\\xff\\xff\\xff\\xff\\xff\\xff'",
    // Texts that only look wrong.
    "container_id = 'host' OR container_id NOT IN ('unknown', 'c0ffee012345')",
    "proc_stdin_type = 'null' AND proc_name = 'it''s'",
    "proc_args[1] = '\"x\"' OR proc_cmdline = 'sh ' OR left(proc_cmdline, 1) = ''''",
    "strpos(proc_name, '''') > 0 AND evt_type = 'execve'",
    // CASE, COALESCE and other stand-ins for NULL.
    "CASE WHEN evt_type = 'connect' THEN fd_sport = 22 WHEN evt_type = 'openat' THEN fd_name = '/etc/shadow' ELSE false END",
    "CASE evt_type WHEN 'execve' THEN 'exec' WHEN 'connect' THEN 'net' ELSE 'other' END IN ('exec', 'net')",
    "CASE WHEN proc_stage IS NULL THEN 'none' ELSE proc_stage END = 'none'",
    "CASE coalesce(proc_stage, '?') WHEN '?' THEN evt_failed WHEN 'exec' THEN true ELSE false END",
    "coalesce(proc_stage, 'unknown') = 'unknown'",
    "coalesce(proc_stage, 'unknown') NOT IN ('runtime', 'unknown')",
    "coalesce(evt_res, 'none') <> 'none'",
    "coalesce(proc_stage, proc_exe_from, 'x') = 'x'",
    "coalesce(fd_rip, '') = '' AND evt_type = 'connect'",
    "coalesce(proc_args[2], '-') <> '-'",
    "coalesce(user_uid, -1) = -1",
    "coalesce(proc_tty, 0) = 0 AND coalesce(proc_tty, 0) < 1",
    "nullif(proc_stage, 'runtime') IS NOT NULL",
    "nullif(evt_res, 'SUCCESS') = 'EPERM'",
    "proc_stage NOT IN ('runtime', 'healthcheck') AND proc_stage IS NOT NULL",
    "(proc_stage IS NULL OR NOT proc_stage IN ('runtime'))",
    "(proc_stage IS DISTINCT FROM 'runtime') AND proc_pname IS DISTINCT FROM proc_name",
    "(proc_name = 'sh') IS NOT TRUE AND proc_name IS NOT NULL",
    "(proc_stage = 'exec') IS NOT FALSE",
    "(proc_stage = 'exec') IS UNKNOWN OR proc_stage = 'exec'",
    // What is NULL with what is asked before it.
    "length(proc_cmdline) > 10 AND proc_cmdline NOT LIKE '%x%'",
    "lower(proc_cmdline) LIKE '%curl%' AND proc_cmdline NOT LIKE '%localhost%'",
    "coalesce(proc_cmdline, '') LIKE '%curl%' AND proc_cmdline NOT LIKE '%localhost%'",
    "regexp_like(proc_cmdline, 'nc .*-e') AND NOT regexp_like(proc_cmdline, '^grep ')",
    "starts_with(fd_name, '/etc/') AND evt_type = 'unlink' AND fd_name <> '/etc/mtab'",
    "fd_name LIKE '/etc/%' AND evt_type = 'unlink' AND fd_filename <> 'mtab' AND fd_directory <> '/etc/ssl'",
    "proc_name = proc_pname AND proc_pname <> 'sh'",
    "cardinality(proc_args) >= 2 AND proc_args[2] <> '-c'",
    "array_length(proc_args) > 1 AND NOT proc_args[1] LIKE '-%'",
    "array_has(proc_args, '-e') AND NOT array_has(proc_args, '-v')",
    "proc_args[1] = '-c' AND NOT array_has(proc_args, 'x')",
    "container_labels['app'] = 'web' AND NOT container_labels['app'] = 'db'",
    "evt_args['flags'] IS NOT NULL AND evt_args['flags'] NOT LIKE '%RDONLY%'",
    "evt_type = 'connect' AND fd_sport = 443 AND NOT cidr_match(fd_rip, '10.0.0.0/8')",
    "evt_type = 'connect' AND fd_family IN ('ipv4', 'ipv6') AND NOT cidr_match(fd_rip, '10.0.0.0/8') AND fd_sport NOT IN (80, 443)",
    "evt_type = 'connect' AND fd_type = 'ipv4' AND fd_sip <> '127.0.0.1'",
    "evt_type = 'connect' AND fd_family <> 'unix' AND NOT starts_with(fd_rip, '10.')",
    "evt_type = 'connect' AND fd_rip IS NOT NULL AND fd_l4proto <> 'udp' AND fd_type <> 'ipv6'",
    "evt_type = 'unlink' AND fd_directory = '/var/log' AND fd_name <> '/var/log/x'",
    "ifnull(proc_stage, 'none') = 'none' OR nvl(evt_res, 'x') = 'x'",
    "(evt_type, evt_outcome) IN (('execve', 'success'), ('execveat', 'failed'))",
    "evt_type = 'connect' AND fd_sport > 1024 AND split_part(fd_rip, '.', 1) <> '127'",
    "evt_type = 'accept4' AND fd_lport = 22 AND fd_lip <> '127.0.0.1'",
    "evt_failed AND evt_res NOT IN ('ENOENT', 'EINPROGRESS')",
    "evt_failed AND lower(evt_res) <> 'enoent'",
    "TRY_CAST(proc_args[1] AS BIGINT) > 3 AND TRY_CAST(proc_args[1] AS BIGINT) <> 5",
    // Patterns.
    "proc_name ILIKE 'SH%' OR proc_name SIMILAR TO 'ba(sh|sybox)'",
    "evt_type SIMILAR TO 'open(at|at2)?'",
    "evt_type ILIKE 'EXEC%' AND evt_outcome = 'success'",
    "regexp_like(evt_type, '^open')",
    "evt_type ~ '^(open|creat)' AND evt_is_open_write",
    "evt_type LIKE 'rename%' OR evt_type LIKE 'link%'",
    "proc_cmdline LIKE '%100\\%%'",
    "proc_cmdline LIKE '%it''s%' AND proc_cmdline LIKE '%\"x\"%'",
    "proc_cmdline LIKE '%* * * * *%'",
    "position('://' IN proc_cmdline) > 0",
    "proc_cmdline ~* 'CURL.*\\|.*sh'",
    "fd_rip LIKE '192.168._.%' AND evt_type = 'connect'",
    "fd_rip LIKE 'fe80:%' AND evt_type = 'connect'",
    // Words that are changed before they are compared.
    "upper(evt_type) = 'EXECVE'",
    "lower(evt_outcome) IN ('success', 'failed')",
    "upper(proc_stage) = 'EXEC' AND lower(container_image) LIKE '%nginx%'",
    "concat(evt_type, ':', evt_outcome) = 'execve:success'",
    "evt_type || '/' || evt_outcome = 'execve/failed'",
    "replace(evt_type, 'at', '') = 'open'",
    "substr(evt_type, 1, 4) = 'open'",
    "trim(proc_cmdline) <> '' AND reverse(proc_name) = 'hs'",
    // Numbers.
    "fd_sport BETWEEN 6000 AND 6063 AND evt_type = 'connect'",
    "fd_sport BETWEEN 22 AND 22 AND evt_type = 'connect'",
    "fd_sport >= 22 AND fd_sport <= 22 AND evt_type = 'connect'",
    "fd_sport > 21 AND fd_sport < 23 AND evt_type = 'connect'",
    "fd_sport NOT BETWEEN 1 AND 1023 AND evt_type = 'connect' AND fd_sport IS NOT NULL",
    "fd_sport > 21.5 AND fd_sport < 22.5 AND evt_type = 'connect'",
    "fd_sport = '22' AND evt_type = 'connect'",
    "CAST(fd_sport AS VARCHAR) = '22' AND evt_type = 'connect'",
    "fd_sport % 2 = 1 AND fd_sport / 2 > 10 AND evt_type = 'connect'",
    "proc_duration_ns / 1000000000.0 < 0.5 AND evt_type = 'procexit'",
    "abs(evt_rawres) = 13 AND -evt_rawres = 13",
    "proc_pid = proc_vpid AND proc_ppid > proc_pid",
    "proc_pid >= proc_vpid AND proc_pid <= proc_vpid",
    "proc_pid - proc_ppid BETWEEN -5 AND 5",
    "user_uid = 0 AND user_host_uid > 0",
    "fd_mode & 2048 <> 0 OR fd_mode = 2541",
    "user_uid IN (0, 1000) AND user_uid NOT IN (1000, 1001)",
    // Times.
    "ts > TIMESTAMP '2025-06-15 16:00:00' AND ts < TIMESTAMP '2025-06-15 17:00:00'",
    "ts BETWEEN '2025-06-15T16:00:00Z' AND '2025-06-15T17:00:00Z'",
    "ts >= '2025-06-15 16:00:00' AND ts <= '2025-06-15 16:00:00'",
    "ts < container_start_ts + INTERVAL '1 minute'",
    "ts - container_start_ts < INTERVAL '90 seconds'",
    "date_part('hour', ts) >= 22 OR date_part('hour', ts) < 6",
    "extract(dow FROM ts) IN (0, 6)",
    "date_bin(INTERVAL '15 minutes', ts) = date_trunc('hour', ts)",
    "to_char(ts, '%H:%M') > '22:00'",
    "to_timestamp(proc_args[2], '%d/%m/%Y') > ts",
    "date_part('year', to_timestamp(proc_args[2], '%d.%m.%Y')) > 2024",
    "ts AT TIME ZONE 'Europe/Berlin' > '2025-06-15 16:00:00'",
    // Values that are computed of texts, which fail on some.
    "coalesce(CAST(split_part(fd_name, ':', 2) AS BIGINT), 0) > 1024 AND evt_type = 'connect'",
    "greatest(CAST(split_part(fd_name, ':', 2) AS BIGINT), 0) > 1024 AND evt_type = 'connect'",
    "encode(proc_cmdline, 'base64') LIKE 'Y%'",
    "arrow_cast(proc_args[1], 'Int64') > 3",
    "CAST(proc_args[1] AS BIGINT) BETWEEN 1 AND 65535",
    // Lists and maps.
    "array_has_any(proc_aname, ['nginx', 'httpd']) AND array_to_string(proc_args, ' ') LIKE '%-e%'",
    "'nginx' = ANY(proc_aname)",
    "cardinality(proc_aname) > 3 AND array_position(proc_args, '-e') > 0",
    "evt_type = 'unshare' AND evt_args['flags'] = 'CLONE_NEWNS|CLONE_NEWUSER'",
    "evt_type = 'chmod' AND evt_args['mode'] IN ('04755', '0777') OR evt_type = 'bpf' AND evt_args['cmd'] = 'BPF_PROG_LOAD'",
    "evt_type = 'rate_limited' AND evt_args['kind'] = 'openat'",
    "evt_type = 'container_move' AND evt_args['from'] IS NOT NULL",
    "evt_type = 'execve' AND evt_args['filename'] = '/bin/sh' OR evt_type = 'mount' AND evt_args['type'] = 'overlay'",
    "evt_type = 'setuid' AND evt_args['uid'] = '0' OR evt_type = 'socket' AND evt_args['type'] = 'SOCK_RAW'",
    "evt_category = 'net' AND evt_type IN ('connect', 'bind') OR evt_category = 'internal'",
    "evt_category = 'file' AND evt_failed",
    "evt_args['sig'] IN ('SIGKILL', 'SIGSTOP') AND container_labels['com.docker.compose.service'] = 'db'",
    "map_keys(container_labels) IS NOT NULL",
    "proc_name IN (SELECT name FROM shells)",
    "coalesce(proc_name, '') NOT IN (SELECT name FROM shells WHERE kind = 'posix')",
    "proc_name IN ('dash', 'ash') OR proc_name IN (SELECT lower(name) FROM shells)",
    "EXISTS (SELECT 1 FROM shells WHERE name = proc_name AND kind = 'posix')",
    // AND, OR and NOT mixed.
    "NOT (evt_type = 'execve' AND evt_failed)",
    "NOT (evt_type <> 'execve' OR NOT evt_failed)",
    "(evt_type = 'execve' OR evt_type = 'connect' AND fd_sport = 22) AND NOT (evt_failed AND evt_type = 'execve')",
    "(evt_type = 'openat' AND evt_is_open_write) OR (evt_type = 'unlink' AND NOT evt_failed)",
    "evt_failed IS FALSE AND evt_is_open_write = false AND (evt_truncated OR NOT evt_truncated AND evt_escaped)",
    "evt_type IN ('open', 'openat') AND (fd_name LIKE '/etc/%' OR fd_name LIKE '/root/%') AND evt_is_open_write",
    "evt_type = 'execve' AND (proc_name = 'a' OR proc_name = 'b') AND (user_uid = 0 OR user_uid = 1)",
    "NOT (proc_pname = 'sshd' AND proc_name = 'bash') AND proc_pname IS NOT NULL AND proc_name IS NOT NULL",
    // What rows of a kind have.
    "evt_type = 'procexit' AND proc_exit_code = 137 AND proc_duration_ns < 1000000000",
    "evt_type = 'connect' AND evt_outcome = 'attempted'",
    "evt_type IN ('execve', 'execveat') AND proc_exe_from = 'memfd' AND proc_env['LD_PRELOAD'] IS NOT NULL",
    "evt_type = 'clone' AND evt_failed AND evt_res = 'EAGAIN'",
    "evt_type = 'renameat2' AND fs_path_target LIKE '/etc/%'",
    "evt_type = 'accept4' AND fd_is_server AND fd_lport = 4444",
    "evt_call = 'vfork' AND evt_type = 'clone'",
    "length(proc_exepath) > 300",
    "proc_exepath LIKE '/proc/self/fd/%' AND evt_type = 'execve'",
    "container_privileged AND container_id <> 'host' AND container_type IN ('docker', 'oci')",
    // What is there, in other words.
    "strpos(proc_cmdline, 'curl') <> 0 AND length(proc_cmdline) <> 0",
    "proc_cmdline <> '' AND NOT (container_name = '')",
    "evt_type = 'procexit' AND proc_exit_code <> 0 AND proc_exit_signal <> 9",
    "evt_type = 'connect' AND evt_res <> 'SUCCESS' AND evt_rawres <> -115",
    "evt_type = 'openat' AND NOT evt_res IN ('SUCCESS', 'ENOENT')",
    "starts_with(proc_cmdline, 'sh -c') AND NOT ends_with(proc_cmdline, 'exit 0')",
    "contains(proc_cmdline, 'wget') AND NOT contains(proc_cmdline, 'localhost')",
    "levenshtein(proc_name, 'sshd') = 1 AND proc_name <> 'ssh'",
    "regexp_count(proc_cmdline, '[;|&]') > 3 AND regexp_replace(proc_cmdline, '[0-9]+', 'N', 'g') = 'a N'",
    "regexp_match(proc_cmdline, 'curl (.*)') IS NOT NULL",
    "proc_args[CAST(cardinality(proc_args) AS BIGINT)] = '-' OR proc_args[-1] = '--'",
    "list_contains(proc_args, '-p') AND array_length(proc_args, 1) > 3",
    "proc_aname[2] = 'sshd' OR proc_aname[3] = 'sshd'",
    "host_tags['site'] = 'berlin' AND host_name LIKE 'web-%'",
    "container_image LIKE '%/nginx:%' OR container_image_tag = 'latest'",
    "evt_type = 'openat' AND fd_flags LIKE '%O_CREAT%' AND fd_mode = 511",
    "ts::date = DATE '2025-06-15'",
    "CAST(ts AS DATE) > '2025-01-01' AND CAST(ts AS DATE) < '2025-02-01'",
    "date_trunc('day', ts) = TIMESTAMP '2025-06-15'",
    "ts > to_timestamp_seconds(1750000000)",
    "date_part('epoch', ts) > 1750000000 AND extract(minute FROM ts) BETWEEN 0 AND 5",
    "(evt_type = 'connect' AND fd_sport <> 22 AND fd_sport IS NOT NULL) OR evt_type = 'execve'",
    "evt_rawres < 0 AND evt_rawres > -200 AND proc_duration_ns IS NULL",
    "proc_name = E'a\\tb' OR proc_name = $$it's$$",
    "(evt_failed, proc_name) = (true, 'sh')",
];

/// Queries that are right.
const RIGHT_QUERIES: &[&str] = &[
    "WITH execs AS (SELECT container_id, evt_type AS kind, proc_name FROM events WHERE evt_type IN ('execve', 'execveat')) SELECT container_id FROM execs WHERE kind = 'execve' AND proc_name = 'sh'",
    "SELECT t.container_id FROM (SELECT container_id, CASE WHEN evt_failed THEN 'bad' ELSE 'good' END AS quality FROM events WHERE evt_type = 'execve') t WHERE t.quality = 'bad'",
    "SELECT container_id FROM (SELECT container_id, lower(evt_type) AS evt_type FROM events) t WHERE evt_type = 'execve'",
    "SELECT e.\"container_id\" FROM events AS e WHERE e.\"evt_type\" = 'execve' AND e.\"proc_name\" = 'it''s'",
    "SELECT e.container_id FROM events e JOIN shells s ON e.proc_name = s.name WHERE s.kind = 'posix' AND e.evt_type = 'execve'",
    "SELECT e.container_id FROM events e JOIN shells a ON e.proc_name = a.name JOIN shells b ON e.proc_pname = b.name WHERE a.kind = 'posix' AND b.kind = 'other'",
    "SELECT e.container_id FROM events e LEFT JOIN shells s ON e.proc_name = s.name WHERE s.name IS NULL AND e.evt_type = 'execve'",
    "SELECT container_id FROM events e WHERE evt_type = 'execve' AND EXISTS (SELECT 1 FROM shells s WHERE s.name = e.proc_name AND e.evt_outcome = 'success')",
    "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'connect' GROUP BY window_start, window_end, container_id HAVING n > 10 AND count(DISTINCT fd_sport) > 5",
    "SELECT container_id, count(*) AS n FROM hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes') WHERE evt_type IN ('connect', 'openat') GROUP BY window_start, window_end, container_id HAVING count(*) FILTER (WHERE evt_type = 'connect') >= 3 AND count(*) FILTER (WHERE evt_type = 'openat' AND evt_failed) = 0",
    "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute') GROUP BY window_start, window_end, container_id HAVING NOT bool_and(evt_failed) AND min(evt_type) <> max(evt_type)",
    "SELECT container_id, sum(CASE WHEN evt_failed THEN 1 ELSE 0 END) AS failed FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'connect' GROUP BY window_start, window_end, container_id HAVING sum(CASE WHEN evt_failed THEN 1 ELSE 0 END) * 2 > count(*)",
    "SELECT container_id, avg(proc_argc) AS a FROM tumble(events, INTERVAL '1 minute') GROUP BY window_start, window_end, container_id HAVING avg(proc_argc) > 10.5 AND avg(proc_argc) < 11 AND max(ts) - min(ts) > INTERVAL '10 seconds'",
    "SELECT container_id, proc_name, count(*) AS n FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id, proc_name HAVING proc_name = 'sh' AND count(*) BETWEEN 3 AND 3",
    "SELECT proc_name AS container_id, count(DISTINCT host_id) AS hosts FROM tumble(events, INTERVAL '10 minutes') WHERE evt_type = 'execve' AND proc_name IS NOT NULL GROUP BY window_start, window_end, proc_name HAVING count(DISTINCT host_id) >= 3",
    "SELECT container_id, sum(mem_oom_kills) AS kills FROM tumble(container_samples, INTERVAL '1 minute') WHERE evt_type = 'sample' GROUP BY window_start, window_end, container_id HAVING sum(mem_oom_kills) > 0",
    "SELECT container_id FROM process_samples WHERE proc_fdopencount > proc_fdlimit * 0.9 AND proc_nthreads > 1000",
    "SELECT container_id FROM syscall_samples WHERE evt_type = 'rest' OR (call_class = 'net' AND call_failed > 100)",
    "SELECT container_id, CASE WHEN evt_type = 'connect' THEN fd_name ELSE proc_cmdline END AS what, coalesce(proc_stage, 'unknown') AS stage FROM events WHERE evt_type IN ('connect', 'execve')",
];

/// What is asked of groups and right.
const RIGHT_HAVING: &[&str] = &[
    "min(evt_type) = 'connect' AND max(evt_type) = 'openat'",
    "array_has(sample(evt_type, 9), 'connect') AND array_has(sample(evt_type, 9), 'openat')",
    "array_has(sample(evt_type, 3), 'connect') OR sample(proc_name, 3)[2] = 'sh'",
    "max(fd_name) FILTER (WHERE evt_type = 'openat') IS NULL",
    "coalesce(max(fd_name) FILTER (WHERE evt_type = 'openat'), 'none') = 'none'",
    "first_value(evt_outcome ORDER BY ts, seq) = 'failed' AND last_value(evt_outcome ORDER BY ts, seq) = 'success'",
    "cardinality(sample(proc_name, 3)) >= 3 AND sample(proc_name, 3)[1] = 'sh'",
    "max(length(proc_name)) > 15 AND min(lower(proc_name)) = 'sh'",
    "bool_or(evt_type = 'connect') AND bool_or(evt_type = 'openat')",
    "max(CASE WHEN evt_type = 'connect' THEN 1 ELSE 0 END) = 1 AND max(CASE WHEN evt_type = 'openat' THEN 1 ELSE 0 END) = 1",
    "NOT bool_or(evt_failed) AND count(*) >= 1",
    "(min(user_uid) = max(user_uid) AND count(DISTINCT proc_name) >= 3) OR count(*) > 100",
    "count(*) FILTER (WHERE evt_failed) > count(*) / 2 AND approx_distinct(fd_name) > 10",
    "sum(evt_count) > 5 OR first_value(proc_name ORDER BY ts, seq) = 'sh'",
    "count(*) > 3 AND count(*) < 5 AND count(DISTINCT evt_type) = 2",
    "count(fd_sport) = 0 AND count(fd_name) > 0",
];

/// Conditions on single events that are wrong, with the reason and the mend that are told, in the second line.
const WRONG: &[(&str, &str, &str)] = &[
    // Contradictions.
    (
        "proc_name = proc_pname AND proc_pname = 'sh' AND proc_name = 'bash'",
        "contradict",
        "",
    ),
    (
        "proc_name = proc_pname AND proc_pname = proc_sname AND proc_sname = 'a' AND proc_name = 'b'",
        "contradict",
        "",
    ),
    (
        "proc_pid > proc_ppid AND proc_ppid > proc_pid",
        "contradict",
        "",
    ),
    (
        "proc_pid = proc_vpid AND proc_pid <> proc_vpid",
        "contradict",
        "",
    ),
    ("proc_pid < proc_pid", "no event can pass", ""),
    ("ts > '2025-06-16' AND ts < '2025-06-15'", "contradict", ""),
    (
        "ts BETWEEN '2025-06-16' AND '2025-06-15'",
        "the lower bound is above the upper one",
        "write BETWEEN '2025-06-15' AND '2025-06-16'",
    ),
    (
        "proc_name BETWEEN 'z' AND 'a'",
        "the lower bound is above the upper one",
        "write BETWEEN 'a' AND 'z'",
    ),
    (
        "fd_sport BETWEEN 1023 AND 1",
        "the lower bound is above",
        "write BETWEEN 1 AND 1023",
    ),
    ("fd_sport NOT BETWEEN 1023 AND 1", "asks for nothing", ""),
    ("fd_sport > 22 AND fd_sport < 23", "contradict", ""),
    (
        "fd_sport > 22 AND fd_sport < 23 AND fd_sport <> 5",
        "contradict",
        "",
    ),
    ("length(proc_cmdline) < 0", "no event can pass", ""),
    (
        "cardinality(proc_args) > 3 AND cardinality(proc_args) < 2",
        "contradict",
        "",
    ),
    (
        "NOT (proc_name = 'a' OR proc_name <> 'a')",
        "no event can pass",
        "",
    ),
    ("proc_name LIKE 'a%' AND proc_name = 'b'", "contradict", ""),
    (
        "(evt_type = 'execve' AND evt_failed) AND (evt_type = 'connect' OR NOT evt_failed)",
        "contradict",
        "",
    ),
    // Arguments of system calls.
    (
        "evt_type = 'openat' AND evt_args['flags'] LIKE '%O_CREAT%'",
        "no event that sensors send",
        "ask evt_is_open_read",
    ),
    (
        "evt_type IN ('connect', 'execve') AND evt_args['sig'] = 'SIGKILL'",
        "no event that sensors send",
        "docs/events.md",
    ),
    (
        "evt_args['sig'] = '9'",
        "evt_args['sig'] is never '9'",
        "did you mean 'SIGKILL'?",
    ),
    (
        "evt_type = 'chmod' AND evt_args['mode'] = '4755'",
        "never '4755'",
        "write '04755'",
    ),
    (
        "evt_type = 'bpf' AND evt_args['cmd'] IN ('BPF_PROG_LOAD', 'LINK_CREATE')",
        "never 'LINK_CREATE'",
        "did you mean 'BPF_LINK_CREATE'?",
    ),
    (
        "evt_type = 'setuid' AND evt_args['uid'] = 'root'",
        "never 'root'",
        "it is a number",
    ),
    (
        "evt_type = 'connect' AND evt_category = 'file'",
        "no event that sensors send",
        "docs/events.md has that of each call",
    ),
    // Values.
    (
        "CASE WHEN evt_type = 'exceve' THEN true ELSE false END",
        "never 'exceve'",
        "'execve'",
    ),
    (
        "lower(evt_type) = 'EXECVE'",
        "no event that sensors send",
        "",
    ),
    (
        "upper(evt_type) = 'EXCEVE'",
        "no event that sensors send",
        "",
    ),
    ("evt_type LIKE 'EXECVE'", "no event that sensors send", ""),
    ("evt_type ~ '^exce'", "no event that sensors send", ""),
    (
        "coalesce(proc_stage, 'unknown') = 'unkown'",
        "never 'unkown'",
        "",
    ),
    (
        "evt_type IN ('execve', 'exceve')",
        "never 'exceve'",
        "'execve'",
    ),
    ("evt_type = 'sample'", "never 'sample'", ""),
    (
        "EXISTS (SELECT 1 FROM shells s WHERE s.name = proc_name AND evt_type = 'exceve')",
        "never 'exceve'",
        "'execve'",
    ),
    (
        "evt_type = 'procexit' AND evt_failed",
        "no event that sensors send",
        "",
    ),
    (
        "evt_type = 'openat' AND evt_outcome = 'attempted'",
        "no event that sensors send",
        "leave it out",
    ),
    (
        "evt_type = 'execve' AND evt_outcome = 'failure'",
        "never 'failure'",
        "'failed'",
    ),
    // Constants.
    ("proc_pid / 0 > 1", "divides by zero", ""),
    ("proc_pid % 0 = 1", "divides by zero", ""),
    ("regexp_like(proc_cmdline, '(curl')", "is no pattern", ""),
    ("proc_cmdline ~ '[a-'", "is no pattern", ""),
    (
        "cidr_match(fd_sip, '10.0.0.0/33')",
        "is no network",
        "cidr_match(fd_sip, ",
    ),
    ("date_part('hours_of_day', ts) > 3", "", ""),
    ("ts > to_timestamp('yesterday')", "", ""),
    // More of each.
    (
        "evt_type = 'execve' OR evt_type = 'exceve'",
        "never 'exceve'",
        "'execve'",
    ),
    ("coalesce(proc_name, 'x') IS NULL", "no event can pass", ""),
    ("evt_type = 'open' AND evt_type <> 'open'", "contradict", ""),
    ("length(proc_name) = -1", "no event can pass", ""),
    ("proc_exit_signal < 0", "no event that sensors send", ""),
    (
        "split_part(proc_cmdline, ' ', 0) = 'x'",
        "fails on whatever it is tried on",
        "",
    ),
    ("regexp_like(proc_cmdline, '(?=x)')", "is no pattern", ""),
    ("regexp_like(proc_cmdline, 'a', 'zz')", "", ""),
    ("ts > '2025-13-45'", "", ""),
    ("fd_sport = 'ssh'", "", ""),
    ("cidr_match(proc_name, '10.0.0.0/8')", "is no address", ""),
    (
        "evt_type = 'procexit' AND proc_exit_code IS NULL",
        "no event that sensors send",
        "",
    ),
    ("user_name <> 'root'", "unknown (NULL)", "IS DISTINCT FROM"),
    // Lengths, and what functions make of values.
    (
        "array_length(proc_args) = 0 AND proc_args[1] = '-c'",
        "contradict",
        "",
    ),
    (
        "cardinality(proc_args) < 2 AND proc_args[2] LIKE '-%'",
        "contradict",
        "",
    ),
    (
        "cardinality(proc_args) = 1 AND proc_args[-2] = 'x'",
        "contradict",
        "",
    ),
    (
        "cardinality(proc_args) = 0 AND array_has(proc_args, '-c')",
        "contradict",
        "",
    ),
    (
        "empty(proc_args) AND proc_args[1] IS NOT NULL",
        "contradict",
        "",
    ),
    (
        "proc_args[1] = '-c' AND NOT array_has(proc_args, '-c')",
        "contradict",
        "",
    ),
    (
        "proc_name = 'sh' AND length(proc_name) > 5",
        "contradict",
        "",
    ),
    (
        "fd_name IN ('/etc/passwd', '/etc/group') AND right(fd_name, 4) = '.key'",
        "contradict",
        "",
    ),
    (
        "proc_exepath = '/usr/bin/nc' AND lower(proc_exepath) <> '/usr/bin/nc'",
        "contradict",
        "",
    ),
    ("length(proc_name) > 60", "no event that sensors send", ""),
    (
        "length(container_id) > 12",
        "no event that sensors send",
        "",
    ),
    // Texts that are most likely written wrong.
    (
        "container_id = 'Host'",
        "nearly 'host'",
        "did you mean 'host'?",
    ),
    (
        "container_id NOT IN ('hosts', 'unknown')",
        "nearly 'host'",
        "did you mean 'host'?",
    ),
    (
        "container_id <> 'unkown'",
        "nearly 'unknown'",
        "did you mean 'unknown'?",
    ),
    (
        "container_id = 'C0FFEE012345'",
        "ids are in lower case",
        "write 'c0ffee012345'",
    ),
    ("proc_name = ''''", "nothing but quotes", "write ''"),
    (
        "proc_name = '''bash'''",
        "belong to the text",
        "write 'bash'",
    ),
    (
        "proc_name IN ('\"sh\"', 'bash')",
        "belong to the text",
        "write 'sh'",
    ),
    (
        "proc_name = '\u{2019}bash\u{2019}'",
        "belong to the text",
        "write 'bash'",
    ),
    (
        "evt_type = '\"execve\"'",
        "belong to the text",
        "write 'execve'",
    ),
    (
        "program(proc_exepath, proc_exe, proc_args) = '''nc'''",
        "belong to the text",
        "write 'nc'",
    ),
    (
        "proc_name = 'bash '",
        "has a blank around it",
        "write 'bash'",
    ),
    ("proc_pname = '<NA>'", "never '<NA>'", "IS NULL"),
    ("container_name = 'NULL'", "never 'NULL'", "IS NULL"),
    (
        "date_part('hour', ts) BETWEEN 22 AND 6",
        "above the upper one",
        "BETWEEN 6 AND 22",
    ),
    (
        "evt_type = 'execve' AND proc_exit_code = 1",
        "procexit alone",
        "",
    ),
    (
        "fd_sport = 8080 AND fd_sport IN (80, 443)",
        "contradict",
        "",
    ),
    (
        "evt_type IN ('open', 'openat') AND NOT evt_type LIKE 'open%'",
        "no event",
        "",
    ),
    // NULL.
    ("NOT proc_cmdline LIKE '%x%'", "unknown (NULL)", "coalesce"),
    ("proc_args[1] <> '-c'", "unknown (NULL)", "IS DISTINCT FROM"),
    (
        "cardinality(proc_args) >= 1 AND proc_args[2] <> '-c'",
        "proc_args[2] is unknown",
        "IS DISTINCT FROM",
    ),
    (
        "proc_cmdline IS NOT NULL AND lower(proc_name) <> 'sh'",
        "unknown (NULL)",
        "IS DISTINCT FROM",
    ),
    (
        "evt_type = 'connect' AND NOT cidr_match(fd_rip, '10.0.0.0/8')",
        "unknown (NULL)",
        "coalesce",
    ),
];

/// Queries that are wrong, with the line, the reason and the mend that are told.
const WRONG_QUERIES: &[(&str, usize, &str, &str)] = &[
    (
        "SELECT container_id, min(evt_type) AS kind FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING min(evt_type) = 'exceve'",
        3,
        "evt_type is never 'exceve'",
        "'execve'",
    ),
    (
        "SELECT container_id, last_value(proc_stage ORDER BY ts, seq) AS stage FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING stage IN ('exec', 'entry')",
        3,
        "proc_stage is never 'entry'",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING sample(evt_outcome, 3)[1] = 'failure'",
        3,
        "evt_outcome is never 'failure'",
        "'failed'",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING array_has(sample(evt_type, 3), 'conect')",
        3,
        "evt_type is never 'conect'",
        "'connect'",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING max(lower(evt_type)) = 'EXECVE'",
        3,
        "no event that sensors send",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nWHERE evt_type = 'execve'\nGROUP BY window_start, window_end, container_id\nHAVING min(evt_type) = 'openat'",
        4,
        "contradict",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING max(fd_name) FILTER (WHERE evt_type = 'clone') LIKE '/etc/%'",
        3,
        "no event that sensors send",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nWHERE proc_name = 'sh'\nGROUP BY window_start, window_end, container_id\nHAVING sample(proc_name, 5)[1] = 'bash'",
        4,
        "contradict",
        "",
    ),
    (
        "WITH t AS (SELECT container_id, evt_type AS kind FROM events)\nSELECT container_id FROM t\nWHERE kind = 'exceve'",
        3,
        "evt_type is never 'exceve'",
        "'execve'",
    ),
    (
        "SELECT container_id FROM (SELECT container_id, evt_type AS kind FROM events WHERE evt_type = 'open') t\nWHERE t.kind = 'connect'",
        2,
        "contradict",
        "",
    ),
    (
        "WITH t AS (SELECT container_id, CASE evt_type WHEN 'execve' THEN 'exec' ELSE 'other' END AS kind FROM events)\nSELECT container_id FROM t\nWHERE kind = 'exce'",
        3,
        "no event that sensors send",
        "",
    ),
    (
        "SELECT e.container_id FROM events e\nWHERE e.evt_type = 'execve' AND e.evt_type = 'connect'",
        2,
        "contradict",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING n > 5 AND n < 3",
        3,
        "contradict",
        "",
    ),
    (
        "SELECT container_id, avg(proc_argc) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING avg(proc_argc) > 5 AND avg(proc_argc) < 3",
        3,
        "contradict",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nWHERE evt_type = 'execve'\nGROUP BY window_start, window_end, container_id, evt_type\nHAVING evt_type = 'connect'",
        4,
        "contradict",
        "",
    ),
    (
        "SELECT container_id, count(*) FILTER (WHERE evt_type = 'open' AND evt_type = 'connect') AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id",
        1,
        "",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')\nGROUP BY window_start, window_end, container_id\nHAVING NOT bool_and(user_uid = 0 OR proc_name = 'x')",
        3,
        "unknown (NULL)",
        "write NOT coalesce(bool_and(user_uid = 0 OR proc_name = 'x'), false)",
    ),
    (
        "SELECT container_id FROM process_samples\nWHERE evt_type = 'execve'",
        2,
        "never 'execve'",
        "",
    ),
    (
        "SELECT container_id, count(*) AS n\nFROM hop(events, INTERVAL '5 minutes', INTERVAL '30 seconds')\nGROUP BY window_start, window_end, container_id",
        2,
        "is longer than a window of",
        "write hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')",
    ),
];

/// What is wrong with the table itself: every case is looked at before one fails.
#[track_caller]
fn none(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} cases:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn what_is_right_passes_without_a_word() {
    let conditions = RIGHT
        .iter()
        .map(|condition| format!("SELECT container_id FROM events\nWHERE {condition}"));
    let having = RIGHT_HAVING.iter().map(|having| {
        format!("SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute') WHERE evt_type IN ('connect', 'openat') GROUP BY window_start, window_end, container_id HAVING {having}")
    });
    let queries = RIGHT_QUERIES
        .iter()
        .map(|query| (*query).to_owned())
        .chain(having);
    let problems =
        conditions
            .chain(queries)
            .filter_map(|query| match load_query_warnings(&query) {
                Ok(warnings) if warnings.is_empty() => None,
                told => Some(format!("{query}\n    {told:?}")),
            });
    none(&problems.collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_is_told_with_line_reason_and_mend() {
    let conditions = WRONG.iter().map(|(condition, reason, mend)| {
        let query = format!("SELECT container_id FROM events\nWHERE {condition}");
        (query, 2, *reason, *mend)
    });
    let queries = WRONG_QUERIES.iter();
    let queries =
        queries.map(|(query, line, reason, mend)| ((*query).to_owned(), *line, *reason, *mend));
    let problems = conditions
        .chain(queries)
        .filter_map(|(query, line, reason, mend)| {
            let told = match load_query_warnings(&query) {
                Ok(warnings) => warnings,
                Err(refusal) => vec![refusal],
            };
            match &told[..] {
                [(at, text)] if *at == line && text.contains(reason) && text.contains(mend) => None,
                _ => Some(format!("{query}\n    {told:?}")),
            }
        });
    none(&problems.collect::<Vec<_>>());
}
