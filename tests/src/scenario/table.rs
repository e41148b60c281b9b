//! The scenarios of the product, in a short form for every change and a long one.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Act, Place, Scenario};
use crate::load::{Incident, Load};

/// How thorough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All of it in some minutes.
    Short,
    /// What a release must have passed.
    Long,
}

/// Longer than a session and a transaction may be silent.
const TOO_LONG: Duration = Duration::from_secs(9);

/// How long a fault may take to strike by itself.
const STRIKES_WITHIN: Duration = Duration::from_secs(20);

/// Every scenario; the seed decides the moments of faults.
pub fn scenarios(form: Form, seed: u64) -> Vec<Scenario> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = vec![
        killed(form, &mut random),
        taken_over(form, &mut random),
        at_least_once(form, &mut random),
        frozen_between_steps(form, &mut random),
        frozen_in_a_transaction(form),
        come_and_go(form, &mut random),
        broker_killed(form),
        broker_of_three_lost(form),
        cable_cut(form),
        offline(form),
        clocks(form),
        silent_partition(),
        batch_sizes(form, &mut random),
        poisoned(form, &mut random),
        too_large_alerts(),
        rights_withdrawn(),
        cannot_be_judged(form),
        enormous(form),
        invented_hosts(form),
        aggregates_at_their_bound(form),
        rules_swapped(form, &mut random),
        folders_rolled(form, &mut random),
        set_replaced(form, &mut random),
    ];
    for scenario in &mut all {
        scenario
            .settings
            .extend(FREQUENT_CHECKPOINTS.map(|(name, value)| (name, value.to_owned())));
    }
    all
}

/// As often as a short scenario needs, so that there is something to come back to.
const FREQUENT_CHECKPOINTS: [(&str, &str); 1] = [("CHECKPOINT__INTERVAL", "1s")];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn moment(random: &mut StdRng, from_ms: u64, to_ms: u64) -> Act {
    Act::Wait(Duration::from_millis(random.random_range(from_ms..to_ms)))
}

/// `kill -9` at random points, between the sending of offsets and the end of the transaction, and during restore.
fn killed(form: Form, random: &mut StdRng) -> Scenario {
    let points = if form == Form::Short { 6 } else { 50 };
    // Without a checkpoint there is nothing to restore.
    let mut acts = vec![
        Act::Start("a", None),
        Act::Checkpoint,
        moment(random, 100, 1000),
        Act::Kill("a"),
    ];
    for point in 1..points {
        let transaction = random.random_range(1..6);
        // Each kind once, then by chance.
        let kind = if point <= 3 {
            point - 1
        } else {
            random.random_range(0..8)
        };
        let fault = match kind {
            0 => Some(format!("after_send_offsets:{transaction}")),
            1 => Some("during_restore:1".to_owned()),
            2 => Some(format!("before_commit_checkpoint:{}", transaction.min(2))),
            _ => None,
        };
        acts.push(Act::Start("a", fault.clone()));
        if fault.is_some() {
            acts.push(Act::Fall("a", STRIKES_WITHIN));
        } else {
            // From before it has joined the group to well within its work.
            acts.extend([moment(random, 100, 4000), Act::Kill("a")]);
        }
    }
    Scenario {
        name: "killed",
        instances: true,
        acts,
        hooks: vec![
            "after_send_offsets",
            "during_restore",
            "before_commit_checkpoint",
        ],
        ..Scenario::default()
    }
}

/// One of two is killed, without a name in the group: the other takes over what it has stored.
fn taken_over(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Reads("b"),
    ];
    for round in 0..if form == Form::Short { 2 } else { 10 } {
        let name = if round % 2 == 0 { "a" } else { "b" };
        acts.extend([moment(random, 1000, 3000), Act::Kill(name)]);
        acts.extend([
            Act::Wait(TOO_LONG),
            Act::Start(name, None),
            Act::Reads(name),
        ]);
    }
    Scenario {
        name: "taken over",
        acts,
        ..Scenario::default()
    }
}

/// A detection comes and goes while one of two is killed, about when it swaps: what the others find stays as it is.
fn rules_swapped(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Reads("b"),
    ];
    for round in 0..if form == Form::Short { 3 } else { 24 } {
        let name = if round % 3 == 0 { "b" } else { "a" };
        acts.extend([
            Act::Lay(round % 2 == 0),
            moment(random, 600, 3000),
            Act::Kill(name),
            Act::Start(name, None),
            Act::Reads(name),
        ]);
    }
    Scenario {
        name: "rules swapped while processors die",
        instances: true,
        acts,
        ..Scenario::default()
    }
}

/// Three processors get another folder one after the other, as a rolling update does it: each carries what the others keep.
fn folders_rolled(form: Form, random: &mut StdRng) -> Scenario {
    let names = ["a", "b", "c"];
    let mut acts: Vec<Act> = names.map(|name| Act::Start(name, None)).into();
    acts.extend(names.map(Act::Reads));
    for round in 0..if form == Form::Short { 1 } else { 8 } {
        for name in names {
            let ends = match name {
                "b" => Act::Kill(name),
                _ => Act::Stop(name),
            };
            acts.extend([
                Act::LayFor(name, round % 2 == 0),
                moment(random, 0, 1500),
                ends,
                Act::Start(name, None),
                Act::Reads(name),
            ]);
        }
    }
    Scenario {
        name: "two folders rolled through three processors",
        instances: true,
        acts,
        ..Scenario::default()
    }
}

/// Another set is published while partitions go from one processor to another.
fn set_replaced(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = vec![
        Act::Publish(false),
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Reads("b"),
    ];
    for round in 0..if form == Form::Short { 2 } else { 16 } {
        let name = if round % 2 == 0 { "b" } else { "a" };
        let ends = match round % 4 {
            1 => Act::Kill(name),
            _ => Act::Stop(name),
        };
        acts.extend([
            Act::Publish(round % 2 == 0),
            moment(random, 0, 900),
            ends,
            Act::Start(name, None),
            Act::Reads(name),
        ]);
    }
    Scenario {
        name: "published set replaced during a rebalance",
        acts,
        ..Scenario::default()
    }
}

/// The mode for lower latency may say again what it has said, and nothing else.
fn at_least_once(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = Vec::new();
    for _ in 0..if form == Form::Short { 3 } else { 20 } {
        acts.extend([
            Act::Start("a", None),
            moment(random, 300, 4000),
            Act::Kill("a"),
        ]);
    }
    Scenario {
        name: "at least once",
        settings: vec![("DELIVERY", "at_least_once".to_owned())],
        instances: true,
        acts,
        repeats: true,
        ..Scenario::default()
    }
}

/// The zombie that `kill` never makes: it wakes up when others have its partitions.
fn frozen_between_steps(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Reads("b"),
    ];
    for round in 0..if form == Form::Short { 2 } else { 12 } {
        // One that ended may be gone for good; each is frozen in turn.
        let name = if round % 2 == 0 { "a" } else { "b" };
        acts.extend([
            moment(random, 500, 3000),
            Act::Freeze(name),
            Act::Wait(TOO_LONG),
            Act::Thaw(name),
        ]);
        acts.push(Act::Wait(seconds(5)));
    }
    Scenario {
        name: "frozen between steps",
        acts,
        ..Scenario::default()
    }
}

fn frozen_in_a_transaction(form: Form) -> Scenario {
    let mut acts = vec![Act::Start("steady", None), Act::Reads("steady")];
    let rounds: &[&str] = if form == Form::Short {
        &["a"]
    } else {
        &["a", "b", "c", "d", "e", "f"]
    };
    for (round, name) in rounds.iter().enumerate() {
        acts.push(Act::Start(
            name,
            Some(format!("stop_in_transaction:{}", 2 + 3 * round)),
        ));
        acts.extend([
            Act::Stuck(name, STRIKES_WITHIN),
            Act::Wait(TOO_LONG),
            Act::Thaw(name),
        ]);
        // It finds out that it is fenced, and ends or begins anew.
        acts.push(Act::Wait(seconds(4)));
    }
    Scenario {
        name: "frozen in a transaction",
        acts,
        may_end: true,
        hooks: vec!["stop_in_transaction"],
        ..Scenario::default()
    }
}

/// A processor is added and removed while another is in a transaction, three times in a row.
fn come_and_go(form: Form, random: &mut StdRng) -> Scenario {
    let mut acts = vec![
        // It stops itself in a transaction, for less than a session; the newcomer waits for it.
        Act::Start("a", Some("stop_in_transaction:3".to_owned())),
        Act::Stuck("a", STRIKES_WITHIN),
        Act::Start("b", None),
        Act::Wait(seconds(2)),
        Act::Thaw("a"),
        Act::Reads("b"),
        moment(random, 0, 1500),
        Act::Stop("b"),
    ];
    for _ in 0..if form == Form::Short { 2 } else { 11 } {
        acts.extend([
            Act::Start("b", None),
            moment(random, 300, 3500),
            Act::Stop("b"),
        ]);
    }
    Scenario {
        name: "come and go",
        // Hardly a moment without a transaction: every step has alerts.
        load: Load {
            speed: 60.0,
            ..Load::default()
        },
        acts,
        hooks: vec!["stop_in_transaction"],
        ..Scenario::default()
    }
}

fn broker_killed(form: Form) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Reads("a"),
        Act::Wait(seconds(3)),
    ];
    for _ in 0..if form == Form::Short { 1 } else { 5 } {
        acts.extend([
            Act::LoseBroker(0),
            Act::Wait(seconds(2)),
            Act::ReturnBroker(0),
            Act::Wait(seconds(4)),
        ]);
        acts.extend([
            Act::PauseBroker(0),
            Act::Wait(TOO_LONG),
            Act::ReturnBroker(0),
            Act::Wait(seconds(4)),
        ]);
    }
    Scenario {
        name: "broker killed",
        place: Place::Own,
        acts,
        may_end: true,
        ..Scenario::default()
    }
}

fn broker_of_three_lost(form: Form) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Wait(seconds(4)),
    ];
    let lost: &[usize] = if form == Form::Short {
        &[0]
    } else {
        &[0, 1, 2, 0, 1, 2]
    };
    for broker in lost {
        acts.extend([
            Act::LoseBroker(*broker),
            Act::Wait(seconds(8)),
            Act::ReturnBroker(*broker),
            Act::Wait(seconds(4)),
        ]);
    }
    Scenario {
        name: "one of three brokers lost",
        place: Place::Three,
        acts,
        may_end: true,
        ..Scenario::default()
    }
}

/// Shorter than a session, and longer than a session and a transaction.
fn cable_cut(form: Form) -> Scenario {
    let mut acts = vec![
        Act::Start("a", None),
        Act::Start("b", None),
        Act::Reads("a"),
        Act::Wait(seconds(3)),
    ];
    for _ in 0..if form == Form::Short { 1 } else { 5 } {
        for cut in [seconds(2), TOO_LONG] {
            acts.extend([Act::Cut, Act::Wait(cut), Act::Mend, Act::Wait(seconds(5))]);
        }
    }
    Scenario {
        name: "cable cut",
        place: Place::Namespace,
        acts,
        may_end: true,
        ..Scenario::default()
    }
}

/// One of three hosts is away for ten minutes, then drains its spool; a crash meanwhile.
fn offline(form: Form) -> Scenario {
    let rounds: i64 = if form == Form::Short { 1 } else { 4 };
    let away = |round: i64| Incident::Offline {
        host: round as usize % 3,
        from: 60 + 700 * round,
        to: 660 + 700 * round,
    };
    let mut acts = vec![Act::Start("a", None)];
    for round in 0..rounds {
        let back = 660 + 700 * round;
        acts.extend([
            Act::Second(back - 200),
            Act::Kill("a"),
            Act::Start("a", None),
        ]);
        acts.extend([Act::Second(back + 5), Act::Kill("a"), Act::Start("a", None)]);
    }
    Scenario {
        name: "host offline for ten minutes",
        load: Load {
            seconds: 700 * rounds + 60,
            speed: 60.0,
            incidents: (0..rounds).map(away).collect(),
            ..Load::default()
        },
        instances: true,
        acts,
        ..Scenario::default()
    }
}

/// Everything that hosts and clocks do, on all partitions, with a crash in the middle.
fn clocks(form: Form) -> Scenario {
    let rounds: i64 = if form == Form::Short { 1 } else { 6 };
    let of_round = |round: i64| {
        let at = |second: i64| 400 * round + second;
        [
            Incident::Ahead {
                host: 0,
                from: at(50),
                to: at(150),
            },
            Incident::Back {
                host: 1,
                at: at(75),
                by: 45,
            },
            Incident::BackUnseen {
                host: 2,
                at: at(83),
                by: 30,
            },
            Incident::Suspended {
                host: 3,
                from: at(40),
                to: at(320),
            },
            Incident::Back {
                host: 4,
                at: at(100),
                by: 2,
            },
            Incident::Back {
                host: 4,
                at: at(102),
                by: 600,
            },
            Incident::Restarted {
                host: 5,
                at: at(95),
            },
            Incident::LastWords {
                host: 6,
                at: at(64),
            },
            Incident::Ahead {
                host: 7,
                from: at(30),
                to: at(31),
            },
            Incident::Offline {
                host: 8,
                from: at(60),
                to: at(200),
            },
            Incident::Back {
                host: 8,
                at: at(120),
                by: 90,
            },
        ]
    };
    let mut acts = vec![Act::Start("a", None)];
    for round in 0..rounds {
        for second in [60, 110, 210] {
            acts.extend([
                Act::Second(400 * round + second),
                Act::Kill("a"),
                Act::Start("a", None),
            ]);
        }
    }
    Scenario {
        name: "clocks",
        load: Load {
            seconds: 400 * rounds + 20,
            incidents: (0..rounds).flat_map(of_round).collect(),
            ..Load::default()
        },
        instances: true,
        acts,
        ..Scenario::default()
    }
}

/// A partition goes silent with open windows: its owner says so in the log.
fn silent_partition() -> Scenario {
    let host_silence = seconds(4);
    Scenario {
        name: "silent partition",
        load: Load {
            seconds: 200,
            incidents: vec![
                Incident::LastWords { host: 3, at: 99 },
                Incident::Silent {
                    partition: 1,
                    from: 100,
                },
                // A host that is flushed, and comes back.
                Incident::Offline {
                    host: 0,
                    from: 20,
                    to: 195,
                },
            ],
            // Nobody closes anything, in no partition.
            closes: false,
            ..Load::default()
        },
        settings: vec![("WINDOWS__HOST_SILENCE", "4s".to_owned())],
        host_silence,
        instances: true,
        acts: vec![
            Act::Start("a", None),
            Act::Second(110),
            Act::Kill("a"),
            Act::Start("a", None),
            Act::IdleMark(1, host_silence + seconds(1)),
        ],
        ..Scenario::default()
    }
}

/// The same log cut in every way, with crashes.
fn batch_sizes(form: Form, random: &mut StdRng) -> Scenario {
    let sizes: &[usize] = if form == Form::Short {
        &[1, 97, 65_536]
    } else {
        &[1, 2, 17, 97, 512, 4096, 65_536]
    };
    let variant = |rows_max: &usize| {
        let linger_ms = random.random_range(0..20);
        vec![
            ("STEP__ROWS_MAX", rows_max.to_string()),
            ("STEP__LINGER", format!("{linger_ms}ms")),
        ]
    };
    let variants = sizes.iter().map(variant).collect();
    // The whole log is there when the first one starts; in large batches it holds few transactions.
    let mut acts = Vec::new();
    for transaction in if form == Form::Short { 1..=2 } else { 1..=6 } {
        acts.push(Act::Start(
            "a",
            Some(format!("after_send_offsets:{transaction}")),
        ));
        acts.push(Act::Fall("a", seconds(4)));
    }
    acts.extend([
        Act::Start("a", None),
        moment(random, 200, 2000),
        Act::Kill("a"),
    ]);
    Scenario {
        name: "batch sizes",
        load: Load {
            seconds: if form == Form::Short { 90 } else { 600 },
            speed: f64::INFINITY,
            ..Load::default()
        },
        variants,
        instances: true,
        acts,
        hooks: vec!["after_send_offsets"],
        ..Scenario::default()
    }
}

fn poisoned(form: Form, random: &mut StdRng) -> Scenario {
    let (seconds, poisoned) = if form == Form::Short {
        (120, 139)
    } else {
        (600, 556)
    };
    Scenario {
        name: "poisoned records",
        load: Load {
            seconds,
            poisoned,
            ..Load::default()
        },
        instances: true,
        // Some are replayed.
        acts: vec![
            Act::Start("a", None),
            Act::Checkpoint,
            moment(random, 500, 2500),
            Act::Kill("a"),
            Act::Start("a", None),
        ],
        ..Scenario::default()
    }
}

fn too_large_alerts() -> Scenario {
    let verbose = |at| Incident::Verbose {
        host: at as usize % 9,
        at,
        bytes: 200_000,
    };
    Scenario {
        name: "alerts too large for the broker",
        load: Load {
            seconds: 60,
            incidents: (5..50).step_by(4).map(verbose).collect(),
            ..Load::default()
        },
        alert_bytes_max: Some(20_000),
        acts: vec![Act::Start("a", None)],
        ..Scenario::default()
    }
}

/// The right to write alerts, then the right to read events, is taken away while it runs.
fn rights_withdrawn() -> Scenario {
    Scenario {
        name: "rights withdrawn",
        place: Place::Passwords,
        acts: vec![
            Act::Start("a", None),
            Act::Reads("a"),
            Act::Wait(seconds(2)),
            Act::Withdraw("Write", "alerts"),
            Act::Ends("a", &["authoriz"]),
            Act::Grant("Write", "alerts"),
            Act::Start("b", None),
            Act::Reads("b"),
            Act::Wait(seconds(2)),
            Act::Withdraw("Read", "events"),
            Act::Ends("b", &["authoriz"]),
            Act::Grant("Read", "events"),
        ],
        ..Scenario::default()
    }
}

/// Expressions of detections on single events and over windows fail on some rows, and HAVING on a window.
fn cannot_be_judged(form: Form) -> Scenario {
    let seconds = if form == Form::Short { 120 } else { 600 };
    let mislabelled = |at| Incident::Mislabelled {
        host: at as usize % 9,
        at,
    };
    Scenario {
        name: "rows that cannot be judged",
        load: Load {
            seconds,
            incidents: (5..seconds - 10).step_by(4).map(mislabelled).collect(),
            ..Load::default()
        },
        instances: true,
        acts: crashes(seconds),
        ..Scenario::default()
    }
}

/// A host whose events have 900 KB.
fn enormous(form: Form) -> Scenario {
    let seconds = if form == Form::Short { 60 } else { 300 };
    let enormous = |at| Incident::Enormous { host: 4, at };
    Scenario {
        name: "a host with 900 KB of everything",
        load: Load {
            seconds,
            incidents: (5..seconds - 10).step_by(5).map(enormous).collect(),
            ..Load::default()
        },
        instances: true,
        acts: crashes(seconds),
        ..Scenario::default()
    }
}

/// More hosts are invented in a partition than a task remembers.
fn invented_hosts(form: Form) -> Scenario {
    let rounds: i64 = if form == Form::Short { 1 } else { 4 };
    let of_round = |round: i64| Incident::Invented {
        partition: 1,
        from: 30 + 60 * round,
        to: 50 + 60 * round,
        hosts: 1_000,
    };
    let seconds = 60 * rounds + 30;
    Scenario {
        name: "invented hosts",
        load: Load {
            seconds,
            speed: 10.0,
            incidents: (0..rounds).map(of_round).collect(),
            ..Load::default()
        },
        instances: true,
        acts: crashes(seconds),
        ..Scenario::default()
    }
}

/// Each aggregate has as much to keep as it may, in windows that are stored and taken over.
fn aggregates_at_their_bound(form: Form) -> Scenario {
    let rounds: i64 = if form == Form::Short { 1 } else { 4 };
    let of_round = |round: i64| Incident::Removes {
        host: 4,
        // A whole minute, wherever minutes begin.
        from: 120 * round + 5,
        to: 120 * round + 125,
        files: 100,
    };
    let seconds = 120 * rounds + 30;
    Scenario {
        name: "aggregates at their bound",
        load: Load {
            seconds,
            speed: 20.0,
            incidents: (0..rounds).map(of_round).collect(),
            ..Load::default()
        },
        instances: true,
        acts: crashes(seconds),
        ..Scenario::default()
    }
}

/// One that is killed twice in each minute of a load.
fn crashes(seconds: i64) -> Vec<Act> {
    let mut acts = vec![Act::Start("a", None), Act::Checkpoint];
    for second in (40..seconds).step_by(30) {
        acts.extend([Act::Second(second), Act::Kill("a"), Act::Start("a", None)]);
    }
    acts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dogwatch_schemas::topics::Topic;
    use dogwatch_stream_processor::decode::InputRecord;
    use dogwatch_stream_processor::oracle::{Expected, Input, Oracle};

    use super::*;
    use crate::cache;
    use crate::load::Generator;

    /// What the usual load asks for, by the oracle alone.
    fn asked_for() -> Expected {
        let base_ns = 1_790_000_000_000_000_000;
        let mut generator = Generator::new(&Load::default(), base_ns, 1);
        let mut rows: Vec<_> = (0..Load::default().seconds)
            .flat_map(|_| generator.next_second())
            .collect();
        rows.extend(generator.closing());
        let record = |(offset, row): (usize, crate::load::Row)| InputRecord {
            topic: Topic::Events,
            partition: row.partition,
            offset: offset as i64,
            ingest_ts_ns: Some(base_ns + 3_600_000_000_000),
            key: row.key.into_bytes().into(),
            value: row.value.into(),
        };
        let records: Vec<_> = rows.into_iter().enumerate().map(record).collect();
        let oracle = Oracle::load(&cache::repository().join("tests/detections"));
        let expected = oracle
            .expect("the detections can be read")
            .run(&records, Input::Live);
        expected.expect("the load can be judged")
    }

    #[test]
    fn the_load_asks_for_every_kind_of_word() {
        let expected = asked_for();
        let mut words: BTreeMap<String, usize> = BTreeMap::new();
        for alert in &expected.alerts {
            let state = alert.window_state.as_deref().unwrap_or("event");
            let folded = if alert.folded > 0 { " folded" } else { "" };
            *words
                .entry(format!("{} {state}{folded}", alert.detection_id))
                .or_default() += 1;
        }
        let due = [
            "busiest_containers closed",
            "failed_opens closed",
            "failed_opens open",
            "intruder event",
            "intruder_folded event",
            "intruder_folded event folded",
            "many_ports closed",
            "many_ports open",
            "many_programs closed",
            "many_programs open",
            "many_programs_folded closed",
            "many_programs_folded open",
            "many_programs_folded open folded",
            "some_opens closed",
        ];
        let missing: Vec<_> = due
            .iter()
            .filter(|word| !words.contains_key(**word))
            .collect();
        assert!(missing.is_empty(), "{missing:?} are missing in {words:#?}");
        assert!(
            expected.late.len() > 10,
            "{} rows are late",
            expected.late.len()
        );
    }
}
