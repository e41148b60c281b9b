//! What holds of every row that a sensor of this version sends: facts between columns, as SQL.
//!
//! Only what a new system call would not make wrong: a fact that is none warns of queries that are right.

use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, Result, TableReference};

use super::conditions::Condition;
use crate::detect::session::Session;

/// A fact, and how it is told.
#[derive(Clone)]
pub(super) struct Fact {
    pub condition: Condition,
    pub sentence: String,
}

const FACTS: [(&str, &str); 13] = [
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
        "NOT evt_is_open_read AND NOT evt_is_open_write AND NOT evt_is_open_create OR evt_type NOT IN ('execve', 'execveat', 'clone', 'procexit', 'connect', 'mark')",
        "only calls that open files have evt_is_open_read, _write or _create",
    ),
    (
        "evt_outcome <> 'failed' OR evt_res IS NOT NULL",
        "evt_res is known where evt_outcome is 'failed'",
    ),
    (
        "evt_type <> 'connect' OR fd_family IS NULL OR fd_family = 'unix' OR fd_sport IS NOT NULL",
        "fd_sport of a connect is known where fd_family is 'ipv4' or 'ipv6'",
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
        "evt_type NOT IN ('rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat') OR fd_name IS NULL",
        "calls with two paths have fs_path_source and fs_path_target, and no fd_name",
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
    named: impl Fn(&str) -> bool,
) -> Result<Vec<Fact>> {
    let schema = DFSchema::try_from_qualified_schema(qualifier.clone(), events)?;
    let state = session.context.state();
    let fixed = FACTS
        .iter()
        .map(|(sql, sentence)| ((*sql).to_owned(), (*sentence).to_owned()));
    let columns = events.fields().iter().map(|field| field.name().as_str());
    let of_columns = columns.filter(|column| named(column)).filter_map(of_column);
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

/// On which rows a column is null.
fn of_column(column: &str) -> Option<(String, String)> {
    let of_sockets = [
        "fd_cip",
        "fd_cport",
        "fd_sip",
        "fd_sport",
        "fd_lip",
        "fd_lport",
        "fd_rip",
        "fd_rport",
        "fd_l4proto",
        "fd_family",
        "fd_is_server",
        "fd_addr_source",
    ];
    if of_sockets.contains(&column) {
        let sql = format!(
            "evt_type NOT IN ('execve', 'execveat', 'clone', 'procexit', 'open', 'openat', 'openat2', 'creat', 'mkdir', 'mkdirat', 'rmdir', 'unlink', 'unlinkat', 'rename', 'renameat', 'renameat2') OR {column} IS NULL"
        );
        let sentence =
            format!("rows of execve, execveat, clone, procexit and of files have no {column}");
        return Some((sql, sentence));
    }
    if column.starts_with("fs_") {
        let sql = format!(
            "evt_type NOT IN ('execve', 'execveat', 'clone', 'procexit', 'open', 'openat', 'openat2', 'creat', 'mkdir', 'mkdirat', 'rmdir', 'unlink', 'unlinkat', 'connect', 'bind', 'listen', 'accept', 'accept4') OR {column} IS NULL"
        );
        let sentence = format!("calls with two paths alone have {column}, such as rename and link");
        return Some((sql, sentence));
    }
    // Of sockets and files; a failed execveat has a descriptor.
    if column.starts_with("fd_") {
        let sql = format!("evt_type NOT IN ('execve', 'clone', 'procexit') OR {column} IS NULL");
        let sentence = format!("rows of execve, clone and procexit have no {column}");
        return Some((sql, sentence));
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
        let sql = format!("evt_type = 'procexit' OR {column} IS NULL");
        (sql, format!("{column} is known at procexit alone"))
    })
}
