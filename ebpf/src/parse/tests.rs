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

fn failed_exec(texts: &[&[u8]]) -> Vec<u8> {
    bytes(Kind::ExecFailed, size_of::<ExecFailedWire>(), texts)
}

#[test]
fn header_fields_are_read() {
    let mut input = failed_exec(&[b"/bin/nothing"]);
    input[6..8].copy_from_slice(&(FLAG_IA32 | FLAG_FAULT).to_le_bytes());
    input[8..16].copy_from_slice(&7u64.to_le_bytes());
    let ret_at = core::mem::offset_of!(HeaderWire, ret);
    input[ret_at..ret_at + 8].copy_from_slice(&(-2i64).to_le_bytes());
    let Ok(Raw::Whole(Record::ExecFailed { header, path, at })) = parse(&input) else {
        panic!("not an exec")
    };
    assert_eq!((header.boot_ns, header.ret, at), (7, -2, false));
    assert_eq!(
        header.flags,
        Flags {
            ia32: true,
            fault: true,
            ..Flags::default()
        }
    );
    assert_eq!(path, b"/bin/nothing");
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
    let mut longer = failed_exec(&[b"x"]);
    longer.push(0);
    assert_eq!(
        parse(&longer),
        Err(ParseError::Length {
            said: longer.len() - 1,
            found: longer.len()
        })
    );
    let mut unknown = failed_exec(&[b"x"]);
    unknown[4] = 200;
    assert_eq!(parse(&unknown), Err(ParseError::UnknownKind(200)));
    assert_eq!(
        parse(&failed_exec(&[])),
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
    fn every_cut_of_a_record_is_refused(texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 8)) {
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
