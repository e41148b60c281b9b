//! Questions of people: one SELECT over the tables of a source, as it is typed.
//!
//! ```text
//! text ─► check: one SELECT ─► plan ─┬─ filter, columns, LIMIT: rows as they come
//!                                    └─ all else: needs the end of what it reads
//! ```

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{DataFrame, SQLOptions};
use futures::StreamExt;
use tokio::runtime::Runtime;

use crate::check::{explain, only_query, parsed, planned};
use crate::feed::Source;
use crate::lists::Lists;
use crate::memory::{Memory, is_short};
use crate::rows::Bounds;
use crate::scan::TopicTable;
use crate::session::{EVENTS, Session};
use crate::sql_file::{Fault, SqlFile};
use crate::tables::{self, Table};
use crate::window::WindowTables;

/// A question that can be run.
pub struct Question {
    session: Session,
    plan: LogicalPlan,
    memory_bytes: usize,
    /// Whether its rows come as its source gives them.
    pub streams: bool,
}

/// The rows that answer a question, as they come.
pub struct Answer {
    batches: SendableRecordBatchStream,
    session: Session,
    memory_bytes: usize,
}

/// What comes next of an answer.
#[derive(Debug)]
pub enum Next {
    /// Rows.
    Rows(RecordBatch),
    /// Nothing came in the time that was waited.
    Nothing,
    /// That was all.
    End,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// What it reads cannot be read on.
    #[error("{0}")]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// It needs more memory than it may have.
    #[error(
        "the query needs more than {} MiB: ask for less (WHERE, --since, fewer groups), or allow more with --memory",
        .0 >> 20
    )]
    Memory(usize),
    /// It cannot be computed.
    #[error("could not compute the answer: {0}")]
    Engine(String),
}

/// What an error of the engine's means.
fn judged(error: DataFusionError, memory_bytes: usize) -> AskError {
    if is_short(&error) {
        return AskError::Memory(memory_bytes);
    }
    match error {
        DataFusionError::External(source) => AskError::Source(source),
        DataFusionError::Context(_, inner) => judged(*inner, memory_bytes),
        error => {
            let text = error.find_root().strip_backtrace();
            AskError::Engine(text.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

impl Answer {
    /// The columns of its rows.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.batches.schema()
    }

    /// Waits for rows, at most so long.
    ///
    /// # Errors
    /// When it ends before its end.
    pub fn next(&mut self, wait: Duration) -> Result<Next, AskError> {
        let next = async { tokio::time::timeout(wait, self.batches.next()).await };
        match self.session.wait(next) {
            Err(_) => Ok(Next::Nothing),
            Ok(None) => Ok(Next::End),
            Ok(Some(Ok(batch))) => Ok(Next::Rows(batch)),
            Ok(Some(Err(error))) => Err(judged(error, self.memory_bytes)),
        }
    }
}

impl Question {
    /// Plans a text over the tables of a source, within bounds of time and so many bytes of memory.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// What is wrong with the text, with its line and the mend.
    pub fn ask(
        text: &str,
        source: &Arc<dyn Source>,
        bounds: Bounds,
        memory_bytes: usize,
        runtime: Arc<Runtime>,
    ) -> Result<Self, Fault> {
        let file = SqlFile::parse(text);
        let fault = |error| explain(&file, &error, &[]);
        let memory = Memory::new(memory_bytes).map_err(fault)?;
        let session = session(source, bounds, runtime, &memory).map_err(fault)?;
        let statement = parsed(&file)?;
        only_query(&statement, &file)?;
        let names: Vec<&str> = tables::ALL.iter().map(|table| table.name).collect();
        let columns = columns(text);
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let absent = |_: &str| format!("tables are {}", names.join(", "));
        let plan = planned(&session, &file, statement, &names, &columns, absent);
        let plan = plan.map_err(of_tables)?;
        let read_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|_| {
            let reason =
                "the query would change something, and there is nothing that it may change";
            Fault::new(file.query_line, reason, "write a plain SELECT")
        })?;
        for table in read_by(&plan) {
            if let Some((reason, mend)) = source.refuses(table) {
                return Err(Fault::new(file.line_of(table.name), reason, mend));
            }
        }
        let waits = needs_end(&plan);
        if let (Some((word, what)), true) = (waits, source.endless()) {
            let reason = format!("{what} needs the end of what it reads, and this never ends");
            return Err(Fault::new(file.line_of(word), reason, source.end_mend()));
        }
        if waits.is_none() {
            // A filter gathers so many rows before it hands them on.
            let state = session.context.state_ref();
            let mut state = state.write();
            *state.config_mut() = state.config().clone().with_batch_size(1);
        }
        Ok(Self {
            session,
            plan,
            memory_bytes,
            streams: waits.is_none(),
        })
    }

    /// How it is run, as text.
    ///
    /// # Errors
    /// The engine's.
    pub fn explained(&self) -> Result<String, AskError> {
        let optimized = self.session.context.state().optimize(&self.plan);
        let optimized = optimized.map_err(|error| self.judged(error))?;
        let physical = self.session.wait(self.frame().create_physical_plan());
        let physical = physical.map_err(|error| self.judged(error))?;
        let physical = displayable(physical.as_ref());
        let how = match self.streams {
            true => "rows come as they are read",
            false => "the answer comes when all is read",
        };
        Ok(format!(
            "{how}\n\n{}\n\n{}",
            optimized.display_indent(),
            physical.indent(false)
        ))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When what it reads cannot be opened.
    pub fn run(&self) -> Result<Answer, AskError> {
        let batches = self.session.wait(self.frame().execute_stream());
        let batches = batches.map_err(|error| self.judged(error))?;
        Ok(Answer {
            batches,
            session: self.session.again(),
            memory_bytes: self.memory_bytes,
        })
    }

    fn judged(&self, error: DataFusionError) -> AskError {
        judged(error, self.memory_bytes)
    }

    fn frame(&self) -> DataFrame {
        DataFrame::new(self.session.context.state(), self.plan.clone())
    }
}

/// The surroundings of a question: every table, and no windows, which need what they are kept in.
fn session(
    source: &Arc<dyn Source>,
    bounds: Bounds,
    runtime: Arc<Runtime>,
    memory: &Memory,
) -> Result<Session> {
    let no_windows: WindowTables = Arc::new(|_, _| {
        plan_err!(
            "tumble and hop are for detections; write GROUP BY date_bin(INTERVAL '1 minute', ts)"
        )
    });
    let provider = |table: &'static Table| {
        Arc::new(TopicTable {
            table,
            schema: table.schema(),
            source: Arc::clone(source),
            bounds: bounds.of(table),
        })
    };
    let mut tables = tables::ALL.iter();
    let events = tables.find(|table| table.name == EVENTS);
    let Some(events) = events else {
        return plan_err!("there is no table {EVENTS}");
    };
    let session = Session::with_windows(
        provider(events),
        &Lists::new(),
        runtime,
        memory,
        &no_windows,
    )?;
    {
        // The largest first is what DESC is written for, and rows that know nothing stand in its way.
        let state = session.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        options.sql_parser.default_null_ordering = "nulls_last".to_owned();
    }
    for table in tables::ALL.iter().filter(|table| table.name != EVENTS) {
        session
            .context
            .register_table(table.name, provider(table))?;
    }
    Ok(session)
}

/// A fault as it is told of a question: where no column is near, all of them are to be had.
fn of_tables(fault: Fault) -> Fault {
    if !fault.mend.starts_with("take a column of ") {
        return fault;
    }
    let mend = "dogwatch query --columns TABLE lists those of a table";
    Fault::new(fault.line, fault.reason, mend)
}

/// The names of the columns of the tables that a text names: what a mistaken name is compared to.
fn columns(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let named = tables::ALL.iter().filter(|table| text.contains(table.name));
    let mut names: Vec<String> = named
        .flat_map(|table| {
            let schema = table.schema();
            let fields = schema.fields().iter();
            fields.map(|field| field.name().clone()).collect::<Vec<_>>()
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The tables that a plan reads.
fn read_by(plan: &LogicalPlan) -> Vec<&'static Table> {
    let mut read: Vec<&'static Table> = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            read.extend(tables::named(scan.table_name.table()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan fails nowhere");
    read
}

/// What of a plan needs the end of what it reads, as a word of the query and in words; none where rows can come as they are
/// read.
fn needs_end(plan: &LogicalPlan) -> Option<(&'static str, &'static str)> {
    let own = match plan {
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Union(_)
        // Reads nothing.
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Values(_) => None,
        LogicalPlan::Aggregate(_) => Some(("group by", "GROUP BY or an aggregate")),
        LogicalPlan::Sort(_) => Some(("order by", "ORDER BY")),
        LogicalPlan::Distinct(_) => Some(("distinct", "DISTINCT")),
        LogicalPlan::Window(_) => Some(("over", "a window function")),
        LogicalPlan::Join(_) => Some(("join", "a join")),
        _ => Some(("select", "this kind of query")),
    };
    let subquery = || {
        let mut found = None;
        let walked = plan.apply_subqueries(|_| {
            found = Some(("(select", "a subquery"));
            Ok(TreeNodeRecursion::Stop)
        });
        debug_assert!(walked.is_ok(), "looking at a plan fails nowhere");
        found
    };
    let below = || plan.inputs().into_iter().find_map(needs_end);
    own.or_else(subquery).or_else(below)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use dogwatch_schemas::records::Event;

    use super::*;
    use crate::feed::{Batches, Feed, Progress, SourceError};
    use crate::rows::{Record, Rows};

    /// Longer than any answer takes.
    const WAIT: Duration = Duration::from_secs(60);

    /// Events of numbers, each of the second of its number.
    #[derive(Debug)]
    struct Numbers {
        count: i64,
        endless: bool,
        progress: Progress,
    }

    impl Source for Numbers {
        fn open(&self, rows: Rows) -> Result<Batches, SourceError> {
            let (mut feed, batches) = Feed::new(rows, self.progress.clone());
            let (count, endless) = (self.count, self.endless);
            std::thread::spawn(move || {
                for number in 0.. {
                    if feed.closed() || (!endless && number == count) {
                        break;
                    }
                    let event = Event {
                        evt_type: "execve".into(),
                        ts: number * 1_000_000_000,
                        proc_pid: number,
                        ..Event::default()
                    };
                    let mut value = Vec::new();
                    event.encode_framed(&mut value);
                    let record = Record {
                        offset: number,
                        value: &value,
                        ..Record::default()
                    };
                    feed.push(&record).expect("our own schema");
                }
                feed.finish();
            });
            Ok(batches)
        }

        fn refuses(&self, table: &Table) -> Option<(String, String)> {
            (!table.of_sensor).then(|| ("not here".to_owned(), "go there".to_owned()))
        }

        fn endless(&self) -> bool {
            self.endless
        }
    }

    fn ask(text: &str, endless: bool, bounds: Bounds) -> Result<(Question, Progress), Fault> {
        let progress = Progress::default();
        let source: Arc<dyn Source> = Arc::new(Numbers {
            count: 100_000,
            endless,
            progress: progress.clone(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let question = Question::ask(text, &source, bounds, 64 << 20, runtime)?;
        Ok((question, progress))
    }

    /// The first column of the answer.
    fn answer(text: &str, endless: bool, bounds: Bounds) -> Vec<i64> {
        let (question, _) = ask(text, endless, bounds).expect(text);
        let mut batches = question.run().expect("a stream");
        let mut answer = Vec::new();
        loop {
            match batches.next(WAIT).expect("a batch") {
                Next::Rows(batch) => {
                    answer.extend(batch.column(0).as_primitive::<Int64Type>().values());
                }
                Next::End => return answer,
                Next::Nothing => panic!("{text}: nothing came"),
            }
        }
    }

    #[test]
    fn questions_are_answered() {
        let all = Bounds::default();
        assert_eq!(answer("SELECT count(*) FROM events", false, all), [100_000]);
        let query = "SELECT proc_pid FROM events WHERE proc_pid % 30000 = 7 ORDER BY 1 DESC";
        assert_eq!(answer(query, false, all), [90_007, 60_007, 30_007, 7]);
        let two = "SELECT count(*) FROM events a JOIN events b ON a._offset = b._offset + 99998";
        assert_eq!(answer(two, false, all), [2]);
        let within = Bounds {
            since_ns: Some(3_000_000_000),
            until_ns: Some(5_000_000_000),
        };
        assert_eq!(answer("SELECT proc_pid FROM events", false, within), [3, 4]);
    }

    #[test]
    fn what_is_not_known_comes_last_up_and_down() {
        let all = Bounds::default();
        for (order, expected) in [
            ("n DESC", [2, 1]),
            ("n", [1, 2]),
            ("n DESC NULLS LAST", [2, 1]),
        ] {
            let query = format!(
                "SELECT CASE WHEN proc_pid < 3 THEN nullif(proc_pid, 0) END AS n FROM events ORDER BY {order} LIMIT 2"
            );
            assert_eq!(answer(&query, false, all), expected, "{order}");
        }
        let query = "SELECT count(n) FROM (SELECT nullif(proc_pid, 0) AS n FROM events ORDER BY 1 DESC NULLS FIRST LIMIT 1)";
        assert_eq!(answer(query, false, all), [0]);
    }

    #[test]
    fn what_says_how_things_are_is_never_too_old() {
        let bounds = Bounds {
            since_ns: Some(7),
            until_ns: Some(9),
        };
        let of = |name: &str| bounds.of(tables::named(name).expect("a table"));
        assert_eq!(of("events"), bounds);
        assert_eq!(
            (of("containers").since_ns, of("containers").until_ns),
            (None, Some(9))
        );
    }

    #[test]
    fn what_is_asked_of_something_endless_comes_as_it_is_read() {
        let query = "SELECT proc_pid FROM events WHERE proc_pid % 50000 = 9 LIMIT 2";
        assert_eq!(answer(query, true, Bounds::default()), [9, 50_009]);
        // What reads nothing has its end.
        assert_eq!(answer("SELECT 1", true, Bounds::default()), [1]);
    }

    #[test]
    fn a_question_that_wants_no_more_ends_the_reading() {
        let query = "SELECT proc_pid FROM events LIMIT 3";
        let (question, progress) = ask(query, false, Bounds::default()).expect("a question");
        let mut batches = question.run().expect("a stream");
        while let Next::Rows(_) = batches.next(WAIT).expect("rows") {}
        drop(batches);
        assert!(progress.records() < 100_000, "{}", progress.records());
    }

    #[test]
    fn what_is_no_plain_question_is_refused_with_its_mend() {
        fn check(text: &str, endless: bool, reason: &str, mend: &str) {
            let Err(fault) = ask(text, endless, Bounds::default()).map(drop) else {
                panic!("{text} is planned")
            };
            let told = format!("{}: {}; {}", fault.line, fault.reason, fault.mend);
            assert!(
                told.contains(reason) && told.contains(mend),
                "{text}: {told}"
            );
        }
        let select = "write exactly one SELECT";
        check(
            "COPY events TO '/tmp/x'",
            false,
            "1: the statement is",
            select,
        );
        check(
            "CREATE TABLE t AS SELECT 1",
            false,
            "1: the statement is CREATE",
            select,
        );
        check(
            "INSERT INTO events VALUES (1)",
            false,
            "1: the statement is INSERT",
            select,
        );
        check(
            "SELECT ts FROM events; SELECT 1",
            false,
            "2 statements",
            select,
        );
        check(
            "SELECT ts INTO t FROM events",
            false,
            "would change something",
            "a plain SELECT",
        );
        check(
            "SELECT now() FROM events",
            false,
            "now does not give the same",
            "ts and ingest_ts",
        );
        check(
            "SELECT ts\nFROM event",
            false,
            "2: there is no table event",
            "did you mean events?",
        );
        check(
            "SELECT proc_nme FROM events",
            false,
            "there is no column proc_nme",
            "proc_name?",
        );
        check(
            "SELECT ts FROM '/etc/passwd'",
            false,
            "there is no table",
            "tables are events",
        );
        check(
            "SELECT message FROM alerts",
            false,
            "1: not here",
            "go there",
        );
        check(
            "SELECT zzz FROM sensors",
            false,
            "there is no column zzz",
            "--columns TABLE",
        );
        check(
            "SELECT proc_name FROM sensors",
            false,
            "no column proc_name",
            "",
        );
        check(
            "SELECT count(*) FROM tumble(events, INTERVAL '1 minute')",
            false,
            "tumble and hop are for detections",
            "write GROUP BY date_bin",
        );
        for (query, what) in [
            ("SELECT count(*) FROM events", "GROUP BY or an aggregate"),
            ("SELECT ts FROM events ORDER BY ts", "ORDER BY"),
            ("SELECT DISTINCT proc_name FROM events", "DISTINCT"),
            (
                "SELECT ts FROM events WHERE proc_pid IN (SELECT proc_pid FROM events)",
                "a subquery",
            ),
        ] {
            check(query, true, what, "--for 1m");
        }
    }

    #[test]
    fn a_question_that_needs_too_much_memory_ends_with_it() {
        let query =
            "SELECT max(repeat(CAST(proc_pid AS VARCHAR), 1000)) FROM events GROUP BY proc_pid";
        let (question, _) = ask(query, false, Bounds::default()).expect("a question");
        let mut batches = question.run().expect("a stream");
        let error = loop {
            match batches.next(WAIT) {
                Ok(Next::Rows(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AskError::Memory(_)), "{error}");
        assert!(error.to_string().contains("more than 64 MiB"), "{error}");
    }
}
