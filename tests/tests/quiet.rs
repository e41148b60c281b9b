//! Ordinary work in real containers, and two attacks in the middle of it: the work gives next to no alert and no severe one,
//! the attacks alert.
//!
//! What people do is written down here in one place and looks for no name of it in any list: services that wait for another by
//! `/dev/tcp`, give up their rights and serve CGI, a build with the machine's own compiler, backups of whole trees, an update
//! at the start, jobs given on standard input, cron, a reader of the host's logs, commands by `docker exec`, a restart.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch_tests::docker::{Container, docker, image};
use dogwatch_tests::programs;
use serde_json::Value;

/// For starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Alerts of stable detections that the work may give, folded.
const STABLE_MAX: usize = 5;

/// The machine's own programs as the image's, so that there is a compiler and a make.
const TOOLS: [&str; 8] = [
    "-v",
    "/usr:/usr:ro",
    "-v",
    "/lib:/lib:ro",
    "-v",
    "/lib64:/lib64:ro",
    "-v",
    "/bin:/tools:ro",
];

/// Makes of a folder what a build is made of.
const BUILD: &str = r#"mkdir -p /work && cd /work
printf '#include <stdio.h>\nint main(void){puts("built");return 0;}\n' >app.c
printf 'app: app.c\n\tgcc -o app app.c\ntest: app\n\t./app\n' >Makefile
make -s app test && ./app"#;

/// Runs a container to its end, under a name that is told apart.
fn run(name: &str, options: &[&str], line: &str) {
    let name = format!("dogwatch-test-work-{name}-{}", std::process::id());
    let arguments = [
        &["run", "--rm", "--network", "none", "--name", &name],
        options,
        &[image(), "/bin/sh", "-c", line],
    ];
    docker(&arguments.concat());
}

/// A job that is given on standard input, as CI does.
fn job(line: &str) {
    let name = format!("dogwatch-test-work-job-{}", std::process::id());
    let mut command = Command::new("docker");
    command.args([
        "run",
        "--rm",
        "--interactive",
        "--network",
        "none",
        "--name",
        &name,
    ]);
    command.args([image(), "/bin/sh"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{line}");
}

/// The services that stand while the work goes on.
fn services() -> Vec<Container> {
    let waits = "i=0; until (echo >/dev/tcp/127.0.0.1/8080) 2>/dev/null || [ $i = 3 ]; do i=$((i+1)); sleep 0.2; done
        mkdir -p /srv/data && chown -R web /srv/data && exec /bin/su web -c 'exec /bin/sleep 600'";
    let serves = "mkdir -p /www/cgi-bin; for page in one two three four; do
            printf '#!/bin/sh\necho Content-type: text/plain; echo; date; echo %s\n' $page >/www/cgi-bin/$page
            chmod +x /www/cgi-bin/$page
        done; exec /bin/httpd -f -p 8080 -h /www";
    let jobs = "mkdir -p /etc/cron.d /var/spool/cron/crontabs
        echo '* * * * * /bin/date >>/tmp/ticks; /bin/find /var -name \"*.gz\"' >/var/spool/cron/crontabs/root; exec /bin/crond -f";
    let checked = [
        "--health-cmd",
        "echo ping | nc -w 1 127.0.0.1 8080; exit 0",
        "--health-interval",
        "1s",
    ];
    vec![
        Container::start("work-waits", &[], &["/usr/bin/bash", "-c", waits]),
        Container::start("work-serves", &checked, &["/bin/sh", "-c", serves]),
        Container::start("work-jobs", &[], &["/bin/sh", "-c", jobs]),
        Container::start(
            "work-ships",
            &["-v", "/var/log:/logs:ro"],
            &["/bin/tail", "-F", "/logs/dpkg.log"],
        ),
    ]
}

/// What people and their scripts do in an hour, once.
fn work(waits: &Container, serves: &Container, folder: &Path) {
    run("build", &TOOLS, BUILD);
    run(
        "update",
        &[],
        "cp /bin/busybox /usr/bin/nproc && /usr/bin/nproc && rm /usr/bin/nproc",
    );
    run(
        "backup",
        &["--tmpfs", "/backup"],
        "/bin/tar -czf /backup/etc.tgz /etc && /bin/cp -a /etc /backup/etc",
    );
    job("set -e; mkdir job; cd job; cp /bin/busybox ./echo; ./echo checked; rm echo\n");
    serves.shell("for page in one two three four; do /bin/wget -q -O /dev/null http://127.0.0.1:8080/cgi-bin/$page; done");
    serves.shell(
        "/bin/tar -cf /tmp/www.tar /www; ls -l /www >/dev/null; df >/dev/null; ps >/dev/null",
    );
    waits.exec(
        &["--user", "web"],
        &[
            "/bin/sh",
            "-c",
            "date >/srv/data/now; /bin/cat /srv/data/now",
        ],
    );
    docker(&["logs", &serves.id]);
    docker(&["restart", "--time", "0", &serves.id]);
    let copied = format!("{}:/etc/passwd", waits.id);
    docker(&["cp", &copied, folder.join("passwd").to_str().unwrap()]);
}

/// The alerts that were written about containers of this test, each once.
fn alerts(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut alerts: Vec<Value> = Vec::new();
    for line in text.lines() {
        let alert: Value = serde_json::from_str(line).unwrap();
        let ours = alert["container_name"]
            .as_str()
            .is_some_and(|name| name.contains("-work-"));
        if ours
            && !alerts
                .iter()
                .any(|seen| seen["alert_id"] == alert["alert_id"])
        {
            alerts.push(alert);
        }
    }
    alerts
}

/// Holds the alerts of the work to what they may be.
fn judge(of_work: &[Value]) {
    let said = |alert: &Value| {
        format!(
            "{} {} {}",
            alert["severity"], alert["detection_id"], alert["message"]
        )
    };
    let severe: Vec<String> = of_work
        .iter()
        .filter(|alert| alert["severity"] == "high" || alert["severity"] == "critical")
        .map(said)
        .collect();
    assert!(severe.is_empty(), "work gave severe alerts: {severe:#?}");
    let stable: Vec<String> = of_work
        .iter()
        .filter(|alert| alert["detection_status"] == "stable")
        .map(said)
        .collect();
    assert!(stable.len() <= STABLE_MAX, "work gave alerts: {stable:#?}");
    // Whoever made none of it quiet by seeing none of it.
    assert!(
        of_work
            .iter()
            .any(|alert| alert["detection_id"] == "start_script_unusual"),
        "the work was not seen: {:#?}",
        of_work.iter().map(said).collect::<Vec<_>>()
    );
}

#[test]
#[ignore = "needs root and Docker: ./dogwatch.sh test"]
fn work_is_quiet_and_attacks_in_it_are_not() {
    image();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alerts.jsonl");
    let local = programs::local(&file, &folder.path().join("local.log"), PATIENCE);

    let services = services();
    let [waits, serves, ..] = &services[..] else {
        unreachable!("there are four")
    };
    work(waits, serves, folder.path());

    // The attacks, where the work is.
    let attacks = [
        ("sensitive_file_read", waits, "/bin/cat /etc/shadow"),
        (
            "execution_not_in_image",
            serves,
            "cp /bin/busybox /srv/ls 2>/dev/null || { mkdir -p /srv; cp /bin/busybox /srv/ls; }; /srv/ls /",
        ),
    ];
    let before = Instant::now();
    for (_, container, line) in attacks {
        container.shell(line);
    }
    let found = |detection: &str, container: &Container| {
        alerts(&file).iter().any(|alert| {
            alert["detection_id"] == detection
                && alert["container_full_id"] == container.id.as_str()
        })
    };
    while !attacks
        .iter()
        .all(|(detection, container, _)| found(detection, container))
    {
        let told = alerts(&file);
        assert!(
            before.elapsed() < PATIENCE,
            "an attack is not told: {told:#?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(local.stop(PATIENCE).success());

    let of_work: Vec<Value> = alerts(&file)
        .into_iter()
        .filter(|alert| {
            !attacks.iter().any(|(detection, container, _)| {
                alert["detection_id"] == *detection
                    && alert["container_full_id"] == container.id.as_str()
            })
        })
        .collect();
    judge(&of_work);
}
