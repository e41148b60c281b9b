//! Alerts and summaries as whole texts.

use super::*;

fn reverse_shell() -> Alert {
    let process = |pid, name: &str, cmdline: Option<&str>, user: Option<&str>| AlertProcess {
        pid,
        name: Some(name.into()),
        cmdline: cmdline.map(Into::into),
        uid: Some(0),
        user_name: user.map(Into::into),
        ..AlertProcess::default()
    };
    Alert {
        alert_id: "00112233445566778899aabbccddeeff".into(),
        message: "a shell of shop-api talks to 203.0.113.66:4444".into(),
        detection_id: "shell_on_socket".into(),
        detection_title: "Shell on a socket".into(),
        severity: "high".into(),
        attack: vec!["T1059.004".into()],
        event_ts: 1_764_000_062_345_678_901,
        host_name: "web-1".into(),
        container_id: "0123456789ab".into(),
        container_name: Some("shop".into()),
        container_image: Some("shop:1".into()),
        process: Some(process(8125, "bash", Some("bash -i"), Some("root"))),
        ancestors: vec![
            process(8124, "sh", None, None),
            process(8100, "shop-api", None, None),
        ],
        ..Alert::default()
    }
}

#[test]
fn plain_alert() {
    assert_eq!(
        alert(
            &reverse_shell(),
            Some(Duration::from_millis(41)),
            Colour::Plain
        ),
        "16:01:02.345Z  HIGH      Shell on a socket  (41 ms)
    a shell of shop-api talks to 203.0.113.66:4444
    container  shop (0123456789ab), image shop:1, host web-1
    process    bash[8125] \"bash -i\" as root  <  sh[8124]  <  shop-api[8100]
    detection  shell_on_socket, T1059.004, alert 00112233445566778899aabbccddeeff
"
    );
}

#[test]
fn coloured_alert() {
    let mut shown = reverse_shell();
    shown.process = None;
    assert_eq!(
        alert(&shown, None, Colour::Ansi),
        "16:01:02.345Z  \x1b[1;31mHIGH    \x1b[0m  \x1b[1mShell on a socket\x1b[0m
    a shell of shop-api talks to 203.0.113.66:4444
    \x1b[2mcontainer\x1b[0m  shop (0123456789ab), image shop:1, host web-1
    \x1b[2mdetection\x1b[0m  shell_on_socket, T1059.004, alert 00112233445566778899aabbccddeeff
"
    );
}

#[test]
fn alert_of_the_host_with_everything_a_reader_must_know() {
    let mut shown = reverse_shell();
    shown.container_id = "host".into();
    shown.ancestors = vec![
        AlertProcess {
            pid: 1,
            ..AlertProcess::default()
        };
        6
    ];
    shown.process.as_mut().unwrap().user_name = None;
    shown.folded = 3;
    shown.delayed = true;
    shown.incomplete = true;
    shown.losses = Some([("queue_full".into(), 7), ("ring_full".into(), 2)].into());
    assert_eq!(
        alert(&shown, None, Colour::Plain),
        "16:01:02.345Z  HIGH      Shell on a socket
    a shell of shop-api talks to 203.0.113.66:4444
    container  none, host web-1
    process    bash[8125] \"bash -i\" as uid 0  <  ?[1]  <  ?[1]  <  ?[1]  <  ?[1]  <  …
    detection  shell_on_socket, T1059.004, alert 00112233445566778899aabbccddeeff
    note       stands for 3 more of its kind
    note       the event came long after it happened
    note       events of this host were lost: queue_full 7, ring_full 2
"
    );
}

#[test]
fn what_a_window_of_the_fleet_lacks_is_told_with_its_unit() {
    let mut shown = reverse_shell();
    shown.host_id = "fleet".into();
    shown.incomplete = true;
    shown.losses = Some(
        [
            ("not_loaded".into(), 7),
            ("ring_full".into(), 3),
            ("seconds_missing".into(), 1),
        ]
        .into(),
    );
    let text = alert(&shown, None, Colour::Plain);
    assert!(
        text.contains("its window of the whole fleet lacks something: not_loaded 7 times, ring_full 3 events, seconds_missing 1 second (docs/fleet.md)"),
        "{text}"
    );
    assert!(!text.contains("this host"), "{text}");
}

#[test]
fn an_alert_of_no_container_says_so() {
    let mut shown = reverse_shell();
    shown.container_id = "".into();
    let text = alert(&shown, None, Colour::Plain);
    assert!(
        text.contains("container  none told, host web-1\n"),
        "{text}"
    );
}

#[test]
fn attacker_cannot_write_to_the_terminal() {
    let mut shown = reverse_shell();
    let hostile = "x\x1b[2J\r\n\u{9b}31m\u{202e}abc";
    shown.message = hostile.into();
    shown.container_name = Some(hostile.into());
    shown.container_image = Some(hostile.into());
    shown.k8s_pod_name = Some(hostile.into());
    shown.process.as_mut().unwrap().name = Some(hostile.into());
    shown.process.as_mut().unwrap().cmdline = Some(hostile.into());
    let text = alert(&shown, None, Colour::Plain);
    assert_eq!(text.lines().count(), 5);
    assert!(
        text.chars()
            .all(|character| character == '\n' || !character.is_control())
    );
    assert!(
        text.contains("x\\x1b[2J\\x0d\\x0a\\x9b31m\\u{202e}abc"),
        "{text}"
    );
}

#[test]
fn long_command_is_cut_at_a_character() {
    let command = "ü".repeat(COMMAND_CHARS + 1);
    assert_eq!(shortened(&command).chars().count(), COMMAND_CHARS + 1);
    assert!(shortened(&command).ends_with('…'));
    assert_eq!(shortened(&command[2..]), command[2..]);
}

#[test]
fn durations_and_bytes() {
    assert_eq!(duration(Duration::from_micros(850)), "850 µs");
    assert_eq!(duration(Duration::from_millis(41)), "41 ms");
    assert_eq!(duration(Duration::from_millis(2345)), "2.3 s");
    assert_eq!(bytes(1023), "1023 B");
    assert_eq!(bytes(3482), "3.4 KiB");
    assert_eq!(bytes(12 << 20), "12.0 MiB");
}

#[test]
fn a_later_word_is_marked_as_one() {
    let mut alert = Alert {
        activity: "create".into(),
        window_state: Some("open".into()),
        ..Alert::default()
    };
    let heading = |alert: &Alert| {
        super::alert(alert, None, Colour::Plain)
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    assert!(!heading(&alert).contains("update"));
    alert.activity = "update".into();
    alert.window_state = Some("closed".into());
    assert!(heading(&alert).ends_with("(update)"));
}
