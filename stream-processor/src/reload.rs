//! Watches where detections come from, a folder or the topic of published sets: what changes is compiled beside the set that
//! runs, and handed to the step thread.
//!
//! ```text
//! folder, topic ─► read each second ─► changed, and twice the same? ─► compile ─┬─► refused files: their last good text, compile again
//!                                                                               └─► [Change; 1] ─► step thread: swap
//! ```
//! What is compared is the texts themselves, so it does not matter how they came there: written, renamed, or a link that
//! Kubernetes put elsewhere. A file that cannot be used costs no other one: its last good text runs on, or it is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use dogwatch_kafka::topics::TopicError;
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::Topic;
use serde_json::{Map, Value};

use crate::alert::AlertMode;
use crate::alert::health::{Finding, Health, Reporter};
use crate::checkpoint::{Epoch, Ran};
use crate::config::{Caps, Config, Stage};
use crate::detect::{DetectionSet, LoadReport, Origin, Refusal, Sources};
use crate::engine::{Engine, EngineError, EvidenceTopics, now_ns};
use crate::idle;
use crate::inventory::{Difference, Inventory};
use crate::published::Feed;
use crate::sensor_needs::Needs;
use crate::topics;
use crate::window::{Exchange, WindowOptions};

mod neighbours;
#[cfg(test)]
mod tests;

pub(crate) use neighbours::Neighbours;

/// A changed folder is read again after this time, until it is twice the same: whoever writes it may not be done.
const SETTLE: Duration = Duration::from_millis(200);
/// How soon the thread sees that it is to end.
const WAIT: Duration = Duration::from_millis(50);

/// Where detections come from.
pub(crate) enum Place {
    /// The folder of the configuration.
    Folder,
    /// The topic of published sets.
    Topic(Box<Feed>),
}

impl Place {
    /// Its name, where detections come from there.
    pub fn name(&self, config: &Config) -> String {
        match self {
            Self::Folder => config.detections_folder.display().to_string(),
            Self::Topic(feed) => feed.name().to_owned(),
        }
    }
}

/// A set of detections that runs.
struct Running {
    /// The files it was made of: those that were refused are not among them.
    sources: Sources,
    inventory: Inventory,
}

/// What tasks are run with that run these files.
pub(crate) fn ran(config: &Config, inventory: &Inventory, sources: &Sources) -> Ran {
    let caps = sources.caps(config.windows.caps());
    Ran {
        set: inventory.hash.clone(),
        epoch: sources.origin().map(|origin| origin.epoch),
        folder: sources.origin().is_none(),
        keys_max: Some(caps.keys_max),
        state_bytes_max: Some(caps.state_bytes_max),
        partitions: None,
        partitions_before: None,
    }
}

/// What came of a changed folder.
pub(crate) struct Change {
    /// What is to be said at once: files that were refused.
    pub alerts: Vec<Alert>,
    /// The set that is to run; none where what can be used is the same as before.
    pub next: Option<Box<Next>>,
}

/// A set that is to run instead.
pub(crate) struct Next {
    pub engine: Engine,
    pub needs: Needs,
    /// How many files were refused.
    pub refused: usize,
    pub inventory: Inventory,
    pub difference: Difference,
    /// What its tasks are told to run with.
    pub ran: Ran,
    /// What is said when it runs.
    pub alert: Alert,
    /// When the folder was seen to have changed.
    pub seen_at: Instant,
}

/// The watch over a folder, until it is dropped.
pub(crate) struct Reload {
    pub changes: Receiver<Change>,
    ended: Arc<AtomicBool>,
}

impl Reload {
    /// Starts to watch a place, where the configuration asks for it; of what was found these files were refused, and that was
    /// told.
    pub fn start(
        config: &Config,
        (place, neighbours): (Place, Option<Neighbours>),
        (topics, inputs): (EvidenceTopics, Vec<Topic>),
        found: Sources,
        refused: &[Refusal],
        inventory: Inventory,
    ) -> Option<Self> {
        let every = config.detections_watch?;
        let (sender, changes) = bounded(1);
        let ended = Arc::new(AtomicBool::new(false));
        let mut sources = found.clone();
        refused
            .iter()
            .for_each(|refusal| sources.leave_out(&refusal.file));
        let mut watcher = Watcher {
            every,
            compiler: Compiler {
                config: config.clone(),
                place,
                topics,
                inputs: inputs.into_iter().collect(),
                running: Running { sources, inventory },
                told: refused.iter().map(ToString::to_string).collect(),
                refused: BTreeMap::new(),
                reporter: Reporter::of_this_process(
                    idle::HOST_ID,
                    config.kafka.instance.as_deref(),
                ),
            },
            seen: Ok(found),
            neighbours,
            changes: sender,
            ended: Arc::clone(&ended),
        };
        let thread = std::thread::Builder::new().name("detections".to_owned());
        match thread.spawn(move || watcher.run()) {
            Ok(_) => Some(Self { changes, ended }),
            Err(error) => {
                tracing::warn!(%error, "could not start a thread: changed detections need a restart");
                None
            }
        }
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        // Not waited for: it may be compiling, and holds nothing that must be put in order.
        self.ended.store(true, Ordering::Release);
    }
}

/// Makes the engine that runs a set, with these caps.
///
/// # Errors
/// As [`Engine::new`].
pub(crate) fn engine(
    config: &Config,
    set: DetectionSet,
    caps: Caps,
    topics: EvidenceTopics,
) -> Result<Engine, EngineError> {
    let exchange = match (config.exchange, config.stage) {
        (None, _) => Exchange::Inside,
        (Some(topics), Stage::Host) => Exchange::Sent(topics.partitions),
        (Some(topics), Stage::Fleet) => Exchange::Received(topics.partitions),
    };
    let engine = Engine::new(set, AlertMode::Live)?.with_evidence_topics(topics);
    let engine = engine.with_windows(WindowOptions {
        host_silence: config.windows.host_silence,
        clock_error_max: config.windows.clock_error_max,
        keys_max: caps.keys_max,
        state_bytes_max: caps.state_bytes_max,
        memory_bytes_max: config.windows.memory_bytes_max,
        fleet_patience: config.windows.fleet_patience,
        exchange,
    })?;
    Ok(match config.exchange {
        Some(topics) => engine.with_sources(&Vec::from_iter(0..topics.sources)),
        None => engine,
    })
}

/// Why a set cannot run that loads.
#[derive(Debug, thiserror::Error)]
enum Unready {
    /// Its engine cannot be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A topic that it reads is not fit.
    #[error(
        "the detections read a topic that is not fit: {0}; then change a file of the set or start the processor again"
    )]
    Topic(#[from] TopicError),
}

/// What was found in the folder, or why nothing was.
type Found = Result<Sources, String>;

struct Watcher {
    every: Duration,
    compiler: Compiler,
    /// What was found last and is dealt with.
    seen: Found,
    /// The other processors of the group, where there is one.
    neighbours: Option<Neighbours>,
    changes: Sender<Change>,
    ended: Arc<AtomicBool>,
}

impl Watcher {
    fn run(&mut self) {
        while self.pause(self.every) {
            if let Some(change) = self.look_around()
                && !self.hand_on(change)
            {
                return;
            }
            let found = self.compiler.read();
            if found == self.seen {
                continue;
            }
            let seen_at = Instant::now();
            let Some(found) = self.settled(found) else {
                return;
            };
            if found == self.seen {
                continue;
            }
            self.seen.clone_from(&found);
            let compiler = &mut self.compiler;
            // Whatever a file does to the compiler, those that run go on.
            let change = catch_unwind(AssertUnwindSafe(|| compiler.change(found, seen_at)));
            let change = change.unwrap_or_else(|_| {
                Some(compiler.unusable("compiling it panicked, see the processor's log"))
            });
            if change.is_some_and(|change| !self.hand_on(change)) {
                return;
            }
        }
    }

    /// What is to be said of other processors that run other detections.
    fn look_around(&mut self) -> Option<Change> {
        let Compiler {
            config, running, ..
        } = &self.compiler;
        let own = ran(config, &running.inventory, &running.sources);
        let differing = self.neighbours.as_mut()?.look(&own);
        let told = differing.iter().map(|differ| {
            let happened = differ.words(&own);
            tracing::warn!(happened, "processors of one group run different detections");
            let row = [
                ("set", Value::from(own.set.as_str())),
                ("other_set", differ.ran.set.as_str().into()),
                ("partitions", differ.partitions.clone().into()),
            ];
            let row = row.map(|(name, value)| (name.to_owned(), value));
            self.compiler
                .say(Health::DetectionsDiffer, "", happened, Map::from_iter(row))
        });
        let alerts: Vec<Alert> = told.collect();
        (!alerts.is_empty()).then_some(Change { alerts, next: None })
    }

    /// Reads until the folder is twice the same; none where the end comes first.
    fn settled(&mut self, mut found: Found) -> Option<Found> {
        loop {
            if !self.pause(SETTLE) {
                return None;
            }
            let again = self.compiler.read();
            if again == found {
                return Some(found);
            }
            found = again;
        }
    }

    /// Waits; says whether there is more to do.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.ended.load(Ordering::Acquire) || left.is_zero() {
                return !self.ended.load(Ordering::Acquire);
            }
            std::thread::sleep(left.min(WAIT));
        }
    }

    /// Hands a change to the step thread; says whether there is more to do.
    fn hand_on(&self, mut change: Change) -> bool {
        while !self.ended.load(Ordering::Acquire) {
            match self.changes.send_timeout(change, WAIT) {
                Ok(()) => return true,
                Err(SendTimeoutError::Timeout(again)) => change = again,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
        false
    }
}

/// Makes sets of what is found.
struct Compiler {
    config: Config,
    place: Place,
    /// Where evidence is said to come from.
    topics: EvidenceTopics,
    /// The topics that are known to be fit to be read.
    inputs: BTreeSet<Topic>,
    running: Running,
    /// What of refusals was told, as it was told; and of warnings.
    told: BTreeSet<String>,
    /// The alerts of files that are refused, by file.
    refused: BTreeMap<String, Alert>,
    reporter: Reporter,
}

/// A file that was refused, and whether its last good text is loaded.
type Told = (Refusal, bool);

impl Compiler {
    fn read(&mut self) -> Found {
        match &mut self.place {
            Place::Folder => {
                let found = Sources::read(&self.config.detections_folder);
                found.map_err(|error| error.to_string())
            }
            Place::Topic(feed) => feed.look(),
        }
    }

    /// What comes of a changed folder; none where there is nothing to do and nothing to say.
    fn change(&mut self, found: Found, seen_at: Instant) -> Option<Change> {
        let loaded = found.and_then(|sources| self.load(sources));
        let (report, sources, refusals) = match loaded {
            Ok(loaded) => loaded,
            Err(reason) => return Some(self.unusable(&reason)),
        };
        let alerts = self.tell(&report, &refusals);
        let mut next = None;
        if sources != self.running.sources {
            match self.next(report, &sources, refusals.len(), seen_at) {
                Ok(made) => next = Some(Box::new(made)),
                Err(error) => return Some(self.unusable(&error.to_string())),
            }
            self.running.sources = sources;
        }
        let any = next.is_some() || !alerts.is_empty();
        any.then_some(Change { alerts, next })
    }

    /// Loads what was found; a file that is refused has the text that runs, where there is one. Returns what was loaded, of
    /// which files, and what was refused of those found, each with whether its last good text is loaded.
    fn load(&self, mut sources: Sources) -> Result<(LoadReport, Sources, Vec<Told>), String> {
        let load = |sources: &Sources| {
            DetectionSet::load_sources(sources).map_err(|error| error.to_string())
        };
        let mut report = load(&sources)?;
        let refused = report.refused.clone();
        let running = &self.running.sources;
        let kept: Vec<&Refusal> = refused
            .iter()
            .filter(|refusal| sources.take_from(&refusal.file, running))
            .collect();
        if !kept.is_empty() {
            report = load(&sources)?;
        }
        let left_out: BTreeSet<&Path> = report
            .refused
            .iter()
            .map(|refusal| refusal.file.as_path())
            .collect();
        left_out.iter().for_each(|file| sources.leave_out(file));
        if report.set.is_empty() {
            return Err("none of its detections can be used".to_owned());
        }
        // Those that load with another file's last good text are fine.
        let of_file = |refusal: &&Refusal| {
            let kept = kept.iter().any(|kept| kept.file == refusal.file);
            kept || left_out.contains(refusal.file.as_path())
        };
        let told = refused.iter().filter(of_file);
        let mut refusals: Vec<Told> = told
            .map(|refusal| (refusal.clone(), !left_out.contains(refusal.file.as_path())))
            .collect();
        // Those that are refused because of another file's last good text.
        let further = report
            .refused
            .iter()
            .filter(|own| refused.iter().all(|refusal| refusal.file != own.file));
        refusals.extend(further.map(|refusal| (refusal.clone(), false)));
        Ok((report, sources, refusals))
    }

    /// Compiles a set.
    fn next(
        &mut self,
        report: LoadReport,
        sources: &Sources,
        refused: usize,
        seen_at: Instant,
    ) -> Result<Next, Unready> {
        self.prepare(&report.set)?;
        let now = now_ns();
        let before = &self.running.inventory;
        let inventory = Inventory::new(&report.set, sources, before, now);
        let difference = inventory.since(before);
        let needs = Needs::of(&report.set);
        let (configured, topics) = (self.config.windows.caps(), self.topics.clone());
        let caps = sources.caps(configured);
        let engine = engine(&self.config, report.set, caps, topics)?;
        let ran = ran(&self.config, &inventory, sources);
        let mut happened = difference.words();
        let mut row = difference.row();
        let caps_before = self.running.sources.caps(configured);
        if let Some(changed) = caps.changed(caps_before) {
            happened = format!("{happened}; {changed}");
        }
        row.insert("keys_max".to_owned(), caps.keys_max.into());
        row.insert("state_bytes_max".to_owned(), caps.state_bytes_max.into());
        if let Some(origin) = sources.origin() {
            happened = format!("{}: {happened}", published(origin, &mut row));
        }
        row.insert("detections".to_owned(), inventory.len().into());
        row.insert("set".to_owned(), inventory.hash.clone().into());
        row.insert("set_before".to_owned(), before.hash.clone().into());
        let finding = Finding {
            health: Health::DetectionsChanged,
            about: "",
            happened,
            shown_by: self.reporter.next(),
            time: now,
            row,
        };
        let alert = self.reporter.alert(&finding, now);
        self.running.inventory = inventory.clone();
        Ok(Next {
            engine,
            needs,
            refused,
            inventory,
            difference,
            ran,
            alert,
            seen_at,
        })
    }

    /// Makes and checks the topics that a set reads beside those that the processor began with.
    fn prepare(&mut self, set: &DetectionSet) -> Result<(), TopicError> {
        let inputs = set.inputs(self.config.stage);
        let through_kafka = self.config.exchange.is_some();
        if through_kafka && inputs.iter().any(|input| !self.inputs.contains(input)) {
            for topic in topics::prepare(&self.config, &inputs)?.created {
                tracing::info!(topic, "topic created");
            }
            self.inputs.extend(inputs);
        }
        Ok(())
    }

    /// Tells refusals and warnings that were not told as they are.
    fn tell(&mut self, report: &LoadReport, refusals: &[Told]) -> Vec<Alert> {
        let mut now_told = BTreeSet::new();
        for warning in report.warnings() {
            let text = warning.to_string();
            if !self.told.contains(&text) {
                tracing::warn!("detection may be wrong: {text}");
            }
            now_told.insert(text);
        }
        let mut alerts = self.mended(refusals);
        for (refusal, kept) in refusals {
            let text = refusal.to_string();
            if !self.told.contains(&text) {
                tracing::error!(kept, "detection refused: {text}");
                let alert = self.refused(refusal, *kept);
                self.refused.insert(self.name_of(refusal), alert.clone());
                alerts.push(alert);
            }
            now_told.insert(text);
        }
        self.told = now_told;
        alerts
    }

    /// What is said of files that were refused and are not any more, each under the alert that said so.
    fn mended(&mut self, refusals: &[Told]) -> Vec<Alert> {
        let files: BTreeSet<String> = refusals.iter().map(|(own, _)| self.name_of(own)).collect();
        let mended = self.refused.extract_if(.., |file, _| !files.contains(file));
        let mended = mended.map(|(file, alert)| {
            tracing::info!(file, "nothing is refused any more of a file that was");
            Alert {
                activity: "update".into(),
                message: format!("{file}: it is no longer refused").into(),
                alert_ts: now_ns(),
                ..alert
            }
        });
        mended.collect()
    }

    /// A refusal's file, below the folder.
    fn name_of(&self, refusal: &Refusal) -> String {
        let file = refusal.file.strip_prefix(self.place.name(&self.config));
        file.unwrap_or(&refusal.file).display().to_string()
    }

    fn refused(&self, refusal: &Refusal, kept: bool) -> Alert {
        let Refusal {
            line, reason, mend, ..
        } = refusal;
        let file = self.name_of(refusal);
        let instead = match kept {
            true => "its last good version runs on",
            false => "it is left out",
        };
        let row: [(&str, Value); 5] = [
            ("file", file.as_str().into()),
            ("line", (*line).into()),
            ("reason", reason.as_str().into()),
            ("mend", mend.as_str().into()),
            ("last_good_version_runs", kept.into()),
        ];
        let happened = format!("line {line}: {reason}; {mend}; {instead}");
        self.of_refusal(
            &file,
            happened,
            row.map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
        )
    }

    /// What is said when nothing that is there can be used: what runs goes on. It is said once.
    fn unusable(&mut self, reason: &str) -> Change {
        let place = self.place.name(&self.config);
        let mut alerts = Vec::new();
        if self.told.insert(reason.to_owned()) {
            tracing::error!(
                place,
                reason,
                "the detections cannot be used, what runs goes on"
            );
            let happened = format!("{reason}; what runs goes on");
            let row = Map::from_iter([("reason".to_owned(), Value::from(reason))]);
            alerts.push(self.of_refusal(&place, happened, row));
        }
        Change { alerts, next: None }
    }

    fn of_refusal(&self, about: &str, happened: String, row: Map<String, Value>) -> Alert {
        self.say(Health::DetectionRefused, about, happened, row)
    }

    fn say(&self, health: Health, about: &str, happened: String, row: Map<String, Value>) -> Alert {
        let now = now_ns();
        let finding = Finding {
            health,
            about,
            happened,
            shown_by: self.reporter.next(),
            time: now,
            row,
        };
        self.reporter.alert(&finding, now)
    }
}

/// What is said where tasks were run with a later set than the one that this processor has.
pub(crate) fn older(own: Epoch, before: Epoch, instance: Option<&str>) -> Alert {
    let reporter = Reporter::of_this_process(idle::HOST_ID, instance);
    let now = now_ns();
    let row = [("number", own.number), ("number_before", before.number)];
    let finding = Finding {
        health: Health::DetectionsOlder,
        about: "",
        happened: format!(
            "set {own} of the published detections runs, and set {before} ran before it: that one is not in the topic any more, or cannot be used"
        ),
        shown_by: reporter.next(),
        time: now,
        row: row
            .map(|(name, number)| (name.to_owned(), number.into()))
            .into_iter()
            .collect(),
    };
    reporter.alert(&finding, now)
}

/// Says which published set it is, in words, and adds it to what is said for machines.
fn published(origin: &Origin, row: &mut Map<String, Value>) -> String {
    let Origin {
        epoch,
        by,
        at,
        again,
        signed_with,
        ..
    } = origin;
    row.insert("number".to_owned(), epoch.number.into());
    row.insert("published_by".to_owned(), by.as_str().into());
    row.insert(
        "published_at".to_owned(),
        dogwatch_schemas::time::text(at.saturating_mul(1_000_000)).into(),
    );
    row.insert("again".to_owned(), (*again).into());
    row.insert("signed_with".to_owned(), signed_with.clone().into());
    let again = again.map(|number| format!(", which is set {number} again,"));
    format!(
        "set {epoch}{} published by {by}",
        again.as_deref().unwrap_or_default()
    )
}
