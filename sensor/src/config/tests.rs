//! What is accepted, and how the rest is refused.

use std::io::Write as _;

use super::*;

fn load(toml: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let settings = Settings::read(Program::Sensor, Some(file.path()), variables, flags)?;
    Config::check(settings.take()?)
}

fn refusal(toml: &str) -> String {
    load(toml, &[], &[]).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_commented_file_holds_exactly_the_defaults() {
    let written: toml::Table = include_str!("../../sensor.toml").parse().unwrap();
    let defaults = toml::Table::try_from(RawConfig::default()).unwrap();
    assert_eq!(written, defaults);
}

#[test]
fn later_sources_win() {
    let toml = "[kafka]\nbootstrap_servers = 'file:1'\npartitions = 3\nlinger = '5ms'";
    let variables = [
        ("DOGWATCH_KAFKA__BOOTSTRAP_SERVERS", "env:1"),
        ("DOGWATCH_KAFKA__PARTITIONS", "4"),
        ("DOGWATCH_CACHE", "x"),
    ];
    let config = load(
        toml,
        &variables,
        &[("kafka.bootstrap_servers", "flag:1".into())],
    )
    .unwrap();
    assert_eq!(config.kafka.bootstrap_servers, "flag:1");
    assert_eq!(config.kafka.partitions, 4);
    assert_eq!(config.kafka.linger, Duration::from_millis(5));
}

#[test]
fn a_table_given_in_part_keeps_the_rest() {
    let toml = "[kernel.total_rates]\nexec = 7000\n[kernel.container_rates]\ncall = 9000";
    let variables = [("DOGWATCH_KERNEL__CONTAINER_RATES__EXEC", "3000")];
    let config = load(toml, &variables, &[]).unwrap();
    let mut expected = Rates::default();
    expected.total.exec = 7000;
    (expected.container.call, expected.container.exec) = (9000, 3000);
    assert_eq!(config.rates, expected);
}

#[test]
fn the_environment_sets_lists_tags_and_options() {
    let variables = [
        ("DOGWATCH_HOST_ID", "007"),
        ("DOGWATCH_HOST_TAGS__SITE", "berlin"),
        ("DOGWATCH_KERNEL__HOST_WRITE_PATHS", "/etc, /boot"),
        ("DOGWATCH_KAFKA__OPTIONS__SECURITY_PROTOCOL", "ssl"),
    ];
    let config = load("", &variables, &[]).unwrap();
    assert_eq!(config.host_id.as_deref(), Some("007"));
    assert_eq!(config.host_tags.unwrap()["site"], "berlin".into());
    assert_eq!(config.host_write_paths, ["/etc", "/boot"]);
    assert_eq!(config.kafka.options["security.protocol"], "ssl");
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (toml, part) in [
        ("[kernel]\nring_bytes = '3MiB'", "kernel.ring_bytes"),
        ("[kafka]\ncompression = 'gzip'", "none, lz4 or zstd"),
        ("[kafka]\nqueue_bytes = '12 parsecs'", "12 parsecs"),
        ("[kafka]\ntopic_prefix = 'a b'", "kafka.topic_prefix"),
        ("[kafka]\npartitions = 0", "at least 1"),
        (
            "[containers]\nmode = 'all'",
            "off, lifecycle, normal or full",
        ),
        ("[containers]\nhost_mode = 'off'", "lifecycle is the least"),
        ("[containers]\nmetadata_patience = '1h'", "at most 10s"),
        (
            "[kernel]\nsensitive_read_paths = ['*/a/b/c']",
            "at most one folder",
        ),
        (
            "[containers]\nlabels = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i']",
            "at most 8 names",
        ),
        ("[containers]\nprobes = ['nginx']", "and the arguments"),
        ("[redaction]\narguments = ['(']", "redaction.arguments"),
        ("[metrics]\nlisten = 'here'", "metrics.listen"),
        ("[kafka.options]\n'acks' = '1'", "may not set acks"),
    ] {
        let refusal = refusal(toml);
        assert!(refusal.contains(part), "{toml}: {refusal}");
    }
}

#[test]
fn the_list_of_reads_is_bounded_because_heartbeats_carry_it() {
    let list = |count: usize, bytes: usize| {
        let entry = |number| format!("'/{number:0width$}'", width = bytes - 1);
        let entries: Vec<String> = (0..count).map(entry).collect();
        format!("[kernel]\nsensitive_read_paths = [{}]", entries.join(","))
    };
    assert!(load(&list(500, 32), &[], &[]).is_ok());
    for (count, bytes) in [(501, 8), (500, 33), (1, 251)] {
        assert!(refusal(&list(count, bytes)).contains("at most"), "{count}");
    }
}

#[test]
fn the_mode_of_containers_decides_which_reads_are_published() {
    for (mode, published) in [
        ("full", "/"),
        ("normal", "/a"),
        ("lifecycle", ""),
        ("off", ""),
    ] {
        let toml =
            format!("[kernel]\nsensitive_read_paths = ['/a/']\n[containers]\nmode = '{mode}'");
        let config = load(&toml, &[], &[]).unwrap();
        let reads: Vec<String> = config
            .published_reads()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(reads.concat(), published, "{mode}");
    }
}

#[test]
fn every_setting_can_be_given_alone() {
    let defaults = toml::Table::try_from(RawConfig::default()).unwrap();
    let mut tried = 0;
    for (section, settings) in &defaults {
        let toml::Value::Table(settings) = settings else {
            continue;
        };
        for (name, value) in settings {
            let alone = match value {
                toml::Value::Table(below) => below
                    .iter()
                    .map(|(key, value)| format!("[{section}.{name}]\n{key} = {value}"))
                    .collect(),
                value => vec![format!("[{section}]\n{name} = {value}")],
            };
            for toml in alone {
                let raw: RawConfig = toml::from_str(&toml).unwrap();
                assert_eq!(raw, RawConfig::default(), "{toml}");
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "{tried}");
    let config = load("[kernel.total_rates]\nexec = 7", &[], &[]).unwrap();
    let default = Rates::default();
    assert_eq!(config.rates.total.exec, 7);
    assert_eq!(config.rates.total.call, default.total.call);
    assert_eq!(config.rates.container.exec, default.container.exec);
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/sensor.toml")), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/sensor.toml"), "{error}");
}

#[test]
fn kerberos_starts_programs_and_nothing_else_does() {
    let starts = |options: &str| {
        let toml = format!("[kafka.options]\n{options}");
        load(&toml, &[], &[]).unwrap().kafka.starts_programs()
    };
    assert!(starts("'security.protocol' = 'sasl_ssl'"));
    assert!(starts("'sasl.mechanism' = 'GSSAPI'"));
    assert!(!starts(
        "'security.protocol' = 'SASL_SSL'\n'sasl.mechanisms' = 'PLAIN'"
    ));
    assert!(!starts("'security.protocol' = 'ssl'"));
    assert!(!starts(""));
}
