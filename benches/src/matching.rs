//! One step of the engine (decode, match, build alerts) at 1, 10 and 100 detections, beside DataFusion asked
//! the same questions one SQL statement at a time.

use crate::measure::cpu_time;
use crate::table::Table;
use crate::{detections, events};
use anyhow::{Context, Result};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::{SessionConfig, SessionContext};
use dogwatch_schemas::decode::BatchDecoder;
use dogwatch_schemas::records::Event;
use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::Engine;
use std::hint::black_box;

const DETECTIONS: [usize; 3] = [1, 10, 100];

/// Runs the comparison over steps of `count` events, `runs` times each, and returns the table.
///
/// # Errors
/// When a synthetic detection is refused or a query fails.
pub fn run(count: usize, runs: usize) -> Result<Table> {
    let records = events::records(&events::synthetic(count, 2));
    let batch = whole_batch(&records)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut table = Table::new(&[
        "detections",
        "one step, ns/event",
        "ns/event and detection",
        "DataFusion's ctx.sql for each, ns/event",
        "ratio",
    ]);
    table.note(format!(
        "Steps of {count} events; a step decodes, matches and builds alerts; the peer starts from decoded columns"
    ));
    for number in DETECTIONS {
        let mut engine = engine(number)?;
        let step = cpu_time(runs, || {
            // A step of a new run of the sensors, or the engine would recognise repeats.
            engine.forget_partition(0);
            black_box(engine.step(records.clone()).expect("the step is sound"));
        })
        .median_ns(count);
        let peer = cpu_time(runs.div_ceil(3), || {
            runtime
                .block_on(ask_one_by_one(&batch, number))
                .expect("the queries are sound");
        })
        .median_ns(count);
        table.row([
            number.to_string(),
            format!("{step:.0}"),
            format!("{:.1}", step / number as f64),
            format!("{peer:.0}"),
            format!("{:.1}", peer / step),
        ]);
    }
    Ok(table)
}

fn whole_batch(records: &[InputRecord]) -> Result<RecordBatch> {
    let mut decoder = BatchDecoder::new(Event::SCHEMA, None)?;
    decoder.register(Event::SCHEMA)?;
    for record in records {
        decoder.push(&record.value)?;
    }
    Ok(decoder.finish())
}

fn engine(number: usize) -> Result<Engine> {
    let folder = tempfile::tempdir()?;
    detections::write(folder.path(), number)?;
    let report = DetectionSet::load(folder.path())?;
    anyhow::ensure!(
        report.refused.is_empty(),
        "a synthetic detection was refused: {:?}",
        report.refused
    );
    Engine::new(report.set, AlertMode::Test).context("could not make the engine")
}

async fn ask_one_by_one(batch: &RecordBatch, number: usize) -> Result<()> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_batch("events", batch.clone())?;
    for detection in 0..number {
        let condition = detections::condition(detection);
        let sql = format!(
            "SELECT container_id, container_name, proc_name, proc_cmdline FROM events WHERE {condition}"
        );
        black_box(context.sql(&sql).await?.collect().await?);
    }
    Ok(())
}
