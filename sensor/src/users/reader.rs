//! Reads user databases aside, because a container's root can make any read hang; see [`crate::aside`].

use dogwatch_schemas::Text;

use super::{Users, Wanted};
use crate::aside::{Answer, Aside};

/// A process whose root may hold the databases: its id and its mount namespace.
pub(crate) type Root = (u32, u32);

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Tried in this order.
    pub roots: Vec<Root>,
    pub wanted: Wanted,
}

/// Names, `None` where there are no databases.
type Names = Option<Users>;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct UserReader(Aside<Request, Names>);

impl Default for UserReader {
    fn default() -> Self {
        Self(Aside::new("users", |request: &Request| {
            request
                .roots
                .iter()
                .find_map(|&(pid, mnt_ns)| Users::read(pid, mnt_ns, Some(&request.wanted)))
        }))
    }
}

impl UserReader {
    /// Asks for names and waits a moment.
    pub fn ask(&mut self, container: &Text, request: Request, now_ns: u64) -> Answer<Names> {
        match self.0.ask(container, request, now_ns) {
            Answer::Refused => Answer::Read(None),
            answer => answer,
        }
    }

    /// An answer that took longer; without names where none came and none will.
    pub fn late(&mut self, now_ns: u64) -> Option<(Text, Names)> {
        let (container, names) = self.0.late(now_ns)?;
        Some((container, names.flatten()))
    }
}
