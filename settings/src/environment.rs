//! What a variable of the environment whose name begins with ours is meant for.

use crate::keys::{Program, open_tables, other_with};

/// What the names of our variables begin with.
pub const PREFIX: &str = "DOGWATCH_";

/// Variables of ours that are no settings, without the prefix: the sensor's file, a crash that a test asks for.
const ASIDE: [&str; 2] = ["sensor_config", "fault"];

/// What a variable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A setting of the program, by its key, levels joined by dots.
    Setting(String),
    /// A setting of another program, which is named.
    OfAnother(&'static str),
    /// Ours, and no setting.
    Aside,
    /// Put there by Kubernetes or Docker for a service that is called like us.
    Link,
    /// Meant for us, and misspelt; the variable that is nearest, if one is near.
    Misspelt(Option<String>),
    /// Not known, and like nothing of ours.
    Unknown,
}

/// Says what the variable `name` is to `program`; `None` when it is not ours at all.
pub fn meaning(program: Program, name: &str, value: &str) -> Option<Meaning> {
    let upper = name.to_ascii_uppercase();
    let rest = upper.strip_prefix(PREFIX)?;
    let key = rest.to_ascii_lowercase().replace("__", ".");
    if program.has(&key) {
        return Some(Meaning::Setting(key));
    }
    Some(if let Some(other) = other_with(program, &key) {
        Meaning::OfAnother(other)
    } else if ASIDE.contains(&key.as_str()) {
        Meaning::Aside
    } else if is_link(rest, value) && !begins_with_a_section(&key) {
        Meaning::Link
    } else {
        match nearest_variable(&key) {
            Some((near, likeness)) if likeness.is_misspelling() => Meaning::Misspelt(Some(near)),
            _ => match (without_its_section(&key), key.contains('.')) {
                (Some(near), _) => Meaning::Misspelt(Some(variable(&near))),
                // Nobody but us joins words by two underscores.
                (None, true) => {
                    let near = in_nearest_table(&key);
                    let near = near.or_else(|| nearest_setting(Program::Either, &key));
                    Meaning::Misspelt(near.map(|near| variable(&near)))
                }
                (None, false) => Meaning::Unknown,
            },
        }
    })
}

/// The variable of a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Whether a key begins with a section of ours and the two underscores that we alone write behind it.
fn begins_with_a_section(key: &str) -> bool {
    let section = key.split_once('.').map(|(section, _)| section);
    section.is_some_and(|section| Program::Either.has_section(section))
}

/// The setting of a section that a key names without the section, or nearly so.
///
/// Settings of one word (`interval`, `level`) are left out: such a name may well be somebody else's.
fn without_its_section(key: &str) -> Option<String> {
    let settings = Program::Either.settings().into_iter();
    let named = settings.filter_map(|setting| {
        let (_, name) = setting.split_once('.')?;
        let likeness = Likeness {
            distance: strsim::osa_distance(&letters(key), &letters(name)),
            letters: letters(key).len(),
        };
        (name.contains('_') && likeness.is_misspelling()).then_some((likeness.distance, setting))
    });
    let nearest = named.min_by_key(|(distance, _)| *distance);
    nearest.map(|(_, setting)| setting)
}

/// The user's own setting that a key names in a section whose name is misspelt.
fn in_nearest_table(key: &str) -> Option<String> {
    let near = open_tables().into_iter().filter_map(|table| {
        let levels = table.matches('.').count() + 1;
        let (end, _) = key.match_indices('.').nth(levels - 1)?;
        let likeness = Likeness {
            distance: strsim::osa_distance(&letters(&key[..end]), &letters(table)),
            letters: letters(table).len(),
        };
        let named = format!("{table}{}", &key[end..]);
        likeness
            .is_misspelling()
            .then_some((likeness.distance, named))
    });
    let nearest = near.min_by_key(|(distance, _)| *distance);
    nearest.map(|(_, named)| named)
}

/// Says whether a variable is one that Kubernetes makes for each service of a namespace, or Docker for each link:
/// `X_SERVICE_HOST`, `X_SERVICE_PORT_HTTP`, `X_PORT=tcp://…`, `X_PORT_9092_TCP_ADDR`, `X_NAME=/web/x`, `X_ENV_…`.
fn is_link(rest: &str, value: &str) -> bool {
    let rest = &format!("_{rest}");
    let is_service = rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_");
    let is_address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|protocol| value.starts_with(protocol));
    let is_port = rest.split("_PORT_").skip(1).any(|after| {
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
        let protocols = ["_TCP", "_UDP", "_SCTP"];
        digits.len() < after.len() && protocols.iter().any(|name| digits.starts_with(name))
    });
    let is_name = rest.ends_with("_NAME") && value.starts_with('/');
    is_service
        || (rest.ends_with("_PORT") && is_address)
        || is_port
        || is_name
        || rest.contains("_ENV_")
}

/// How like a name is to one that exists.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Likeness {
    /// Letters that differ or have changed places, without underscores and dots.
    distance: usize,
    /// Letters of the name.
    letters: usize,
}

impl Likeness {
    /// A letter in four at most, and two at most.
    fn is_misspelling(self) -> bool {
        self.distance <= 2 && self.distance * 4 <= self.letters
    }
}

/// The variable nearest to a key, of any program.
fn nearest_variable(key: &str) -> Option<(String, Likeness)> {
    let plain = letters(key);
    for table in open_tables() {
        // What follows the section is the user's own, one underscore for two before it.
        let words = table.replace('.', "_");
        let flat = key.replace('.', "_");
        if let Some(name) = flat.strip_prefix(&format!("{words}_")) {
            let likeness = Likeness {
                distance: 0,
                letters: plain.len(),
            };
            return Some((variable(&format!("{table}.{name}")), likeness));
        }
    }
    let (near, distance) = nearest(&plain, Program::Either.settings())?;
    let likeness = Likeness {
        distance,
        letters: plain.len(),
    };
    Some((variable(&near), likeness))
}

/// The setting of a program that is nearest to a key.
pub fn nearest_setting(program: Program, key: &str) -> Option<String> {
    let (near, distance) = nearest(&letters(key), program.settings())?;
    // A whole level too many or few is far by letters, and still what was meant.
    let last = |key: &str| letters(key.rsplit('.').next().unwrap_or(key));
    let alike = distance * 3 <= key.len() || last(&near) == last(key);
    alike.then_some(near)
}

fn nearest(plain: &str, settings: Vec<String>) -> Option<(String, usize)> {
    let distance = |key: String| {
        let distance = strsim::osa_distance(plain, &letters(&key));
        (key, distance)
    };
    settings
        .into_iter()
        .map(distance)
        .min_by_key(|(_, distance)| *distance)
}

fn letters(key: &str) -> String {
    key.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Meaning {
        meaning(Program::Processor, name, value).unwrap()
    }

    #[test]
    fn settings_are_found_by_their_levels() {
        let setting = |key: &str| Meaning::Setting(key.to_owned());
        assert_eq!(of("DOGWATCH_DELIVERY", "x"), setting("delivery"));
        assert_eq!(
            of("DOGWATCH_KAFKA__GROUP_ID", "x"),
            setting("kafka.group_id")
        );
        assert_eq!(
            of("DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD", "x"),
            setting("kafka.options.sasl_password")
        );
        assert_eq!(meaning(Program::Processor, "PATH", "/bin"), None);
        assert_eq!(meaning(Program::Processor, "DOGWATCHER", "x"), None);
    }

    #[test]
    fn what_kubernetes_and_docker_put_there_is_passed_over() {
        for (name, value) in [
            ("DOGWATCH_PROCESSOR_SERVICE_HOST", "10.0.0.1"),
            ("DOGWATCH_PROCESSOR_SERVICE_PORT", "9465"),
            ("DOGWATCH_PROCESSOR_SERVICE_PORT_METRICS", "9465"),
            ("DOGWATCH_KAFKA_PORT", "tcp://10.0.0.2:9092"),
            ("DOGWATCH_KAFKA_PORT_9092_TCP", "tcp://10.0.0.2:9092"),
            ("DOGWATCH_KAFKA_PORT_9092_TCP_PROTO", "tcp"),
            ("DOGWATCH_KAFKA_PORT_9092_TCP_ADDR", "10.0.0.2"),
            ("DOGWATCH_DNS_PORT_53_UDP_PORT", "53"),
            ("DOGWATCH_SERVICE_HOST", "10.0.0.3"),
            ("DOGWATCH_SERVICE_PORT", "80"),
            ("DOGWATCH_PORT", "tcp://10.0.0.3:80"),
            ("DOGWATCH_PORT_80_TCP", "tcp://10.0.0.3:80"),
            ("DOGWATCH__KAFKA_SERVICE_HOST", "10.0.0.3"),
            ("DOGWATCH_KAFKA_NAME", "/processor/dogwatch_kafka"),
            ("DOGWATCH_KAFKA_ENV_LANG", "C"),
        ] {
            for program in [Program::Processor, Program::Sensor] {
                assert_eq!(meaning(program, name, value), Some(Meaning::Link), "{name}");
            }
        }
    }

    #[test]
    fn what_another_program_reads_is_passed_over() {
        assert_eq!(
            of("DOGWATCH_KERNEL__RING_BYTES", "8MiB"),
            Meaning::OfAnother("dogwatch-sensor")
        );
        let group = meaning(Program::Sensor, "DOGWATCH_KAFKA__GROUP_ID", "x");
        assert_eq!(group, Some(Meaning::OfAnother("dogwatch-processor")));
        assert_eq!(of("DOGWATCH_SENSOR_CONFIG", "/x"), Meaning::Aside);
    }

    #[test]
    fn what_is_misspelt_is_told_with_the_nearest_name() {
        for (wrong, right) in [
            (
                "DOGWATCH_KAFKA_BOOTSTRAP_SERVERS",
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVERS",
            ),
            (
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVER",
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVERS",
            ),
            ("DOGWATCH_KAFAK__GROUP_ID", "DOGWATCH_KAFKA__GROUP_ID"),
            (
                "DOGWATCH_KAFKA___TOPIC_PREFIX",
                "DOGWATCH_KAFKA__TOPIC_PREFIX",
            ),
            ("DOGWATCH_KAFKA__GROUPID", "DOGWATCH_KAFKA__GROUP_ID"),
            ("DOGWATCH_HOSTID", "DOGWATCH_HOST_ID"),
            ("DOGWATCH__DELIVERY", "DOGWATCH_DELIVERY"),
            (
                "DOGWATCH_KAFKA__OPTION__SASL_PASSWORD",
                "DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD",
            ),
            (
                "DOGWATCH_KAFKA_OPTIONS_SASL_PASSWORD",
                "DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD",
            ),
            (
                "DOGWATCH_KAFKA__OPTIONS_SASL_PASSWORD",
                "DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD",
            ),
        ] {
            let misspelt = Meaning::Misspelt(Some(right.to_owned()));
            for program in [Program::Processor, Program::Sensor] {
                assert_eq!(
                    meaning(program, wrong, "x"),
                    Some(misspelt.clone()),
                    "{wrong}"
                );
            }
        }
        // The section is missing.
        for (wrong, right) in [
            (
                "DOGWATCH_BOOTSTRAP_SERVERS",
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVERS",
            ),
            (
                "DOGWATCH_BOOTSTRAP_SERVER",
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVERS",
            ),
            ("DOGWATCH_GROUP_ID", "DOGWATCH_KAFKA__GROUP_ID"),
            ("DOGWATCH_TOPIC_PREFIX", "DOGWATCH_KAFKA__TOPIC_PREFIX"),
            ("DOGWATCH_RINGBYTES", "DOGWATCH_KERNEL__RING_BYTES"),
            ("DOGWATCH_KEYS_MAX", "DOGWATCH_WINDOWS__KEYS_MAX"),
        ] {
            let misspelt = Meaning::Misspelt(Some(right.to_owned()));
            assert_eq!(of(wrong, "x"), misspelt, "{wrong}");
        }
        // Kubernetes writes no two underscores behind our sections, whatever the value is.
        for name in ["DOGWATCH_KAFKA__PORT", "DOGWATCH_METRICS__PORT"] {
            let told = of(name, "tcp://10.0.0.2:9092");
            assert_eq!(told, Meaning::Misspelt(None), "{name}");
        }
        // What is like nothing is told without a name that would mislead.
        for name in ["DOGWATCH_KAFKA__PORT", "DOGWATCH_FOO__BAR"] {
            assert_eq!(of(name, "x"), Meaning::Misspelt(None), "{name}");
        }
        for name in ["DOGWATCH_VERSION", "DOGWATCH_CACHE", "DOGWATCH_IMAGE_TAG"] {
            assert_eq!(of(name, "x"), Meaning::Unknown, "{name}");
        }
    }
}
