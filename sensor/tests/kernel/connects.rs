//! Connections: made, refused, in progress; over IPv4, IPv6 and unix sockets; through the 32-bit entry.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use dogwatch_ebpf::record::{Header, Record, SocketAddresses, Value};
use dogwatch_sensor::probe::ProbeOptions;

use crate::watch::{Watch, text};

const STREAM: i32 = libc::SOCK_STREAM;

/// Connects in a child; returns its one connect record.
fn connect(
    watch: &mut Watch,
    kind: i32,
    address: &[u8],
) -> (Header, SocketAddresses, SocketAddresses) {
    let family = i32::from(u16::from_ne_bytes([address[0], address[1]]));
    let records = watch.see(|| unsafe {
        // SAFETY: the address has the length given.
        let fd = libc::socket(family, kind, 0);
        libc::connect(fd, address.as_ptr().cast(), address.len() as u32);
    });
    let mut connects = records.into_iter().filter_map(|record| match record {
        Record::Called(called) if called.call.name == "connect" => {
            let mut asked = SocketAddresses::default();
            let mut socket = SocketAddresses::default();
            for (_, value) in &called.values {
                match value {
                    Value::Socket { socket: found, .. } => socket = found.clone(),
                    Value::Address(found) => asked = found.clone(),
                    _ => {}
                }
            }
            Some((called.header, socket, asked))
        }
        _ => None,
    });
    let found = connects.next().expect("no connect record");
    assert_eq!(connects.next(), None);
    found
}

/// As sockaddr_in or sockaddr_in6.
fn raw(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => [&2u16.to_ne_bytes()[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => [
            &10u16.to_ne_bytes()[..],
            &port,
            &[0; 4],
            &v6.ip().octets(),
            &[0; 4],
        ]
        .concat(),
    }
}

fn raw_unix(name: &[u8]) -> Vec<u8> {
    [&1u16.to_ne_bytes()[..], name].concat()
}

#[test]
fn tcp_over_ipv4_gives_both_ends() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (header, socket, asked) = connect(&mut watch, STREAM, &raw(listener.local_addr().unwrap()));
    let from = listener.accept().unwrap().1;
    assert_eq!(header.ret, 0);
    assert_eq!(
        (socket.family, socket.socket_type, socket.protocol),
        (2, 1, 6)
    );
    assert_eq!((socket.local_port, socket.remote_port), (from.port(), port));
    assert_eq!(
        (&socket.local[..4], &socket.remote[..4]),
        (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..])
    );
    assert_eq!(asked.remote_port, port);
}

#[test]
fn a_refused_connection_says_where_it_was_to_go() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (header, socket, asked) = connect(&mut watch, STREAM, &raw("127.0.0.1:1".parse().unwrap()));
    assert_eq!(header.ret, -i64::from(libc::ECONNREFUSED));
    assert_eq!((socket.family, socket.protocol), (2, 6));
    assert_eq!(
        (asked.family, asked.remote_port, &asked.remote[..4]),
        (2, 1, &[127, 0, 0, 1][..])
    );
}

#[test]
fn a_connection_under_way_has_its_peer() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (header, socket, _) = connect(&mut watch, STREAM | libc::SOCK_NONBLOCK, &raw(address));
    assert_eq!(header.ret, -i64::from(libc::EINPROGRESS));
    assert_eq!(socket.remote_port, address.port());
}

#[test]
fn ipv6_and_datagrams_are_told_apart() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let datagrams = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (header, socket, _) = connect(&mut watch, libc::SOCK_DGRAM, &raw(datagrams));
    assert_eq!(
        (
            header.ret,
            socket.family,
            socket.socket_type,
            socket.protocol
        ),
        (0, 2, 2, 17)
    );
    assert_eq!(socket.remote_port, datagrams.port());

    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return eprintln!("no IPv6 on loopback here");
    };
    let address = listener.local_addr().unwrap();
    let (header, socket, _) = connect(&mut watch, STREAM, &raw(address));
    assert_eq!(
        (header.ret, socket.family, socket.remote_port),
        (0, 10, address.port())
    );
    let ends = (socket.local, socket.remote);
    assert_eq!(
        ends,
        (Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::LOCALHOST.octets())
    );
}

#[test]
fn unix_sockets_have_names() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let name = path.to_str().unwrap();
    let (header, socket, _) = connect(
        &mut watch,
        STREAM,
        &raw_unix(format!("{name}\0").as_bytes()),
    );
    assert_eq!(
        (header.ret, socket.family, text(&socket.unix_path)),
        (0, 1, name.into())
    );

    let abstract_name = format!("dogwatch-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&abstract_name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let (header, socket, _) = connect(
        &mut watch,
        STREAM,
        &raw_unix(format!("\0{abstract_name}").as_bytes()),
    );
    assert_eq!(
        (header.ret, text(&socket.unix_path)),
        (0, format!("@{abstract_name}"))
    );

    let (header, socket, asked) = connect(&mut watch, STREAM, &raw_unix(b"/dogwatch/none\0"));
    assert_eq!(header.ret, -i64::from(libc::ENOENT));
    assert_eq!(
        (text(&socket.unix_path), text(&asked.unix_path)),
        (String::new(), "/dogwatch/none".into())
    );
    let (_, _, asked) = connect(&mut watch, STREAM, &raw_unix(b"\0dogwatch-none"));
    assert_eq!(text(&asked.unix_path), "@dogwatch-none");
}
