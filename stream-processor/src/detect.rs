//! Detections: SQL files that yield alerts, loaded from a folder, planned once, run over batches of events.
//!
//! ```text
//! <tactic>/<name>.sql ─► sql_file ─► header ─┐
//! views/<name>.sql ────► views ─► put in ────┤
//! lists/<name>.csv ────► lists ──► session ─► check ─► plan ─┬─► filter
//!                                                            ├─► general
//!                                                            └─► windowed
//! ```
//! A file that cannot be loaded is refused with line, reason and mend; the others load.
//! Nothing here knows Kafka, Avro or a clock: what a detection says of an event depends on the event and the lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::datasource::empty::EmptyTable;
use dogwatch_schemas::reads::ReadPattern;
use dogwatch_schemas::topics::Topic;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use crate::config::Stage;
use crate::json;
use crate::tables::Table;

mod batch;
mod check;
mod codes;
pub(crate) mod filter;
mod general;
mod halves;
mod header;
mod lint;
mod message;
mod pattern;
mod plan;
mod reads;
mod routes;
mod sources;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod views;
pub(crate) mod windowed;

pub(crate) use dogwatch_query::{aggregates, functions, growth, held, memory, window};
use dogwatch_query::{falco, lists, session, sql_file};

pub(crate) use batch::{Match, narrow, project, take_rows};
use halves::panicked;
pub(crate) use halves::{Unjudged, by_halves, error_text, guarded};
pub use header::{Dedup, Header, Severity, Status};
pub(crate) use lists::Lists;
pub use message::Template;
pub(crate) use routes::Routes;
pub(crate) use sources::load_lists;
pub use sources::{Origin, Sources};
pub use sql_file::{Refusal, SqlFile, Warning};
pub(crate) use sql_file::{hex, without_mark};

pub use codes::Code;
use codes::Doubt;
use memory::Memory;
use plan::Plan;
use session::{LOAD_TIME_MAX, Session, column_names};
pub(crate) use sql_file::Fault;
use views::Views;

/// One detection, ready to run.
pub struct Detection {
    /// Its file's name without extension; unique in a set.
    pub id: String,
    /// Its folder below the detections' folder: the main tactic.
    pub tactic: String,
    /// Its file.
    pub file: PathBuf,
    /// The table that it reads.
    pub table: Table,
    /// Line of its query, from 1.
    pub query_line: usize,
    /// Its query with its views put in; none where it names none.
    pub asked: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of its file, and of the views that it names.
    pub content_hash: String,
    /// What it says of itself.
    pub header: Header,
    /// The columns its SELECT yields.
    pub outputs: Vec<String>,
    /// The types of the columns that hold times, of its SELECT and of its groups.
    pub(crate) times: BTreeMap<String, DataType>,
    /// Line of the file where its header declares reads.
    pub(crate) reads_line: usize,
    /// What is wrong with it, though it loads; reads that its query plainly asks for and its header does not declare among it.
    pub(crate) warnings: Vec<Doubt>,
    pub(crate) plan: Plan,
    /// The hash of its query, with what it reads of lists.
    pub(crate) query_hash: String,
}

impl Detection {
    /// The hash of what a detection on single events remembers: which of them match, and how their repeats are folded.
    pub(crate) fn state_of_events(&self) -> String {
        let dedup = &self.header.dedup;
        sql_file::digest([&*self.id, &self.query_hash, &format!("{dedup:?}")])
    }

    /// The values of `evt_type` that it can match; none = any, and it is shown every event.
    #[must_use]
    pub fn event_types(&self) -> Option<&BTreeSet<String>> {
        self.plan.event_types()
    }

    /// What it says of an event or a window as it is told: times as text.
    pub(crate) fn told(&self, row: &Map<String, Value>) -> Map<String, Value> {
        let told = |(name, value): (&String, &Value)| {
            let value = value.clone();
            let value = match self.times.get(name) {
                Some(kind) => json::told(value, kind),
                None => value,
            };
            (name.clone(), value)
        };
        row.iter().map(told).collect()
    }

    /// The columns of `events` that it reads.
    #[must_use]
    pub fn columns(&self) -> BTreeSet<&str> {
        self.plan.columns()
    }

    /// Whether its header allows what a warning with this code tells of.
    #[must_use]
    pub fn allows(&self, code: Code) -> bool {
        self.header.allow.iter().any(|name| name == code.name())
    }

    /// What is wrong with it, though it loads: it may never say anything, or leave out what it should not.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> {
        let warnings = self.warnings.iter().cloned();
        warnings.map(|doubt| Warning {
            fault: doubt.fault.in_file(&self.file),
            code: Some(doubt.code.name()),
        })
    }

    /// True unless its query costs a plan's run of its own for each batch.
    #[must_use]
    pub fn filters(&self) -> bool {
        !matches!(self.plan, Plan::General(_))
    }
}

/// A set of detections with distinct names.
pub struct DetectionSet {
    detections: Vec<Arc<Detection>>,
    /// Whose schema it is run with, where it has been cut to one table.
    table: Table,
    /// What their queries run in.
    memory: Memory,
}

/// The reads that a detection needs and a sensor does not publish every time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnpublishedReads {
    /// The detection.
    pub detection_id: String,
    /// What its header declares and the sensor's list does not cover.
    pub reads: Vec<ReadPattern>,
}

impl fmt::Display for UnpublishedReads {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads: Vec<String> = self.reads.iter().map(ToString::to_string).collect();
        write!(
            out,
            "{} needs reads of {}",
            self.detection_id,
            reads.join(", ")
        )
    }
}

/// What came of loading a folder.
pub struct LoadReport {
    /// The detections that loaded, by name.
    pub set: DetectionSet,
    /// The files that did not, and why.
    pub refused: Vec<Refusal>,
    /// What is wrong with lists that loaded nevertheless.
    pub list_warnings: Vec<Warning>,
}

impl LoadReport {
    /// What is wrong with lists and detections that loaded nevertheless.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> {
        let of_detections = self.set.iter().flat_map(Detection::warnings);
        self.list_warnings.iter().cloned().chain(of_detections)
    }
}

/// Why no folder could be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder or one below it cannot be read.
    #[error("could not read the folder of detections {}: check the path and its permissions", folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is a file of it.
    #[error("{} is a file: name the folder of detections that it lies in, {}", file.display(), meant.display())]
    File {
        /// What was named.
        file: PathBuf,
        /// What was meant.
        meant: PathBuf,
    },
    /// All detections lie elsewhere than they must: it may be a folder above or below the one that is meant.
    #[error("no detection lies in {} as <tactic>/<name>.sql, but {} is there: put it so, or name {}", folder.display(), found.display(), meant.display())]
    Misplaced {
        /// What was named.
        folder: PathBuf,
        /// A file that is there.
        found: PathBuf,
        /// What may be meant.
        meant: PathBuf,
    },
    /// There is no detection in it.
    #[error("no detections in {}: put them there as <tactic>/<name>.sql", folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// The engine could not be set up.
    #[error("could not set up the SQL engine")]
    Engine(#[source] DataFusionError),
    /// The engine's runtime could not be started.
    #[error("could not start the SQL engine's runtime")]
    Runtime(#[source] std::io::Error),
}

impl DetectionSet {
    /// Loads every `<tactic>/<name>.sql` below a folder, with its `lists/<name>.csv` as tables.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no detection. Single broken files are in the report instead.
    pub fn load(folder: &Path) -> Result<LoadReport, LoadError> {
        Self::load_sources(&Sources::read(folder)?)
    }

    /// As [`DetectionSet::load`], of files that were read before.
    ///
    /// # Errors
    /// As [`DetectionSet::load`].
    pub fn load_sources(sources: &Sources) -> Result<LoadReport, LoadError> {
        let lists::Loaded {
            lists,
            mut refused,
            warnings: list_warnings,
        } = lists::load(sources.lists(), tables::is_table);
        let (loader, refused_views) = Loader::new(sources, lists)?;
        refused.extend(refused_views);
        let mut detections: Vec<Detection> = Vec::new();
        for (file, loaded) in loader.load_all(sources)? {
            match loaded {
                Ok(detection) => match detections.iter().find(|other| other.id == detection.id) {
                    None => detections.push(detection),
                    Some(other) => {
                        let reason = format!("{} has the same name", other.file.display());
                        refused.push(Fault::new(1, reason, "give it another name").in_file(&file));
                    }
                },
                Err(fault) => refused.push(fault.in_file(&file)),
            }
        }
        detections.sort_by(|left, right| left.id.cmp(&right.id));
        for (place, fault) in windowed::row::too_large(&detections).into_iter().rev() {
            let detection = detections.remove(place);
            refused.push(fault.in_file(&detection.file));
        }
        Ok(LoadReport {
            set: Self {
                detections: detections.into_iter().map(Arc::new).collect(),
                table: Table::Events,
                memory: loader.memory,
            },
            refused,
            list_warnings,
        })
    }

    /// The same detections, for another holder.
    #[must_use]
    pub(crate) fn again(&self) -> Self {
        Self {
            detections: self.detections.clone(),
            table: self.table,
            memory: self.memory.clone(),
        }
    }

    /// The detections that read a table.
    #[must_use]
    pub(crate) fn of_table(&self, table: Table) -> Self {
        let own = self.detections.iter();
        let own = own.filter(|detection| detection.table == table);
        Self {
            detections: own.cloned().collect(),
            table,
            memory: self.memory.clone(),
        }
    }

    /// The tables that they read, and that of events, which is read whatever the detections are.
    #[must_use]
    pub fn tables(&self) -> BTreeSet<Table> {
        let read = self.detections.iter().map(|detection| detection.table);
        read.chain([Table::Events]).collect()
    }

    /// The topics that a stage reads which runs them.
    #[must_use]
    pub fn inputs(&self, stage: Stage) -> Vec<Topic> {
        match stage {
            Stage::Host => self.tables().into_iter().map(Table::topic).collect(),
            Stage::Fleet => vec![Topic::Exchange],
        }
    }

    /// The table whose detections these are.
    #[must_use]
    pub(crate) fn table(&self) -> Table {
        self.table
    }

    /// The detections over the whole fleet.
    pub fn of_fleet(&self) -> impl Iterator<Item = &Detection> {
        self.iter().filter(|detection| {
            let plan = detection.plan.windowed();
            plan.is_some_and(|plan| plan.fleet)
        })
    }

    /// The detections by name.
    pub fn iter(&self) -> impl Iterator<Item = &Detection> {
        self.detections.iter().map(Arc::as_ref)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.detections.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.detections.is_empty()
    }

    /// The detections that need reads which are not among those published, with these, by name.
    #[must_use]
    pub fn unpublished_reads(&self, published: &[ReadPattern]) -> Vec<UnpublishedReads> {
        let of = |detection: &Detection| {
            let reads: Vec<ReadPattern> =
                dogwatch_schemas::reads::uncovered(published, &detection.header.reads)
                    .cloned()
                    .collect();
            (!reads.is_empty()).then(|| UnpublishedReads {
                detection_id: detection.id.clone(),
                reads,
            })
        };
        self.iter().filter_map(of).collect()
    }

    /// The detections that ask for some of these types of events by name, with those they ask for: where none of them comes,
    /// the detection sees less, or nothing.
    #[must_use]
    pub fn without_types(&self, absent: &[&str]) -> Vec<(&Detection, Vec<String>)> {
        let of = |detection: &'_ Detection| -> Vec<String> {
            let asked = detection.event_types().into_iter().flatten();
            asked
                .filter(|asked| absent.contains(&asked.as_str()))
                .cloned()
                .collect()
        };
        self.iter()
            .map(|detection| (detection, of(detection)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect()
    }

    /// What its queries run in.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The detection at a place in the order of names.
    pub(crate) fn at(&self, index: usize) -> &Detection {
        &self.detections[index]
    }
}

/// What loading each file of a folder needs.
struct Loader<'a> {
    folder: &'a Path,
    /// What each table's queries are planned in.
    grounds: BTreeMap<Table, Planning>,
    lists: Lists,
    views: Views,
    /// The files of lists and views that are refused, by the names that queries call them.
    refused: BTreeMap<String, PathBuf>,
    runtime: Arc<Runtime>,
    memory: Memory,
}

/// What queries of a table are planned in: the table stands there as `events`, whichever it is.
struct Planning {
    schema: SchemaRef,
    session: Session,
}

/// A file, and what came of it.
type Loaded = (PathBuf, Result<Detection, Fault>);

/// Stack of the thread that plans queries: it walks their expressions by calls within calls, also those that are refused.
const STACK_BYTES: usize = 256 << 20;

impl<'a> Loader<'a> {
    /// What loads the files of a folder, and the views that are refused.
    fn new(sources: &'a Sources, lists: Lists) -> Result<(Self, Vec<Refusal>), LoadError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(LoadError::Runtime)?;
        let runtime = Arc::new(runtime);
        let memory = Memory::new(memory::BYTES_MAX).map_err(LoadError::Engine)?;
        let mut grounds = BTreeMap::new();
        for table in Table::ALL {
            let schema = crate::decode::table_schema(table);
            let empty = Arc::new(EmptyTable::new(Arc::clone(&schema)));
            let session = Session::new(empty, &lists, Arc::clone(&runtime), &memory)
                .map_err(LoadError::Engine)?;
            grounds.insert(table, Planning { schema, session });
        }
        let Planning { schema, session } = &grounds[&Table::Events];
        let columns = column_names(schema);
        let (views, refused) = Views::load(sources.views(), session, &columns, &lists);
        let named = sources.lists().chain(sources.views());
        let named = named.filter_map(|(file, _)| {
            let name = file.file_stem()?.to_str()?;
            let loaded = lists.contains_key(name) || views.names().any(|view| view == name);
            (!loaded).then(|| (name.to_owned(), file.to_owned()))
        });
        let refused_names = named.collect();
        let loader = Self {
            folder: sources.folder(),
            grounds,
            lists,
            views,
            refused: refused_names,
            runtime,
            memory,
        };
        Ok((loader, refused))
    }

    /// Loads files, on a stack that is large enough for any of them.
    fn load_all(&self, sources: &Sources) -> Result<Vec<Loaded>, LoadError> {
        let load = || {
            let load = |(file, text): (&Path, &Result<Arc<str>, Fault>)| {
                let text = text.as_deref().map_err(Fault::clone);
                let loaded = text.and_then(|text| self.load_in_time(file, text));
                (file.to_owned(), loaded)
            };
            sources.detections().map(load).collect()
        };
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .stack_size(STACK_BYTES);
        std::thread::scope(|scope| {
            let thread = thread
                .spawn_scoped(scope, load)
                .map_err(LoadError::Runtime)?;
            Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Refuses what takes too long: every start would wait for it.
    fn load_in_time(&self, file: &Path, text: &str) -> Result<Detection, Fault> {
        let started = Instant::now();
        let load = AssertUnwindSafe(|| self.load_file(file, text));
        let detection = catch_unwind(load).unwrap_or_else(|panic| {
            let reason = panicked(panic.as_ref()).to_string();
            Err(Fault::new(1, reason, "write it another way"))
        })?;
        let took = started.elapsed();
        if took <= LOAD_TIME_MAX {
            return Ok(detection);
        }
        let reason = format!("it takes {} seconds to plan", took.as_secs());
        let mend = format!(
            "make it simpler: {} seconds are allowed",
            LOAD_TIME_MAX.as_secs()
        );
        Err(Fault::new(1, reason, mend))
    }

    /// A refusal for a table that is not there, pointed at the list or view that is not there because it is refused itself.
    fn where_it_is(&self, fault: Fault) -> Fault {
        let absent = fault.reason.strip_prefix("there is no table ");
        let Some((name, file)) = absent.and_then(|name| self.refused.get_key_value(name)) else {
            return fault;
        };
        let reason = format!("{name} is refused itself");
        let mend = format!("correct {}: it is told there what is wrong", file.display());
        Fault::new(fault.line, reason, mend)
    }

    fn load_file(&self, file: &Path, text: &str) -> Result<Detection, Fault> {
        let (tactic, id) = self.name(file)?;
        let sql_file = SqlFile::parse(text);
        let header = Header::parse(&sql_file)?;
        let mut statement = check::one_select(&sql_file)?;
        let table = tables::take(&mut statement, &sql_file)?;
        let Planning { schema, session } = &self.grounds[&table];
        let columns = column_names(schema);
        let put_in = self.views.put_in(&mut statement, &sql_file)?;
        let asked = put_in.text(&statement);
        let known = check::Known {
            columns: &columns,
            lists: &self.lists,
            views: &self.views,
        };
        let check = |session: &Session| check::plan(session, &sql_file, statement.clone(), &known);
        let checked = check(session).map_err(|fault| self.where_it_is(fault))?;
        let result = Arc::clone(checked.schema());
        let names = result.fields().iter().map(|field| field.name().clone());
        let outputs: Vec<String> = names.collect();
        header.check_columns(&sql_file, &outputs)?;
        let replan =
            |session: &Session| check(session).map_err(|fault| DataFusionError::Plan(fault.reason));
        let source = plan::Source {
            file: &sql_file,
            header: &header,
            columns: &columns,
        };
        let ground = plan::Ground {
            events: schema,
            lists: &self.lists,
            runtime: &self.runtime,
            memory: &self.memory,
        };
        let inlined = plan::inline_lists(session, checked)
            .map_err(|error| check::explain(&sql_file, &error, &columns))?;
        let undeclared = reads::undeclared(&inlined, &header.reads, &sql_file);
        let mut doubts: Vec<Doubt> = Code::UndeclaredReads.of_all(undeclared).collect();
        doubts.extend(lint::lint(&lint::Subject {
            session,
            table,
            plan: &inlined,
            file: &sql_file,
            lists: &self.lists,
        })?);
        let allow_line = header::line_of_key(&sql_file.header, "allow");
        let warnings = codes::allowed(doubts, &header.allow, allow_line);
        let query_hash = plan::hash(&inlined, &self.lists);
        let plan = Plan::try_new(session, inlined, &source, &ground, replan)?;
        let times = times(&result, &plan);
        let reads_line = header::line_of_key(&sql_file.header, "reads");
        let content_hash = self.views.content_hash(&sql_file, &put_in);
        Ok(Detection {
            id,
            tactic,
            file: file.to_owned(),
            table,
            query_line: sql_file.query_line,
            asked,
            content_hash,
            header,
            outputs,
            times,
            reads_line,
            warnings,
            plan,
            query_hash,
        })
    }

    /// Tactic and name of a file, from its path.
    fn name(&self, file: &Path) -> Result<(String, String), Fault> {
        let place = "put it at <tactic>/<name>.sql, both in snake case";
        let name = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let below = file.strip_prefix(self.folder).unwrap_or(file);
        let tactic = below
            .iter()
            .next()
            .and_then(|first| first.to_str())
            .filter(|_| below.iter().count() == 2);
        match tactic {
            Some(tactic) if lists::is_snake_case(name) && lists::is_snake_case(tactic) => {
                Ok((tactic.to_owned(), name.to_owned()))
            }
            _ => Err(Fault::new(
                1,
                format!("{} is no place of a detection", below.display()),
                place,
            )),
        }
    }
}

/// The columns that hold times: of a result, and of groups that HAVING or SELECT cannot judge.
fn times(result: &DFSchema, plan: &Plan) -> BTreeMap<String, DataType> {
    let groups = plan.windowed().map(|plan| plan.result.groups());
    let groups = groups.iter().flat_map(|groups| groups.fields());
    let fields = groups.chain(result.fields());
    let kinds = fields.map(|field| {
        let kind = json::kind_of(field.name(), field.data_type());
        (field.name().clone(), kind)
    });
    kinds.filter(|(_, kind)| json::holds_times(kind)).collect()
}

/// Files with an extension below a folder, sorted; hidden files and folders are left out.
pub(crate) fn find_files(
    folder: &Path,
    extension: &str,
    found: &mut Vec<PathBuf>,
) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        folder: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    for path in paths {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            find_files(&path, extension, found)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    Ok(())
}

/// A session with a list of shells.
#[cfg(test)]
fn session_of(events: Arc<dyn datafusion::catalog::TableProvider>, shells: &str) -> Session {
    let lists = Lists::from([(
        "shells".to_owned(),
        lists::parse(shells).expect("a list").rows,
    )]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let memory = Memory::new(memory::BYTES_MAX).expect("a pool");
    Session::new(events, &lists, Arc::new(runtime), &memory).expect("a session")
}

/// Offsets that the filter of a predicate finds, whatever would be told of it at load.
#[cfg(test)]
pub(crate) fn filter_offsets(
    events: &arrow::array::RecordBatch,
    shells: &str,
    predicate: &str,
) -> Vec<i64> {
    let schema = events.schema();
    let session = session_of(Arc::new(EmptyTable::new(Arc::clone(&schema))), shells);
    let query = format!("SELECT _offset FROM events WHERE {predicate}");
    let planned = session.wait(session.context.state().create_logical_plan(&query));
    let inlined = plan::inline_lists(&session, planned.expect("a plan")).expect("a plan");
    let filter = filter::FilterPlan::try_new(&session, &inlined, &schema).expect("a filter");
    let filter = filter.expect("a filter");
    let evt_type = events.column_by_name("evt_type").expect("its column");
    let is_shown = |row: &u32| {
        let own = json::value(evt_type.as_ref(), *row as usize);
        let asked = filter.predicate.event_types.as_ref();
        asked.is_none_or(|asked| own.as_str().is_some_and(|own| asked.contains(own)))
    };
    let rows: Vec<u32> = (0..events.num_rows() as u32).filter(is_shown).collect();
    let shown = take_rows(events, &rows).expect("rows");
    let found = filter.run(&shown).expect("matches");
    let offset = |found: &Match| found.value("_offset").and_then(|offset| offset.as_i64());
    found.iter().filter_map(offset).collect()
}

/// Offsets that plain SQL finds: what routing and expressions on few columns are held to.
#[cfg(test)]
pub(crate) fn plain_offsets(
    events: Arc<dyn datafusion::catalog::TableProvider>,
    shells: &str,
    predicate: &str,
) -> Vec<i64> {
    use arrow::array::AsArray;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;
    let session = session_of(events, shells);
    // Computed as it is written: what makes a condition simpler may be wrong in the engine, too.
    let state = session.context.state();
    let rules = state.optimizers().iter();
    let rules = rules.filter(|rule| rule.name() != "simplify_expressions");
    let rules = rules.cloned().collect();
    let state = SessionStateBuilder::new_from_existing(state).with_optimizer_rules(rules);
    let context = SessionContext::new_with_state(state.build());
    // DataFusion computes `coalesce` only as the CASE that its simplifier makes of it.
    let written = "coalesce(proc_stage, '')";
    let case = "CASE WHEN proc_stage IS NOT NULL THEN proc_stage ELSE '' END";
    let predicate = predicate.replace(written, case);
    let query = format!("SELECT _offset FROM events WHERE {predicate} ORDER BY _offset");
    let batches = session
        .wait(async { context.sql(&query).await?.collect().await })
        .expect("a result");
    let column = |batch: &arrow::array::RecordBatch| {
        batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .values()
            .to_vec()
    };
    batches.iter().flat_map(column).collect()
}
