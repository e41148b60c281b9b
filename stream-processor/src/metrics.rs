//! What Prometheus reads: one function for each thing counted, called per batch or step, never per event.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::checkpoint::{Checkpoint, Epoch};
use crate::engine::{Failure, StateSize, StepCounts};
use crate::step::{Partition, Step};

/// Upper bounds of the histograms of seconds: a commit takes 5 ms, a full step some hundred.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Name of the metric that says since when each detection runs.
pub const LOADED_SINCE: &str = "dogwatch_detect_loaded_since_seconds";

/// Serves `/metrics` and `/health` on `listen`, in a thread of the exporter's own.
/// An address that is taken costs the metrics, not the detections: it is logged.
pub fn serve(listen: SocketAddr) {
    let builder = PrometheusBuilder::new().with_http_listener(listen);
    let installed = builder
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install);
    match installed {
        Ok(()) => describe(),
        Err(error) => {
            tracing::error!(%listen, %error, "could not serve metrics, going on without; set metrics.listen to a free address or to \"\"")
        }
    }
}

fn describe() {
    describe_counter!(
        "dogwatch_source_records_total",
        "Records read from the input."
    );
    describe_counter!("dogwatch_source_bytes_total", "Bytes of their values.");
    describe_counter!(
        "dogwatch_source_gaps_total",
        "Times that input expired before it was read."
    );
    describe_counter!(
        "dogwatch_source_gap_records_total",
        "Offsets that expired before they were read."
    );
    describe_gauge!(
        "dogwatch_source_lag_records",
        "Offsets between the committed one and the end of the partition."
    );
    describe_gauge!(
        "dogwatch_source_partitions",
        "Partitions assigned to this processor."
    );
    describe_gauge!(
        "dogwatch_fleet_delay_seconds",
        "How far the slowest partition holds windows over the whole fleet back."
    );
    describe_gauge!(
        "dogwatch_fleet_source_delay_seconds",
        "Since when nothing of a partition has come to windows over the whole fleet, by topic and partition."
    );
    describe_gauge!(
        "dogwatch_fleet_window_panes",
        "Open panes of windows over the whole fleet."
    );
    describe_gauge!("dogwatch_fleet_window_keys", "Keys in them.");
    describe_gauge!("dogwatch_fleet_state_bytes", "Bytes of their states.");
    describe_counter!("dogwatch_detect_steps_total", "Steps matched.");
    describe_counter!("dogwatch_detect_records_total", "Records matched.");
    describe_counter!(
        "dogwatch_detect_events_total",
        "Events shown to detections."
    );
    describe_counter!(
        "dogwatch_detect_repeated_total",
        "Records that sensors had sent before."
    );
    describe_counter!(
        "dogwatch_detect_missing_total",
        "Records that sensors counted and nobody sent."
    );
    describe_counter!(
        "dogwatch_detect_failures_total",
        "Events and windows that a detection could not judge."
    );
    describe_histogram!(
        "dogwatch_detect_step_seconds",
        "Time to decode and match one step."
    );
    describe_counter!(
        "dogwatch_detect_late_rows_total",
        "Rows that came after a window of theirs had closed."
    );
    describe_counter!(
        "dogwatch_detect_clock_replaced_total",
        "Events whose time was too far from the broker's to be believed."
    );
    describe_counter!(
        "dogwatch_detect_hosts_forgotten_total",
        "Hosts that were forgotten while they lived, since more send events than a task remembers."
    );
    describe_gauge!(
        "dogwatch_detect_watermark_delay_seconds",
        "How far the watermarks are behind the rows' arrival, at most, in the last step."
    );
    describe_gauge!("dogwatch_window_panes", "Open panes of all tasks.");
    describe_gauge!("dogwatch_window_keys", "Keys in open panes.");
    describe_gauge!("dogwatch_window_state_bytes", "Bytes of the tasks' state.");
    describe_gauge!(
        "dogwatch_window_state_budget_bytes",
        "Memory that there is for the tasks' state: windows.budget_bytes, or 60 % of the limit."
    );
    describe_gauge!(
        "dogwatch_tasks_waiting",
        "Tasks that are assigned and not begun, since there is no memory for them."
    );
    describe_gauge!(
        "dogwatch_window_state_bound_bytes",
        "What the tasks' state may grow to, by the caps."
    );
    describe_counter!(
        "dogwatch_window_marks_total",
        "Marks written to silent partitions."
    );
    describe_counter!(
        "dogwatch_checkpoint_taken_total",
        "Checkpoints taken, by kind."
    );
    describe_counter!(
        "dogwatch_checkpoint_records_total",
        "Records of checkpoints."
    );
    describe_counter!(
        "dogwatch_checkpoint_bytes_total",
        "Bytes of checkpoints, before compression."
    );
    describe_histogram!(
        "dogwatch_checkpoint_seconds",
        "Time to hand out one task's checkpoint, before it is published."
    );
    describe_counter!(
        "dogwatch_restore_tasks_total",
        "Tasks taken over with their state."
    );
    describe_counter!(
        "dogwatch_restore_records_total",
        "Records of state read back."
    );
    describe_histogram!(
        "dogwatch_restore_seconds",
        "Time to read the state of the tasks assigned together and take it over."
    );
    describe_counter!(
        "dogwatch_restore_held_total",
        "Tasks that went on over a rebalance with what was still known of them: nothing was read."
    );
    describe_counter!(
        "dogwatch_restore_cold_starts_total",
        "Tasks that began without their state, which was committed and could not be used."
    );
    describe_counter!(
        "dogwatch_publish_start_overs_total",
        "Times that producer and consumer were made anew after the broker had given them up."
    );
    describe_gauge!("dogwatch_detect_detections", "Detections loaded.");
    describe_gauge!("dogwatch_detect_refused", "Detection files refused.");
    describe_gauge!(
        LOADED_SINCE,
        "Since when a detection runs as it is, seconds since 1970, by its name and its file's hash; 0 when it does not run any more."
    );
    describe_gauge!(
        "dogwatch_detect_set_number",
        "Number of the published set of detections that runs; 0 where they come from a folder."
    );
    describe_counter!(
        "dogwatch_detect_swaps_total",
        "Times that other detections took the place of those that ran."
    );
    describe_histogram!(
        "dogwatch_detect_swap_seconds",
        "Time that matching stood still for other detections."
    );
    describe_gauge!(
        "dogwatch_detect_unpublished_reads_hosts",
        "Hosts whose sensors do not publish every read of files that a detection needs, by detection, at the last look."
    );
    describe_gauge!(
        "dogwatch_detect_unseen_calls_hosts",
        "Hosts whose sensors switch off system calls that a detection asks for, by detection, at the last look."
    );
    describe_counter!("dogwatch_publish_alerts_total", "Alerts committed.");
    describe_counter!(
        "dogwatch_publish_dead_letters_total",
        "Dead letters committed, by class of error."
    );
    describe_counter!("dogwatch_publish_commits_total", "Steps committed.");
    describe_counter!(
        "dogwatch_publish_retries_total",
        "Attempts that were made again with the same step."
    );
    describe_counter!(
        "dogwatch_publish_superseded_total",
        "Steps dropped because their partitions went to another processor."
    );
    describe_histogram!(
        "dogwatch_publish_commit_seconds",
        "Time to publish one step, commit included."
    );
}

/// Counts what a source handed on.
pub fn read(records: usize, bytes: usize) {
    counter!("dogwatch_source_records_total").increment(records as u64);
    counter!("dogwatch_source_bytes_total").increment(bytes as u64);
}

/// Counts a stated gap of so many offsets.
pub fn gap(expired: u64) {
    counter!("dogwatch_source_gaps_total").increment(1);
    counter!("dogwatch_source_gap_records_total").increment(expired);
}

/// Sets a partition's lag.
pub fn lag(topic: &str, partition: i32, records: i64) {
    let labels = [
        ("topic", topic.to_owned()),
        ("partition", partition.to_string()),
    ];
    gauge!("dogwatch_source_lag_records", &labels).set(records as f64);
}

/// Sets how many partitions this processor has.
pub fn partitions(count: usize) {
    gauge!("dogwatch_source_partitions").set(count as f64);
}

/// Sets what was loaded.
pub fn loaded(detections: usize, refused: usize) {
    gauge!("dogwatch_detect_detections").set(detections as f64);
    gauge!("dogwatch_detect_refused").set(refused as f64);
}

/// Sets since when each detection runs, by name and hash; those that run no more since nothing.
pub fn running<'a>(
    now: impl Iterator<Item = (&'a str, &'a str, i64)>,
    before: impl Iterator<Item = (&'a str, &'a str, i64)>,
) {
    let set = |name: &str, content: &str, since: f64| {
        let labels = [
            ("detection", name.to_owned()),
            ("content", content.to_owned()),
        ];
        gauge!(LOADED_SINCE, &labels).set(since);
    };
    before.for_each(|(name, content, _)| set(name, content, 0.0));
    now.for_each(|(name, content, since)| set(name, content, since as f64 / 1e9));
}

/// Sets the number of the published set that runs; 0 where detections come from a folder.
pub fn running_set(epoch: Option<Epoch>) {
    let number = epoch.map_or(0, |epoch| epoch.number);
    gauge!("dogwatch_detect_set_number").set(number as f64);
}

/// Counts that other detections run.
pub fn swapped(took: Duration) {
    counter!("dogwatch_detect_swaps_total").increment(1);
    histogram!("dogwatch_detect_swap_seconds").record(took);
}

/// Sets how many hosts do not publish the reads that each detection needs.
pub fn unpublished_reads(hosts: &BTreeMap<String, usize>) {
    set_hosts("dogwatch_detect_unpublished_reads_hosts", hosts);
}

/// Sets how many hosts switch off calls that each detection asks for.
pub fn unseen_calls(hosts: &BTreeMap<String, usize>) {
    set_hosts("dogwatch_detect_unseen_calls_hosts", hosts);
}

fn set_hosts(name: &'static str, hosts: &BTreeMap<String, usize>) {
    for (detection, count) in hosts {
        gauge!(name, "detection" => detection.clone()).set(*count as f64);
    }
}

/// Counts a matched step.
pub fn matched(records: usize, took: Duration) {
    counter!("dogwatch_detect_steps_total").increment(1);
    counter!("dogwatch_detect_records_total").increment(records as u64);
    histogram!("dogwatch_detect_step_seconds").record(took);
}

/// Counts what the engine found out about its input.
pub fn counted(counts: &StepCounts) {
    counter!("dogwatch_detect_events_total").increment(counts.events);
    counter!("dogwatch_detect_repeated_total").increment(counts.repeated);
    counter!("dogwatch_detect_missing_total").increment(counts.missing);
    counter!("dogwatch_detect_late_rows_total").increment(counts.late);
    counter!("dogwatch_detect_clock_replaced_total").increment(counts.clock_replaced);
    counter!("dogwatch_detect_hosts_forgotten_total").increment(counts.hosts_forgotten);
}

/// Sets how far the watermarks are behind the rows' arrival.
pub fn watermark_delay(seconds: f64) {
    gauge!("dogwatch_detect_watermark_delay_seconds").set(seconds);
}

/// Sets how large the tasks' state is.
pub fn state_size(size: &StateSize) {
    gauge!("dogwatch_window_panes").set(size.panes as f64);
    gauge!("dogwatch_window_keys").set(size.keys as f64);
    gauge!("dogwatch_window_state_bytes").set(size.bytes as f64);
    gauge!("dogwatch_window_state_bound_bytes").set(size.bound_bytes as f64);
}

/// Sets how many bytes the tasks' state may take.
pub fn budget(bytes: u64) {
    gauge!("dogwatch_window_state_budget_bytes").set(bytes as f64);
}

/// Sets how large the state of windows over the whole fleet is, and how far the slowest source is behind, where all are known.
pub fn fleet(size: &StateSize, delay: Option<Duration>) {
    gauge!("dogwatch_fleet_window_panes").set(size.panes as f64);
    gauge!("dogwatch_fleet_window_keys").set(size.keys as f64);
    gauge!("dogwatch_fleet_state_bytes").set(size.bytes as f64);
    if let Some(delay) = delay {
        gauge!("dogwatch_fleet_delay_seconds").set(delay.as_secs_f64());
    }
}

/// Sets since when nothing of a log has come to windows over the whole fleet.
pub fn fleet_source((topic, partition): Partition, delay: Duration) {
    let labels = [
        ("topic", topic.suffix().to_owned()),
        ("partition", partition.to_string()),
    ];
    gauge!("dogwatch_fleet_source_delay_seconds", &labels).set(delay.as_secs_f64());
}

/// Counts a mark written to a silent partition.
pub fn marked() {
    counter!("dogwatch_window_marks_total").increment(1);
}

/// Counts a checkpoint.
pub fn checkpoint(taken: &Checkpoint, took: Duration) {
    counter!("dogwatch_checkpoint_taken_total").increment(1);
    counter!("dogwatch_checkpoint_records_total").increment(taken.manifest.records);
    counter!("dogwatch_checkpoint_bytes_total").increment(taken.manifest.bytes);
    histogram!("dogwatch_checkpoint_seconds").record(took);
}

/// Counts tasks taken over with their state.
pub fn restored(tasks: usize, records: u64, took: Duration) {
    counter!("dogwatch_restore_tasks_total").increment(tasks as u64);
    counter!("dogwatch_restore_records_total").increment(records);
    histogram!("dogwatch_restore_seconds").record(took);
}

/// Counts tasks that went on over a rebalance with what was still known of them.
pub fn held(tasks: usize) {
    counter!("dogwatch_restore_held_total").increment(tasks as u64);
}

/// Sets how many tasks wait for memory.
pub fn waiting(tasks: usize) {
    gauge!("dogwatch_tasks_waiting").set(tasks as f64);
}

/// Counts a task that began without its state.
pub fn cold_start() {
    counter!("dogwatch_restore_cold_starts_total").increment(1);
}

/// Counts that producer and consumer were made anew.
pub fn started_over() {
    counter!("dogwatch_publish_start_overs_total").increment(1);
}

/// Counts events that a detection could not judge.
pub fn failed(failures: &[Failure]) {
    for failure in failures {
        counter!("dogwatch_detect_failures_total", "detection" => failure.detection_id.clone())
            .increment(1);
    }
}

/// Counts a committed step.
pub fn committed(step: &Step, took: Duration) {
    counter!("dogwatch_publish_commits_total").increment(1);
    counter!("dogwatch_publish_alerts_total").increment(step.alerts.len() as u64);
    for (class, count) in step.dead_letters_by_class() {
        counter!("dogwatch_publish_dead_letters_total", "class" => class).increment(count);
    }
    histogram!("dogwatch_publish_commit_seconds").record(took);
}

/// Counts an attempt made again.
pub fn retried() {
    counter!("dogwatch_publish_retries_total").increment(1);
}

/// Counts a step whose input another processor reads again.
pub fn superseded() {
    counter!("dogwatch_publish_superseded_total").increment(1);
}
