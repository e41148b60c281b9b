//! The oracle: what a log should have said, found by other means than the engine's.
//!
//! ```text
//! records ─► decode ─► scan: time, high, flush, segment beside each row
//!                        └─► each detection: rows once a window ─► its own SQL, one window at a time ─► fold ─► alerts
//! ```
//! It is slow and plain on purpose: no batches, no panes, no partial states, no index, no state that is stored. It shares with
//! the engine the decoding of records, the SQL engine's functions and the form of JSON; windows, lateness, closing, early
//! firing, folding and identities are written a second time. Engine, pipeline and content tests are held against it.
//!
//! Where the text of a rule leaves a choice, this is what is meant:
//! - Only rows that count (not forged, not repeated) move time, the partition's ingest time for silence included.
//! - A query with LIMIT does not fire early: a key that crosses its threshold need not be in the result.
//! - An early alert's row is the result over the window's rows up to the one that crossed.
//! - At the end of a bounded input periods of folding end before the last windows close, and once more after it.
//! - The close of a window that fired early takes no part in folding: it neither begins a period nor is counted.
//!
//! - A row that a detection cannot judge, in WHERE or in what it groups by and computes, does not count for it; it is not late.
//! - A group that HAVING or SELECT cannot judge is told by its keys and aggregates; a LIMIT chooses among the others.
//!
//! Of caps it knows that on hosts and that of functions that make text grow; not those on keys, distinct values, memory and the
//! size of alerts, nor what the engine says of its own health.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use dogwatch_schemas::decode::SchemaError;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::decode::{Decoder, InputRecord, table_schema};
use crate::detect::views::Views;
use crate::detect::{LoadError, hex};
use crate::tables::Table;

mod compare;
mod fleet;
mod fold;
#[cfg(test)]
mod property;
mod query;
mod scan;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use compare::alike;
pub use compare::{Found, compare, compare_late, compare_order};

use fold::{Candidate, FoldKey};
use query::{Answer, Grouped, Query, Shape, grouped_by, texts};
use scan::{Row, Scan, TickKind};

/// Most rows that a query is given at once.
const ROWS_MAX: usize = 16_384;

/// An alert that should be said.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its identity.
    pub alert_id: String,
    /// The detection.
    pub detection_id: String,
    /// `create`: the first word under the id; `update`: a later one.
    pub activity: String,
    /// `open` or `closed` on windows.
    pub window_state: Option<String>,
    /// A step of the host's clock closed the window.
    pub clock_stepped: bool,
    /// How many repeats it counts.
    pub folded: i64,
    /// The host.
    pub host_id: String,
    /// The sentence.
    pub message: String,
    /// What the SELECT yields.
    pub row: Map<String, Value>,
    /// Start of the window, nanoseconds.
    pub window_start: Option<i64>,
    /// End of the window, nanoseconds.
    pub window_end: Option<i64>,
    /// Offset of the event, on single events.
    pub evidence_offset: Option<i64>,
    /// What made it be said.
    pub cause: Cause,
    /// HAVING or SELECT cannot be computed: the row holds keys and aggregates.
    pub failed: bool,
}

/// The row that made an alert be said, and the stage in which it did; alerts of one partition come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The partition: the task.
    pub partition: i32,
    /// The row's offset; the greatest number there is at the end of a bounded input.
    pub offset: i64,
    /// What the row did.
    pub stage: Stage,
}

impl Cause {
    fn of(&self, partition: i32, offset: i64) -> bool {
        (self.partition, self.offset) == (partition, offset)
    }
}

/// What a row does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It ends a period of folding.
    Summary,
    /// It ends a second of its partition, by which a window of the fleet crosses a threshold.
    Second,
    /// It closes a window.
    Close,
    /// It crosses a threshold.
    Early,
    /// It is what the alert is about.
    Event,
}

/// A row that came too late for a window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Late {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The detections whose windows miss it, by name.
    pub detections: Vec<String>,
}

/// Partition, offset and detection of rows that cannot be judged.
type Unjudged = BTreeSet<(i32, i64, String)>;

/// All that a log should have said.
#[derive(Debug, Default)]
pub struct Expected {
    /// The alerts; those of a partition in the order in which they should be said.
    pub alerts: Vec<Alert>,
    /// The late rows, by partition and offset.
    pub late: Vec<Late>,
    /// Partition and offset of the records that cannot be used.
    pub dead_letters: Vec<(i32, i64)>,
    /// Partition and offset of the records whose schema the oracle was not told.
    pub unknown_schemas: Vec<(i32, i64)>,
    /// Partition and offset of the rows that detections cannot judge, each with the detection.
    pub unjudged: BTreeSet<(i32, i64, String)>,
}

impl Expected {
    /// Adds what should be said of another table.
    fn add(&mut self, other: Self) {
        self.alerts.extend(other.alerts);
        self.late.extend(other.late);
        self.dead_letters.extend(other.dead_letters);
        self.unknown_schemas.extend(other.unknown_schemas);
        self.unjudged.extend(other.unjudged);
    }
}

/// Whether more may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// All there is: what is open at its end closes.
    Bounded,
    /// A log as far as it got.
    Live,
}

/// Why the oracle says nothing.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The folder cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A detection's file is broken, or holds what the oracle does not know.
    #[error("could not use {}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A writer's schema cannot be used.
    #[error("could not compile a schema")]
    Schema(#[from] SchemaError),
    /// The rows could not be put into a table.
    #[error("could not build the table of events")]
    Batch(#[from] ArrowError),
    /// A query failed over all rows.
    #[error("could not run a query")]
    Query(#[from] DataFusionError),
}

impl OracleError {
    fn file(file: &Path, reason: &impl ToString) -> Self {
        Self::File {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// A folder of detections, to be asked what a log should say.
pub struct Oracle {
    queries: Vec<Query>,
    host_silence: Duration,
    fleet_patience: Duration,
    sources: Vec<i32>,
    per_minute: u64,
    schemas: Vec<String>,
}

impl Oracle {
    /// Reads the detections of a folder, all of them.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When a file of the folder cannot be used.
    pub fn load(folder: &Path) -> Result<Self, OracleError> {
        let files = crate::detect::views::detection_files(folder)?;
        Self::load_files(folder, files.iter().map(PathBuf::as_path))
    }

    /// Reads these detections, with the lists of their folder.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When a file cannot be used; broken lists are the detections' trouble that name them.
    pub fn load_files<'a>(
        folder: &Path,
        files: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, OracleError> {
        let lists = query::lists(folder)?;
        let views =
            Views::read(folder).map_err(|(file, reason)| OracleError::File { file, reason })?;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime: Arc<Runtime> = Arc::new(runtime.map_err(LoadError::Runtime)?);
        let load = |file: &Path| Query::load(file, &lists, &views, &runtime);
        let queries = files.into_iter().map(load);
        let mut queries = queries.collect::<Result<Vec<_>, _>>()?;
        queries.sort_by(|left, right| left.detection_id.cmp(&right.detection_id));
        Ok(Self {
            queries,
            host_silence: Duration::from_secs(600),
            fleet_patience: Duration::from_secs(10),
            sources: vec![0],
            per_minute: fold::PER_MINUTE,
            schemas: Vec::new(),
        })
    }

    /// Sets after how much of its partition's ingest time a host counts as silent.
    #[must_use]
    pub fn with_host_silence(mut self, host_silence: Duration) -> Self {
        self.host_silence = host_silence;
        self
    }

    /// Sets how long windows of the fleet wait for the slowest host of a partition, and for which partitions.
    #[must_use]
    pub fn with_fleet(mut self, patience: Duration, sources: &[i32]) -> Self {
        self.fleet_patience = patience;
        self.sources = sources.to_vec();
        self
    }

    /// Holds no alert back, however many a minute has.
    #[must_use]
    pub fn without_throttle(mut self) -> Self {
        self.per_minute = u64::MAX;
        self
    }

    /// Makes a writer's schema of events known, as JSON.
    #[must_use]
    pub fn with_schema(mut self, schema: &str) -> Self {
        self.schemas.push(schema.to_owned());
        self
    }

    /// Says what a log should have said; its partitions may be mixed, each must be in the order of its offsets.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When a schema or a query cannot be used at all.
    pub fn run(&self, records: &[InputRecord], input: Input) -> Result<Expected, OracleError> {
        self.ask(self.queries.iter(), records, input)
    }

    /// As [`Oracle::run`], of one detection.
    ///
    /// # Errors
    /// As there.
    pub fn run_of(
        &self,
        detection_id: &str,
        records: &[InputRecord],
        input: Input,
    ) -> Result<Expected, OracleError> {
        let queries = self.queries.iter();
        self.ask(
            queries.filter(|query| query.detection_id == detection_id),
            records,
            input,
        )
    }

    fn ask<'a>(
        &self,
        queries: impl Iterator<Item = &'a Query>,
        records: &[InputRecord],
        input: Input,
    ) -> Result<Expected, OracleError> {
        let queries: Vec<&Query> = queries.collect();
        let mut expected = Expected::default();
        for table in Table::ALL {
            let own = queries.iter().copied();
            let own: Vec<&Query> = own.filter(|query| query.source == table).collect();
            // What is of no table is refused with the events.
            let of_table =
                |record: &&InputRecord| Table::of(record.topic).unwrap_or(Table::Events) == table;
            let records: Vec<InputRecord> = records.iter().filter(of_table).cloned().collect();
            if table == Table::Events || !own.is_empty() {
                let said = self.ask_table(table, &own, &records, input)?;
                expected.add(said);
            }
        }
        Ok(expected)
    }

    /// What queries on one table say of its records.
    fn ask_table(
        &self,
        source: Table,
        queries: &[&Query],
        records: &[InputRecord],
        input: Input,
    ) -> Result<Expected, OracleError> {
        let mut expected = Expected::default();
        let (table, records) = self.decode(source, records, &mut expected)?;
        let silence_ns = i64::try_from(self.host_silence.as_nanos()).unwrap_or(i64::MAX);
        let patience_ns = i64::try_from(self.fleet_patience.as_nanos()).unwrap_or(i64::MAX);
        let scan = scan::scan(&table, &records, silence_ns, patience_ns)?;
        let forged = scan.forged.iter().map(|index| &records[*index]);
        expected
            .dead_letters
            .extend(forged.map(|record| (record.partition, record.offset)));
        expected.dead_letters.sort_unstable();
        let log = Log { table, scan, input };
        let mut candidates = Vec::new();
        let mut of_fleet = Vec::new();
        let mut late = Vec::new();
        let fleet = fleet::Seconds::of(&log.scan, &self.sources, input == Input::Bounded);
        for query in queries {
            match &query.shape {
                Shape::Events(_) => {
                    log.of_events(query, &mut candidates, &mut expected.unjudged)?;
                }
                Shape::Windows(grouped) if grouped.fleet => {
                    let unjudged = &mut expected.unjudged;
                    log.of_fleet(query, grouped, &fleet, &mut of_fleet, &mut late, unjudged)?;
                }
                Shape::Windows(grouped) => {
                    let unjudged = &mut expected.unjudged;
                    log.of_windows(query, grouped, &mut candidates, &mut late, unjudged)?;
                }
            }
        }
        for ((partition, offset), mut detections) in grouped_by(late) {
            detections.dedup();
            expected.late.push(Late {
                partition,
                offset,
                detections,
            });
        }
        expected.alerts = fold::fold(
            &log.scan,
            candidates,
            input == Input::Bounded,
            self.per_minute,
        );
        let of_fleet = fleet.fold(of_fleet, self.per_minute);
        expected.alerts.extend(of_fleet);
        Ok(expected)
    }

    /// The records as one table, with those that are its rows.
    fn decode(
        &self,
        source: Table,
        records: &[InputRecord],
        expected: &mut Expected,
    ) -> Result<(RecordBatch, Vec<InputRecord>), OracleError> {
        let schema = table_schema(source);
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let mut decoder = Decoder::new(source, &names.collect())?;
        let schemas = self.schemas.iter().filter(|_| source == Table::Events);
        for schema in schemas {
            decoder.register(schema)?;
        }
        let mut rest = records.to_vec();
        let (mut batches, mut rows) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let decoded = decoder.decode(rest)?;
            rest = decoded.rest;
            batches.push(decoded.batch);
            rows.extend(decoded.records);
            let place = |record: &InputRecord| (record.partition, record.offset);
            expected.dead_letters.extend(
                decoded
                    .dead_letters
                    .iter()
                    .map(|letter| place(&letter.record)),
            );
            expected.unknown_schemas.extend(
                decoded
                    .unknown_schemas
                    .iter()
                    .map(|(_, record)| place(record)),
            );
        }
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        Ok((concat_batches(&schema, &batches)?, rows))
    }
}

/// A scanned log.
struct Log {
    table: RecordBatch,
    scan: Scan,
    input: Input,
}

/// A window of one host's segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Window {
    segment: usize,
    start: i64,
}

/// How a window ended.
struct Close {
    /// The row that closed it; none at the end of the input.
    row: Option<usize>,
    stepped: bool,
    /// The host's time after it.
    high: i64,
}

impl Log {
    /// What a query says of each event by itself.
    fn of_events(
        &self,
        query: &Query,
        candidates: &mut Vec<Candidate>,
        unjudged: &mut Unjudged,
    ) -> Result<(), OracleError> {
        let shown = self.scan.rows.iter().filter(|row| !row.mark);
        let rows: Vec<&Row> = shown.collect();
        for rows in rows.chunks(ROWS_MAX) {
            self.halve(query, rows, candidates, unjudged)?;
        }
        Ok(())
    }

    /// Halves the rows until each that matches stands alone; a row that cannot be judged is no match.
    fn halve(
        &self,
        query: &Query,
        rows: &[&Row],
        candidates: &mut Vec<Candidate>,
        unjudged: &mut Unjudged,
    ) -> Result<(), OracleError> {
        let indices: Vec<usize> = rows.iter().map(|row| row.index).collect();
        let answers = query.of_events(&self.take(&indices)?);
        match (answers, rows) {
            (Ok(answers), _) if answers.is_empty() => {}
            (Ok(answers), [row]) => {
                // Where a join yields several rows for one event, the first as text stands.
                let text = |answer: &Answer| Value::Object(answer.row.clone()).to_string();
                if let Some(answer) = answers.into_iter().min_by_key(text) {
                    candidates.push(self.event_alert(query, row, answer)?);
                }
            }
            (Err(_), [row]) => {
                unjudged.insert((row.partition, row.offset, query.detection_id.clone()));
            }
            (_, rows) => {
                let (left, right) = rows.split_at(rows.len() / 2);
                self.halve(query, left, candidates, unjudged)?;
                self.halve(query, right, candidates, unjudged)?;
            }
        }
        Ok(())
    }

    fn event_alert(
        &self,
        query: &Query,
        row: &Row,
        answer: Answer,
    ) -> Result<Candidate, OracleError> {
        let text =
            |column: &str| Ok::<_, DataFusionError>(texts(&self.table, column)?.value(row.index));
        let seq = self.table.schema_ref().index_of("seq")?;
        let seq = crate::json::value(self.table.column(seq).as_ref(), row.index).to_string();
        let parts = [
            &query.detection_id,
            &query.content_hash,
            &row.host,
            text("sensor_run")?,
            &seq,
        ];
        let alert = Alert {
            alert_id: identity(&parts),
            detection_id: query.detection_id.clone(),
            activity: "create".to_owned(),
            window_state: None,
            clock_stepped: false,
            folded: 0,
            host_id: row.host.clone(),
            message: query.message.render(&answer.row),
            row: answer.row,
            window_start: None,
            window_end: None,
            evidence_offset: Some(row.offset),
            cause: Cause {
                partition: row.partition,
                offset: row.offset,
                stage: Stage::Event,
            },
            failed: false,
        };
        Ok(Candidate {
            fold: fold_key(query, &alert, Some(text("container_id")?)),
            container: text("container_id")?.to_owned(),
            title: query.title.clone(),
            order: (0, query.detection_id.clone(), String::new(), String::new()),
            second_word: false,
            fold_time: row.high_after,
            alert,
        })
    }

    /// What a query says of every window of every host.
    fn of_windows(
        &self,
        query: &Query,
        grouped: &Grouped,
        candidates: &mut Vec<Candidate>,
        late: &mut Vec<((i32, i64), String)>,
        unjudged: &mut Unjudged,
    ) -> Result<(), OracleError> {
        let shown = self
            .scan
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.mark);
        let pairs: Vec<(usize, i64)> = shown
            .flat_map(|(at, row)| {
                grouped
                    .windows
                    .starts(row.time)
                    .map(move |start| (at, start))
            })
            .collect();
        let mut members = Vec::new();
        let (mut judged, mut count) = (Vec::new(), 0);
        for pairs in pairs.chunks(ROWS_MAX) {
            let mut passing = Vec::new();
            self.passing(query, pairs, &mut passing, &mut judged, unjudged)?;
            for (at, start) in passing {
                let place = count;
                count += 1;
                let row = &self.scan.rows[at];
                let reach = start + grouped.windows.size_ns + query.delay_ns;
                let closed = row.high.is_some_and(|high| reach <= high)
                    || row.flush.is_some_and(|flush| start <= flush);
                if closed {
                    late.push(((row.partition, row.offset), query.detection_id.clone()));
                } else {
                    members.push((
                        Window {
                            segment: row.segment,
                            start,
                        },
                        (at, place),
                    ));
                }
            }
        }
        let Some(schema) = judged.first().map(RecordBatch::schema) else {
            return Ok(());
        };
        let judged = concat_batches(&schema, &judged)?;
        for (window, rows) in grouped_by(members) {
            let (rows, places): (Vec<usize>, Vec<u32>) = rows.into_iter().unzip();
            let judged = take_record_batch(&judged, &UInt32Array::from(places))?;
            self.of_window(query, grouped, window, &rows, &judged, candidates)?;
        }
        Ok(())
    }

    /// The rows, each in its window, that pass WHERE, with what is computed of them; one that cannot be judged does not.
    fn passing(
        &self,
        query: &Query,
        pairs: &[(usize, i64)],
        passing: &mut Vec<(usize, i64)>,
        judged: &mut Vec<RecordBatch>,
        unjudged: &mut Unjudged,
    ) -> Result<(), OracleError> {
        let rows = pairs.iter().map(|(at, _)| self.scan.rows[*at].index);
        let indices: Vec<usize> = rows.collect();
        let starts: Vec<i64> = pairs.iter().map(|(_, start)| *start).collect();
        match (query.passing(&self.take(&indices)?, &starts), pairs) {
            (Ok((places, computed)), _) => {
                let own: Vec<(usize, i64)> = places.into_iter().map(|place| pairs[place]).collect();
                judged.push(self.with_known_hosts(query, &own, computed)?);
                passing.extend(own);
            }
            (Err(_), [(at, _)]) => {
                let row = &self.scan.rows[*at];
                unjudged.insert((row.partition, row.offset, query.detection_id.clone()));
            }
            (Err(_), pairs) => {
                let (left, right) = pairs.split_at(pairs.len() / 2);
                self.passing(query, left, passing, judged, unjudged)?;
                self.passing(query, right, passing, judged, unjudged)?;
            }
        }
        Ok(())
    }

    /// What is computed of rows, with the hosts that were heard of for long enough.
    fn with_known_hosts(
        &self,
        query: &Query,
        rows: &[(usize, i64)],
        computed: RecordBatch,
    ) -> Result<RecordBatch, OracleError> {
        let mut columns = computed.columns().to_vec();
        for (column, seconds) in query.known_hosts() {
            let hosts = rows.iter().map(|(at, _)| {
                let row = &self.scan.rows[*at];
                (row.known_s >= *seconds).then_some(row.host.as_str())
            });
            let hosts: StringArray = hosts.collect();
            columns[*column] = cast(&hosts, columns[*column].data_type())?;
        }
        if query.known_hosts().is_empty() {
            return Ok(computed);
        }
        Ok(RecordBatch::try_new(computed.schema(), columns)?)
    }

    /// What a query says of one window; `rows` are those that count in it, in order.
    fn of_window(
        &self,
        query: &Query,
        grouped: &Grouped,
        window: Window,
        rows: &[usize],
        judged: &RecordBatch,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), OracleError> {
        let all = query.of_window(judged)?;
        if grouped.monotone {
            let prefix = |length: usize| {
                if length == 0 {
                    return Ok(Vec::new());
                }
                query.of_window(&judged.slice(0, length))
            };
            let mut crossed = Vec::new();
            crossings(&prefix, (0, &[]), (rows.len(), &all), &mut crossed)?;
            for (length, answer) in crossed {
                let row = &self.scan.rows[rows[length - 1]];
                let cause = Cause {
                    partition: row.partition,
                    offset: row.offset,
                    stage: Stage::Early,
                };
                candidates.push(self.window_alert(
                    query,
                    grouped,
                    window,
                    answer,
                    cause,
                    row.high_after,
                ));
            }
        }
        let Some(close) = self.close(query, grouped, window, rows[0]) else {
            return Ok(());
        };
        let cause = Cause {
            partition: self.scan.segments[window.segment].partition,
            offset: close.row.map_or(i64::MAX, |at| self.scan.rows[at].offset),
            stage: Stage::Close,
        };
        for answer in all {
            let mut last = self.window_alert(query, grouped, window, answer, cause, close.high);
            last.alert.clock_stepped = close.stepped;
            last.second_word = grouped.monotone;
            if last.second_word {
                last.alert.activity = "update".to_owned();
            }
            candidates.push(last);
        }
        Ok(())
    }

    /// How a window ended whose first row is at `first`; none while it is open.
    fn close(
        &self,
        query: &Query,
        grouped: &Grouped,
        window: Window,
        first: usize,
    ) -> Option<Close> {
        let reach = window.start + grouped.windows.size_ns + query.delay_ns;
        let segment = &self.scan.segments[window.segment];
        let mut high = self.scan.rows[first].high_after;
        for tick in &segment.ticks[self.scan.rows[first].tick + 1..] {
            if let TickKind::High(now) = tick.kind {
                high = now;
                if high < reach {
                    continue;
                }
            }
            let stepped = tick.kind == TickKind::Step;
            let closing = &self.scan.rows[tick.row];
            if closing.host == segment.host {
                high = closing.high_after;
            }
            let row = Some(tick.row);
            return Some(Close { row, stepped, high });
        }
        let close = Close {
            row: None,
            stepped: false,
            high,
        };
        (self.input == Input::Bounded).then_some(close)
    }

    fn window_alert(
        &self,
        query: &Query,
        grouped: &Grouped,
        window: Window,
        answer: Answer,
        cause: Cause,
        fold_time: i64,
    ) -> Candidate {
        let segment = &self.scan.segments[window.segment];
        let end = window.start + grouped.windows.size_ns;
        let start = window.start.to_string();
        let parts = [
            &query.detection_id,
            &query.content_hash,
            "window",
            &segment.host,
            &answer.keys,
            &start,
            &segment.name,
        ];
        let state = if cause.stage == Stage::Early {
            "open"
        } else {
            "closed"
        };
        let alert = Alert {
            failed: answer.failed,
            alert_id: identity(&parts),
            detection_id: query.detection_id.clone(),
            activity: "create".to_owned(),
            window_state: Some(state.to_owned()),
            clock_stepped: false,
            folded: 0,
            host_id: segment.host.clone(),
            message: query.message.render(&answer.row),
            row: answer.row,
            window_start: Some(window.start),
            window_end: Some(end),
            evidence_offset: None,
            cause,
        };
        Candidate {
            fold: fold_key(query, &alert, answer.container_id.as_deref()),
            container: answer.container_id.unwrap_or_default(),
            title: query.title.clone(),
            order: (
                end,
                query.detection_id.clone(),
                answer.keys,
                segment.host.clone(),
            ),
            second_word: false,
            fold_time,
            alert,
        }
    }

    /// Rows of the table, by place.
    fn take(&self, indices: &[usize]) -> Result<RecordBatch, ArrowError> {
        let indices = UInt32Array::from_iter_values(indices.iter().map(|index| *index as u32));
        take_record_batch(&self.table, &indices)
    }
}

/// Finds the shortest prefix at which each key comes to pass, with what is said of it then.
///
/// Between two lengths with the same keys nothing crosses, since what passed stays.
fn crossings(
    prefix: &impl Fn(usize) -> datafusion::common::Result<Vec<Answer>>,
    low: (usize, &[Answer]),
    high: (usize, &[Answer]),
    crossed: &mut Vec<(usize, Answer)>,
) -> datafusion::common::Result<()> {
    let new = |answer: &&Answer| !low.1.iter().any(|old| old.keys == answer.keys);
    if !high.1.iter().any(|answer| new(&answer)) {
        return Ok(());
    }
    if high.0 - low.0 == 1 {
        crossed.extend(
            high.1
                .iter()
                .filter(new)
                .map(|answer| (high.0, answer.clone())),
        );
        return Ok(());
    }
    let length = (low.0 + high.0) / 2;
    let middle = prefix(length)?;
    crossings(prefix, low, (length, &middle), crossed)?;
    crossings(prefix, (length, &middle), high, crossed)
}

/// What an alert is folded with.
fn fold_key(query: &Query, alert: &Alert, container: Option<&str>) -> Option<FoldKey> {
    let folding = &query.folding;
    let period = folding.period?;
    let values = folding.key.iter().map(|column| {
        alert
            .row
            .get(column)
            .map_or_else(String::new, Value::to_string)
    });
    let parts = [
        alert.detection_id.clone(),
        container.unwrap_or_default().to_owned(),
    ];
    Some(FoldKey {
        key: parts.into_iter().chain(values).collect(),
        period_ns: i64::try_from(period.as_nanos()).unwrap_or(i64::MAX),
        limit: folding.limit.unwrap_or(1),
    })
}

/// 32 hexadecimal digits of the SHA-256 over the parts, joined by NUL.
fn identity(parts: &[&str]) -> String {
    hex(&Sha256::digest(parts.join("\0").as_bytes())[..16])
}
