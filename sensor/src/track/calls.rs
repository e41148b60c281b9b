//! Columns of system calls that are told by their arguments, as their rows in the table of calls say.
//!
//! ```text
//! a path             ──► fd_name, fd_nameraw, fd_directory, fd_filename
//! two paths          ──► fs_path_source(raw), fs_path_target(raw)
//! a descriptor       ──► fd_num and what it is: fd_name, fd_type, fd_dev, fd_ino, or both ends of the socket
//! a socket's address ──► the same columns, where the kernel does not know better
//! anything else      ──► evt_args, by Falco's name
//! ```

use std::collections::BTreeMap;

use dogwatch_ebpf::calls::{ArgumentKind, Call, Effect};
use dogwatch_ebpf::control::RateClass;
use dogwatch_ebpf::record::{Called, PLACE_CWD, PLACE_PEER, SocketAddresses, Value};
use dogwatch_schemas::records::Event;
use dogwatch_schemas::{Text, calls};

use super::credentials;
use super::rows::{self, Ends};
use crate::text::text;

/// What an event of a call is called.
pub(super) fn event_type(call: &Call) -> &'static str {
    calls::event_type(call.name)
}

/// A path as it is told: as given, and with the folder that it starts from.
struct Path {
    raw: Text,
    name: Text,
}

/// Columns of a call.
pub(super) fn set_called(event: &mut Event, called: &Called, escaped: &mut bool) {
    let mut arguments = BTreeMap::new();
    let mut paths = Vec::new();
    let mut target = None;
    for (place, value) in &called.values {
        let argument = called.call.arguments.get(usize::from(*place));
        match (value, argument) {
            (Value::Number(number), Some(argument)) => {
                if let Some(told) = number_told(argument.kind, *number) {
                    arguments.insert(argument.name.into(), told.into());
                } else if *number as i64 >= 0 {
                    event.fd_num = Some(*number as i64);
                }
            }
            (Value::Text(bytes), Some(argument)) if argument.kind == ArgumentKind::Target => {
                target = Some(text(bytes, escaped));
            }
            (Value::Text(bytes), Some(argument)) => {
                if argument.kind == ArgumentKind::Program {
                    event.evt_path_source = Some("user_memory".into());
                    event.evt_unresolved = true;
                }
                arguments.insert(argument.name.into(), text(bytes, escaped));
            }
            (Value::Path { raw, base }, _) => {
                let raw = text(raw, escaped);
                let name = match arrived_at(called, base) {
                    Some(place) => text(place, escaped),
                    None => rows::below(&text(base, escaped), &raw),
                };
                paths.push(Path { raw, name });
            }
            (Value::File { fd, file, path }, _) => {
                event.fd_num = Some(*fd);
                rows::set_file(event, file, text(path, escaped));
                event.evt_path_source = Some("kernel".into());
            }
            (Value::Identity(identity), _) => {
                credentials::set(event, &identity.credentials);
                if called.call.class == RateClass::Namespace {
                    let (mnt_ns, children) = (identity.mnt_ns, identity.children_pid_ns);
                    arguments.insert("mnt_ns".into(), mnt_ns.to_string().into());
                    arguments.insert("pid_ns".into(), children.to_string().into());
                }
            }
            _ => {}
        }
    }
    set_paths(event, paths, target);
    if arrived_at(called, &[]).is_some() {
        event.evt_path_source = Some("kernel".into());
        event.evt_unresolved = false;
    }
    set_socket(event, called, escaped);
    event.evt_args = (!arguments.is_empty()).then_some(arguments);
}

/// The kernel's own path of where a call has led: its path does not start from there.
fn arrived_at<'a>(called: &'a Called, base: &'a [u8]) -> Option<&'a [u8]> {
    match (called.header.ret, called.call.effect, called.at(PLACE_CWD)) {
        (0, Effect::Cwd, Some(Value::Text(cwd))) => Some(cwd),
        (0, Effect::Root, _) => Some(base),
        _ => None,
    }
}

/// A number as text; `None` of a descriptor.
fn number_told(kind: ArgumentKind, number: u64) -> Option<String> {
    let word = u64::from(number as u32);
    Some(match kind {
        ArgumentKind::Int | ArgumentKind::Id => (number as i32).to_string(),
        ArgumentKind::Size => number.to_string(),
        ArgumentKind::Mode => format!("0{:o}", number & 0o177777),
        ArgumentKind::Dev => format!("{}:{}", libc::major(word), libc::minor(word)),
        ArgumentKind::Ptr => format!("{number:#x}"),
        ArgumentKind::Flags(names) => names.flags(word),
        ArgumentKind::Enum(names) => names.number(word),
        _ => return None,
    })
}

/// One path is the event's file; two are where something came from and where it went. The target of a symbolic link is
/// where a look at it leads, and no path of this call's own.
fn set_paths(event: &mut Event, paths: Vec<Path>, target: Option<Text>) {
    if paths.is_empty() {
        return;
    }
    event.evt_path_source = Some("user_memory".into());
    event.evt_unresolved = true;
    let mut paths = paths.into_iter();
    match (paths.next(), paths.next(), target) {
        (Some(source), Some(target), _) => {
            event.fs_path_source = Some(source.name);
            event.fs_path_sourceraw = Some(source.raw);
            event.fs_path_target = Some(target.name);
            event.fs_path_targetraw = Some(target.raw);
        }
        (Some(link), None, Some(target)) => {
            event.fs_path_source = Some(target.clone());
            event.fs_path_sourceraw = Some(target);
            event.fs_path_target = Some(link.name);
            event.fs_path_targetraw = Some(link.raw);
        }
        (Some(path), None, None) => {
            event.fd_nameraw = (path.name != path.raw).then_some(path.raw);
            rows::set_file_name(event, path.name);
        }
        (None, ..) => {}
    }
}

/// Which end of a socket this process is.
fn is_server(call: &Call) -> bool {
    matches!(call.name, "bind" | "listen" | "accept" | "accept4")
}

fn set_socket(event: &mut Event, called: &Called, escaped: &mut bool) {
    let socket = called.values.iter().find_map(|(_, value)| match value {
        Value::Socket { fd, socket } => Some((*fd, socket)),
        _ => None,
    });
    let asked = called.values.iter().find_map(|(_, value)| match value {
        Value::Address(asked) => Some(asked),
        _ => None,
    });
    if socket.is_none() && asked.is_none() {
        return;
    }
    let unknown = SocketAddresses::default();
    let peer = match called.at(PLACE_PEER) {
        Some(Value::Peer(peer)) => Some(peer),
        _ => None,
    };
    event.fd_num = socket.map(|(fd, _)| fd).or(event.fd_num);
    let ends = Ends {
        socket: socket.map_or(&unknown, |(_, socket)| socket),
        peer,
        asked,
        is_server: is_server(called.call),
    };
    rows::set_ends(event, &ends, escaped);
}

#[cfg(test)]
mod tests {
    use dogwatch_ebpf::calls::CALLS;
    use dogwatch_schemas::vocabulary;

    use super::*;

    /// Who writes a detection is told which types there are: the contract's list is the table of calls.
    #[test]
    fn the_contract_knows_every_type_that_a_call_is_sent_as() {
        let known = |column: &str, value: &str| {
            let values = vocabulary::of(column)
                .and_then(|known| known.values.as_ref())
                .unwrap();
            values.iter().any(|known| known == value)
        };
        for call in CALLS {
            assert!(known("evt_type", event_type(call)), "{}", call.name);
            assert!(known("evt_call", call.name), "{}", call.name);
        }
    }
}
