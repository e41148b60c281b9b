//! Rows, lists and rules that somebody chose to do harm: the engine goes on, and says what it could not do.
//!
//! Each test is an input that once ended the process, or made it slow or large without bound.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::checkpoint::{Inputs, Renewal};
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::{Engine, StepOutput};
use dogwatch_stream_processor::oracle::{Input, Oracle, compare};
use dogwatch_stream_processor::window::WindowOptions;
use serde_json::Value;
use tempfile::TempDir;

const SECOND_NS: i64 = 1_000_000_000;
/// When the logs begin: a whole number of every window.
const BEGIN_NS: i64 = 1_800_000_000 * SECOND_NS;
/// Most bytes of a state record.
const STATE_BYTES_MAX: usize = 512 << 10;

const HEADER: &str = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{n} in {container_id}\"\n-- severity = \"low\"\n-- status = \"experimental\"\n";

/// Counts every execve of a container: what must go on whatever its neighbours do.
const NEIGHBOUR: (&str, &str) = (
    "neighbour",
    "SELECT window_start, window_end, container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute')
     WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id HAVING count(*) >= 2",
);

fn folder(detections: &[(&str, &str)], lists: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("execution")).unwrap();
    std::fs::create_dir_all(folder.path().join("lists")).unwrap();
    for (name, sql) in detections {
        let file = folder.path().join(format!("execution/{name}.sql"));
        std::fs::write(file, format!("{HEADER}{sql}\n")).unwrap();
    }
    for (name, text) in lists {
        std::fs::write(folder.path().join(format!("lists/{name}.csv")), text).unwrap();
    }
    folder
}

fn engine_with(folder: &Path, options: WindowOptions) -> Engine {
    let report = DetectionSet::load(folder).unwrap();
    assert_eq!(report.refused, Vec::new());
    Engine::new(report.set, AlertMode::Live)
        .unwrap()
        .with_windows(options)
        .unwrap()
}

fn engine(detections: &[(&str, &str)]) -> Engine {
    engine_with(folder(detections, &[]).path(), WindowOptions::default())
}

/// Why a query is refused.
fn refusal(sql: &str, lists: &[(&str, &str)]) -> String {
    let folder = folder(&[("refused", sql)], lists);
    let report = DetectionSet::load(folder.path()).unwrap();
    let refused = report.refused.first();
    refused
        .unwrap_or_else(|| panic!("loaded: {sql}"))
        .to_string()
}

/// A log of one partition.
#[derive(Default)]
struct Log {
    offset: i64,
    seqs: BTreeMap<String, i64>,
}

impl Log {
    fn record(&mut self, host: &str, at_ns: i64, edit: impl FnOnce(&mut Event)) -> InputRecord {
        let seq = self.seqs.entry(host.to_owned()).or_default();
        let mut event = Event {
            host_id: host.into(),
            host_name: host.into(),
            sensor_run: "run".into(),
            seq: *seq,
            ts: BEGIN_NS + at_ns,
            evt_type: "execve".into(),
            evt_outcome: "success".into(),
            container_id: "c".into(),
            proc_key: "k".into(),
            ..Event::default()
        };
        *seq += 1;
        edit(&mut event);
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        self.offset += 1;
        InputRecord {
            topic: Topic::Events,
            partition: 0,
            offset: self.offset - 1,
            ingest_ts_ns: Some(BEGIN_NS + at_ns.max(0) + SECOND_NS),
            key: host.as_bytes().to_vec().into(),
            value: value.into(),
        }
    }

    /// A row so much later that every window closes.
    fn late_row(&mut self, host: &str) -> InputRecord {
        self.record(host, 7_200 * SECOND_NS, |event| {
            event.evt_type = "connect".into()
        })
    }
}

fn of<'a>(output: &'a StepOutput, detection: &str) -> Vec<&'a Alert> {
    let alerts = output.alerts.iter();
    alerts
        .filter(|alert| &*alert.detection_id == detection)
        .collect()
}

fn label(event: &mut Event, value: &str) {
    event.container_labels = Some([("port".into(), value.into())].into());
}

fn of_events(offset: i64) -> Inputs {
    Inputs::from([(Topic::Events, offset)])
}

/// The state of a task that is stored for the first time; each record fits its topic.
fn state(engine: &mut Engine) -> BTreeMap<String, Vec<u8>> {
    let records = engine.checkpoint(0, &Renewal::default()).unwrap();
    let state: BTreeMap<_, _> = records
        .into_iter()
        .filter_map(|record| Some((record.key, record.value?)))
        .collect();
    for (key, value) in &state {
        assert!(
            value.len() <= STATE_BYTES_MAX,
            "{key} has {} bytes",
            value.len()
        );
    }
    state
}

fn bytes(state: &BTreeMap<String, Vec<u8>>) -> usize {
    state
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum()
}

#[test]
fn a_division_by_zero_at_a_close_is_an_alert_with_its_error() {
    let ratio = "SELECT window_start, window_end, container_id, sum(fd_num) / sum(user_uid) AS n FROM tumble(events, INTERVAL '1 minute')
        GROUP BY window_start, window_end, container_id HAVING sum(fd_num) / sum(user_uid) > 2";
    let mut engine = engine(&[("ratio", ratio), NEIGHBOUR]);
    let mut log = Log::default();
    let mut records = Vec::new();
    for (container, uid) in [("zero", 0), ("one", 1), ("zero", 0), ("one", 1)] {
        records.push(log.record("h", 0, |event| {
            event.container_id = container.into();
            (event.fd_num, event.user_uid) = (Some(5), Some(uid));
        }));
    }
    records.push(log.late_row("h"));
    let output = engine.step(records).unwrap();
    let ratios = of(&output, "ratio");
    let by_container = |container: &str| {
        let own = ratios
            .iter()
            .find(|alert| &*alert.container_id == container);
        *own.unwrap_or_else(|| panic!("{container}: {ratios:?}"))
    };
    assert_eq!(ratios.len(), 2);
    assert_eq!(by_container("one").error, None);
    let failed = by_container("zero");
    let error = failed.error.as_deref().unwrap();
    assert!(error.contains("Divide by zero"), "{error}");
    assert!(
        failed.message.contains("Divide by zero"),
        "{}",
        failed.message
    );
    let row: serde_json::Value = serde_json::from_str(&failed.row).unwrap();
    assert_eq!(row["container_id"], "zero");
    assert_eq!(row["sum(tumble().user_uid)"], 0, "{row}");
    // Each container's neighbour fires early, and says its final count at the close.
    assert_eq!(of(&output, "neighbour").len(), 4);
    let [failure] = &output.failures[..] else {
        panic!("{:?}", output.failures)
    };
    assert!(
        failure.of_window && failure.place.ends_with("ratio.sql:6"),
        "{failure:?}"
    );
}

#[test]
fn a_limit_chooses_among_the_groups_that_can_be_judged() {
    let top = "SELECT window_start, window_end, container_id, sum(fd_num) / sum(user_uid) AS n FROM tumble(events, INTERVAL '1 minute')
        GROUP BY window_start, window_end, container_id ORDER BY container_id LIMIT 1";
    let mut engine = engine(&[("top", top)]);
    let mut log = Log::default();
    let mut records = Vec::new();
    for (container, uid) in [("a", 0), ("b", 1), ("c", 1)] {
        records.push(log.record("h", 0, |event| {
            event.container_id = container.into();
            (event.fd_num, event.user_uid) = (Some(5), Some(uid));
        }));
    }
    records.push(log.late_row("h"));
    let output = engine.step(records).unwrap();
    let mut said: Vec<(&str, bool)> = of(&output, "top")
        .into_iter()
        .map(|alert| (&*alert.container_id, alert.error.is_some()))
        .collect();
    said.sort_unstable();
    // The late row is a group of container c in a window that is still open.
    assert_eq!(said, [("a", true), ("b", false)]);
}

/// Wherever in a query over windows an expression stands.
#[test]
fn a_row_that_no_expression_can_judge_costs_that_row_of_that_detection() {
    let window = "FROM tumble(events, INTERVAL '1 minute')";
    let cast = "CAST(container_labels['port'] AS BIGINT)";
    let by = "GROUP BY window_start, window_end, container_id";
    let queries = [
        (
            "where",
            format!(
                "SELECT window_start, window_end, container_id, count(*) AS n {window} WHERE {cast} > 1000 {by} HAVING count(*) >= 1"
            ),
        ),
        (
            "key",
            format!(
                "SELECT window_start, window_end, container_id, {cast} AS n {window} {by}, {cast} HAVING count(*) >= 1"
            ),
        ),
        (
            "argument",
            format!(
                "SELECT window_start, window_end, container_id, sum({cast}) AS n {window} {by}"
            ),
        ),
        (
            "filter",
            format!(
                "SELECT window_start, window_end, container_id, count(*) FILTER (WHERE {cast} > 1000) AS n {window} {by}"
            ),
        ),
        (
            "distinct",
            format!(
                "SELECT window_start, window_end, container_id, count(DISTINCT {cast}) AS n {window} {by} HAVING count(DISTINCT {cast}) >= 1"
            ),
        ),
        (
            "ordered",
            format!(
                "SELECT window_start, window_end, container_id, first_value(proc_name ORDER BY {cast}, ts, seq) AS n {window} {by}"
            ),
        ),
    ];
    for (name, sql) in &queries {
        let mut engine = engine(&[(*name, sql.as_str()), NEIGHBOUR]);
        let mut log = Log::default();
        let mut records: Vec<InputRecord> = (0..50)
            .map(|row| {
                log.record("h", row * SECOND_NS / 10, |event| {
                    label(event, if row % 10 == 3 { "x" } else { "8080" });
                    event.proc_name = Some("p".into());
                })
            })
            .collect();
        records.push(log.late_row("h"));
        let output = engine.step(records).unwrap();
        let bad: Vec<i64> = output
            .failures
            .iter()
            .map(|failure| failure.offset)
            .collect();
        assert_eq!(bad, [3, 13, 23, 33, 43], "{name}");
        assert!(
            output
                .failures
                .iter()
                .all(|failure| failure.detection_id == *name)
        );
        let mut own = of(&output, name).into_iter();
        let last = own.rfind(|alert| alert.window_start == Some(BEGIN_NS));
        let last = last.unwrap_or_else(|| panic!("{name} says nothing"));
        let row: serde_json::Value = serde_json::from_str(&last.row).unwrap();
        let expected = match *name {
            "where" | "filter" => serde_json::json!(45),
            "key" => serde_json::json!(8080),
            "argument" => serde_json::json!(45 * 8080),
            "distinct" => serde_json::json!(1),
            _ => serde_json::json!("p"),
        };
        assert_eq!(row["n"], expected, "{name}");
        let neighbour = of(&output, "neighbour");
        let counts: Vec<bool> = neighbour
            .iter()
            .map(|alert| alert.row.contains("\"n\":50"))
            .collect();
        assert!(counts.contains(&true), "{name}: {neighbour:?}");
        // Said once, whatever the number of rows.
        let health = of(&output, "detection_cannot_judge");
        assert_eq!(health.len(), 2, "{name}: {health:?}");
        assert!(
            health[0].message.contains("Cannot cast string 'x'"),
            "{}",
            health[0].message
        );
        assert_eq!((&*health[1].activity, health[1].folded), ("update", 4));
    }
}

#[test]
fn a_late_row_that_cannot_be_judged_is_not_late() {
    let cast = "SELECT window_start, window_end, container_id, sum(CAST(container_labels['port'] AS BIGINT)) AS n
        FROM tumble(events, INTERVAL '1 minute') GROUP BY window_start, window_end, container_id";
    let mut engine = engine(&[("cast", cast)]);
    let mut log = Log::default();
    let records = vec![
        log.late_row("h"),
        log.record("h", 0, |event| label(event, "x")),
        log.record("h", 0, |event| label(event, "1")),
    ];
    let output = engine.step(records).unwrap();
    let late: Vec<i64> = output.late.iter().map(|late| late.record.offset).collect();
    let failed: Vec<i64> = output
        .failures
        .iter()
        .map(|failure| failure.offset)
        .collect();
    assert_eq!((late, failed), (vec![2], vec![1]));
}

#[test]
fn times_from_the_whole_of_the_number_line_do_no_harm() {
    let count = "SELECT window_start, window_end, container_id, count(*) AS n FROM hop(events, INTERVAL '10 seconds', INTERVAL '1 minute') GROUP BY window_start, window_end, container_id";
    let each = "SELECT container_id, seq AS n, ts FROM events WHERE evt_type = 'execve'";
    let mut engine = engine(&[("count", count), ("each", each)]).without_throttle();
    let mut log = Log::default();
    let step = i64::MAX / 500;
    let times = [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, -1, 0, 1];
    let times = times
        .into_iter()
        .chain((-500..=500).map(|place: i64| place.saturating_mul(step)));
    let times: Vec<i64> = times.collect();
    let records = times
        .iter()
        .map(|ts| log.record("h", 0, |event| event.ts = *ts));
    let mut records: Vec<InputRecord> = records.collect();
    records.push(log.late_row("h"));
    let output = engine.step(records).unwrap();
    // Each is an event like others, with the time it came with.
    assert_eq!(of(&output, "each").len(), times.len());
    assert!(of(&output, "each")[0].clock_replaced);
    let first = &of(&output, "each")[0].row;
    assert!(first.contains("1677-09-21T00:12:43.145224192Z"), "{first}");
    let counted: i64 = of(&output, "count")
        .iter()
        .map(|alert| {
            serde_json::from_str::<serde_json::Value>(&alert.row).unwrap()["n"]
                .as_i64()
                .unwrap()
        })
        .sum();
    assert_eq!(
        counted,
        6 * times.len() as i64,
        "each counts in its six windows"
    );
    let health = of(&output, "clock_replaced");
    assert_eq!(health.len(), 2, "{health:?}");
    assert!(health[1].folded > 900, "{}", health[1].folded);
    assert!(output.counts.clock_replaced > 900);
    assert!(state(&mut engine).len() < 10);
}

#[test]
fn times_without_a_broker_do_no_harm_either() {
    let count = "SELECT window_start, window_end, container_id, count(*) AS n FROM tumble(events, INTERVAL '24 hours') GROUP BY window_start, window_end, container_id";
    let mut engine = engine(&[("count", count)]);
    let mut log = Log::default();
    let times = [
        i64::MIN,
        i64::MAX,
        -1,
        i64::MIN + 1,
        i64::MAX - 1,
        0,
        BEGIN_NS,
    ];
    let records = times.iter().map(|ts| InputRecord {
        ingest_ts_ns: None,
        ..log.record("h", 0, |event| event.ts = *ts)
    });
    let records: Vec<InputRecord> = records.collect();
    engine.step(records).unwrap();
    engine.finish(0).unwrap();
}

#[test]
fn an_exec_of_many_arguments_is_one_event() {
    let shell = "SELECT container_id, seq AS n FROM events WHERE program(proc_exepath, proc_exe, proc_args) = 'sh'";
    let mut engine = engine(&[("shell", shell)]);
    let mut log = Log::default();
    let many = |name: &str| {
        let mut args = vec![name.into(); 60_000];
        args.push("sh".into());
        Some(args)
    };
    let records = ["busybox", "ld.so"].map(|name| {
        log.record("h", 0, |event| {
            event.proc_exepath = Some(format!("/bin/{name}").into());
            event.proc_exe = Some(name.into());
            event.proc_args = many(name);
        })
    });
    // As much stack as a thread of the engine's has.
    let run = move || engine.step(records.to_vec()).unwrap().alerts.len();
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    assert_eq!(thread.spawn(run).unwrap().join().unwrap(), 2);
}

#[test]
fn what_never_ends_or_makes_a_table_of_nothing_is_refused() {
    let refused = |sql: &str, what: &str| {
        let reason = refusal(sql, &[("names", "name\nsh\n")]);
        assert!(reason.contains(what), "{sql}: {reason}");
    };
    refused(
        "SELECT container_id FROM events WHERE evt_type IN (WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT CAST(n AS VARCHAR) FROM r)",
        "a recursive query",
    );
    refused(
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT container_id FROM events JOIN r ON fd_num = n",
        "a recursive query",
    );
    refused(
        "SELECT container_id FROM events WHERE fd_num IN (SELECT unnest(range(1, 3000000)))",
        "is no plain read of a list",
    );
    refused(
        "SELECT e.container_id FROM events e CROSS JOIN (SELECT unnest(range(1, 2000)) AS a) x CROSS JOIN (SELECT unnest(range(1, 2000)) AS b) y WHERE e.fd_num = x.a + y.b",
        "is no plain read of a list",
    );
    refused(
        "SELECT container_id FROM events WHERE evt_type = (SELECT 'x')",
        "a SELECT without FROM",
    );
    refused(
        "SELECT window_start, window_end, container_id, count(*) AS n FROM tumble(events, INTERVAL '1 minute') WHERE fd_num IN (SELECT unnest(range(1, 30))) GROUP BY window_start, window_end, container_id",
        "is no plain read of a list",
    );
    let mut list = "name\n".to_owned();
    (0..2_000).for_each(|row| writeln!(list, "n{row}").unwrap());
    let product = "SELECT e.container_id FROM events e CROSS JOIN names a CROSS JOIN names b WHERE e.proc_name = concat(a.name, b.name)";
    let reason = refusal(product, &[("names", &list)]);
    assert!(reason.contains("rows of lists"), "{reason}");
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    for depth in [1_000, 6_000] {
        let deep = vec!["fd_num = 1"; depth].join(" OR ");
        let reason = refusal(
            &format!("SELECT container_id FROM events WHERE {deep}"),
            &[],
        );
        assert!(
            reason.contains("deep") || reason.contains("bytes"),
            "{reason}"
        );
    }
    let nested = format!("{}fd_num{}", "(".repeat(3_000), ")".repeat(3_000));
    refusal(
        &format!("SELECT container_id FROM events WHERE {nested} = 1"),
        &[],
    );
    let not = format!("{} evt_failed", "NOT ".repeat(3_000));
    refusal(&format!("SELECT container_id FROM events WHERE {not}"), &[]);
}

#[test]
fn text_that_would_grow_without_bound_costs_its_row() {
    let grown = [
        "length(repeat(proc_name, 200000000))",
        "length(lpad(proc_name, 2000000000))",
        "length(rpad(proc_name, 2000000000, 'ab'))",
        "length(replace(concat(proc_name, proc_name), 'p', repeat('x', 1000000)))",
        "length(regexp_replace(proc_name, '(.)', repeat('\\1', 400000), 'g'))",
        "array_length(array_repeat(proc_name, 2000000000))",
        "array_length(range(1, fd_num * 1000000000))",
        "length(repeat(proc_name, 800000) || repeat(proc_name, 800000))",
        "length(concat(repeat(proc_name, 800000), repeat(proc_name, 800000)))",
    ];
    for (place, expr) in grown.iter().enumerate() {
        let name = format!("grown{place}");
        let event =
            format!("SELECT container_id, {expr} AS n FROM events WHERE evt_type = 'execve'");
        let window = format!(
            "SELECT window_start, window_end, container_id, max({expr}) AS n FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id"
        );
        let above = format!(
            "SELECT window_start, window_end, container_id, proc_name, fd_num, {expr} AS n FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id, proc_name, fd_num"
        );
        let mut engine = engine(&[
            (&name, &event),
            ("window", &window),
            ("above", &above),
            NEIGHBOUR,
        ]);
        let mut log = Log::default();
        let fill = |event: &mut Event| {
            event.proc_name = Some("p".into());
            event.fd_num = Some(3);
        };
        let mut records: Vec<InputRecord> = (0..3).map(|_| log.record("h", 0, fill)).collect();
        records.push(log.late_row("h"));
        let output = engine.step(records).unwrap();
        assert_eq!(of(&output, &name).len(), 0, "{expr}");
        let failed = |id: &str| {
            output
                .failures
                .iter()
                .filter(|failure| failure.detection_id == id)
                .count()
        };
        assert_eq!(failed(&name), 3, "{expr}: {:?}", output.failures);
        assert_eq!(failed("window"), 3, "{expr}: {:?}", output.failures);
        let above = of(&output, "above");
        assert!(
            above.iter().all(|alert| alert.error.is_some()),
            "{expr}: {above:?}"
        );
        assert_eq!(above.len(), 1, "{expr}");
        assert!(!of(&output, "neighbour").is_empty(), "{expr}");
    }
}

/// Keys with names of a kilobyte, more than the operators have memory for.
fn crowd(log: &mut Log, host: &str, keys: i64, at_ns: i64) -> Vec<InputRecord> {
    (0..keys)
        .map(|key| {
            log.record(host, at_ns, |event| {
                event.proc_name = Some(format!("{key:01000}").into());
            })
        })
        .collect()
}

#[test]
fn a_host_that_makes_operators_run_out_of_memory_is_off_and_its_neighbours_go_on() {
    let names = "SELECT window_start, window_end, container_id, proc_name, count(*) AS n FROM tumble(events, INTERVAL '1 minute')
        GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) < 9 AND count(*) > 1";
    let folder = folder(&[("names", names), NEIGHBOUR], &[]);
    let options = WindowOptions {
        memory_bytes_max: 16 << 20,
        // Room for what the operators have none for.
        state_bytes_max: 256 << 20,
        ..WindowOptions::default()
    };
    let mut engine = engine_with(folder.path(), options);
    let mut log = Log::default();
    for round in 0..4 {
        let mut records = crowd(&mut log, "loud", 24_000, round);
        for _ in 0..2 {
            let name = |event: &mut Event| event.proc_name = Some("q".into());
            records.push(log.record("quiet", round, name));
        }
        let output = engine.step(records).unwrap();
        assert!(output.to_be_stored.is_empty());
    }
    // Both windows are over at once: what cannot be finished together is finished host by host.
    let end = 120 * SECOND_NS;
    let ends = ["loud", "quiet"].map(|host| log.record(host, end, |_| {}));
    let output = engine.step(ends.to_vec()).unwrap();
    let said = of(&output, "names");
    let said: Vec<&str> = said.iter().map(|alert| &*alert.host_id).collect();
    assert_eq!(said, ["quiet"]);
    let off = of(&output, "detection_switched_off");
    assert_eq!(off.len(), 1, "{off:?}");
    assert_eq!(&*off[0].host_id, "loud");
    let row = &off[0].row;
    assert!(row.contains("\"detections\":[\"names\"]"), "{row}");
    // The pause goes out with the step that made it.
    assert!(output.to_be_stored.contains(&(Topic::Events, 0)));
    // What is stored does the same elsewhere.
    let kept = state(&mut engine);
    assert!(bytes(&kept) < 1 << 20, "{} bytes", bytes(&kept));
    let mut again = engine_with(folder.path(), options);
    again.restore(0, kept, &of_events(log.offset)).unwrap();
    for engine in [&mut engine, &mut again] {
        let mut log = Log {
            offset: log.offset,
            seqs: log.seqs.clone(),
        };
        let mut records = crowd(&mut log, "loud", 3, end + SECOND_NS);
        records.extend(crowd(&mut log, "loud", 3, end + SECOND_NS));
        let name = |event: &mut Event| event.proc_name = Some("q".into());
        for _ in 0..2 {
            records.push(log.record("quiet", end + SECOND_NS, name));
        }
        for host in ["loud", "quiet"] {
            records.push(log.record(host, end + 120 * SECOND_NS, |_| {}));
        }
        let output = engine.step(records).unwrap();
        let said = of(&output, "names");
        let said: Vec<&str> = said.iter().map(|alert| &*alert.host_id).collect();
        assert_eq!(said, ["quiet"], "{:?}", output.alerts);
        // The neighbour counts the loud host's rows as ever.
        assert!(
            of(&output, "neighbour")
                .iter()
                .any(|alert| &*alert.host_id == "loud")
        );
        // Ten minutes later it is tried again.
        let at = 7_300 * SECOND_NS;
        let mut records = crowd(&mut log, "loud", 2, at);
        records.extend(crowd(&mut log, "loud", 2, at));
        records.push(log.record("loud", at + 300 * SECOND_NS, |_| {}));
        let output = engine.step(records).unwrap();
        assert_eq!(of(&output, "names").len(), 2, "{:?}", output.alerts);
    }
}

#[test]
fn a_list_of_many_addresses_does_not_stand_in_what_is_stored() {
    let mut list = "ip\n".to_owned();
    (0..20_000).for_each(|row| writeln!(list, "10.0.{}.{}", row / 256, row % 256).unwrap());
    let bad = "SELECT window_start, window_end, container_id, fd_sip, count(*) AS n FROM tumble(events, INTERVAL '1 minute')
        WHERE fd_sip IN (SELECT ip FROM ips) GROUP BY window_start, window_end, container_id, fd_sip HAVING count(*) < 100";
    let folder = folder(&[("bad", bad)], &[("ips", &list)]);
    let mut engine = engine_with(folder.path(), WindowOptions::default());
    let mut log = Log::default();
    let records = (0..300).map(|key| {
        log.record("h", 0, |event| {
            event.fd_sip = Some(format!("10.0.1.{}", key % 256).into())
        })
    });
    let records: Vec<InputRecord> = records.collect();
    engine.step(records).unwrap();
    let state = state(&mut engine);
    assert!(bytes(&state) < 100_000, "{} bytes", bytes(&state));
}

/// The shipped detections, with containers whose command lines are as long as Java's.
#[test]
fn a_checkpoint_is_as_large_as_what_it_holds() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    for containers in [50, 400] {
        let mut engine = engine_with(&shipped, WindowOptions::default());
        let mut log = Log::default();
        let mut records = Vec::new();
        for container in 0..containers {
            for exec in 0..5 {
                records.push(log.record("h", exec, |event| {
                    event.container_id = format!("{container:012x}").into();
                    event.proc_name = Some(format!("p{exec}").into());
                    event.proc_exepath = Some(format!("/usr/bin/p{exec}").into());
                    let line = format!("p{exec} {container} {}", "x".repeat(1_000));
                    event.proc_cmdline = Some(line.into());
                }));
            }
        }
        let input: usize = records.iter().map(|record| record.value.len()).sum();
        engine.step(records).unwrap();
        let state = state(&mut engine);
        let bytes = bytes(&state);
        println!("{containers} containers: {input} bytes of input, {bytes} of state");
        assert!(bytes <= 2 * input, "{bytes} bytes of {input}");
        assert!(
            bytes <= 5_000_000,
            "{bytes} bytes of {containers} containers"
        );
    }
}

/// An event as large as its schema allows: every text of so many bytes, every list and map of so many entries.
fn huge(text_bytes: usize, entries: usize) -> serde_json::Map<String, Value> {
    let text = |name: &str| Value::from(format!("{name}{}", "ü".repeat(text_bytes / 2)));
    let schema: Value = serde_json::from_str(Event::SCHEMA).unwrap();
    let value = |field: &Value| {
        let mut kind = &field["type"];
        if let Some(kinds) = kind.as_array() {
            kind = &kinds[1];
        }
        let name = field["name"].as_str().unwrap();
        match (kind["type"].as_str(), kind.as_str()) {
            (Some("array"), _) if kind["items"] == "string" => {
                (0..entries).map(|_| text(name)).collect()
            }
            (Some("array"), _) => (0..entries).map(|_| Value::from(i64::MIN)).collect(),
            (Some("map"), _) => {
                let value = match kind["values"].as_str() {
                    Some("string") => text(name),
                    _ => i64::MAX.into(),
                };
                let entry = |entry: usize| (format!("{entry:06}"), value.clone());
                Value::Object((0..entries).map(entry).collect())
            }
            (_, Some("string")) => text(name),
            (_, Some("boolean")) => true.into(),
            _ => i64::MAX.into(),
        }
    };
    let fields = schema["fields"].as_array().unwrap().iter();
    let named = |field: &Value| (field["name"].as_str().unwrap().to_owned(), value(field));
    fields.map(named).collect()
}

#[test]
fn events_of_any_size_make_alerts_and_state_of_bounded_size() {
    let detections = [
        ("folded", "-- dedup = { key = [\"what\"], period = \"1h\" }\nSELECT proc_cmdline AS what, proc_args, evt_args, container_labels, container_id, 1 AS n FROM events WHERE evt_type = 'execve'"),
        ("each", "SELECT proc_cmdline, proc_aname, proc_apid, container_id, 1 AS n FROM events WHERE evt_type = 'execve'"),
        ("fails", "SELECT container_id, 1 AS n FROM events WHERE evt_type = 'execve' AND CAST(proc_name AS BIGINT) > 3"),
        ("early", "SELECT window_start, window_end, container_id, proc_exepath, count(*) AS n, sample(proc_cmdline, 20) AS lines, min(fd_name) AS low
          FROM hop(events, INTERVAL '1 minute', INTERVAL '3 minutes') GROUP BY window_start, window_end, container_id, proc_exepath HAVING count(*) >= 2"),
        ("closes", "SELECT window_start, window_end, container_id, max(proc_cmdline) AS n, first_value(proc_cwd ORDER BY ts, seq) AS first, count(DISTINCT fd_name) AS names
          FROM tumble(events, INTERVAL '1 minute') GROUP BY window_start, window_end, container_id"),
    ];
    for (text_bytes, entries) in [(0, 0), (1_000, 8), (31_000, 3), (300_000, 1), (8, 10_000)] {
        let mut engine = engine(&detections);
        let mut log = Log::default();
        let mut seen = BTreeMap::new();
        for round in 0..4 {
            let records = (0..3).map(|row| {
                log.record("h", round * 20 * SECOND_NS + row, |event| {
                    let own = serde_json::to_value(&*event).unwrap();
                    let mut fields = huge(text_bytes, entries);
                    for name in ["host_id", "sensor_run", "seq", "ts", "evt_type"] {
                        fields.insert(name.to_owned(), own[name].clone());
                    }
                    *event = serde_json::from_value(Value::Object(fields)).unwrap();
                })
            });
            let records: Vec<InputRecord> = records.collect();
            let mut output = engine.step(records).unwrap();
            if round == 2 {
                let state = state(&mut engine);
                let next = log.offset;
                engine = self::engine(&detections);
                engine.restore(0, state, &of_events(next)).unwrap();
            }
            if round == 3 {
                let mut end = engine.step(vec![log.late_row("h")]).unwrap();
                output.alerts.append(&mut end.alerts);
            }
            assert_eq!(output.dead_letters, []);
            for alert in output.alerts {
                let mut value = Vec::new();
                alert.encode_framed(&mut value);
                let size = value.len() + alert.dedup_key.len();
                assert!(size <= 64 << 10, "{} of {size} bytes", alert.detection_id);
                *seen.entry(alert.detection_id.to_string()).or_insert(0) += 1;
            }
        }
        let told: Vec<&str> = seen.keys().map(String::as_str).collect();
        let all = [
            "closes",
            "detection_cannot_judge",
            "each",
            "early",
            "folded",
        ];
        assert_eq!(told, all, "{text_bytes} {entries}");
    }
}

/// A log in which more hosts are invented than a task remembers, beside twelve that live; in some, those that are pushed out
/// had something to tell.
fn crowded(log: &mut Log, invented: usize, edit: impl Fn(usize, &mut Event)) -> Vec<InputRecord> {
    let mut records = Vec::new();
    let lives = |log: &mut Log, second: i64| {
        let hosts =
            (0..12).map(|host| log.record(&format!("lives-{host}"), second * SECOND_NS, |_| {}));
        hosts.collect::<Vec<_>>()
    };
    for second in [0, 30, 70] {
        records.extend(lives(log, second));
    }
    for number in 0..invented {
        let name = format!("invented-{number}");
        records.push(log.record(&name, 71 * SECOND_NS, |event| {
            event.evt_type = "openat".into();
            edit(number, event);
        }));
    }
    for second in [72, 80, 130] {
        records.extend(lives(log, second));
    }
    // One of those that were pushed out comes back.
    records.push(log.record("invented-1", 131 * SECOND_NS, |_| {}));
    let last = (0..12).map(|host| log.late_row(&format!("lives-{host}")));
    let last: Vec<_> = last.collect();
    records.extend(last);
    records.push(log.late_row("invented-1"));
    records
}

/// Fires at a close, so that a window that is closed twice would be told twice.
const QUIET: (&str, &str) = (
    "quiet",
    "SELECT window_start, window_end, container_id, count(*) AS n FROM tumble(events, INTERVAL '1 hour')
     WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id HAVING count(*) < 1000",
);

#[test]
fn invented_hosts_close_no_window_of_those_that_live() {
    let mut log = Log::default();
    let told = |number: usize, event: &mut Event| {
        if number < 3 {
            event.evt_type = "execve".into();
        }
    };
    let records = crowded(&mut log, 20_000, told);
    let folder = folder(&[QUIET, NEIGHBOUR], &[]);
    let expected = Oracle::load(folder.path()).unwrap();
    let expected = expected.run(&records, Input::Live).unwrap();
    // However the log is cut, and with a restart in the middle of the flood.
    for cut in [4_096, 1_000_000] {
        let mut engine = engine_with(folder.path(), WindowOptions::default());
        let (mut alerts, mut forgotten) = (Vec::new(), 0);
        for (step, part) in records.chunks(cut).enumerate() {
            let output = engine.step(part.to_vec()).unwrap();
            alerts.extend(output.alerts);
            forgotten += output.counts.hosts_forgotten;
            if step == 2 {
                let state = state(&mut engine);
                let next = ((step + 1) * cut) as i64;
                engine = engine_with(folder.path(), WindowOptions::default());
                engine.restore(0, state, &of_events(next)).unwrap();
            }
        }
        let own = alerts.iter();
        let own: Vec<&Alert> = own
            .filter(|alert| &*alert.detection_id != "hosts_forgotten")
            .collect();
        assert_eq!(
            compare(&expected.alerts, own.iter().copied()),
            Vec::<String>::new()
        );
        let quiet: Vec<_> = own
            .iter()
            .filter(|alert| &*alert.detection_id == "quiet")
            .collect();
        let living = quiet
            .iter()
            .filter(|alert| alert.host_id.starts_with("lives-"));
        for alert in living.clone() {
            let row: Value = serde_json::from_str(&alert.row).unwrap();
            assert_eq!((&row["n"], alert.incomplete), (&6.into(), false), "{row}");
        }
        assert_eq!(living.count(), 12);
        // Both halves of the window of the host that came back, each under its own id, and each says what it misses.
        let halves: Vec<_> = quiet
            .iter()
            .filter(|alert| &*alert.host_id == "invented-1")
            .collect();
        assert_eq!(halves.len(), 2);
        assert_ne!(halves[0].alert_id, halves[1].alert_id);
        let missed = |alert: &Alert| {
            let losses = alert.losses.as_ref();
            losses.is_some_and(|losses| losses.contains_key("host_forgotten"))
        };
        for half in halves {
            assert!(half.incomplete && missed(half), "{half:?}");
        }
        let notices = alerts
            .iter()
            .filter(|alert| &*alert.detection_id == "hosts_forgotten");
        assert_eq!(notices.count(), 1);
        assert!(forgotten >= 20_000 - 16_384, "{forgotten}");
    }
}

#[test]
fn invented_hosts_with_the_largest_texts_make_state_of_bounded_size() {
    let mut log = Log::default();
    let long = |number: usize, letter: &str| format!("{number:06}{}", letter.repeat(250));
    let mut records = Vec::new();
    for number in 0..20_000 {
        let mut record = log.record(&long(number, "\u{1}"), 0, |event| {
            event.host_name = long(number, "n").into();
            event.sensor_run = long(number, "r").into();
            event.evt_type = "mark".into();
            let class = |class: usize| (long(class, "c").into(), i64::MAX);
            event.evt_losses = Some((0..16).map(class).collect());
        });
        record.ingest_ts_ns = Some(BEGIN_NS);
        records.push(record);
    }
    let mut engine = engine(&[NEIGHBOUR]);
    for part in records.chunks(5_000) {
        assert_eq!(engine.step(part.to_vec()).unwrap().dead_letters, []);
    }
    let state = state(&mut engine);
    let hosts = state
        .iter()
        .filter(|(key, _)| key.starts_with("hosts.events/"));
    let bytes: usize = hosts.map(|(_, value)| value.len()).sum();
    // Control characters are written as six each.
    assert!(bytes < 16_384 * (6 << 10), "{bytes}");
    let mut again = self::engine(&[NEIGHBOUR]);
    again.restore(0, state, &of_events(log.offset)).unwrap();
}
