//! Settings as they are written, and those that are refused.

use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path()), &[])
}

fn refused(text: &str, expected: &str) {
    let message = load(text).unwrap_err().to_string();
    assert!(message.contains(expected), "{message:?} lacks {expected:?}");
}

#[test]
fn the_commented_file_states_the_defaults() {
    let text = include_str!("../../processor.toml");
    let stated: RawConfig = toml::from_str(text).unwrap();
    assert_eq!(stated, RawConfig::default());
    let commented: toml::Table = toml::from_str(text).unwrap();
    let defaults = toml::Table::try_from(RawConfig::default()).unwrap();
    assert_eq!(
        commented, defaults,
        "a setting is missing in processor.toml"
    );
}

#[test]
fn a_mistyped_key_is_refused_with_the_nearest_name() {
    refused(
        "[kafka]\nbootstrap_server = 'a:1'",
        "did you mean kafka.bootstrap_servers?",
    );
    refused("zzz = 1", "processor.toml lists all keys");
}

#[test]
fn options_that_settings_decide_are_refused() {
    refused("[kafka.options]\n'group.id' = 'x'", "set kafka.group_id");
    refused(
        "[kafka.options]\n'enable_auto_commit' = true",
        "committed with the alerts",
    );
}

#[test]
fn options_reach_librdkafka_with_dots() {
    let config = load("[kafka.options]\nsocket_keepalive_enable = true\n'client.id' = 'a_b'");
    let options = config.unwrap().kafka.options;
    assert_eq!(options["socket.keepalive.enable"], "true");
    assert_eq!(options["client.id"], "a_b");
}

#[test]
fn values_out_of_range_are_refused() {
    refused(
        "[kafka]\npartitions = 0",
        "kafka.partitions must be 1 or more, not 0",
    );
    refused("[kafka]\nsession_timeout = '0s'", "kafka.session_timeout");
    refused("[metrics]\nlisten = 'here'", "metrics.listen");
    refused(
        "[windows]\nfleet_delay_max = '4s'",
        "windows.fleet_delay_max must be between 5s and 24h",
    );
    refused(
        "[detections]\ntrusted_keys = ['d75a']",
        "detections.trusted_keys must be a list of public keys",
    );
    refused("[detections]\nsource = 'git'", "git");
    refused(
        "delivery = 'twice'",
        "unknown variant `twice`, expected `exactly_once` or `at_least_once`",
    );
    refused(
        "[log]\nlevel = 'loud'",
        "off, error, warn, info, debug, trace",
    );
    refused(
        "[windows]\nkeys_max = 'x'",
        "expected a whole number, 0 or more",
    );
    refused("[step]\nrows_max = 0", "step.rows_max");
    refused("[checkpoint]\ninterval = '0s'", "checkpoint.interval");
    refused(
        "[checkpoint]\ninput_bytes = 1",
        "checkpoint.input_bytes must be between 65536",
    );
    refused("[windows]\nhost_silence = '0s'", "windows.host_silence");
    refused(
        "[windows]\nclock_error_max = '1s'",
        "windows.clock_error_max",
    );
    refused("[windows]\nkeys_max = 0", "windows.keys_max");
    refused("[windows]\nfleet_patience = '0s'", "windows.fleet_patience");
    refused(
        "[windows]\nmemory_bytes_max = 1000",
        "windows.memory_bytes_max",
    );
}

#[test]
fn stages_are_a_list_or_names_with_commas_as_the_environment_has_them() {
    let one = load("stages = \"fleet\"").expect("a stage");
    assert_eq!(one.stages, [Stage::Fleet]);
    let both = load("stages = \"host, fleet\"").expect("stages");
    assert_eq!(both.stages, [Stage::Host, Stage::Fleet]);
    refused(
        "stages = [\"hosts\"]",
        "unknown variant `hosts`, expected `host` or `fleet`",
    );
    refused("stages = \"\"", "stages must be");
}

#[test]
fn a_fault_strikes_once_where_and_when_it_was_asked_for() {
    let fault = Fault::parse("during_restore:2").unwrap();
    let struck: Vec<bool> = (0..4)
        .map(|_| fault.clone().strikes(FaultPoint::DuringRestore))
        .collect();
    assert_eq!(struck, [false, true, false, false]);
    let other = Fault::parse("stop_in_transaction:1").unwrap();
    assert!(!other.strikes(FaultPoint::AfterSendOffsets));
    assert!(other.strikes(FaultPoint::StopInTransaction));
    for text in [
        "",
        "after_send_offsets",
        "after_send_offsets:0",
        "never:1",
        "during_restore:x",
        "during_restore:1:2",
    ] {
        assert!(Fault::parse(text).is_err(), "{text:?}");
    }
}
