//! Asks runtimes' sockets what their files lack, where the configuration names sockets.
//!
//! ```text
//! gather ──question──► helper ──► containerd, CRI-O (CRI), Podman (Docker's API)
//!        ◄──answer───   a process of its own
//! ```
//! The gatherer never waits here: it asks, and looks for answers at every poll. A runtime's socket is as good as root, so the
//! sensor itself has none of them; `helper` says what the process that has them gives up.

mod cri;
mod docker;
mod frame;
mod helper;
mod http;
mod rights;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::error::Error as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch_schemas::Text;

use self::frame::{Reply, Request, Setup, pair, receive, send};
pub use self::helper::serve_if_asked;
use crate::container::{Question, Socket, SocketAnswer};
use crate::metrics;

/// The argument that makes a program the one that asks.
const SUBCOMMAND: &str = "ask-sockets";
/// Questions under way: each may take [`helper`]'s patience.
const UNDER_WAY_MAX: usize = 16;
/// A question that has no answer by then has none: the worker ended over it, or hangs.
const UNANSWERED_NS: u64 = 15_000_000_000;
/// For a check, which waits for an answer: all sockets may hang.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// While the oldest question is older, nobody waits for answers.
const SLOW_NS: u64 = 1_000_000_000;

const ENDED: &str =
    "the process that asks containers.sockets has ended; the sensor's next start brings it back";
const UNANSWERED: &str = "the process that asks containers.sockets does not answer";

/// Why a socket said nothing.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("nobody can be reached there")]
    Unreachable(#[source] io::Error),
    #[error("does not answer within 2 s")]
    Silent,
    #[error("refuses: {0}")]
    Refused(String),
    #[error("answers more than 1 MiB")]
    TooLarge,
    #[error("answers what is no answer: {0}")]
    Damaged(String),
    #[error("does not speak the protocol it is configured with")]
    Protocol(#[from] hyper::Error),
}

impl AskError {
    /// With its cause.
    fn in_full(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

/// The sensor's end; the process goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Sockets {
    sockets: Vec<Socket>,
    channel: UnixDatagram,
    child: Child,
    ended: bool,
    waiting: VecDeque<Question>,
    /// Since when each container is asked about.
    under_way: BTreeMap<Text, u64>,
    /// The last question went without an answer.
    silent: bool,
}

impl Sockets {
    /// Starts the process that asks these sockets; `None` where there are none. Labels of these names are kept however many
    /// others a container has. Call it while programs can be started.
    ///
    /// # Errors
    /// Fails where the program cannot be started anew.
    pub fn start(sockets: &[Socket], labels: &[Text]) -> io::Result<Option<Self>> {
        if sockets.is_empty() {
            return Ok(None);
        }
        let (channel, other) = pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::from(other))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let setup = Setup {
            sockets: sockets.to_vec(),
            labels: labels.to_vec(),
        };
        send(&channel, &setup)?;
        Self::over(channel, setup.sockets, child).map(Some)
    }

    fn over(channel: UnixDatagram, sockets: Vec<Socket>, child: Child) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self {
            sockets,
            channel,
            child,
            ended: false,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            silent: false,
        })
    }

    /// Asks; the answer is among [`answers`](Self::answers) some time later.
    pub fn ask(&mut self, question: Question, now_ns: u64) {
        let known = self.under_way.contains_key(&question.id)
            || self.waiting.iter().any(|waiting| waiting.id == question.id);
        if !known {
            self.waiting.push_back(question);
            self.send_waiting(now_ns);
        }
    }

    /// Whether an answer comes soon, as far as can be told.
    pub fn answers_soon(&self, now_ns: u64) -> bool {
        let oldest = self.under_way.values().min();
        let queued = !self.waiting.is_empty();
        !self.ended
            && !self.silent
            && !queued
            && oldest.is_none_or(|since| now_ns < since + SLOW_NS)
    }

    /// What came since the last time, by container.
    pub fn answers(&mut self, now_ns: u64) -> Vec<(Text, SocketAnswer)> {
        let mut answers = Vec::new();
        if self.ended {
            // It may have ended after its end of the channel was closed.
            let _ = self.child.try_wait();
        }
        if self.under_way.is_empty() && self.waiting.is_empty() {
            return answers;
        }
        while let Some(reply) = self.reply() {
            if let Reply::Told(id, answer) = reply
                && self.under_way.remove(&id).is_some()
            {
                self.silent = matches!(answer, SocketAnswer::Failed(_));
                answers.push((id, answer));
            }
        }
        let lost = match self.ended {
            true => ENDED,
            false => UNANSWERED,
        };
        let late = |since: &u64| now_ns >= since + UNANSWERED_NS;
        let (ended, before) = (self.ended, answers.len());
        self.under_way.retain(|id, since| {
            let gone = ended || late(since);
            if gone {
                answers.push((id.clone(), SocketAnswer::Failed(lost.into())));
            }
            !gone
        });
        self.silent |= answers.len() > before;
        if self.ended {
            let waiting = self.waiting.drain(..);
            answers
                .extend(waiting.map(|question| (question.id, SocketAnswer::Failed(lost.into()))));
        }
        self.send_waiting(now_ns);
        for (_, answer) in &answers {
            metrics::socket_answer(answer);
        }
        answers
    }

    fn send_waiting(&mut self, now_ns: u64) {
        while self.under_way.len() < UNDER_WAY_MAX
            && !self.ended
            && let Some(question) = self.waiting.pop_front()
        {
            let id = question.id.clone();
            match send(&self.channel, &Request::About(question.clone())) {
                Ok(()) => _ = self.under_way.insert(id, now_ns),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.waiting.push_front(question);
                }
                Err(error) => {
                    self.waiting.push_front(question);
                    self.end(&error.to_string());
                }
            }
        }
    }

    fn reply(&mut self) -> Option<Reply> {
        if self.ended {
            return None;
        }
        match receive(&self.channel) {
            Ok(Some(reply)) => Some(reply),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(None) => {
                self.end("its end is closed");
                None
            }
            Err(error) => {
                self.end(&error.to_string());
                None
            }
        }
    }

    fn end(&mut self, error: &str) {
        self.ended = true;
        // Nobody else waits for it.
        let status = self.child.try_wait().ok().flatten();
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        tracing::error!(
            error,
            status,
            "{ENDED}: what only sockets have is null until then"
        );
    }

    /// Waits for what a question comes to: for a check, where nothing else is to be done.
    pub fn answer(&mut self, question: Question) -> SocketAnswer {
        let id = question.id.clone();
        self.ask(question, 0);
        let mut answers = Vec::new();
        self.wait(|sockets| {
            answers.extend(sockets.answers(0));
            let found = answers.iter().position(|(of, _)| *of == id)?;
            Some(answers.swap_remove(found).1)
        })
        .unwrap_or_else(|| SocketAnswer::Failed(UNANSWERED.into()))
    }

    /// Each socket with who serves it, or why nobody does.
    pub fn greet(&mut self) -> Vec<(Socket, Result<Text, Text>)> {
        let sockets = self.sockets.clone();
        let greet = |(index, socket)| {
            let greeting = self.greeting(index);
            (socket, greeting.unwrap_or_else(|| Err(UNANSWERED.into())))
        };
        sockets.into_iter().enumerate().map(greet).collect()
    }

    fn greeting(&mut self, index: usize) -> Option<Result<Text, Text>> {
        send(&self.channel, &Request::Greet(index)).ok()?;
        self.wait(|sockets| match sockets.reply()? {
            Reply::Greeted(of, greeting) if of == index => Some(greeting),
            _ => None,
        })
    }

    fn wait<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        let end = Instant::now() + ANSWER_PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return Some(found);
            }
            if Instant::now() >= end {
                self.end("it does not answer");
            }
            if self.ended {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
