//! Synthetic detections: ten shapes that detections have, with literals of their own.

use std::fs;
use std::io;
use std::path::Path;

/// Conditions; `{n}` is the detection's number, so that no two share a literal.
const SHAPES: [&str; 10] = [
    "evt_type = 'execve' AND proc_name = 'tool{n}'",
    "evt_type IN ('open', 'openat', 'openat2') AND evt_is_open_write AND fd_name LIKE '/opt/secret{n}/%'",
    "evt_type = 'execve' AND proc_cmdline LIKE '%--payload{n}%'",
    "evt_type = 'connect' AND fd_sip LIKE '192.0.{n}.%' AND NOT (fd_sport IN (80, 443))",
    "evt_type = 'execve' AND starts_with(proc_exepath, '/dev/shm/{n}')",
    "evt_type = 'openat' AND regexp_like(fd_name, '/home/user{n}/\\.ssh/id_[a-z]+$')",
    "evt_type = 'execve' AND proc_name IN ('a{n}', 'b{n}', 'c{n}', 'd{n}', 'e{n}', 'f{n}')",
    "evt_type = 'connect' AND fd_sport = 4{n} AND proc_name NOT IN ('nginx', 'java', 'postgres')",
    "(proc_cmdline LIKE '%miner{n}%' OR proc_exepath LIKE '%xmr{n}%') AND evt_type = 'execve'",
    "container_name = 'victim-{n}' AND evt_outcome = 'failed'",
];

/// Writes `count` detections into a folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, count: usize) -> io::Result<()> {
    let tactic = folder.join("execution");
    fs::create_dir_all(&tactic)?;
    for number in 0..count {
        fs::write(tactic.join(format!("synthetic_{number}.sql")), text(number))?;
    }
    Ok(())
}

fn text(number: usize) -> String {
    let condition = condition(number);
    format!(
        "-- title = \"Synthetic {number}\"\n-- description = \"A detection of the benchmark.\"\n\
         -- message = \"synthetic {number} in {{container_name}}\"\n-- severity = \"low\"\n-- status = \"experimental\"\n\
         SELECT container_id, container_name, proc_name, proc_cmdline\nFROM events\nWHERE {condition}\n"
    )
}

/// Returns the condition of a detection.
pub fn condition(number: usize) -> String {
    SHAPES[number % SHAPES.len()].replace("{n}", &number.to_string())
}
