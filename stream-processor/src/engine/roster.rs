//! Which detections a task's state is of, and from when on each of them speaks.
//!
//! What a checkpoint lists was there before: it goes on. What it does not list begins where the replay ends: it is shown the
//! rows that are only replayed, but neither folds nor fires on them, and its first window is the first that is whole.
//! A detection is listed by what its state is of, so a new title, severity or `HAVING` is nothing new.

use std::collections::BTreeMap;

use datafusion::common::HashMap;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Renewal, State, StateRecord};

/// Name of the stored list.
const NAME: &str = "detections";

/// A detection as a checkpoint lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Its name.
    pub id: String,
    /// The hash of its file.
    pub content: String,
    /// The hash of its query.
    pub query: String,
    /// The hash of what its state is of.
    pub state: String,
    /// Windows that start up to then are not its own; none where it was there from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
}

/// From when on a detection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// As long as the task.
    Always,
    /// Of windows that start after this time.
    After(i64),
    /// Not before the replay has ended.
    Replay,
}

/// What rows that are only replayed are to a detection that did not speak of them as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Other {
    /// It was not there.
    New,
    /// It had another name, or its query asked for something else of the same state: what it said is not known.
    Changed,
    /// It asked for the same in another text, of this hash.
    Edited(String),
}

/// The lists of all tasks.
#[derive(Debug)]
pub(super) struct Roster {
    /// The loaded detections, by place.
    own: Vec<Listed>,
    tasks: HashMap<i32, Task>,
    /// Those that a task's last checkpoint did not list, or with another text, while its rows are replayed, by place.
    others: BTreeMap<i32, BTreeMap<usize, Other>>,
}

#[derive(Debug)]
struct Task {
    /// By place.
    since: Vec<Since>,
    changed: bool,
}

impl Roster {
    /// Of the loaded detections, by place.
    pub fn new(own: Vec<Listed>) -> Self {
        Self {
            own,
            tasks: HashMap::new(),
            others: BTreeMap::new(),
        }
    }

    /// Takes a task's list back, out of its state. A task without a list begins with all of them.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn restore(&mut self, partition: i32, state: &mut State) -> serde_json::Result<()> {
        let stored = state.remove(NAME);
        let listed: Option<Vec<Listed>> = stored
            .map(|stored| serde_json::from_slice(&stored))
            .transpose()?;
        let mut task = Task {
            since: vec![Since::Always; self.own.len()],
            changed: listed.is_none(),
        };
        let mut others = BTreeMap::new();
        for (place, own) in self.own.iter().enumerate() {
            let Some(listed) = &listed else {
                continue;
            };
            let mut same = listed.iter().filter(|listed| listed.state == own.state);
            // Of those with one state that one which has its name.
            let known = same.clone().find(|listed| listed.id == own.id);
            match known.or_else(|| same.next()) {
                Some(known) => {
                    task.since[place] = known.since.map_or(Since::Always, Since::After);
                    if (&known.id, &known.query) != (&own.id, &own.query) {
                        others.insert(place, Other::Changed);
                    } else if known.content != own.content {
                        others.insert(place, Other::Edited(known.content.clone()));
                    }
                }
                None => {
                    task.since[place] = Since::Replay;
                    others.insert(place, Other::New);
                }
            }
        }
        task.changed |= !others.is_empty();
        task.changed |= listed.is_some_and(|listed| listed.len() != self.own.len());
        self.tasks.insert(partition, task);
        if !others.is_empty() {
            self.others.insert(partition, others);
        }
        Ok(())
    }

    /// From when on each detection speaks in a task, by place; none where it is not known yet.
    pub fn since(&self, partition: i32) -> &[Since] {
        self.tasks
            .get(&partition)
            .map_or(&[], |task| task.since.as_slice())
    }

    /// Ends a task's replay at its hosts' latest time; returns whether that changes anything.
    pub fn begin(&mut self, partition: i32, latest: i64) -> bool {
        let Some(task) = self.tasks.get_mut(&partition) else {
            return false;
        };
        let waiting = task
            .since
            .iter_mut()
            .filter(|since| **since == Since::Replay);
        let mut any = false;
        for since in waiting {
            (*since, any) = (Since::After(latest), true);
        }
        task.changed |= any;
        any
    }

    /// The detections that did not speak of a task's replayed rows as they are now, by place.
    pub fn others(&self, partition: i32) -> impl Iterator<Item = (usize, &Other)> {
        let others = self.others.get(&partition).into_iter().flatten();
        others.map(|(place, other)| (*place, other))
    }

    /// Whether a detection did not speak of a task's replayed rows as it is now.
    pub fn is_other(&self, partition: i32, detection: usize) -> bool {
        let others = self.others.get(&partition);
        others.is_some_and(|others| others.contains_key(&detection))
    }

    /// Whether any task has such detections.
    pub fn any_other(&self) -> bool {
        !self.others.is_empty()
    }

    /// Notes that a task's rows are live from now on.
    pub fn settle(&mut self, partition: i32) {
        self.others.remove(&partition);
    }

    /// Whether a task's list is to be stored with the first of its rows that are live: until the next checkpoint it tells who
    /// spoke of them.
    pub fn changed(&self, partition: i32) -> bool {
        let task = self.tasks.get(&partition);
        task.is_some_and(|task| task.changed)
    }

    /// The list, where it changed or is to be written anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(
        &mut self,
        partition: i32,
        renewal: &Renewal,
    ) -> serde_json::Result<Option<StateRecord>> {
        let begun = || Task {
            since: vec![Since::Always; self.own.len()],
            changed: true,
        };
        let task = self.tasks.entry(partition).or_insert_with(begun);
        let asked = renewal.below(NAME).any(|rest| rest.is_empty());
        if !task.changed && !asked {
            return Ok(None);
        }
        task.changed = false;
        let listed = self.own.iter().zip(&task.since);
        // One that waits for the end of the replay is not there yet: whoever goes on from here begins it anew.
        let listed = listed.filter(|(_, since)| **since != Since::Replay);
        let listed: Vec<Listed> = listed
            .map(|(own, since)| Listed {
                since: match since {
                    Since::After(time) => Some(*time),
                    Since::Always | Since::Replay => None,
                },
                ..own.clone()
            })
            .collect();
        Ok(Some(StateRecord {
            key: NAME.to_owned(),
            value: Some(serde_json::to_vec(&listed)?),
        }))
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.tasks.remove(&partition);
        self.others.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, content: &str, state: &str) -> Listed {
        Listed {
            id: id.to_owned(),
            content: content.to_owned(),
            query: "q".to_owned(),
            state: state.to_owned(),
            since: None,
        }
    }

    fn stored(roster: &mut Roster) -> Option<State> {
        let record = roster.store(5, &Renewal::default()).expect("stored")?;
        Some(State::from([(record.key, record.value?)]))
    }

    #[test]
    fn what_a_checkpoint_does_not_list_begins_where_the_replay_ends() {
        let mut first = Roster::new(vec![listed("a", "1", "sa"), listed("b", "1", "sb")]);
        first.restore(5, &mut State::new()).expect("nothing");
        assert_eq!(first.since(5), [Since::Always; 2]);
        let mut state = stored(&mut first).expect("a list");
        assert_eq!(stored(&mut first), None, "nothing changed");
        // One has a new title, one computes something else, one is new.
        let own = vec![
            listed("a", "2", "sa"),
            listed("b", "2", "sx"),
            listed("c", "1", "sc"),
        ];
        let mut second = Roster::new(own.clone());
        second.restore(5, &mut state).expect("a list");
        assert_eq!(
            second.since(5),
            [Since::Always, Since::Replay, Since::Replay]
        );
        let edited = Other::Edited("1".to_owned());
        let others: Vec<(usize, &Other)> = second.others(5).collect();
        assert_eq!(others, [(0, &edited), (1, &Other::New), (2, &Other::New)]);
        // A checkpoint in the replay does not list them: they begin at the end of the next one's.
        let mut early = stored(&mut second).expect("a list");
        let mut third = Roster::new(own.clone());
        third.restore(5, &mut early).expect("a list");
        assert_eq!(third.since(5)[1..], [Since::Replay; 2]);
        assert!(second.begin(5, 77) && !second.begin(5, 99));
        assert!(second.changed(5), "the list is stored with the first row");
        second.settle(5);
        assert!(!second.is_other(5, 1) && !second.any_other());
        let mut state = stored(&mut second).expect("a list");
        let mut fourth = Roster::new(own);
        fourth.restore(5, &mut state).expect("a list");
        assert!(!fourth.any_other() && !fourth.changed(5));
        let after = Since::After(77);
        assert_eq!(fourth.since(5), [Since::Always, after, after]);
    }
}
