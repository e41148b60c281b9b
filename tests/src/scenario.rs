//! Fault scenarios: a load, processors, what is done to them, and whether what came out is what the log asks for.
//!
//! A scenario is data ([`Scenario`]); [`run()`] is the only thing that runs one; [`table`] lists those of the product.
//!
//! ```text
//! Load ─► events ─► processors ◄── Act: kill, freeze, cut, lose a broker, withdraw a right ...
//!            │            └─► alerts ──┐
//!            └─► expected ────────────compare ─► Outcome
//! ```
//! What must come out is not known beforehand: it is asked of the log itself, read by another client up to what the
//! group has committed. So marks that an owner writes into a silent partition count, and timing does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::expected::Difference;
use crate::load::Load;

mod run;
mod site;
pub mod table;

pub use run::run;

/// Settings of processors, without the prefix of their variables: `("STEP__ROWS_MAX", "1")`.
pub type Settings = Vec<(&'static str, String)>;

/// A load, processors, and what is done to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Where it plays.
    pub place: Place,
    /// What is written while it lasts.
    pub load: Load,
    /// Settings of all its processors.
    pub settings: Settings,
    /// It is run once with each of these added, with the same load, and must say the same each time.
    pub variants: Vec<Settings>,
    /// Whether processors have stable names in their group.
    pub instances: bool,
    /// What is done, one after the other.
    pub acts: Vec<Act>,
    /// Whether a processor may end by itself, with a reason; somebody starts another then.
    pub may_end: bool,
    /// Faults that must have struck by themselves, and not for lack of an occasion.
    pub hooks: Vec<&'static str>,
    /// Whether words may be said again after a crash, as with `delivery = "at_least_once"`; never others.
    pub repeats: bool,
    /// Largest message of the topic of alerts.
    pub alert_bytes_max: Option<usize>,
    /// A host not heard of for so long has its windows closed.
    pub host_silence: Duration,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "",
            place: Place::Shared,
            load: Load::default(),
            settings: Settings::new(),
            variants: vec![Settings::new()],
            instances: false,
            acts: Vec::new(),
            may_end: false,
            hooks: Vec::new(),
            repeats: false,
            alert_bytes_max: None,
            host_silence: Duration::from_secs(600),
        }
    }
}

/// Which brokers a scenario uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One that all scenarios of this kind share, each with its own topics.
    Shared,
    /// One of its own.
    Own,
    /// Three of its own.
    Three,
    /// One of its own, which processors reach by a cable alone.
    Namespace,
    /// One of its own, which asks processors for their rights.
    Passwords,
}

/// Something that is done. Processors go by the names they were started with.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Lets time pass.
    Wait(Duration),
    /// Waits until the load has come to a second.
    Second(i64),
    /// Starts a processor, with a fault that it commits by itself (`DOGWATCH_FAULT`).
    Start(&'static str, Option<String>),
    /// Waits until a processor dies by its own fault, for so long; then kills it.
    Fall(&'static str, Duration),
    /// Kills a processor (SIGKILL).
    Kill(&'static str),
    /// Ends a processor in order (SIGTERM).
    Stop(&'static str),
    /// Stops a processor as it stands (SIGSTOP).
    Freeze(&'static str),
    /// Waits until a processor has stopped itself by its own fault, for so long; then stops it.
    Stuck(&'static str, Duration),
    /// Lets a stopped processor go on (SIGCONT).
    Thaw(&'static str),
    /// Waits until a processor ends by itself, with a log that holds all these words.
    Ends(&'static str, &'static [&'static str]),
    /// Waits until a processor reads.
    Reads(&'static str),
    /// Waits until a checkpoint is written.
    Checkpoint,
    /// Lays a detection that finds nothing beside the others, or takes it away: what the others find must stay.
    Lay(bool),
    /// The same in the folder of one processor: each has its own, then.
    LayFor(&'static str, bool),
    /// Publishes the detections for all processors, with that one or without it.
    Publish(bool),
    /// Kills a broker (SIGKILL), by its number.
    LoseBroker(usize),
    /// Ends a broker in order (SIGTERM).
    PauseBroker(usize),
    /// Starts a broker again.
    ReturnBroker(usize),
    /// Cuts the cable.
    Cut,
    /// Mends it.
    Mend,
    /// Takes a right away: to do this to that topic.
    Withdraw(&'static str, &'static str),
    /// Gives it back.
    Grant(&'static str, &'static str),
    /// Waits until a partition's owner has written a mark into it, this long after the last record of others.
    IdleMark(i32, Duration),
}

/// What came of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Records of the log that were judged.
    pub records: usize,
    /// How the committed alerts differ from what the log asks for.
    pub alerts: Difference,
    /// Alerts of transactions that were aborted.
    pub aborted: usize,
    /// Identities of aborted alerts that the log does not ask for.
    pub strange: usize,
    /// Records that nobody can read.
    pub unreadable: usize,
    /// Rows that came after their windows.
    pub late: usize,
    /// How often a processor's own fault struck.
    pub struck: BTreeMap<String, usize>,
    /// What else must not be.
    pub failures: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// Every identity that was said.
    pub ids: BTreeSet<String>,
    /// Logs of the processors, kept where something is wrong.
    pub folder: Option<PathBuf>,
}

impl Outcome {
    /// Says whether all is as it must be.
    pub fn passed(&self) -> bool {
        self.alerts.none() && self.strange == 0 && self.failures.is_empty()
    }

    /// The names of the columns of [`Outcome::row`].
    pub const HEADING: &str = "| scenario | records | alerts | missing | extra | double | changed | disturbed | aborted | seconds | notes |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

    /// A row of a Markdown table.
    pub fn row(&self) -> String {
        let Difference {
            expected,
            missing,
            extra,
            double,
            changed,
            disturbed,
            ..
        } = &self.alerts;
        let struck = self
            .struck
            .iter()
            .map(|(fault, times)| format!("{times} x {fault}"));
        let mut notes: Vec<String> = struck.chain(self.notes.iter().cloned()).collect();
        if self.unreadable > 0 {
            notes.push(format!("{} dead letters", self.unreadable));
        }
        if self.late > 0 {
            notes.push(format!("{} late", self.late));
        }
        if self.strange > 0 {
            notes.push(format!("**{} strange among the aborted**", self.strange));
        }
        notes.extend(self.failures.iter().map(|failure| format!("**{failure}**")));
        format!(
            "| {} | {} | {expected} | {missing} | {extra} | {double} | {changed} | {disturbed} | {} | {:.0} | {} |",
            self.name,
            self.records,
            self.aborted,
            self.seconds,
            notes.join(", ").replace('\n', " ")
        )
    }

    /// What is wrong, for the message of a test.
    pub fn trouble(&self) -> String {
        let logs = self.folder.as_ref().map_or_else(String::new, |folder| {
            format!(
                "\nlogs and log of the broker's topics in {}",
                folder.display()
            )
        });
        format!(
            "{}\n{}\n{}{logs}",
            Self::HEADING,
            self.row(),
            self.alerts.shown.join("\n")
        )
    }
}
