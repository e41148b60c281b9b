//! Events made by hand, for tests that need no kernel, and the detection that finds the ones it should.

use dogwatch_schemas::records::Event;
use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// The process name that [`detections`] finds.
pub const INTRUDER: &str = "intruder";

/// A folder with one detection: an exec of [`INTRUDER`]. The shipped ones have their own tests.
///
/// # Panics
/// When it cannot be written.
pub fn detections() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for the detection");
    let tactic = folder.path().join("execution");
    fs::create_dir(&tactic).expect("a folder for the tactic");
    let text = format!(
        r#"-- title = "An intruder"
-- description = "Found by its name, for tests."
-- message = "{{proc_name}} in {{container_id}}"
-- severity = "high"
-- status = "stable"
-- attack = ["T1059"]
SELECT container_id, proc_name, proc_cmdline
FROM events
WHERE evt_type = 'execve'
  AND evt_outcome = 'success'
  AND proc_name = '{INTRUDER}'
"#
    );
    fs::write(tactic.join("intruder.sql"), text).expect("the detection is written");
    folder
}

/// The process name whose runs [`add_window`] counts.
pub const BUSY: &str = "busy";

/// Adds a detection over windows of ten seconds to a folder: how often a host ran [`BUSY`], said when the window closes.
///
/// # Panics
/// When it cannot be written.
pub fn add_window(folder: &TempDir) {
    let text = format!(
        r#"-- title = "A busy host"
-- description = "Counted, for tests."
-- message = "{{runs}} runs"
-- severity = "low"
-- status = "stable"
-- attack = ["T1059"]
SELECT window_start, window_end, host_id, count(*) AS runs
FROM tumble(events, INTERVAL '10 seconds')
WHERE evt_type = 'execve'
  AND proc_name = '{BUSY}'
GROUP BY window_start, window_end, host_id
HAVING count(*) < 1000000
"#
    );
    fs::write(folder.path().join("execution/busy.sql"), text).expect("the detection is written");
}

/// When the events happened: at the start of this minute, since a time far from the broker's would not be believed.
static BEGIN_NS: LazyLock<i64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.expect("a clock after 1970").as_secs();
    (seconds - seconds % 60) as i64 * 1_000_000_000
});

/// A successful exec of `name` in a container of `host`; `seq` tells it from others of the host.
pub fn exec(host: &str, seq: i64, name: &str) -> Event {
    Event {
        host_id: host.into(),
        host_name: host.into(),
        boot_id: "boot".into(),
        sensor_run: "run".into(),
        seq,
        ts: *BEGIN_NS + seq,
        boot_ts: 1_000_000_000 + seq,
        evt_type: "execve".into(),
        evt_category: "process".into(),
        evt_outcome: "success".into(),
        evt_backend: "tracepoint".into(),
        evt_abi: "native".into(),
        proc_key: "0123456789abcdef".into(),
        proc_pid: 4711,
        thread_tid: 4711,
        proc_name: Some(name.into()),
        proc_cmdline: Some(format!("{name} --number {seq}").into()),
        // So many that no minute of one has more alerts than are published.
        container_id: format!("{:012x}", seq / 8).into(),
        ..Event::default()
    }
}
