//! The kernel part of the Dogwatch sensor, and its records as Rust values.
//!
//! `bpf/` holds the programs in C (CO-RE, one object for all kernels from 5.10; `tests/kernels` tries 5.10, 6.1 and 6.12), compiled by `build.rs`; `bpf/record.h` is
//! the one definition of what they write. This crate carries the object ([`OBJECT`]) and takes records apart. It does not
//! load anything, and it interprets nothing: paths are bytes, numbers are the kernel's.
//!
//! ```text
//! bytes of the ring ──parse──► Raw ──Joiner──► record::Record
//!                               (a long exec comes in pieces)
//! ```

pub mod calls;
pub mod control;
mod join;
mod parse;
pub mod record;
mod wire;

pub use join::Joiner;
pub use parse::{OPEN_FILE_BYTES, ParseError, Raw, counted_as, open_file, parse};

/// Aligned as an ELF reader wants it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/dogwatch.bpf.o")));

/// The compiled kernel programs: an ELF object with BTF, for `aya::EbpfLoader::load`.
pub static OBJECT: &[u8] = &ALIGNED.0;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    /// For arm64 as well: nothing else here would notice that it does not. It is not loaded anywhere yet.
    #[test]
    fn the_kernel_part_compiles_for_arm64() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
        let object = std::env::temp_dir().join(format!("dogwatch-arm64-{}.o", std::process::id()));
        let output = Command::new(env!("DOGWATCH_CLANG"))
            .current_dir(folder)
            .args([
                "-g",
                "-O2",
                "-target",
                "bpf",
                "-mcpu=v3",
                "-D__TARGET_ARCH_arm64",
            ])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
            .args(["-c", "dogwatch.bpf.c", "-o"])
            .arg(&object)
            .output()
            .unwrap();
        let _ = fs::remove_file(&object);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn lines_of_the_programs() -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
        let files = fs::read_dir(folder).unwrap();
        let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// What a verifier before 6.8 knows of a mode it forgets in `send_open`, and then drops the comparisons with others.
    #[test]
    fn no_subject_has_a_mode_that_the_verifier_knows() {
        let set: Vec<String> = lines_of_the_programs()
            .into_iter()
            .filter(|line| line.contains("who->mode = "))
            .collect();
        assert!(!set.is_empty());
        let known: Vec<&String> = set.iter().filter(|line| line.contains("MODE_")).collect();
        assert!(known.is_empty(), "{known:?}");
    }

    /// What a map's change returns has 32 bits before Linux 6.4; `update_error` compares as many.
    #[test]
    fn why_a_map_was_not_changed_is_asked_in_one_place() {
        let compares = |line: &String| {
            line.contains("bpf_map_update_elem(") && (line.contains("= -E") || line.contains("< 0"))
        };
        let bare: Vec<String> = lines_of_the_programs()
            .into_iter()
            .filter(compares)
            .collect();
        assert!(bare.is_empty(), "{bare:?}");
    }

    /// Verifiers before 6.12 refuse an index whose bound the compiler keeps elsewhere; `bytes_at` masks it at its use.
    #[test]
    fn the_record_is_indexed_in_one_place() {
        let lines: Vec<String> = lines_of_the_programs()
            .into_iter()
            .filter(|line| line.contains("bytes[") && !line.contains("u8 bytes["))
            .collect();
        let accessor = "\treturn &s->record.bytes[at & (TEXT_START_MAX - 1)];";
        assert_eq!(lines, [accessor]);
    }
}
