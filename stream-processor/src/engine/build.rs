//! Builds the alerts that are published: what was only counted is never decoded whole.

use dogwatch_schemas::records::Alert;
use dogwatch_schemas::{Text, time};
use serde_json::{Map, Value};

use super::EvidenceTopics;
use super::candidate::{Candidate, Kind, Notice, health_of};
use super::taken::Taken;
use super::throttle::Minute;
use crate::alert::health::{self, Finding, Health};
use crate::alert::size::{ALERT_BYTES_MAX, fit};
use crate::alert::{self, AlertMode, Held, Occasion, Origin};
use crate::decode::{EventDecoder, InputRecord, RejectError, Whole};
use crate::detect::{DetectionSet, Match};
use crate::hosts::{self, Forgotten, HOSTS_MAX, Hosts, Losses, Presence, SECOND_NS, partition_of};
use crate::window::{Overflow, SwitchedOff, Word};

/// How far before a single event its host's losses count as losses around it, nanoseconds.
const AROUND_NS: i64 = 60_000_000_000;

/// Builds alerts.
pub(super) struct Builder<'a> {
    pub set: &'a DetectionSet,
    pub hosts: &'a Hosts,
    pub taken: &'a Taken,
    pub topics: &'a EvidenceTopics,
    pub mode: AlertMode,
    pub keys_max: usize,
    pub now_ns: i64,
}

/// An event decoded whole, kept for the next alert of the same row.
#[derive(Default)]
pub(super) struct Decoding {
    row: Option<u32>,
    event: Option<Box<Whole>>,
    /// The rows that cannot be decoded.
    pub rejected: Vec<(u32, RejectError)>,
}

impl Decoding {
    /// The event of a row; none where it cannot be decoded whole.
    fn event(
        &mut self,
        decoder: &mut EventDecoder,
        row: u32,
        record: &InputRecord,
    ) -> Option<&Whole> {
        if self.row != Some(row) {
            self.row = Some(row);
            self.event = match decoder.decode(record) {
                Ok(event) => Some(Box::new(event)),
                Err(error) => {
                    self.rejected.push((row, error));
                    None
                }
            };
        }
        self.event.as_deref()
    }
}

impl Builder<'_> {
    /// The alert of a candidate, with what its repeats are told by; none where its row is not there.
    pub fn alert(
        &self,
        candidate: &Candidate<'_>,
        dedup_key: &Text,
        decoder: &mut EventDecoder,
        decoding: &mut Decoding,
    ) -> Option<Alert> {
        let mut alert = match candidate.kind {
            Kind::Match(detection, found) => {
                let event = decoding.event(decoder, candidate.row, self.record(candidate.row)?);
                self.of_match(candidate, detection, found, event)?
            }
            Kind::Result(word) => {
                let event = match (word.closed, self.record(candidate.row)) {
                    // What makes the fleet speak is the end of a second, not an event.
                    _ if word.fleet.is_some() => None,
                    (false, Some(record)) => decoding.event(decoder, candidate.row, record),
                    _ => None,
                };
                self.of_result(word, event)
            }
            Kind::Overflow(overflow) => self.of_overflow(overflow),
            Kind::SwitchedOff(off) => self.of_switched_off(off),
            Kind::Forgotten(forgotten) => self.of_forgotten(forgotten),
            Kind::Host(finding) => self.of_host(finding),
            Kind::Notice(notice) => self.of_notice(candidate, &notice)?,
        };
        if alert.dedup_key.is_empty() {
            alert.dedup_key = dedup_key.clone();
        }
        fit(&mut alert, ALERT_BYTES_MAX);
        Some(alert)
    }

    /// The alert that tells how many of a minute's alerts were held back.
    pub fn of_minute(&self, minute: &Minute) -> Alert {
        let source = &minute.source;
        let mut detections = self.set.iter();
        let detection = detections.find(|own| *own.id == *source.detection_id);
        let held = Held {
            detection_id: &source.detection_id,
            host_id: &source.host_id,
            host_name: &minute.host_name,
            container_id: &source.container_id,
            first_id: &minute.first_id,
            count: minute.held,
            last_time: minute.last_time,
        };
        alert::build_held(detection, &held, self.occasion(Losses::new(), false))
    }

    fn of_match(
        &self,
        candidate: &Candidate<'_>,
        detection: usize,
        found: &Match,
        event: Option<&Whole>,
    ) -> Option<Alert> {
        let own = self.set.at(detection);
        let subject = self.taken.subject(candidate.row)?;
        let shown = self.taken.admitted.shown_at(candidate.row)?;
        let origin = self.origin(self.record(candidate.row)?);
        let time = shown.moment.time;
        let admitted = &self.taken.admitted;
        let losses = admitted.losses(
            candidate.row,
            time.saturating_sub(AROUND_NS),
            time.saturating_add(1),
        );
        let occasion = self.occasion(losses, shown.moment.clock_replaced);
        let row = found.values();
        let alert = match event {
            Some(event) => alert::build(own, event, &row, &origin, occasion),
            None => {
                let owner = self.hosts.owner(candidate.slot);
                alert::build_unread(own, &subject, &owner, &row, &origin, occasion)
            }
        };
        Some(Alert {
            alert_id: alert::identity(own, &subject),
            ..alert
        })
    }

    fn of_result(&self, word: &Word, event: Option<&Whole>) -> Alert {
        let own = self.set.at(word.detection);
        let owner = self.hosts.owner(word.slot);
        if let Some(told) = &word.fleet {
            let occasion = self.occasion(told.losses.clone(), false);
            let alert = alert::build_window(own, word, None, &owner, occasion);
            return Alert {
                alert_id: alert::window_identity(own, word, &owner),
                ..alert::told_by_fleet(alert, told, self.topics.name(self.set.table().topic()))
            };
        }
        let shown = self.taken.admitted.shown_at(word.row);
        let early = shown.filter(|_| !word.closed);
        let losses = match early {
            Some(_) => self.taken.admitted.losses(word.row, word.start, word.end),
            None => {
                let holes = self.hosts.holes_until(word.slot, word.row);
                holes.map_or_else(Losses::new, |holes| holes.between(word.start, word.end))
            }
        };
        let replaced = early.is_some_and(|shown| shown.moment.clock_replaced);
        let origin = self.record(word.row).map(|record| self.origin(record));
        let event = event.zip(origin.as_ref());
        let occasion = self.occasion(losses, replaced);
        Alert {
            alert_id: alert::window_identity(own, word, &owner),
            ..alert::build_window(own, word, event, &owner, occasion)
        }
    }

    /// The alert that says that windows are full.
    fn of_overflow(&self, overflow: &Overflow) -> Alert {
        let owner = self.hosts.owner(overflow.slot);
        let names = self.names(&overflow.detections);
        let occasion = self.occasion(Losses::new(), false);
        alert::build_overflow(&names, overflow, self.keys_max, &owner, &occasion)
    }

    /// The alert that says that detections are switched off.
    fn of_switched_off(&self, off: &SwitchedOff) -> Alert {
        let owner = self.hosts.owner(off.slot);
        let names = self.names(&off.detections);
        let partition = partition_of(off.slot);
        let whom = match off.of_host {
            true => format!("host {}", owner.host_name),
            false => format!("all hosts of partition {partition}"),
        };
        let row: [(&str, Value); 5] = [
            ("detections", names.clone().into()),
            ("partition", partition.into()),
            ("of_host", off.of_host.into()),
            ("until", time::text(off.until).into()),
            ("error", off.error.as_str().into()),
        ];
        let finding = Finding {
            health: Health::SwitchedOff,
            about: &names.join(", "),
            happened: format!("off for {whom} for 10 minutes: {}", off.error),
            shown_by: format!("{partition}/{}/{}", off.until, off.of_host),
            time: off.time,
            row: named(row),
        };
        health::build(&finding, &owner, &self.occasion(Losses::new(), false))
    }

    /// The alert that says that living hosts were forgotten.
    fn of_forgotten(&self, forgotten: &Forgotten) -> Alert {
        let partition = partition_of(forgotten.slot);
        let row: [(&str, Value); 3] = [
            ("partition", partition.into()),
            ("forgotten", forgotten.hosts.into()),
            ("hosts_max", HOSTS_MAX.into()),
        ];
        let finding = Finding {
            health: Health::HostsForgotten,
            about: &format!("partition {partition}"),
            happened: format!(
                "{} living hosts forgotten, since more than {HOSTS_MAX} have sent events",
                forgotten.hosts
            ),
            shown_by: forgotten.second.to_string(),
            time: forgotten.second.saturating_mul(SECOND_NS),
            row: named(row),
        };
        let owner = self.hosts.owner(forgotten.slot);
        health::build(&finding, &owner, &self.occasion(Losses::new(), false))
    }

    /// The alert that says what was found of a host.
    fn of_host(&self, found: &hosts::Finding) -> Alert {
        let now = found.second.saturating_mul(SECOND_NS);
        let seconds = |last: i64| now.saturating_sub(last) / SECOND_NS;
        let (happened, shown_by, row) = match &found.what {
            Presence::Silent { last } => {
                let happened = format!("nothing was heard of it for {} seconds", seconds(*last));
                let row = vec![("last_heard", time::text(*last).into())];
                (happened, last.to_string(), row)
            }
            Presence::Back { last } => {
                let happened = format!("it is back after {} seconds", seconds(*last));
                let row = vec![
                    ("last_heard", time::text(*last).into()),
                    ("silent_seconds", seconds(*last).into()),
                ];
                (happened, last.to_string(), row)
            }
            Presence::Twins([(run, boot), (other_run, other_boot)]) => {
                let whose = match boot == other_boot {
                    true => "the sensor runs twice there",
                    false => "two machines have this id",
                };
                let happened = format!(
                    "two sensors send under its id, runs {run} (boot {boot}) and {other_run} (boot {other_boot}): {whose}"
                );
                let row = vec![
                    ("sensor_runs", vec![&**run, &**other_run].into()),
                    ("boot_ids", vec![&**boot, &**other_boot].into()),
                ];
                (happened, format!("{run}/{other_run}/{now}"), row)
            }
        };
        let finding = Finding {
            health: health_of(&found.what),
            about: "",
            happened,
            shown_by,
            time: now,
            row: named(row),
        };
        let owner = self.hosts.owner(found.slot);
        let alert = health::build(&finding, &owner, &self.occasion(Losses::new(), false));
        match found.what {
            // Of the same silence.
            Presence::Back { .. } => Alert {
                activity: "update".into(),
                ..alert
            },
            Presence::Silent { .. } | Presence::Twins(_) => alert,
        }
    }

    /// The alert of a notice, which a record has shown.
    fn of_notice(&self, candidate: &Candidate<'_>, notice: &Notice<'_>) -> Option<Alert> {
        let subject = self.taken.subject(candidate.row)?;
        let record = self.record(candidate.row)?;
        let mut row = notice.details(self.set);
        row.extend([
            ("partition", record.partition.into()),
            ("offset", record.offset.into()),
            ("container_id", subject.container_id.into()),
            ("event_ts", time::text(subject.ts).into()),
            ("ingest_ts", record.ingest_ts_ns.map(time::text).into()),
        ]);
        let finding = Finding {
            health: notice.health,
            about: notice.about(self.set),
            happened: notice.happened(),
            shown_by: format!("{}/{}", subject.sensor_run, subject.seq),
            time: candidate.time,
            row: named(row),
        };
        let owner = self.hosts.owner(candidate.slot);
        let occasion = self.occasion(Losses::new(), false);
        Some(health::build(&finding, &owner, &occasion))
    }

    fn record(&self, row: u32) -> Option<&InputRecord> {
        self.taken.records.get(row as usize)
    }

    /// The names of detections, in order.
    fn names(&self, detections: &[usize]) -> Vec<&str> {
        let names = detections.iter();
        let mut names: Vec<&str> = names.map(|own| self.set.at(*own).id.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn origin(&self, record: &InputRecord) -> Origin<'_> {
        Origin {
            topic: self.topics.name(record.topic),
            partition: record.partition,
            offset: record.offset,
            ingest_ts_ns: record.ingest_ts_ns,
        }
    }

    fn occasion(&self, losses: Losses, clock_replaced: bool) -> Occasion {
        Occasion {
            alert_ts_ns: self.now_ns,
            mode: self.mode,
            losses,
            clock_replaced,
        }
    }
}

fn named(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
