//! Rust's idea of the layout against the object's own type information (BTF), and of the numbers against `record.h`.

use core::mem::offset_of;

use super::*;
use crate::control::{
    COUNTED_CALLS, COUNTED_MAX, CgroupPolicy, CpuCounters, Failure, FailureKey, FilterReason,
    FoldedKey, Kind, LimitedKey, Mode, NetBytes, NetBytesKey, Rate, RateClass, Settings, Tally,
    Walked,
};
use crate::record;

/// C name, size, and name, offset and size of each field.
pub(super) type Described = (&'static str, usize, &'static [(&'static str, usize, usize)]);

const CONTROL: &[Described] = &[
    (
        "settings",
        size_of::<Settings>(),
        &[
            ("own_pid", offset_of!(Settings, own_pid), 4),
            ("canary_pid_ns", offset_of!(Settings, canary_pid_ns), 4),
            ("canary_pid", offset_of!(Settings, canary_pid), 4),
            ("pad", offset_of!(Settings, pad), 4),
        ],
    ),
    (
        "cpu_counters",
        size_of::<CpuCounters>(),
        &[
            ("sent", offset_of!(CpuCounters, sent), 8 * COUNTED_MAX),
            ("dropped", offset_of!(CpuCounters, dropped), 8 * COUNTED_MAX),
            ("crowded", offset_of!(CpuCounters, crowded), 8 * COUNTED_MAX),
            ("limited", offset_of!(CpuCounters, limited), 8 * COUNTED_MAX),
            (
                "interrupted",
                offset_of!(CpuCounters, interrupted),
                8 * COUNTED_MAX,
            ),
            ("filtered", offset_of!(CpuCounters, filtered), 64),
            ("tried", offset_of!(CpuCounters, tried), 8),
        ],
    ),
    (
        "rate",
        size_of::<Rate>(),
        &[
            ("assured_ns", offset_of!(Rate, assured_ns), 8),
            ("further_ns", offset_of!(Rate, further_ns), 8),
            ("total_ns", offset_of!(Rate, total_ns), 8),
        ],
    ),
    (
        "cgroup_policy",
        size_of::<CgroupPolicy>(),
        &[
            ("mode", offset_of!(CgroupPolicy, mode), 4),
            ("contained", offset_of!(CgroupPolicy, contained), 4),
            ("share", offset_of!(CgroupPolicy, share), 8),
        ],
    ),
    (
        "limited_key",
        size_of::<LimitedKey>(),
        &[
            ("share", offset_of!(LimitedKey, share), 8),
            ("counted", offset_of!(LimitedKey, counted), 4),
            ("pad", offset_of!(LimitedKey, pad), 4),
        ],
    ),
    (
        "failure_key",
        size_of::<FailureKey>(),
        &[
            ("start_ns", offset_of!(FailureKey, start_ns), 8),
            ("pid", offset_of!(FailureKey, pid), 4),
            ("number", offset_of!(FailureKey, number), 2),
            ("error", offset_of!(FailureKey, error), 2),
        ],
    ),
    (
        "failure",
        size_of::<Failure>(),
        &[
            ("count", offset_of!(Failure, count), 8),
            ("cgroup_id", offset_of!(Failure, cgroup_id), 8),
            ("comm", offset_of!(Failure, comm), 16),
        ],
    ),
    (
        "net_bytes_key",
        size_of::<NetBytesKey>(),
        &[
            ("start_ns", offset_of!(NetBytesKey, start_ns), 8),
            ("pid", offset_of!(NetBytesKey, pid), 4),
            ("pad", offset_of!(NetBytesKey, pad), 4),
        ],
    ),
    (
        "net_bytes",
        size_of::<NetBytes>(),
        &[
            ("rx", offset_of!(NetBytes, rx), 8),
            ("tx", offset_of!(NetBytes, tx), 8),
            ("share", offset_of!(NetBytes, share), 8),
        ],
    ),
    (
        "folded_key",
        size_of::<FoldedKey>(),
        &[
            ("share", offset_of!(FoldedKey, share), 8),
            ("slot", offset_of!(FoldedKey, slot), 4),
            ("pad", offset_of!(FoldedKey, pad), 4),
        ],
    ),
    (
        "walked",
        size_of::<Walked>(),
        &[
            ("told", offset_of!(Walked, told), 8),
            ("left", offset_of!(Walked, left), 8),
        ],
    ),
    (
        "tally",
        size_of::<Tally>(),
        &[
            ("hash", offset_of!(Tally, hash), 8),
            ("count", offset_of!(Tally, count), 8),
            ("first_ns", offset_of!(Tally, first_ns), 8),
            ("last_ns", offset_of!(Tally, last_ns), 8),
        ],
    ),
];

#[test]
fn structs_are_laid_out_as_in_the_object() {
    let btf = Btf::of_object();
    for (name, size, fields) in ALL.iter().chain(CONTROL) {
        let (object_size, object_fields) = btf.structure(name);
        assert_eq!(*size, object_size, "size of {name}");
        let fields: Vec<_> = fields
            .iter()
            .map(|(field, at, size)| (field.trim_start_matches("r#").to_owned(), *at, *size))
            .collect();
        assert_eq!(fields, object_fields, "fields of {name}");
    }
}

#[test]
fn numbers_are_those_of_the_header() {
    let header = include_str!("../../bpf/record.h");
    let check = |name: &str, number: usize| {
        let found = [
            format!("{name} = {number},"),
            format!("{name} = {number} "),
            format!("#define {name} {number}\n"),
            format!("#define {name} {number} "),
        ]
        .iter()
        .any(|line| header.contains(line));
        assert!(found, "record.h does not say {name} = {number}");
    };
    Kind::ALL
        .iter()
        .for_each(|kind| check(kind.c_name(), *kind as usize));
    FilterReason::ALL
        .iter()
        .for_each(|reason| check(reason.c_name(), *reason as usize));
    Mode::ALL
        .iter()
        .for_each(|mode| check(mode.c_name(), *mode as usize));
    RateClass::ALL
        .iter()
        .for_each(|class| check(class.c_name(), *class as usize));
    check("CLASS_COUNT", RateClass::ALL.len());
    check("FLAG_TRUNCATED", FLAG_TRUNCATED.into());
    check("FLAG_FAULT", FLAG_FAULT.into());
    check("FLAG_UNRESOLVED", FLAG_UNRESOLVED.into());
    check("FLAG_IA32", FLAG_IA32.into());
    check("FLAG_X32", FLAG_X32.into());
    check("COUNTED_CALLS", COUNTED_CALLS);
    check("COUNTED_MAX", COUNTED_MAX);
    for (name, shape) in [
        ("VALUE_NUMBER", VALUE_NUMBER),
        ("VALUE_STRING", VALUE_STRING),
        ("VALUE_PATH", VALUE_PATH),
        ("VALUE_FILE", VALUE_FILE),
        ("VALUE_SOCKET", VALUE_SOCKET),
        ("VALUE_ADDRESS", VALUE_ADDRESS),
        ("VALUE_PEER", VALUE_PEER),
        ("VALUE_IDENTITY", VALUE_IDENTITY),
        ("PLACE_IDENTITY", record::PLACE_IDENTITY),
        ("PLACE_CWD", record::PLACE_CWD),
        ("PLACE_PEER", record::PLACE_PEER),
    ] {
        check(name, shape.into());
    }
    check("STDIO_SOCKET", STDIO_SOCKET.into());
    check("STDIO_FILE", STDIO_FILE.into());
    check("PATH_KEY_BYTES", PATH_KEY_BYTES);
}

/// As much of a BTF reader as the comparison needs (format: the kernel's Documentation/bpf/btf.rst).
struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Offset of each type's record; number 0 is void.
    types: Vec<usize>,
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;

impl Btf {
    fn of_object() -> Self {
        let object = aya_obj::Object::parse(crate::OBJECT).unwrap();
        let bytes = object.btf.unwrap().to_bytes();
        let mut btf = Btf {
            bytes,
            strings: 0,
            types: vec![0],
        };
        let header = btf.word(4) as usize;
        let (types, types_len) = (header + btf.word(8) as usize, btf.word(12) as usize);
        btf.strings = header + btf.word(16) as usize;
        let mut at = types;
        while at < types + types_len {
            btf.types.push(at);
            at += 12 + btf.trailing(at);
        }
        btf
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn name(&self, at: usize) -> &str {
        let start = self.strings + self.word(at) as usize;
        let len = self.bytes[start..]
            .iter()
            .position(|byte| *byte == 0)
            .unwrap();
        std::str::from_utf8(&self.bytes[start..start + len]).unwrap()
    }

    fn kind(&self, at: usize) -> u32 {
        self.word(at + 4) >> 24 & 31
    }

    fn members(&self, at: usize) -> usize {
        (self.word(at + 4) & 0xffff) as usize
    }

    /// Bytes behind a type's common part.
    fn trailing(&self, at: usize) -> usize {
        match self.kind(at) {
            INT | 14 | 17 => 4,
            ARRAY => 12,
            STRUCT | UNION | 15 | 19 => 12 * self.members(at),
            ENUM | 13 => 8 * self.members(at),
            _ => 0,
        }
    }

    fn size(&self, id: u32) -> usize {
        let at = self.types[id as usize];
        match self.kind(at) {
            INT | STRUCT | UNION | ENUM => self.word(at + 8) as usize,
            PTR => 8,
            ARRAY => self.size(self.word(at + 12)) * self.word(at + 20) as usize,
            _ => self.size(self.word(at + 8)),
        }
    }

    fn structure(&self, name: &str) -> (usize, Vec<(String, usize, usize)>) {
        let at = *self.types[1..]
            .iter()
            .find(|at| self.kind(**at) == STRUCT && self.name(**at) == name)
            .unwrap_or_else(|| panic!("the object has no struct {name}"));
        let fields = (0..self.members(at)).map(|index| {
            let member = at + 12 + 12 * index;
            (
                self.name(member).to_owned(),
                self.word(member + 8) as usize / 8,
                self.size(self.word(member + 4)),
            )
        });
        (self.word(at + 8) as usize, fields.collect())
    }
}
