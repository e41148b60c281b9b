//! The demo without privileges: it replays the recorded attack, says so and why, and finds every step.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use dogwatch_console::demo::script::{Expected, steps};

/// Highest number of a capability there may be.
const CAPABILITIES: libc::c_ulong = 63;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
    let detections = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    command
        .arg("demo")
        .arg("--detections")
        .arg(detections)
        .args(arguments);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn recorded_attack_is_found_step_by_step() {
    let output = demo(&["--with", "replay"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("NOT LIVE"), "{text}");
    let steps = steps(|_| false);
    for step in &steps {
        let line = text
            .lines()
            .find(|line| line.contains(step.title))
            .unwrap_or_else(|| panic!("{text}"));
        match step.expected {
            Expected::Alert { detection, .. } => assert!(
                line.contains("found") && line.ends_with(detection),
                "{text}"
            ),
            Expected::Silence { .. } => assert!(line.contains("silent"), "{text}"),
        }
    }
    assert!(
        text.contains(&format!("all {} steps came out as expected", steps.len())),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "no colours into a pipe: {text}");
}

#[test]
fn without_privileges_the_demo_says_why_it_replays() {
    let mut command = demo(&[]);
    let give_up = || {
        for capability in 0..=CAPABILITIES {
            // SAFETY: prctl takes numbers. Where it is refused there is no privilege to give up.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only prctl is called.
    unsafe { command.pre_exec(give_up) };
    let output = command.output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("NOT LIVE"), "{text}");
    let reason = text
        .lines()
        .find(|line| line.starts_with("because "))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(reason.contains("CAP_"), "{reason}");
}

#[test]
fn json_alerts_are_alone_on_standard_output() {
    let output = demo(&["--with", "replay", "--json"]).output().unwrap();
    let alerts = String::from_utf8(output.stdout).unwrap();
    assert!(
        alerts.lines().count() >= steps(|_| false).len() - 1,
        "{alerts}"
    );
    // Nobody's first alerts are of a container runtime at work.
    let attack = [
        "connection_from_shell",
        "execution_from_memory",
        "execution_not_in_image",
        "package_manager",
        "sensitive_file_read",
        "shell_on_socket",
        "socket_on_standard_streams",
        "write_below_binary_folder",
    ];
    for line in alerts.lines() {
        let alert: dogwatch_schemas::records::Alert = serde_json::from_str(line).unwrap();
        assert_eq!(alert.alert_id.len(), 32);
        assert!(attack.contains(&&*alert.detection_id), "{}", alert.message);
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("steps came out as expected"));
}

#[test]
fn what_was_asked_for_and_cannot_be_had_is_an_error() {
    let output = demo(&["--with", "docker"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("this machine allows no demo with docker"),
        "{}",
        text(&output)
    );
}

#[test]
fn three_hosts_are_each_silent_and_together_found() {
    let output = demo(&["--fleet"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("SIMULATED"), "{text}");
    for host in ["demo-ant", "demo-bee", "demo-cat"] {
        let line = text.lines().find(|line| line.starts_with(host));
        assert!(line.is_some_and(|line| line.contains("silent")), "{text}");
    }
    let found = text.lines().find(|line| line.starts_with("all 3 together"));
    let found = found.unwrap_or_else(|| panic!("{text}"));
    assert!(
        found.contains("found in") && found.ends_with("scan_over_hosts"),
        "{text}"
    );
    assert!(
        text.contains("36 different addresses") || text.contains("of 3 hosts"),
        "{text}"
    );
}
