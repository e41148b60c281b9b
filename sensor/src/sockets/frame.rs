//! Frames between the sensor and the process that asks sockets: JSON, one a packet.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;

use dogwatch_schemas::Text;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::container::{Question, Socket, SocketAnswer};

/// Bytes of a frame; the kernel's default has room for a packet of 200 KiB.
const FRAME_BYTES_MAX: usize = 128 << 10;

/// The first frame: what is configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    pub sockets: Vec<Socket>,
    /// Labels that are kept however many others there are.
    pub labels: Vec<Text>,
}

/// What the sensor sends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Says what is behind the socket of this index.
    Greet(usize),
    About(Question),
}

/// What comes back, one for each request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Who serves the socket of this index, or why nobody does.
    Greeted(usize, Result<Text, Text>),
    /// About the container of this id.
    Told(Text, SocketAnswer),
}

/// Two ends that keep packets apart; the reading of one ends when the other is closed.
pub(super) fn pair() -> io::Result<(UnixDatagram, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just made and are nobody else's.
    let [own, other] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((own.into(), other))
}

/// Sends one frame.
///
/// # Errors
/// `InvalidInput` where it is too large; otherwise what the system says.
pub(super) fn send(channel: &UnixDatagram, frame: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(frame)?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    channel.send(&bytes).map(|_| ())
}

/// Receives one frame; `None` where the other end is closed.
///
/// # Errors
/// `InvalidData` where it is none; otherwise what the system says.
pub(super) fn receive<T: DeserializeOwned>(channel: &UnixDatagram) -> io::Result<Option<T>> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    let length = channel.recv(&mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&bytes[..length])?))
}
