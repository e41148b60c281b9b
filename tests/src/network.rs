//! A network namespace with one cable to this machine, which a test can cut. Nothing else is reachable from inside.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{self, Command};

/// What names of our namespaces begin with; the process id follows.
const PREFIX: &str = "dogwatch-";

/// A namespace; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    outside: Ipv4Addr,
}

impl Namespace {
    /// Makes a namespace and its cable.
    ///
    /// # Panics
    /// Without root or iproute2.
    pub fn make() -> Namespace {
        remove_left_behind();
        let id = process::id();
        // Link-local addresses, which no router passes on; the third byte keeps apart runs at the same time.
        let third = 1 + (id % 253) as u8;
        let outside = Ipv4Addr::new(169, 254, third, 1);
        let namespace = Namespace {
            name: format!("{PREFIX}{id}"),
            outside,
        };
        let (name, near, far) = (&namespace.name, namespace.near(), namespace.far());
        ip(&["netns", "add", name]);
        ip(&[
            "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", name,
        ]);
        ip(&["address", "add", &format!("{outside}/30"), "dev", &near]);
        ip(&["link", "set", &near, "up"]);
        let inside = Ipv4Addr::new(169, 254, third, 2);
        ip(&[
            "-n",
            name,
            "address",
            "add",
            &format!("{inside}/30"),
            "dev",
            &far,
        ]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        namespace.mend();
        namespace
    }

    /// The address of this machine as seen from inside.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// The same command, run inside.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inner = Command::new("nsenter");
        inner.arg(format!("--net=/run/netns/{}", self.name));
        inner.arg("--").arg(command.get_program());
        inner.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inner.env(name, value),
                None => inner.env_remove(name),
            };
        }
        inner
    }

    /// Pulls the cable out at its far end: on this machine the route stays, so that no packet looks for another way.
    pub fn cut(&self) {
        ip(&["-n", &self.name, "link", "set", &self.far(), "down"]);
    }

    /// Plugs the cable in again.
    pub fn mend(&self) {
        ip(&["-n", &self.name, "link", "set", &self.far(), "up"]);
    }

    /// The cable's ends; names of devices have at most 15 letters.
    fn near(&self) -> String {
        format!("dw{}", process::id())
    }

    fn far(&self) -> String {
        format!("dwi{}", process::id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the namespaces of runs that were killed.
fn remove_left_behind() {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let listed = output.expect("ip can be started: install iproute2").stdout;
    let listed = String::from_utf8_lossy(&listed);
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    for name in names {
        let Some(id) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists() {
            remove(name);
        }
    }
}

fn remove(name: &str) {
    // Best effort. The cable goes with the namespace, as soon as the last process inside has ended.
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("ip can be started: install iproute2");
    assert!(
        output.status.success(),
        "ip {arguments:?} failed (as root?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
