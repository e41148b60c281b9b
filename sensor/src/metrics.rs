//! Metrics: one line each, renewed once a second, served to Prometheus where the configuration says.

use std::net::SocketAddr;

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder};

use crate::container::SocketAnswer;
use crate::fact::Counters;
use crate::pipeline::Summary;
use crate::publish::Connection;
use crate::status::usage;

/// Serves metrics at `listen`.
///
/// # Errors
/// Fails when the address is taken, or metrics are served already.
pub fn serve(listen: SocketAddr) -> Result<(), BuildError> {
    PrometheusBuilder::new()
        .with_http_listener(listen)
        .install()
}

/// Counts an answer of a runtime's socket.
pub(crate) fn socket_answer(answer: &SocketAnswer) {
    let outcome = match answer {
        SocketAnswer::Known(_) => "known",
        SocketAnswer::Unknown => "unknown",
        SocketAnswer::Failed(_) => "failed",
    };
    counter!("dogwatch_gather_socket_answers_total", "outcome" => outcome).increment(1);
}

/// Renews all metrics.
pub(crate) fn record(summary: &Summary, kernel: &Counters, kafka: Option<Connection>) {
    if let Some(Connection {
        connected,
        queued_bytes,
    }) = kafka
    {
        gauge!("dogwatch_kafka_connected").set(if connected { 1.0 } else { 0.0 });
        gauge!("dogwatch_kafka_queued_bytes").set(queued_bytes as f64);
    }
    counter!("dogwatch_publish_events_total").absolute(summary.events);
    counter!("dogwatch_publish_framed_bytes_total").absolute(summary.bytes);
    gauge!("dogwatch_track_processes").set(summary.processes as f64);
    gauge!("dogwatch_track_containers").set(summary.containers as f64);
    counter!("dogwatch_track_blocks_evicted_total").absolute(summary.blocks_evicted);
    counter!("dogwatch_kernel_modes_refused_total").absolute(kernel.modes_refused);
    for (class, count) in &summary.losses {
        counter!("dogwatch_lost_events_total", "class" => class.clone()).absolute(*count);
    }
    counter!("dogwatch_publish_samples_total").absolute(summary.samples);
    counter!("dogwatch_sample_counters_back_total").absolute(summary.counters_went_back);
    for (class, count) in &summary.sample_losses {
        counter!("dogwatch_lost_samples_total", "class" => class.clone()).absolute(*count);
    }
    for (name, counts) in [
        ("dogwatch_kernel_sent_records_total", &kernel.sent),
        ("dogwatch_kernel_dropped_records_total", &kernel.dropped),
        ("dogwatch_kernel_crowded_records_total", &kernel.crowded),
        ("dogwatch_kernel_limited_records_total", &kernel.limited),
        (
            "dogwatch_kernel_interrupted_records_total",
            &kernel.interrupted,
        ),
        ("dogwatch_kernel_filtered_records_total", &kernel.filtered),
    ] {
        for (kind, count) in counts {
            counter!(name, "kind" => kind.to_string()).absolute(*count);
        }
    }
    let usage = usage();
    gauge!("dogwatch_process_cpu_seconds").set(usage.cpu_ns as f64 / 1e9);
    if let Some(memory_bytes) = usage.memory_bytes {
        gauge!("dogwatch_process_resident_memory_bytes").set(memory_bytes as f64);
    }
}
