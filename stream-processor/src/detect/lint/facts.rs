//! What holds of every row that a sensor of this version sends: facts between columns, as SQL.
//!
//! Only what a new system call would not make wrong: a fact that is none warns of queries that are right.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, Result, TableReference};

use super::conditions::Condition;
use crate::detect::session::Session;
use dogwatch_schemas::{arguments, calls};

/// A fact, and how it is told.
#[derive(Clone)]
pub(super) struct Fact {
    pub condition: Condition,
    pub sentence: String,
}

const FACTS: [(&str, &str); 18] = [
    (
        "evt_failed AND evt_outcome = 'failed' OR NOT evt_failed AND evt_outcome <> 'failed'",
        "evt_failed is true where evt_outcome is 'failed', and nowhere else",
    ),
    (
        "evt_type <> 'execveat' OR evt_outcome <> 'success'",
        "an execveat that succeeds is sent as 'execve'",
    ),
    (
        "evt_outcome <> 'success' OR evt_res IS NULL OR evt_res = 'SUCCESS'",
        "evt_res is 'SUCCESS' where evt_outcome is 'success'",
    ),
    (
        "evt_outcome <> 'failed' OR evt_res IS NULL OR evt_res <> 'SUCCESS'",
        "evt_res is no 'SUCCESS' where evt_outcome is 'failed'",
    ),
    (
        "evt_outcome <> 'failed' OR evt_res IS NOT NULL",
        "evt_res is known where evt_outcome is 'failed'",
    ),
    (
        "evt_res IS NOT NULL OR evt_type IN ('procexit', 'threads', 'running', 'cgroup_mkdir', 'cgroup_rmdir', 'container', 'container_move', 'clock_step', 'rate_limited', 'mark')",
        "evt_res of a system call is known",
    ),
    (
        "evt_rawres IS NOT NULL OR evt_type IN ('procexit', 'threads', 'running', 'cgroup_mkdir', 'cgroup_rmdir', 'container', 'container_move', 'clock_step', 'rate_limited', 'mark')",
        "evt_rawres of a system call is known",
    ),
    (
        "fd_filename IS NOT NULL OR fd_name IS NULL OR NOT starts_with(fd_name, '/')",
        "fd_filename is known where fd_name is a path",
    ),
    (
        "fd_directory IS NOT NULL OR fd_name IS NULL OR NOT starts_with(fd_name, '/')",
        "fd_directory is known where fd_name is a path",
    ),
    (
        "fd_filename IS NOT NULL OR fd_directory IS NULL",
        "fd_filename is known where fd_directory is",
    ),
    (
        "fd_name IS NOT NULL OR fd_filename IS NULL AND fd_directory IS NULL",
        "fd_name is known where its parts are",
    ),
    (
        "evt_outcome = 'success' AND NOT evt_failed OR evt_type NOT IN ('procexit', 'threads', 'running', 'cgroup_mkdir', 'cgroup_rmdir', 'container', 'container_move', 'clock_step', 'rate_limited')",
        "evt_outcome is always 'success' of what is no system call",
    ),
    (
        "evt_outcome <> 'attempted' OR evt_type NOT IN ('execve', 'execveat', 'clone', 'open', 'openat', 'openat2', 'creat', 'mkdir', 'mkdirat', 'rmdir', 'unlink', 'unlinkat', 'rename', 'renameat', 'renameat2', 'bind', 'listen')",
        "evt_outcome is 'attempted' of connections alone",
    ),
    (
        "evt_outcome <> 'failed' OR evt_rawres IS NULL OR evt_rawres < 0",
        "evt_rawres is less than 0 where evt_outcome is 'failed'",
    ),
    (
        "evt_type <> 'connect' OR fd_is_server IS NULL OR NOT fd_is_server",
        "whoever connects is no server: fd_is_server is true of bind, listen and accept",
    ),
    (
        "evt_type <> 'clone' OR evt_call IS NULL OR evt_call IN ('clone', 'clone3', 'fork', 'vfork')",
        "evt_call of a clone is clone, clone3, fork or vfork",
    ),
    (
        "evt_type <> 'execve' OR evt_call IS NULL OR evt_call IN ('execve', 'execveat', 'fexecve')",
        "evt_call of an execve is execve, execveat or fexecve",
    ),
    (
        "proc_exe_from IS NULL OR evt_type IN ('execve', 'execveat', 'running')",
        "proc_exe_from is known at exec alone",
    ),
];

/// The facts on the columns that a query names, with these names qualified as the query does.
pub(super) fn facts(
    session: &Session,
    events: &Schema,
    qualifier: &TableReference,
    named: &impl Fn(&str) -> bool,
    keys: &BTreeSet<&str>,
) -> Result<Vec<Fact>> {
    let schema = DFSchema::try_from_qualified_schema(qualifier.clone(), events)?;
    let state = session.context.state();
    let fixed = FACTS
        .iter()
        .map(|(sql, sentence)| ((*sql).to_owned(), (*sentence).to_owned()));
    let columns = events.fields().iter().map(|field| field.name().as_str());
    let columns: Vec<&str> = columns.filter(|column| named(column)).collect();
    let of_columns = columns.iter().filter_map(|column| of_column(column));
    let of_columns = of_columns.chain(of_ends(&columns));
    let of_columns = of_columns.chain(of_categories(&columns));
    let of_columns = of_columns.chain(keys.iter().filter_map(|key| of_argument(key)));
    let mut facts = Vec::new();
    for (sql, sentence) in fixed.chain(of_columns) {
        let expr = state.create_logical_expr(&sql, &schema)?;
        if expr.column_refs().iter().any(|column| named(&column.name)) {
            let condition = Condition {
                expr,
                schema: schema.clone().into(),
            };
            facts.push(Fact {
                condition,
                sentence,
            });
        }
    }
    Ok(facts)
}

/// Columns of an end of a connection that are known together: address and port.
const ENDS: [[&str; 2]; 4] = [
    ["fd_sip", "fd_sport"],
    ["fd_cip", "fd_cport"],
    ["fd_lip", "fd_lport"],
    ["fd_rip", "fd_rport"],
];

/// Columns that say of which kind a connection is.
const KINDS: [&str; 2] = ["fd_family", "fd_type"];

/// Columns that are known of each connect to an address of IP, and of no other.
const OF_CONNECT: [&str; 5] = ["fd_sip", "fd_sport", "fd_rip", "fd_rport", "fd_l4proto"];

/// Which columns of connections are known where others are.
fn of_ends(named: &[&str]) -> Vec<(String, String)> {
    let known = |column: &str| named.contains(&column);
    let mut facts = Vec::new();
    for [ip, port] in ENDS
        .into_iter()
        .filter(|[ip, port]| known(ip) && known(port))
    {
        facts.push((
            format!(
                "({ip} IS NULL OR {port} IS NOT NULL) AND ({port} IS NULL OR {ip} IS NOT NULL)"
            ),
            format!("{ip} and {port} are known together"),
        ));
    }
    let ends = ENDS.as_flattened().iter().chain(["fd_l4proto"].iter());
    for column in ends.filter(|column| known(column)) {
        for kind in KINDS.into_iter().filter(|kind| known(kind)) {
            facts.push((
                format!("{column} IS NULL OR {kind} IS NOT NULL"),
                format!("{kind} is known where {column} is"),
            ));
        }
    }
    for column in OF_CONNECT.into_iter().filter(|column| known(column)) {
        for kind in KINDS.into_iter().filter(|kind| known(kind)) {
            facts.push((
                format!("evt_type <> 'connect' OR coalesce({kind}, '') NOT IN ('ipv4', 'ipv6') OR {column} IS NOT NULL"),
                format!("{column} of a connect is known where {kind} is 'ipv4' or 'ipv6'"),
            ));
        }
        for other in OF_CONNECT
            .into_iter()
            .filter(|other| known(other) && *other != column)
        {
            facts.push((
                format!("evt_type <> 'connect' OR {other} IS NULL OR {column} IS NOT NULL"),
                format!("{column} of a connect is known where {other} is"),
            ));
        }
    }
    facts
}

/// Which category the events of system calls have.
fn of_categories(named: &[&str]) -> Vec<(String, String)> {
    if !named.contains(&"evt_category") {
        return Vec::new();
    }
    let facts = calls::categories().into_iter().map(|(category, types)| {
        (
            format!(
                "evt_type NOT IN ({}) OR evt_category = '{category}'",
                quoted(types)
            ),
            "evt_category follows from evt_type; docs/events.md has that of each call".to_owned(),
        )
    });
    facts.collect()
}

/// Which system calls do not have an argument of this name.
fn of_argument(key: &str) -> Option<(String, String)> {
    arguments::of(key)?;
    let types = quoted(arguments::types_without(key));
    let hint = match key {
        "flags" => "; of an open ask evt_is_open_read, evt_is_open_write or evt_is_open_create",
        "mode" => "; of an open ask evt_is_open_create",
        _ => "",
    };
    Some((
        format!("evt_args['{key}'] IS NULL OR evt_type NOT IN ({types})"),
        format!(
            "evt_args['{key}'] is of other calls; docs/events.md has the arguments of each{hint}"
        ),
    ))
}

fn quoted<'a>(types: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = types.into_iter().map(|own| format!("'{own}'")).collect();
    quoted.join(", ")
}

/// Rows that are of no system call and have no file and no connection.
const NO_CALLS: [&str; 8] = [
    "procexit",
    "threads",
    "running",
    "cgroup_mkdir",
    "cgroup_rmdir",
    "container",
    "container_move",
    "clock_step",
];

/// Which rows never have a column that is of some system calls alone.
fn of_calls(column: &str) -> Option<(String, String)> {
    let mut types = calls::types_without_column(column);
    let of_credentials = calls::OF_CREDENTIALS.contains(&column);
    if !of_credentials {
        types.extend(NO_CALLS);
    }
    if types.len() == NO_CALLS.len() || types.is_empty() {
        return None;
    }
    let never = match column.starts_with("evt_is_open") {
        true => format!("NOT {column}"),
        false => format!("{column} IS NULL"),
    };
    let sentence = match column {
        "evt_is_open_read" | "evt_is_open_write" | "evt_is_open_create" => {
            "only calls that open files have evt_is_open_read, _write or _create".to_owned()
        }
        "fd_flags" | "fd_mode" | "fd_created" => {
            format!("only calls that open files have {column}")
        }
        column if calls::OF_SOCKETS.contains(&column) => {
            format!("rows of execve, execveat, clone, procexit and of files have no {column}")
        }
        column if of_credentials => {
            format!("{column} is known at exec and of calls that change who a process is")
        }
        column if column.starts_with("fs_") => {
            format!("calls with two paths alone have {column}, such as rename and link")
        }
        "fd_name" | "fd_nameraw" | "fd_directory" | "fd_filename" | "fd_host_name" => {
            format!(
                "only calls of one file or connection have {column}: those with two paths have fs_path_source and fs_path_target, and no {column}"
            )
        }
        column => format!(
            "only calls that open a file or are given a descriptor have {column}; of a path alone fd_name is known"
        ),
    };
    Some((
        format!("evt_type NOT IN ({}) OR {never}", quoted(types)),
        sentence,
    ))
}

/// On which rows a column is null.
fn of_column(column: &str) -> Option<(String, String)> {
    if let Some(fact) = of_calls(column) {
        return Some(fact);
    }
    let at_exec = [
        "proc_stdin_type",
        "proc_stdin_name",
        "proc_stdout_type",
        "proc_stdout_name",
        "proc_stderr_type",
        "proc_stderr_name",
        "proc_exe_dev",
        "proc_exe_ino",
        "proc_exe_ino_mtime",
        "proc_exe_ino_ctime",
        "proc_env",
        "proc_env_cut",
        "proc_argc",
        "proc_runs",
        "proc_sockets",
        "proc_socket_name",
    ];
    if at_exec.contains(&column) {
        let sql = format!("evt_type IN ('execve', 'execveat', 'running') OR {column} IS NULL");
        return Some((sql, format!("{column} is known at exec alone")));
    }
    let at_exit = [
        "proc_exit_code",
        "proc_exit_signal",
        "proc_duration_ns",
        "proc_cpu_user_ns",
        "proc_cpu_system_ns",
        "proc_pfminor",
        "proc_pfmajor",
        "proc_read_chars",
        "proc_write_chars",
        "proc_read_bytes",
        "proc_write_bytes",
    ];
    at_exit.contains(&column).then(|| {
        let sql = format!(
            "evt_type = 'procexit' AND {column} IS NOT NULL OR evt_type <> 'procexit' AND {column} IS NULL"
        );
        (sql, format!("{column} is known at procexit alone"))
    })
}
