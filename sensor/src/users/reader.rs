//! Reads user databases on a thread of its own, because a container's root can make any read hang.
//!
//! A container may have a file system that answers when it likes (FUSE, a network's). The ring's reader asks, waits
//! [`PATIENCE`] and goes on; a thread that does not come back is left to itself, and its container is not asked again.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dogwatch_schemas::Text;

use super::{Users, Wanted};

/// How long the caller waits for an answer: a local file takes well under 1 ms.
const PATIENCE: Duration = Duration::from_millis(20);
/// A thread that has not answered for so long is given up.
const STUCK_NS: u64 = 5_000_000_000;
/// After so many no more are started: every one of them may hang for ever.
const STUCK_MAX: u32 = 8;

/// A process whose root may hold the databases: its id and its mount namespace.
pub(crate) type Root = (u32, u32);

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub container: Text,
    /// Tried in this order.
    pub roots: Vec<Root>,
    pub wanted: Wanted,
}

/// What came of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// The names, `None` where there are no databases.
    Read(Option<Users>),
    /// It takes longer; [`UserReader::late`] has the answer.
    Waiting,
    /// Another request is under way.
    Busy,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct UserReader {
    worker: Option<Worker>,
    stuck: u32,
}

#[derive(Debug)]
struct Worker {
    requests: Sender<Request>,
    answers: Receiver<Option<Users>>,
    /// Whose databases are being read, and since when.
    under_way: Option<(Text, u64)>,
}

impl UserReader {
    /// Asks for names and waits a moment.
    pub fn ask(&mut self, request: Request, now_ns: u64) -> Answer {
        if self.stuck >= STUCK_MAX {
            return Answer::Read(None);
        }
        if self.worker.is_none() {
            self.worker = start();
        }
        let Some(worker) = &mut self.worker else {
            return Answer::Read(None);
        };
        if worker.under_way.is_some() {
            return Answer::Busy;
        }
        let container = request.container.clone();
        if worker.requests.send(request).is_err() {
            self.worker = None;
            return Answer::Read(None);
        }
        match worker.answers.recv_timeout(PATIENCE) {
            Ok(users) => Answer::Read(users),
            Err(_) => {
                worker.under_way = Some((container, now_ns));
                Answer::Waiting
            }
        }
    }

    /// An answer that took longer; `None` as users where none came and none will.
    pub fn late(&mut self, now_ns: u64) -> Option<(Text, Option<Users>)> {
        let worker = self.worker.as_mut()?;
        let (container, since_ns) = worker.under_way.take()?;
        if let Ok(users) = worker.answers.try_recv() {
            return Some((container, users));
        }
        if now_ns < since_ns + STUCK_NS {
            worker.under_way = Some((container, since_ns));
            return None;
        }
        self.worker = None;
        self.stuck += 1;
        tracing::warn!(
            %container,
            "the user database of a container does not answer: its users go without names"
        );
        Some((container, None))
    }
}

fn start() -> Option<Worker> {
    let (requests, asked) = channel::<Request>();
    let (answer, answers) = channel();
    let run = move || {
        for request in asked {
            let users = request
                .roots
                .iter()
                .find_map(|&(pid, mnt_ns)| Users::read(pid, mnt_ns, Some(&request.wanted)));
            if answer.send(users).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("users".into())
        .spawn(run)
        .ok()?;
    Some(Worker {
        requests,
        answers,
        under_way: None,
    })
}
