//! Compiles `bpf/dogwatch.bpf.c` with clang into the object that `OBJECT` carries, and `bpf/calls.def` into the table of
//! system calls.

#[path = "build/table.rs"]
mod table;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, exit};

/// Tried in this order unless the environment variable `CLANG` names one; 14 is Debian 12's.
const CLANGS: [&str; 7] = [
    "clang", "clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14",
];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed=CLANG");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if architecture != "x86_64" {
        refuse(&format!(
            "the kernel part is written for x86-64, not for {architecture}"
        ));
    }
    let out_dir =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let clang = find_clang();
    println!("cargo::rustc-env=DOGWATCH_CLANG={clang}");
    compile(&clang, &out_dir.join("dogwatch.bpf.o"));
    write_table(&out_dir.join("calls.rs"));
}

fn write_table(path: &Path) {
    let text = fs::read_to_string("bpf/calls.def")
        .unwrap_or_else(|error| refuse(&format!("could not read bpf/calls.def: {error}")));
    let rows = table::generate(&text).unwrap_or_else(|reason| refuse(&reason));
    fs::write(path, rows)
        .unwrap_or_else(|error| refuse(&format!("could not write {}: {error}", path.display())));
}

fn find_clang() -> String {
    let asked = env::var("CLANG").ok();
    let candidates = asked.iter().map(String::as_str).chain(CLANGS);
    for candidate in candidates {
        if Command::new(candidate)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            return candidate.to_owned();
        }
    }
    refuse(
        "clang, which compiles the kernel part, was not found: install it (Debian and Ubuntu: `apt-get install clang`)",
    )
}

fn compile(clang: &str, object: &Path) {
    let output = Command::new(clang)
        .args([
            "-g",
            "-O2",
            "-target",
            "bpf",
            "-mcpu=v3",
            "-D__TARGET_ARCH_x86",
        ])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .args(["-c", "bpf/dogwatch.bpf.c", "-o"])
        .arg(object)
        .output()
        .unwrap_or_else(|error| refuse(&format!("could not run {clang}: {error}")));
    if !output.status.success() {
        explain(clang, &output);
    }
}

fn explain(clang: &str, output: &Output) -> ! {
    let message = String::from_utf8_lossy(&output.stderr);
    if message.contains("bpf/bpf_helpers.h' file not found") {
        refuse(
            "libbpf's headers were not found: install them (Debian and Ubuntu: `apt-get install libbpf-dev`)",
        );
    }
    refuse(&format!(
        "{clang} could not compile bpf/dogwatch.bpf.c:\n{message}"
    ))
}

fn refuse(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}
