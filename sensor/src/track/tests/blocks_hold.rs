//! What is encoded once tells the same as what is told anew: whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;

/// Something that happens to a few processes and a container.
#[derive(Debug, Clone)]
enum Step {
    Fork {
        parent: u32,
        child: u32,
    },
    Exec {
        pid: u32,
        argument: String,
    },
    Open {
        pid: u32,
    },
    /// The effective user changes: seen in the header of whatever comes next.
    SetUser {
        pid: u32,
        uid: u32,
    },
    Exit {
        pid: u32,
    },
    Move {
        pid: u32,
        into_container: bool,
    },
    Rename {
        label: String,
    },
    Users {
        name: String,
    },
    Clock {
        passed_ns: u64,
        drift_ns: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pid = || 10..16u32;
    prop_oneof![
        1 => (pid(), 11..16u32).prop_map(|(parent, child)| Step::Fork { parent, child }),
        1 => (pid(), "[a-z]{1,6}").prop_map(|(pid, argument)| Step::Exec { pid, argument }),
        6 => pid().prop_map(|pid| Step::Open { pid }),
        1 => (pid(), 0..3u32).prop_map(|(pid, uid)| Step::SetUser { pid, uid }),
        1 => pid().prop_map(|pid| Step::Exit { pid }),
        1 => (pid(), any::<bool>()).prop_map(|(pid, into_container)| Step::Move { pid, into_container }),
        1 => "[a-z]{0,3}".prop_map(|label| Step::Rename { label }),
        1 => "[a-z]{1,3}".prop_map(|name| Step::Users { name }),
        1 => (0..2 * SECOND_NS, -3_000_000..3_000_000i64)
            .prop_map(|(passed_ns, drift_ns)| Step::Clock { passed_ns, drift_ns }),
    ]
}

impl Bench {
    fn take(&mut self, step: &Step, uids: &mut BTreeMap<u32, u32>) {
        match step {
            // A pid is free once its process has ended.
            Step::Fork { parent, child } if self.lives(*parent) && !self.knows(*child) => {
                self.fork(*parent, *child, 0, INSIDE);
                uids.remove(child);
            }
            Step::Exec { pid, argument } if self.lives(*pid) => {
                self.exec(*pid, *pid, INSIDE, &format!("run {argument}"));
            }
            Step::Open { pid } if self.lives(*pid) => {
                let mut header = self.header(*pid, self.cgroup(*pid));
                header.uid = uids.get(pid).copied().unwrap_or_default();
                let path = Value::Text(b"/none".to_vec());
                self.record(called("execve", header, vec![(0, path)]));
            }
            Step::SetUser { pid, uid } => {
                uids.insert(*pid, *uid);
            }
            Step::Exit { pid } if self.lives(*pid) => {
                let header = self.header(*pid, self.cgroup(*pid));
                let (status, counters) = (0, Default::default());
                self.record(Record::Exit {
                    header,
                    status,
                    counters,
                });
            }
            Step::Move {
                pid,
                into_container,
            } if self.lives(*pid) => {
                let to = if *into_container {
                    BOX_CGROUP
                } else {
                    HOST_CGROUP
                };
                self.enter(10, *pid, to);
            }
            Step::Rename { label } => {
                let mut container = known(None);
                container.labels = Some(BTreeMap::from([("app".into(), label.as_str().into())]));
                self.fact(Fact::Container(Box::new(container)));
            }
            Step::Users { name } => {
                let users = Users {
                    users: BTreeMap::from([(0, name.as_str().into())]),
                    ..Users::default()
                };
                self.fact(Fact::Users {
                    container: Some(id().into()),
                    users,
                });
            }
            Step::Clock {
                passed_ns,
                drift_ns,
            } => {
                self.now_ns += passed_ns;
                let wall_ns = self.now_ns as i64 + drift_ns;
                self.fact(Fact::Clock(Reading {
                    boot_ns: self.now_ns,
                    wall_ns,
                }));
            }
            _ => {}
        }
    }

    fn knows(&self, pid: u32) -> bool {
        self.tracker.table.with_pid(pid).is_some()
    }

    fn lives(&self, pid: u32) -> bool {
        let process = self.tracker.table.with_pid(pid);
        process.is_some_and(|process| process.exit_ns.is_none())
    }
}

/// Without the drift of the clock that blocks are allowed, of which none must be larger.
fn without_drift(mut event: Event, clock_ns: i64) -> Event {
    let near = |time: i64| {
        let drift = time - (time / 10_000_000 * 10_000_000);
        let drift = if drift > 5_000_000 {
            drift - 10_000_000
        } else {
            drift
        };
        assert!((drift - clock_ns).abs() <= 1_000_000, "{time}: {drift}");
        0
    };
    for time in [
        &mut event.proc_pid_ts,
        &mut event.proc_ppid_ts,
        &mut event.proc_sid_ts,
    ] {
        *time = time.map(near);
    }
    event.proc_apid_ts = event
        .proc_apid_ts
        .map(|times| times.into_iter().map(near).collect());
    event
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_row_tells_the_same_with_blocks_and_without(steps in prop::collection::vec(step(), 1..60)) {
        let (mut with, mut without) = (Bench::new(), Bench::new());
        let (mut uids, mut same_uids) = (BTreeMap::new(), BTreeMap::new());
        for bench in [&mut with, &mut without] {
            bench.container(None);
            bench.exec(11, 1, INSIDE, "run init");
        }
        for step in &steps {
            with.rows.clear();
            without.rows.clear();
            with.take(step, &mut uids);
            without.tracker.blocks.outdate();
            without.take(step, &mut same_uids);
            let clock_ns = with.tracker.clock.wall_ns(0);
            let told = |bench: &Bench| -> Vec<Event> {
                bench.events().map(|event| without_drift(event, clock_ns)).collect()
            };
            prop_assert_eq!(told(&with), told(&without));
        }
    }
}
