//! Reads files on a thread of its own, because a file system can make any read hang.
//!
//! The ring's reader asks, waits [`PATIENCE`] and goes on; the answer then comes late. A thread that does not come back is
//! left to itself, and counts until it does: where too many hang, nothing more is asked.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dogwatch_schemas::Text;

/// How long the caller waits for an answer: a local file takes well under 1 ms.
const PATIENCE: Duration = Duration::from_millis(20);
/// A thread that has not answered for so long is given up.
const STUCK_NS: u64 = 5_000_000_000;
/// While so many hang no more are started.
const STUCK_MAX: usize = 8;

/// What came of a question.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer<A> {
    /// The answer.
    Read(A),
    /// It takes longer; [`Aside::late`] has the answer.
    Waiting,
    /// Another question is under way.
    Busy,
    /// Too many threads hang, or none can be started.
    Refused,
}

/// See the module's description.
pub(crate) struct Aside<Q, A> {
    name: &'static str,
    work: Arc<dyn Fn(&Q) -> A + Send + Sync>,
    worker: Option<Worker<Q, A>>,
    stuck: Vec<JoinHandle<()>>,
}

struct Worker<Q, A> {
    questions: Sender<Q>,
    answers: Receiver<A>,
    thread: JoinHandle<()>,
    /// Which container's files are being read, and since when.
    under_way: Option<(Text, u64)>,
}

impl<Q, A> std::fmt::Debug for Aside<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aside")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<Q: Send + 'static, A: Send + 'static> Aside<Q, A> {
    /// A thread of this name, once there is a question, that answers with `work`.
    pub fn new(name: &'static str, work: impl Fn(&Q) -> A + Send + Sync + 'static) -> Self {
        Self {
            name,
            work: Arc::new(work),
            worker: None,
            stuck: Vec::new(),
        }
    }

    /// Asks about a container and waits a moment.
    pub fn ask(&mut self, container: &Text, question: Q, now_ns: u64) -> Answer<A> {
        if self.worker.is_none() && self.stuck() < STUCK_MAX {
            self.worker = start(self.name, &self.work);
        }
        let Some(worker) = &mut self.worker else {
            return Answer::Refused;
        };
        if worker.under_way.is_some() {
            return Answer::Busy;
        }
        if worker.questions.send(question).is_err() {
            self.worker = None;
            return Answer::Refused;
        }
        match worker.answers.recv_timeout(PATIENCE) {
            Ok(answer) => Answer::Read(answer),
            Err(_) => {
                worker.under_way = Some((container.clone(), now_ns));
                Answer::Waiting
            }
        }
    }

    /// Whether a thread that was given up has not come back.
    pub fn hangs(&mut self) -> bool {
        self.stuck() > 0
    }

    /// How many threads that were given up have not come back.
    fn stuck(&mut self) -> usize {
        self.stuck.retain(|thread| !thread.is_finished());
        self.stuck.len()
    }

    /// An answer that took longer; `None` in its place where none came and none will.
    pub fn late(&mut self, now_ns: u64) -> Option<(Text, Option<A>)> {
        let worker = self.worker.as_mut()?;
        let (container, since_ns) = worker.under_way.take()?;
        if let Ok(answer) = worker.answers.try_recv() {
            return Some((container, Some(answer)));
        }
        if now_ns < since_ns + STUCK_NS {
            worker.under_way = Some((container, since_ns));
            return None;
        }
        if let Some(worker) = self.worker.take() {
            self.stuck.push(worker.thread);
        }
        tracing::warn!(%container, "the files of a container do not answer ({}): it goes without", self.name);
        Some((container, None))
    }
}

fn start<Q: Send + 'static, A: Send + 'static>(
    name: &'static str,
    work: &Arc<dyn Fn(&Q) -> A + Send + Sync>,
) -> Option<Worker<Q, A>> {
    let (questions, asked) = channel::<Q>();
    let (answer, answers) = channel();
    let work = Arc::clone(work);
    let run = move || {
        for question in asked {
            if answer.send(work(&question)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .ok()?;
    Some(Worker {
        questions,
        answers,
        thread,
        under_way: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A worker that answers twice the number, but waits for the gate with odd ones.
    fn doubling(gate: Arc<Mutex<()>>) -> Aside<u32, u32> {
        Aside::new("test", move |number| {
            if number % 2 == 1 {
                let _open = gate.lock();
            }
            number * 2
        })
    }

    #[test]
    fn a_hung_read_holds_nobody_up_and_its_answer_comes_late() {
        let gate = Arc::new(Mutex::new(()));
        let mut aside = doubling(Arc::clone(&gate));
        let id: Text = "a".into();
        assert_eq!(aside.ask(&id, 2, 0), Answer::Read(4));
        let closed = gate.lock().unwrap();
        assert_eq!(aside.ask(&id, 3, 0), Answer::Waiting);
        assert_eq!(aside.ask(&id, 2, 0), Answer::Busy);
        assert_eq!(aside.late(1), None);
        drop(closed);
        let late = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            aside.late(1)
        });
        assert_eq!(late, Some((id.clone(), Some(6))));
        assert_eq!(aside.ask(&id, 4, 2), Answer::Read(8));
    }

    #[test]
    fn threads_that_hang_are_counted_until_they_come_back() {
        let gate = Arc::new(Mutex::new(()));
        let mut aside = doubling(Arc::clone(&gate));
        let id: Text = "a".into();
        let closed = gate.lock().unwrap();
        for _ in 0..STUCK_MAX {
            assert_eq!(aside.ask(&id, 1, 0), Answer::Waiting);
            assert_eq!(aside.late(STUCK_NS), Some((id.clone(), None)));
        }
        assert_eq!(aside.ask(&id, 2, 0), Answer::Refused);
        assert!(aside.hangs());
        drop(closed);
        let again = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            match aside.ask(&id, 2, 0) {
                Answer::Read(number) => Some(number),
                _ => None,
            }
        });
        assert_eq!(again, Some(4));
        let back = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            !aside.hangs()
        });
        assert!(back);
    }
}
