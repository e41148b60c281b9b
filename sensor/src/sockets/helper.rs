//! The process that asks runtimes' sockets: the sensor's program, started anew before the sensor gives up its rights.
//!
//! ```text
//! sensor ◄─ packets ─► worker ─► sockets      nobody's user id where that reaches them, no capability, no file
//!                         ▲
//!                     supervisor              makes another worker where one ends: the sensor could not
//! ```
//! The worker answers one question after the other, each within [`PATIENCE`]. A socket that let one run out of time is left
//! alone for [`REST`]. Both end when the sensor closes its end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use dogwatch_schemas::Text;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::frame::{Reply, Request, Setup, receive, send};
use super::told::Bounds;
use super::{AskError, SUBCOMMAND, cri, docker, rights};
use crate::container::{Protocol, Question, Socket, SocketAnswer, Told};

/// How long a socket has for everything that is asked about one container.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a socket that did not answer is not asked.
const REST: Duration = Duration::from_secs(10);
/// From so many silences in a row on.
const SILENCES_MAX: u32 = 2;
/// Between the end of a worker and the next one.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 200;

/// Does what this process was started for and ends it, where it was started as the one that asks sockets; a program calls it
/// before anything else.
pub fn serve_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).as_deref() != Some(OsStr::new(SUBCOMMAND)) {
        return;
    }
    let code = match supervise() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the process that asks runtimes' sockets: {error}");
            1
        }
    };
    std::process::exit(code);
}

fn supervise() -> io::Result<()> {
    let channel = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some(setup) = receive::<Setup>(&channel)? else {
        return Ok(());
    };
    // It ends with the sensor, which may have more to ask after such a signal.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Who started the sensor may have had children reaped unseen.
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    rights::give_up(&setup.sockets)?;
    loop {
        // SAFETY: this process has one thread, so the copy has all that it needs.
        match unsafe { libc::fork() } {
            0 => {
                let mut worker = Worker::new(setup.clone())?;
                rights::leave_calls_alone()?;
                let served = worker.serve(&channel);
                // A packet that is none, or a system that refuses: another worker goes on.
                std::process::exit(i32::from(served.is_err()));
            }
            -1 => {}
            worker if ended_well(worker) => return Ok(()),
            _ => {}
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits for the end of a worker; true where there is nothing more to answer.
fn ended_well(worker: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: there is room for the status.
    let waited = unsafe { libc::waitpid(worker, &mut status, 0) };
    waited == worker && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

struct Worker {
    setup: Setup,
    runtime: Runtime,
    /// When each socket is asked again.
    rests: Vec<Option<Instant>>,
    /// How often each was silent in a row.
    silences: Vec<u32>,
}

impl Worker {
    fn new(setup: Setup) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self {
            rests: vec![None; setup.sockets.len()],
            silences: vec![0; setup.sockets.len()],
            setup,
            runtime,
        })
    }

    /// Answers until the sensor is gone: what it asked last is not asked of sockets any more.
    fn serve(&mut self, channel: &UnixDatagram) -> io::Result<()> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.answer_all(channel) {
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Ok(()),
            answered => answered,
        }
    }

    fn answer_all(&mut self, channel: &UnixDatagram) -> io::Result<()> {
        while let Some(request) = receive(channel)? {
            let reply = match request {
                Request::Greet(index) => Reply::Greeted(index, self.greet(index)),
                Request::About(question) => {
                    let answer = self.answer(&question);
                    Reply::Told(question.id, answer)
                }
            };
            reply_with(channel, reply)?;
        }
        Ok(())
    }

    fn greet(&mut self, index: usize) -> Result<Text, Text> {
        let Some(socket) = self.setup.sockets.get(index) else {
            return Err("no such socket".into());
        };
        let path = &socket.path;
        let greeting = async {
            match socket.protocol {
                Protocol::Cri => cri::greet(path).await,
                Protocol::Docker => docker::greet(path).await,
            }
        };
        let greeted = within(&self.runtime, greeting);
        greeted
            .map(|text| clean(&text))
            .map_err(|error| clean(&error.in_full()))
    }

    fn answer(&mut self, question: &Question) -> SocketAnswer {
        let mut failed = None;
        for (index, socket) in self.setup.sockets.iter().enumerate() {
            if question
                .protocol
                .is_some_and(|protocol| protocol != socket.protocol)
            {
                continue;
            }
            let rests = self.rests[index].is_some_and(|until| Instant::now() < until);
            let asked = match rests {
                true => Err(AskError::Silent),
                false => ask(&self.runtime, socket, question, &self.setup.labels),
            };
            if !matches!(asked, Err(AskError::Silent)) {
                self.silences[index] = 0;
            }
            match asked {
                Ok(Some(told)) => return SocketAnswer::Known(Box::new(told)),
                Ok(None) => {}
                Err(error) => {
                    if matches!(error, AskError::Silent) && !rests {
                        self.silences[index] += 1;
                        // One alone may be a container that hangs, not who serves the socket.
                        if self.silences[index] >= SILENCES_MAX {
                            self.rests[index] = Some(Instant::now() + REST);
                        }
                    }
                    let reason = format!("{socket}: {}", error.in_full());
                    failed.get_or_insert_with(|| clean(&reason));
                }
            }
        }
        failed.map_or(SocketAnswer::Unknown, SocketAnswer::Failed)
    }
}

fn ask(
    runtime: &Runtime,
    socket: &Socket,
    question: &Question,
    labels: &[Text],
) -> Result<Option<Told>, AskError> {
    let bounds = Bounds { labels };
    within(runtime, async {
        match socket.protocol {
            Protocol::Cri => cri::ask(&socket.path, question, &bounds).await,
            Protocol::Docker => docker::ask(&socket.path, question, &bounds).await,
        }
    })
}

fn within<T>(
    runtime: &Runtime,
    asking: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    let limited = async {
        let asked = timeout(PATIENCE, asking).await;
        // Connections that are given up are closed now, not with the next question.
        tokio::task::yield_now().await;
        asked
    };
    runtime.block_on(limited).unwrap_or(Err(AskError::Silent))
}

/// Sends a reply; what has no room in a packet goes without its lists.
fn reply_with(channel: &UnixDatagram, mut reply: Reply) -> io::Result<()> {
    match send(channel, &reply) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            if let Reply::Told(_, SocketAnswer::Known(told)) = &mut reply {
                told.labels.clear();
                told.probes.clear();
                told.healthcheck = None;
                told.truncated = true;
            }
            send(channel, &reply)
        }
        sent => sent,
    }
}

/// What others sent goes into logs and rows: short, and without anything that moves a cursor.
fn clean(text: &str) -> Text {
    let text: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    text[..text.floor_char_boundary(REASON_BYTES_MAX)].into()
}

#[cfg(test)]
mod tests;
