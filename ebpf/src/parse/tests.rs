//! Records survive the way through bytes; hostile bytes never panic.

use proptest::prelude::*;

use super::*;

/// A header and `fixed` zero bytes behind it, then texts.
fn bytes(kind: Kind, fixed: usize, texts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; fixed];
    for text in texts {
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text);
    }
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    out
}

/// A removed cgroup's record, for what all records have.
fn removed(texts: &[&[u8]]) -> Vec<u8> {
    bytes(Kind::Cgroup, size_of::<CgroupWire>(), texts)
}

/// A call's record with these values.
fn call(name: &str, values: &[u8]) -> Vec<u8> {
    let mut out = bytes(Kind::Call, size_of::<CallWire>(), &[]);
    let call_at = core::mem::offset_of!(HeaderWire, call);
    let number = Call::named(name).unwrap().number();
    out[call_at..call_at + 4].copy_from_slice(&number.to_le_bytes());
    out.extend_from_slice(values);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

#[test]
fn values_of_a_call_have_their_places() {
    let mut values = vec![1, VALUE_PATH, 1, 0, b'x', 4, 0, b'/', b't', b'm', b'p'];
    values.extend([2, VALUE_NUMBER, 0, 2, 0, 0, 0, 0, 0, 0]);
    let Ok(Raw::Whole(Record::Called(called))) = parse(&call("unlinkat", &values)) else {
        panic!("not a call")
    };
    let path = Value::Path {
        raw: b"x".to_vec(),
        base: b"/tmp".to_vec(),
    };
    assert_eq!(called.call.name, "unlinkat");
    assert_eq!(called.argument("name"), Some(&path));
    assert_eq!(called.argument("flags"), Some(&Value::Number(0x200)));
    assert_eq!(called.argument("dirfd"), None);
}

#[test]
fn header_fields_are_read() {
    let mut input = removed(&[b"/docker"]);
    input[6..8].copy_from_slice(&(FLAG_IA32 | FLAG_FAULT).to_le_bytes());
    input[8..16].copy_from_slice(&7u64.to_le_bytes());
    let ret_at = core::mem::offset_of!(HeaderWire, ret);
    input[ret_at..ret_at + 8].copy_from_slice(&(-2i64).to_le_bytes());
    let Ok(Raw::Whole(Record::Cgroup {
        header, path, made, ..
    })) = parse(&input)
    else {
        panic!("not a cgroup")
    };
    assert_eq!((header.boot_ns, header.ret, made), (7, -2, false));
    assert_eq!(
        header.flags,
        Flags {
            ia32: true,
            fault: true,
            ..Flags::default()
        }
    );
    assert_eq!(path, b"/docker");
}

#[test]
fn what_is_not_a_record_is_refused() {
    assert_eq!(
        parse(&[]),
        Err(ParseError::Short {
            needed: size_of::<HeaderWire>(),
            found: 0
        })
    );
    let mut longer = removed(&[b"x"]);
    longer.push(0);
    assert_eq!(
        parse(&longer),
        Err(ParseError::Length {
            said: longer.len() - 1,
            found: longer.len()
        })
    );
    let mut unknown = removed(&[b"x"]);
    unknown[4] = 200;
    assert_eq!(parse(&unknown), Err(ParseError::UnknownKind(200)));
    assert_eq!(
        parse(&removed(&[])),
        Err(ParseError::Short {
            needed: 2,
            found: 0
        })
    );
}

#[test]
fn devices_are_shown_as_stat_shows_them() {
    assert_eq!(user_device(8 << 20 | 1), 0x801);
    assert_eq!(user_device(259 << 20 | 0x12345), 0x1231_0345);
    assert_eq!(user_device(136 << 20), 0x8800);
}

#[test]
fn run_time_is_split_as_sampled() {
    assert_eq!(split_run_time(100, 0, 0), (100, 0));
    assert_eq!(split_run_time(100, 3, 1), (75, 25));
    assert_eq!(split_run_time(u64::MAX, 0, u64::MAX), (0, u64::MAX));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(kind in 0u16..20, mut input in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let len = input.len() as u32;
        if input.len() >= 8 {
            input[..4].copy_from_slice(&len.to_le_bytes());
            input[4..6].copy_from_slice(&kind.to_le_bytes());
        }
        let _ = parse(&input);
    }

    #[test]
    fn hostile_values_never_panic(values in proptest::collection::vec(0u8..12, 0..200)) {
        let _ = parse(&call("mount", &values));
    }

    #[test]
    fn every_cut_of_a_record_is_refused(texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 9)) {
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let whole = bytes(Kind::Exec, size_of::<ExecWire>(), &texts);
        prop_assert!(parse(&whole).is_ok());
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            if len >= 4 {
                cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
            }
            prop_assert!(parse(&cut).is_err());
        }
    }
}

#[test]
fn a_files_place_is_below_the_part_of_its_file_system_that_is_mounted() {
    for (mount_root, path, below, expected) in [
        ("///srv/data", "/data/x", 2, "/srv/data/x"),
        ("", "/mnt/etc/passwd", 11, "/etc/passwd"),
        ("///srv/f", "/etc/hosts", 0, "/srv/f"),
        ("", "/mnt", 0, "/"),
        ("", "/etc/passwd", 11, ""),
        ("///box", "/etc/passwd", 11, ""),
        ("", "/", 0, ""),
        ("", "/x", 9_999, ""),
    ] {
        let found = place(mount_root.as_bytes(), path.as_bytes(), below);
        assert_eq!(String::from_utf8(found).unwrap(), expected, "{path}");
    }
}
