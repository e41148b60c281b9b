//! What is known of containers: who announced them, and the reading of their files.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch_ebpf::record::Exec;
use dogwatch_schemas::Text;

use super::{FIRST_REREAD_NS, Gatherer, walk};
use crate::aside::{Answer, Aside};
use crate::config::ContainersConfig;
use crate::container::{
    Announcement, Bundles, Cgroups, Container, FileError, Files, Membership, Question, Request,
    SocketAnswer, Sources, of_running,
};
use crate::fact::Fact;
use crate::scan;
use crate::sockets::Sockets;

/// Names of the programs that tell of containers that run already.
const MONITORS: [&str; 4] = ["containerd-shim", "conmon", "runc", "crun"];

/// A cgroup that is made so much later is not that of an announced container.
const ANNOUNCED_NS: u64 = 30_000_000_000;

/// Bytes of what sockets say of all containers; beyond, labels are left out.
const TOLD_BYTES_MAX: usize = 4 << 20;
const NO_ROOM: &str = "what sockets say of all containers takes more than 4 MiB";
/// So often a container that no socket knows is asked about anew after a second: it may be being made.
const SOON_MAX: u32 = 3;

/// What a runtime's socket says of a container.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The last answer.
    answer: Option<SocketAnswer>,
    /// It came since the container was told last.
    fresh: bool,
    /// Answers that told nothing.
    in_vain: u32,
}

/// What came of reading a container's files.
pub(crate) type Read = Result<Container, FileError>;

/// Reads the files of containers; they may lie where a read hangs.
pub(super) fn reader(config: &ContainersConfig) -> Aside<Request, Read> {
    let sources = Sources::new(&config.docker_root, &config.labels, &config.probes);
    let files = Files::of_host();
    Aside::new("containers", move |request: &Request| {
        sources.read(&files, request)
    })
}

/// Who runs already tells where bundles are, and so do the states that runtimes keep.
pub(super) fn bundles(files: &Files) -> Bundles {
    let mut bundles = Bundles::default();
    for (announcement, uid) in of_running(files) {
        bundles.hear(announcement, uid, u64::MAX);
    }
    for one in scan::named(&MONITORS) {
        if let Some(announcement) = Announcement::of(&one.program, &one.argv, &one.cwd) {
            bundles.hear(announcement, one.uid, u64::MAX);
        }
    }
    bundles
}

/// Every container that runs, and what is known of it.
pub(crate) struct Survey {
    bundles: Bundles,
    cgroups: Cgroups,
    pub found: BTreeMap<Text, (Membership, Read)>,
}

impl Survey {
    /// Reads the files of all containers once.
    pub fn of(
        config: &ContainersConfig,
        cgroup_root: &Path,
        mut sockets: Option<&mut Sockets>,
    ) -> Self {
        let files = Files::of_host();
        let sources = Sources::new(&config.docker_root, &config.labels, &config.probes);
        let mut survey = Self {
            bundles: bundles(&files),
            cgroups: Cgroups::default(),
            found: BTreeMap::new(),
        };
        for (_, path) in walk(cgroup_root) {
            let Some(membership) = survey.membership(&path) else {
                continue;
            };
            if !survey.found.contains_key(&membership.id) {
                let request = request(&survey.bundles, membership.clone());
                let mut read = sources.read(&files, &request);
                if let Some(sockets) = &mut sockets {
                    read = asked(sockets, &membership, read);
                }
                let found = (membership, read);
                survey.found.insert(found.0.id.clone(), found);
            }
        }
        survey
    }

    /// The container of a cgroup.
    pub fn membership(&mut self, path: &str) -> Option<Membership> {
        for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
            if let Some(announced) = self.bundles.placed_at(&path[..end], 0) {
                self.cgroups
                    .tell(&path[..end], &announced.id, announced.runtime());
            }
        }
        self.cgroups.enter(path)
    }
}

/// Completes what files say of a container, or puts a socket's answer in its place.
fn asked(sockets: &mut Sockets, membership: &Membership, read: Read) -> Read {
    let mut known = match &read {
        Ok(container) => container.clone(),
        Err(_) => Container::unknown(membership),
    };
    let Some(question) = Question::of(membership, &known) else {
        return read;
    };
    known.complete(&sockets.answer(question));
    match read {
        Err(error) if !known.socket_told => Err(error),
        _ => Ok(known),
    }
}

fn request(bundles: &Bundles, membership: Membership) -> Request {
    let announced = bundles.of(&membership.runtime_id, &membership.path);
    Request {
        bundle: announced.map(|announced| announced.bundle.clone()),
        pid_file: announced.and_then(|announced| announced.pid_file.clone()),
        roots: bundles.roots().to_vec(),
        membership,
    }
}

impl Gatherer {
    /// Somebody on the host may be about to make a container.
    pub(super) fn announced(&mut self, exec: &Exec) {
        let in_container = matches!(self.cgroups.get(&exec.header.cgroup_id), Some(Some(_)));
        let elsewhere = self
            .host_pid_ns
            .is_some_and(|host| host != exec.identity.pid_ns);
        if in_container || elsewhere {
            return;
        }
        let Some(announcement) = Announcement::of(&exec.path, &exec.argv, &exec.cwd) else {
            return;
        };
        // What is known already is not told anew: anybody may name its id.
        let known = self.containers.values().any(|watched| {
            watched.membership.runtime_id == announcement.id && watched.patience_ends_ns == 0
        });
        if !known {
            let until_ns = self.now_ns + ANNOUNCED_NS;
            self.bundles.hear(announcement, exec.header.uid, until_ns);
        }
    }

    /// A cgroup whose path names no container may be that of an announced one: the stages must know before they see it.
    pub(super) fn recognise(&mut self, path: &str, facts: &mut Vec<Fact>) {
        let Some(announced) = self.bundles.placed_at(path, self.now_ns) else {
            return;
        };
        let (name, runtime) = (announced.id.clone(), announced.runtime());
        if self.told.tell(path, &name, runtime) {
            facts.push(Fact::ContainerCgroup {
                path: path.into(),
                name,
                runtime: runtime.into(),
            });
        }
    }

    /// Reads what is known of a container, or gives up waiting for it.
    pub(super) fn look_up(&mut self, id: &Text, facts: &mut Vec<Fact>) {
        let Some(watched) = self.containers.get(id) else {
            return;
        };
        if watched.under_way {
            return self.give_up(id, facts);
        }
        // What made it hang may be over.
        if watched.silent && self.reader.hangs() {
            return self.learn(id, None, facts);
        }
        let request = request(&self.bundles, watched.membership.clone());
        match self.reader.ask(id, request, self.now_ns) {
            Answer::Read(read) => self.learn(id, Some(read), facts),
            Answer::Waiting => self.wait(id),
            // Once it was told, it can wait for the next poll.
            Answer::Busy => self.give_up(id, facts),
            Answer::Refused => self.learn(id, None, facts),
        }
    }

    fn wait(&mut self, id: &Text) {
        if let Some(watched) = self.containers.get_mut(id) {
            watched.under_way = true;
            watched.due_ns = watched.patience_ends_ns;
        }
    }

    /// Answers that took longer, and containers that are not waited for any more.
    pub(super) fn late_containers(&mut self, facts: &mut Vec<Fact>) {
        if let Some((id, read)) = self.reader.late(self.now_ns) {
            if let Some(watched) = self.containers.get_mut(&id) {
                watched.under_way = false;
                // It is not waited for again, nor asked where nothing came.
                watched.patience_ends_ns = watched.patience_ends_ns.min(self.now_ns);
                watched.silent = read.is_none();
            }
            self.learn(&id, read, facts);
        }
        let waiting = self
            .containers
            .iter()
            .filter(|(_, watched)| watched.under_way && watched.patience_ends_ns != 0);
        let waiting: Vec<Text> = waiting.map(|(id, _)| id.clone()).collect();
        for id in waiting {
            self.give_up(&id, facts);
        }
    }

    /// Takes what sockets have answered; whom it is about is read and told again.
    pub(super) fn hear_sockets(&mut self) {
        let Some(sockets) = &mut self.sockets else {
            return;
        };
        for (id, mut answer) in sockets.answers(self.now_ns) {
            let answers = self.containers.values();
            let answers = answers.filter_map(|watched| match &watched.asked.answer {
                Some(SocketAnswer::Known(told)) => Some(told.bytes()),
                _ => None,
            });
            let room = TOLD_BYTES_MAX.saturating_sub(answers.sum());
            let Some(watched) = self.containers.get_mut(&id) else {
                continue;
            };
            if let SocketAnswer::Known(told) = &mut answer
                && told.bytes() > room
            {
                told.labels.clear();
                told.truncated = true;
                if told.bytes() > room {
                    answer = SocketAnswer::Failed(NO_ROOM.into());
                }
            }
            let in_vain = u32::from(!matches!(answer, SocketAnswer::Known(_)));
            watched.asked = Asked {
                answer: Some(answer),
                fresh: true,
                in_vain: in_vain * (watched.asked.in_vain + 1),
            };
            watched.due_ns = self.now_ns;
        }
    }

    /// Tells the id alone once patience has ended.
    fn give_up(&mut self, id: &Text, facts: &mut Vec<Fact>) {
        let now_ns = self.now_ns;
        let waited = self
            .containers
            .get_mut(id)
            .filter(|watched| watched.patience_ends_ns != 0 && watched.patience_ends_ns <= now_ns);
        if let Some(watched) = waited {
            watched.patience_ends_ns = 0;
            let unknown = Container::unknown(&watched.membership);
            facts.push(Fact::Container(Box::new(unknown)));
        }
    }

    /// Takes what was read; without it the id alone is known.
    fn learn(&mut self, id: &Text, read: Option<Read>, facts: &mut Vec<Fact>) {
        let Some(watched) = self.containers.get_mut(id) else {
            return;
        };
        watched.silent &= read.is_none();
        let first = watched.patience_ends_ns != 0;
        let mut known = match read {
            Some(Ok(container)) => container,
            // Being made: the next poll looks again.
            Some(Err(_)) if self.now_ns < watched.patience_ends_ns => return,
            Some(Err(error)) => {
                if first && !self.warned && watched.membership.has_files() {
                    warn(id, &error);
                    self.warned = true;
                }
                Container::unknown(&watched.membership)
            }
            None => Container::unknown(&watched.membership),
        };
        if let Some(sockets) = &mut self.sockets
            && let Some(question) = Question::of(&watched.membership, &known)
        {
            let asked = &mut watched.asked;
            let told = matches!(asked.answer, Some(SocketAnswer::Known(_)));
            if !told && !std::mem::take(&mut asked.fresh) {
                sockets.ask(question, self.now_ns);
                // What is older than the sensor has no first event that could say more.
                let first = watched.made && asked.answer.is_none();
                if first
                    && sockets.answers_soon(self.now_ns)
                    && self.now_ns < watched.patience_ends_ns
                {
                    // The answer makes it due sooner.
                    watched.due_ns = watched.patience_ends_ns;
                    return;
                }
            }
            if let Some(answer) = &asked.answer {
                known.complete(answer);
            }
        }
        watched.patience_ends_ns = 0;
        // A database that was replaced by a renamed file is read again with the rest.
        watched.user_attempts = 0;
        watched.users_due = true;
        let started = known.start_ns.is_some();
        let asks_again = (1..=SOON_MAX).contains(&watched.asked.in_vain);
        let repeat_ns = self.config.repeat.as_nanos() as u64;
        watched.due_ns = self.now_ns
            + if (first && !started) || asks_again {
                FIRST_REREAD_NS.min(repeat_ns)
            } else {
                repeat_ns
            };
        facts.push(Fact::Container(Box::new(known)));
    }
}

fn warn(container: &Text, error: &FileError) {
    let reason = std::error::Error::source(error)
        .map(|source| source.to_string())
        .unwrap_or_default();
    tracing::warn!(
        %container, %error, reason,
        "a container is known by its id alone: see docs/containers.md for the files its runtime keeps, and let the sensor \
         read them (CAP_SYS_PTRACE, or a mount); for Docker, containers.docker_root is its data root"
    );
}
