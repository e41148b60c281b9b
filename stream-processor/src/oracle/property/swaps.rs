//! Detections change while the log goes on: what did not change says what the oracle says, what is new speaks of what comes
//! after, and no alert is created twice or updated without having been created.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

/// Name, more header lines, query; `{}` is what differs between the two sets. Those without an alternative are in one alone.
type Extra = (
    &'static str,
    &'static str,
    &'static str,
    [Option<&'static str>; 2],
);

/// Neighbours of the others: they share keys, slide and delay with some of them.
const EXTRAS: [Extra; 7] = [
    ("x_added", "", "SELECT proc_name, container_id, count(*) AS n, max(fd_num) AS most FROM tumble(events, INTERVAL '20 seconds')
        GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) < 3", [None, Some("")]),
    ("x_event", "-- dedup = { key = [\"proc_name\"], period = \"30s\" }\n", "SELECT proc_name, ts FROM events WHERE evt_type = 'openat'", [None, Some("")]),
    ("x_key", "", "SELECT host_id, {}, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, host_id, {} HAVING count(*) < 4", [Some("proc_name"), Some("evt_type")]),
    ("x_list", "", "SELECT proc_name, host_id, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        WHERE proc_name IN (SELECT name FROM names) GROUP BY proc_name, host_id, window_start, window_end", [Some(""), Some("")]),
    ("x_removed", "", "SELECT container_id, count(DISTINCT fd_name) AS files, count(*) AS n
        FROM hop(events, INTERVAL '5 seconds', INTERVAL '30 seconds') GROUP BY container_id, window_end, window_start
        HAVING count(*) >= 3", [Some(""), None]),
    ("x_threshold", "", "SELECT container_id, count(*) AS n FROM hop(events, INTERVAL '10 seconds', INTERVAL '30 seconds')
        GROUP BY window_start, window_end, container_id HAVING count(*) >= {}", [Some("4"), Some("2")]),
    ("x_title", "", "SELECT container_id, count(*) AS n FROM tumble(events, INTERVAL '20 seconds')
        GROUP BY window_start, window_end, container_id HAVING count(*) >= 2", [Some(""), Some("")]),
];

/// One of the two sets.
fn set(which: usize) -> tempfile::TempDir {
    let folder = folder();
    let names = ["name\nsh\n", "name\nsh\ncurl\n"];
    fs::write(folder.path().join("lists/names.csv"), names[which]).expect("a list");
    for (name, header, query, differs) in EXTRAS {
        let Some(own) = differs[which] else {
            continue;
        };
        let titles = ["title = \"before\"", "title = \"after\""];
        let common = match name {
            "x_title" => super::super::tests::HEADER.replace("title = \"t\"", titles[which]),
            _ => super::super::tests::HEADER.to_owned(),
        };
        let text = format!("{common}{header}{}\n", query.replace("{}", own));
        let file = folder.path().join(format!("tactic/{name}.sql"));
        fs::write(file, text).expect("a detection");
    }
    folder
}

fn is_extra(name: &str) -> bool {
    name.starts_with("x_")
}

/// What is expected and found of the detections that are the same in both sets.
fn of_unchanged(expected: &mut Expected, found: &mut Processor<'_>) {
    expected
        .alerts
        .retain(|alert| !is_extra(&alert.detection_id));
    found.alerts.retain(|alert| !is_extra(&alert.detection_id));
    expected.unjudged.retain(|(_, _, name)| !is_extra(name));
    found.unjudged.retain(|(_, _, name)| !is_extra(name));
    for late in [&mut expected.late, &mut found.late] {
        late.iter_mut()
            .for_each(|late| late.detections.retain(|name| !is_extra(name)));
        late.retain(|late| !late.detections.is_empty());
    }
}

/// Alerts that are created twice, or updated without having been created.
fn disorder(alerts: &[records::Alert]) -> Vec<String> {
    let mut created = BTreeSet::new();
    let mut wrong = Vec::new();
    for alert in alerts {
        let id = alert.alert_id.to_string();
        let creates = &*alert.activity == "create";
        // What another query of it said between the last checkpoint and a crash, nobody knows.
        let unknown = &*alert.detection_id == "x_threshold";
        if creates && created.contains(&id) && !unknown {
            wrong.push(format!("created twice: {alert:?}"));
        } else if creates {
            created.insert(id);
        } else if !created.contains(&id) {
            wrong.push(format!("never created: {alert:?}"));
        }
    }
    wrong
}

/// What is said of a window, whatever it is called.
fn of_window(found: &Found) -> String {
    let Found {
        detection_id,
        activity,
        window_state,
        host_id,
        row,
        window_start,
        clock_stepped,
        ..
    } = found;
    format!(
        "{detection_id} {host_id} {window_start:?} {window_state:?} {activity} {clock_stepped} {row:?}"
    )
}

/// What is said by detections of these names, of windows.
fn said(all: impl Iterator<Item = Found>, names: &[&str]) -> Vec<String> {
    let of = |found: &Found| names.contains(&found.detection_id.as_str());
    all.filter(of).map(|found| of_window(&found)).collect()
}

/// What comes and goes, or is of another state in the second set.
const COMING: [&str; 4] = ["x_added", "x_key", "x_list", "x_removed"];

/// What these say where nothing is held back: who comes later has not used up what a minute lets through.
fn open_oracle(folder: &Path) -> Oracle {
    let files = COMING.map(|name| folder.join(format!("tactic/{name}.sql")));
    let files = files.iter().filter(|file| file.exists());
    let oracle = Oracle::load_files(folder, files.map(PathBuf::as_path)).expect("an oracle");
    oracle.with_host_silence(HOST_SILENCE).without_throttle()
}

/// How the detections that changed differ from what they may say: `title` is expected of the first set, `open` of those that
/// come and go.
fn liberties(title: &Expected, open: &[Expected; 2], found: &[records::Alert]) -> Vec<String> {
    let mut wrong = Vec::new();
    let all = || found.iter().map(Found::from);
    // A new title changes nothing but names.
    let mut titled: Vec<String> = said(all(), &["x_title"]);
    let mut wanted: Vec<String> = said(title.alerts.iter().map(Found::from), &["x_title"]);
    titled.sort_unstable();
    wanted.sort_unstable();
    if titled != wanted {
        wrong.push(format!(
            "x_title says {titled:#?}, expected was {wanted:#?}"
        ));
    }
    // What comes and goes says nothing of windows that it has not seen whole.
    let may: BTreeSet<String> = open
        .iter()
        .flat_map(|expected| said(expected.alerts.iter().map(Found::from), &COMING))
        .collect();
    // How many a minute held back is no word on a window.
    let of_windows = all().filter(|found| found.window_start.is_some());
    wrong.extend(
        said(of_windows, &COMING)
            .into_iter()
            .filter(|said| !may.contains(said))
            .map(|said| format!("not seen whole: {said}")),
    );
    wrong
}

#[test]
fn what_did_not_change_says_what_the_oracle_says_and_nothing_is_said_twice() {
    let folders = [set(0), set(1)];
    let oracle = Oracle::load(folders[0].path()).expect("an oracle");
    let oracle = oracle.with_host_silence(HOST_SILENCE);
    let open = folders.each_ref().map(|folder| open_oracle(folder.path()));
    let spoken: RefCell<BTreeMap<String, usize>> = RefCell::default();
    let happenings = prop::collection::vec(happening(), 1..160);
    let input = prop_oneof![Just(Input::Bounded), Just(Input::Live)];
    let turns = (turns(), prop::collection::vec(0_usize..2, 40));
    let case = (happenings, turns, input, prop::bool::weighted(0.85));
    let outcome = runner(24).run(&case, |(happenings, (turns, sets), input, ingest)| {
        let log = write_log(&happenings, ingest);
        let mut before = oracle.run(&log, input).expect("an answer");
        let open = open
            .each_ref()
            .map(|oracle| oracle.run(&log, input).expect("an answer"));
        let mut processor = Processor::new(folders[0].path(), &log);
        for (turn, set) in turns.iter().zip(&sets) {
            // What is taken over is taken over by whoever has the set of that time.
            processor.folder = folders[*set].path();
            processor.turn(turn);
        }
        processor.step(usize::MAX / 2);
        if input == Input::Bounded {
            processor.finish();
        }
        for alert in &processor.alerts {
            *spoken
                .borrow_mut()
                .entry(alert.detection_id.to_string())
                .or_default() += 1;
        }
        let mut wrong = disorder(&processor.alerts);
        wrong.extend(liberties(&before, &open, &processor.alerts));
        of_unchanged(&mut before, &mut processor);
        wrong.extend(differences(&before, &processor));
        verdict(&wrong, &format!("{input:?} {turns:?} {sets:?}"), &log)
    });
    told(outcome);
    let spoken = spoken.into_inner();
    for (name, ..) in EXTRAS {
        assert!(spoken.contains_key(name), "{name}: {spoken:?}");
    }
}

/// Detections that the second set has and the first has not, or of another state.
const NEW: [&str; 3] = ["x_added", "x_key", "x_list"];

/// A swap in the middle of the log: what is new says all of the windows that begin after it, and nothing of those before; what
/// did not change does not notice.
#[test]
fn what_is_new_says_all_of_what_comes_after_a_swap() {
    let folders = [set(0), set(1)];
    let oracles = folders.each_ref().map(|folder| {
        let oracle = Oracle::load(folder.path()).expect("an oracle");
        oracle.with_host_silence(HOST_SILENCE).without_throttle()
    });
    let said_of_new: RefCell<BTreeSet<String>> = RefCell::default();
    let happenings = prop::collection::vec(happening(), 1..160);
    let input = prop_oneof![Just(Input::Bounded), Just(Input::Live)];
    let case = (
        happenings,
        (0_usize..100, 1_usize..40),
        input,
        any::<bool>(),
    );
    let outcome = runner(24).run(&case, |(happenings, (percent, step), input, in_memory)| {
        let log = write_log(&happenings, true);
        let [mut before, after] = oracles
            .each_ref()
            .map(|oracle| oracle.run(&log, input).expect("an answer"));
        let mut processor = Processor::new(folders[0].path(), &log);
        processor.open = true;
        processor.crash();
        let place = log.len() * percent / 100;
        while processor.next < place {
            processor.step(step.min(place - processor.next));
        }
        let since =
            PARTITIONS.map(|partition| processor.engine.latest_high((Topic::Events, partition)));
        let swapped_at = PARTITIONS.map(|partition| {
            let own = log[..place]
                .iter()
                .filter(|record| record.partition == partition);
            own.map(|record| record.offset + 1).max().unwrap_or(0)
        });
        let said_before = processor.alerts.len();
        processor.folder = folders[1].path();
        processor.swap(in_memory);
        while processor.next < log.len() {
            processor.step(step);
        }
        if input == Input::Bounded {
            processor.finish();
        }
        // Windows that begin after the latest time there was; those of a time that was ended before by a clock that was put back
        // are over, wherever they lie.
        let begins_after = |alert: &&super::super::Alert| {
            let partition = alert.cause.partition;
            let place = PARTITIONS.iter().position(|own| *own == partition);
            let place = place.expect("a partition");
            alert.window_start > since[place] && alert.cause.offset >= swapped_at[place]
        };
        let expected: Vec<&super::super::Alert> = after
            .alerts
            .iter()
            .filter(|alert| NEW.contains(&alert.detection_id.as_str()))
            .filter(begins_after)
            .collect();
        let found: Vec<&records::Alert> = processor.alerts[said_before..]
            .iter()
            .filter(|alert| NEW.contains(&&*alert.detection_id))
            .collect();
        let names = found.iter().map(|alert| alert.detection_id.to_string());
        said_of_new.borrow_mut().extend(names);
        let mut wrong = compare(expected, found);
        wrong.extend(disorder(&processor.alerts));
        of_unchanged(&mut before, &mut processor);
        wrong.extend(differences(&before, &processor));
        let drawn =
            format!("{input:?} swapped at {place} in steps of {step}, in memory: {in_memory}");
        verdict(&wrong, &drawn, &log)
    });
    told(outcome);
    assert_eq!(said_of_new.into_inner().len(), NEW.len());
}
