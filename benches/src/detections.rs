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

/// What is computed over windows, over which events, and from how much on it is said: more than a run reaches.
const AGGREGATES: [(&str, &str, &str); 10] = [
    ("count(*)", "evt_type = 'execve'", "5000"),
    (
        "count(*)",
        "evt_type IN ('open', 'openat', 'openat2') AND evt_is_open_write",
        "20000",
    ),
    ("count(*)", "evt_type = 'connect'", "10000"),
    ("count(DISTINCT fd_name)", "evt_type = 'openat'", "2000"),
    ("count(DISTINCT fd_sip)", "evt_type = 'connect'", "400"),
    ("sum(proc_duration_ns)", "evt_type = 'procexit'", "1e17"),
    ("max(proc_cpu_user_ns)", "evt_type = 'procexit'", "1e12"),
    ("avg(proc_duration_ns)", "evt_type = 'procexit'", "1e12"),
    (
        "count(*) FILTER (WHERE evt_failed)",
        "evt_type IN ('openat', 'connect')",
        "1000",
    ),
    (
        "count(*)",
        "user_uid = 1000 AND evt_type <> 'openat'",
        "50000",
    ),
];

/// Writes `count` detections over windows of 5 minutes that hop by 30 seconds, with three keys, into a folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_windowed(folder: &Path, count: usize, only_counts: bool) -> io::Result<()> {
    let aggregates: Vec<_> = AGGREGATES
        .iter()
        .filter(|(aggregate, _, _)| !only_counts || aggregate.starts_with("count"))
        .collect();
    let tactic = folder.join("execution");
    fs::create_dir_all(&tactic)?;
    for number in 0..count {
        let (aggregate, condition, much) = aggregates[number % aggregates.len()];
        // Half of them share the panes of the other keys.
        let third = ["proc_name", "user_name"][number / aggregates.len() % 2];
        let text = format!(
            "-- title = \"Windowed {number}\"\n-- description = \"A detection of the benchmark.\"\n\
             -- message = \"windowed {number} in {{container_name}}\"\n-- severity = \"low\"\n-- status = \"experimental\"\n\
             SELECT window_start, window_end, container_id, container_name, {third}, {aggregate} AS much\n\
             FROM hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')\nWHERE {condition}\n\
             GROUP BY window_start, window_end, container_id, container_name, {third}\n\
             HAVING {aggregate} > {much}\n"
        );
        fs::write(tactic.join(format!("windowed_{number}.sql")), text)?;
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
