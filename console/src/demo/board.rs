//! Which steps of the script were found, and the table that says so at the end.

use std::fmt::Write as _;
use std::time::Duration;

use dogwatch_schemas::records::Alert;

use super::script::{Expected, Step};
use crate::render::{self, Colour};

/// Compares alerts with a script.
#[derive(Debug)]
pub struct Board {
    rows: Vec<Row>,
    /// The host's id and the container's whole id.
    only: Option<(String, String)>,
}

#[derive(Debug)]
struct Row {
    step: Step,
    ran: bool,
    /// When it was run, nanoseconds since 1970; unknown in a replay.
    since: Option<i64>,
    /// The first alert that answers the step.
    hit: Option<Hit>,
}

/// When an alert came; the latency is unknown in a replay.
#[derive(Debug, Clone, Copy)]
struct Hit {
    latency: Option<Duration>,
}

impl Board {
    /// An empty board for `steps`.
    pub fn new(steps: &[Step]) -> Self {
        Self {
            rows: steps
                .iter()
                .map(|&step| Row {
                    step,
                    ran: false,
                    since: None,
                    hit: None,
                })
                .collect(),
            only: None,
        }
    }

    /// From now on only alerts of this container count, as this host's sensor sees it: another one that watches the
    /// same machine may know less of it. `container_id` is the whole id.
    pub fn only(&mut self, host_id: &str, container_id: &str) {
        self.only = Some((host_id.to_owned(), container_id.to_owned()));
    }

    /// Notes that step `index` was run, and since when.
    pub fn ran(&mut self, index: usize, since: Option<i64>) {
        self.rows[index].ran = true;
        self.rows[index].since = since;
    }

    /// Compares an alert with every step.
    pub fn note(&mut self, alert: &Alert, latency: Option<Duration>) {
        let counts = |(host_id, container_id): &(String, String)| {
            *alert.host_id == **host_id && is_of(alert, container_id)
        };
        if !self.only.as_ref().is_none_or(counts) {
            return;
        }
        for row in &mut self.rows {
            if row.hit.is_none() && row.is_asked(alert) && answers(row.step.expected, alert) {
                row.hit = Some(Hit { latency });
            }
        }
    }

    /// Whether an alert that answers step `index` has come.
    pub fn answered(&self, index: usize) -> bool {
        self.rows[index].hit.is_some()
    }

    /// Whether every step ran and was followed by what was expected.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(Row::passed)
    }

    /// The table: one line a step, then one line with the verdict.
    pub fn table(&self, colour: Colour) -> String {
        let title_width = self
            .rows
            .iter()
            .map(|row| row.step.title.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for (number, row) in (1..).zip(&self.rows) {
            let code = if row.passed() { "32" } else { "1;31" };
            let result = colour.paint(code, &format!("{:16}", row.result()));
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "{number:2}  {:title_width$}  {result}  {}",
                row.step.title,
                row.expected()
            );
        }
        let not_run = self.rows.iter().filter(|row| !row.ran).count();
        let missed = self
            .rows
            .iter()
            .filter(|row| row.ran && !row.passed())
            .count();
        let total = self.rows.len();
        let verdict = match (missed, not_run) {
            (0, 0) => format!("all {total} steps came out as expected"),
            (0, _) => format!("{not_run} of {total} steps were not run"),
            _ => format!("{missed} of {total} steps did not come out as expected"),
        };
        let code = if self.passed() { "1;32" } else { "1;31" };
        let verdict = colour.paint(code, &verdict);
        text + &verdict + "\n"
    }
}

impl Row {
    fn passed(&self) -> bool {
        match self.step.expected {
            Expected::Alert { .. } => self.ran && self.hit.is_some(),
            Expected::Silence { .. } => self.ran && self.hit.is_none(),
        }
    }

    /// Whether an alert can be of this step. What was done before a silence is no false alert of it, however late
    /// brokers bring the alert.
    fn is_asked(&self, alert: &Alert) -> bool {
        match self.step.expected {
            Expected::Alert { .. } => true,
            Expected::Silence { .. } => self.since.is_none_or(|since| alert.event_ts >= since),
        }
    }

    fn result(&self) -> String {
        match (self.step.expected, self.ran, &self.hit) {
            (_, false, _) => "not run".to_owned(),
            (Expected::Silence { .. }, _, None) => "silent".to_owned(),
            (Expected::Silence { .. }, _, Some(_)) => "FALSE ALERT".to_owned(),
            (Expected::Alert { .. }, _, None) => "NOT FOUND".to_owned(),
            (Expected::Alert { .. }, _, Some(Hit { latency: None })) => "found".to_owned(),
            (
                Expected::Alert { .. },
                _,
                Some(Hit {
                    latency: Some(latency),
                }),
            ) => {
                format!("found in {}", render::duration(*latency))
            }
        }
    }

    fn expected(&self) -> &'static str {
        match self.step.expected {
            Expected::Alert { detection, .. } => detection,
            Expected::Silence { .. } => "no alert",
        }
    }
}

/// Whether an alert is of the container with this whole id; those of windows have its beginning alone.
fn is_of(alert: &Alert, container_id: &str) -> bool {
    match &alert.container_full_id {
        Some(full_id) => **full_id == *container_id,
        None => !alert.container_id.is_empty() && container_id.starts_with(&*alert.container_id),
    }
}

fn answers(expected: Expected, alert: &Alert) -> bool {
    match expected {
        Expected::Alert {
            detection,
            mentions,
        } => &*alert.detection_id == detection && mentioned(alert, mentions),
        Expected::Silence { stage, mentions } => {
            alert.proc_stage.as_deref() == Some(stage) || mentioned(alert, mentions)
        }
    }
}

fn mentioned(alert: &Alert, text: &str) -> bool {
    let command = alert
        .process
        .as_ref()
        .and_then(|process| process.cmdline.as_deref());
    let evidence = alert.evidence.iter().map(|evidence| &*evidence.row);
    let mut places = [&*alert.message, &*alert.row]
        .into_iter()
        .chain(command)
        .chain(evidence);
    places.any(|place| place.contains(text))
}

#[cfg(test)]
mod tests {
    use dogwatch_schemas::records::AlertProcess;

    use super::*;
    use crate::demo::script::Action;

    const STEPS: [Step; 2] = [
        Step {
            title: "read a secret",
            action: Action::Command("cat /secret"),
            expected: Expected::Alert {
                detection: "secret_read",
                mentions: "/secret",
            },
        },
        Step {
            title: "a check that must stay silent",
            action: Action::Healthcheck,
            expected: Expected::Silence {
                stage: "healthcheck",
                mentions: "check-me",
            },
        },
    ];

    fn alert(detection: &str, message: &str) -> Alert {
        Alert {
            detection_id: detection.into(),
            message: message.into(),
            container_full_id: Some("c1".into()),
            host_id: "h1".into(),
            event_ts: 1_000,
            ..Alert::default()
        }
    }

    fn run(alerts: &[Alert]) -> Board {
        let mut board = Board::new(&STEPS);
        board.only("h1", "c1");
        board.ran(0, Some(500));
        board.ran(1, Some(900));
        for alert in alerts {
            board.note(alert, Some(Duration::from_millis(41)));
        }
        board
    }

    #[test]
    fn all_found() {
        let board = run(&[
            alert("secret_read", "cat read /secret"),
            alert("other", "something else"),
        ]);
        assert!(board.passed());
        assert_eq!(
            board.table(Colour::Plain),
            " 1  read a secret                  found in 41 ms    secret_read
 2  a check that must stay silent  silent            no alert
all 2 steps came out as expected
"
        );
    }

    #[test]
    fn what_is_of_another_sensor_or_of_an_earlier_step_is_no_false_alert() {
        let found = alert("secret_read", "cat read /secret");
        let mut late = alert("shell", "sh");
        late.proc_stage = Some("healthcheck".into());
        late.event_ts = 899;
        let mut of_another = late.clone();
        of_another.event_ts = 1_000;
        of_another.host_id = "h2".into();
        assert!(run(&[found.clone(), late.clone(), of_another.clone()]).passed());
        of_another.host_id = "h1".into();
        assert!(!run(&[found, of_another]).passed());
    }

    #[test]
    fn missed_and_false() {
        let mut of_healthcheck = alert("shell", "sh");
        of_healthcheck.proc_stage = Some("healthcheck".into());
        let board = run(&[
            alert("secret_read", "cat read something else"),
            of_healthcheck,
        ]);
        assert!(!board.passed());
        assert_eq!(
            board.table(Colour::Plain),
            " 1  read a secret                  NOT FOUND         secret_read
 2  a check that must stay silent  FALSE ALERT       no alert
2 of 2 steps did not come out as expected
"
        );
    }

    #[test]
    fn healthcheck_is_known_by_its_command_too() {
        let mut mistaken = alert("shell", "a shell");
        let cmdline = Some("sh -c check-me".into());
        mistaken.process = Some(AlertProcess {
            cmdline,
            ..AlertProcess::default()
        });
        assert!(!run(&[alert("secret_read", "/secret"), mistaken]).passed());
    }

    #[test]
    fn other_containers_do_not_count() {
        let mut elsewhere = alert("secret_read", "/secret");
        elsewhere.container_full_id = Some("c2".into());
        assert!(!run(&[elsewhere.clone()]).answered(0));
        elsewhere.container_full_id = None;
        assert!(!run(&[elsewhere.clone()]).answered(0));
        elsewhere.container_id = "c2".into();
        assert!(!run(&[elsewhere.clone()]).answered(0));
        elsewhere.container_id = "c".into();
        assert!(run(&[elsewhere]).answered(0), "a window has no whole id");
    }

    #[test]
    fn step_that_did_not_run_is_not_passed() {
        let board = Board::new(&STEPS);
        assert!(!board.passed());
        let table = board.table(Colour::Plain);
        assert!(
            table.contains("a check that must stay silent  not run "),
            "{table}"
        );
        assert!(table.ends_with("2 of 2 steps were not run\n"), "{table}");
    }
}
