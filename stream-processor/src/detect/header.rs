//! What a detection says of itself: its header, read from TOML and checked.

use std::time::Duration;

use dogwatch_schemas::reads::ReadPattern;
use serde::Deserialize;

use super::falco;
use super::message::Template;
use super::sql_file::{Fault, SqlFile, nearest};

mod faults;

/// How bad it is, in OCSF's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a record.
    Informational,
    /// Worth a look in passing.
    Low,
    /// Worth a look today.
    Medium,
    /// Worth a look now.
    High,
    /// Act now.
    Critical,
}

impl Severity {
    /// The word as the header and the alert have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The risk score of a detection that names none.
    fn risk(self) -> i64 {
        match self {
            Self::Informational => 5,
            Self::Low => 20,
            Self::Medium => 45,
            Self::High => 70,
            Self::Critical => 95,
        }
    }

    /// Falco's priority of the same weight.
    #[must_use]
    pub fn priority(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Notice",
            Self::Medium => "Warning",
            Self::High => "Error",
            Self::Critical => "Critical",
        }
    }
}

/// How far a detection is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// New: its false positives are not known yet.
    Experimental,
    /// Proven.
    Stable,
    /// Kept for those who rely on it; to be removed.
    Deprecated,
}

impl Status {
    /// The word as the header and the alert have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Experimental => "experimental",
            Self::Stable => "stable",
            Self::Deprecated => "deprecated",
        }
    }
}

/// The header as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    title: String,
    description: String,
    message: String,
    severity: Severity,
    status: Status,
    risk: Option<i64>,
    #[serde(default)]
    attack: Vec<String>,
    #[serde(default)]
    false_positives: Vec<String>,
    #[serde(default)]
    blind_spots: Vec<String>,
    #[serde(default)]
    references: Vec<String>,
    #[serde(default)]
    reads: Vec<String>,
    response: Option<String>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    dedup: RawDedup,
    #[serde(default, with = "humantime_serde")]
    lateness: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    out_of_orderness: Option<Duration>,
}

/// The table `dedup` as it stands in the file.
#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { key = [\"column\"], period = \"1h\" }"
)]
struct RawDedup {
    #[serde(default)]
    key: Vec<String>,
    #[serde(default, with = "humantime_serde")]
    period: Option<Duration>,
    limit: Option<u64>,
}

/// Longest header, bytes: its texts stand in every alert, which has 64 KiB at most.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Keys a header may have; what `deny_unknown_fields` refuses is compared to them.
const KEYS: [&str; 16] = [
    "title",
    "description",
    "message",
    "severity",
    "status",
    "risk",
    "attack",
    "false_positives",
    "blind_spots",
    "references",
    "reads",
    "response",
    "allow",
    "dedup",
    "lateness",
    "out_of_orderness",
];

/// Keys that its table `dedup` may have.
const DEDUP_KEYS: [&str; 3] = ["key", "period", "limit"];

/// How far behind its host's newest row a row may be and still be in time, where the header says nothing.
const OUT_OF_ORDERNESS: Duration = Duration::from_secs(1);
/// Most of it: a window waits for it before it closes.
const OUT_OF_ORDERNESS_MAX: Duration = Duration::from_secs(60);
/// Most that a window may wait beyond that.
const LATENESS_MAX: Duration = Duration::from_secs(600);
/// The periods in which repeats may be folded.
const PERIODS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);

/// How repeats of an alert are folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dedup {
    /// Columns of the result by which repeats are told, beside detection, host and container.
    pub key: Vec<String>,
    /// How long repeats are folded after the first alert; none = every alert is sent.
    pub period: Option<Duration>,
    /// How many alerts of a period are sent before the rest is folded.
    pub limit: u64,
}

/// A checked header.
#[derive(Debug, Clone)]
pub struct Header {
    /// A short name for people.
    pub title: String,
    /// What it finds and why that matters.
    pub description: String,
    /// The alert's sentence.
    pub message: Template,
    /// How bad it is.
    pub severity: Severity,
    /// How far it is to be trusted.
    pub status: Status,
    /// Risk score, 0 to 100; by severity where the header has none.
    pub risk: i64,
    /// ATT&CK technique ids, such as `T1059.004`.
    pub attack: Vec<String>,
    /// Known causes that are no attack.
    pub false_positives: Vec<String>,
    /// Attacks of its kind that it does not see.
    pub blind_spots: Vec<String>,
    /// Addresses to read.
    pub references: Vec<String>,
    /// The files whose every reading it needs to see; a sensor publishes what its list covers.
    pub reads: Vec<ReadPattern>,
    /// What to do about an alert.
    pub response: Option<String>,
    /// Codes of warnings that are not told, because what they are of is meant so.
    pub allow: Vec<String>,
    /// How repeats are folded.
    pub dedup: Dedup,
    /// How long a window stays open for late rows, beyond `out_of_orderness`.
    pub lateness: Duration,
    /// How far behind its host's newest row a row may be and still be in time.
    pub out_of_orderness: Duration,
}

impl Header {
    /// Reads the header of a file.
    pub(crate) fn parse(file: &SqlFile) -> Result<Self, Fault> {
        if let Some(rule) = falco::rule(file) {
            return Err(rule);
        }
        if file.header.trim().is_empty() {
            let reason = "this is no -- line: the file does not begin with a header";
            let mend = "write -- title = \"..\" and the other keys before anything else, each on a line that begins with --";
            return Err(Fault::new(file.query_line, reason, mend));
        }
        let raw = RawHeader::read(file)?;
        let line = |key: &str| line_of_key(&file.header, key);
        for (key, text) in [
            ("title", &raw.title),
            ("description", &raw.description),
            ("message", &raw.message),
        ] {
            if text.trim().is_empty() {
                return Err(Fault::new(
                    line(key),
                    format!("{key} is empty"),
                    "say it in a sentence",
                ));
            }
        }
        let risk = raw.risk.unwrap_or_else(|| raw.severity.risk());
        if !(0..=100).contains(&risk) {
            return Err(Fault::new(
                line("risk"),
                format!("risk is {risk}"),
                "give a score from 0 to 100",
            ));
        }
        if let Some(id) = raw.attack.iter().find(|id| !is_technique(id)) {
            let reason = format!("attack names {id:?}, which is no technique id");
            return Err(Fault::new(
                line("attack"),
                reason,
                "write it as T1059 or T1059.004",
            ));
        }
        let reads = raw.reads.iter().map(|text| text.parse());
        let reads = reads
            .collect::<Result<Vec<ReadPattern>, _>>()
            .map_err(|error| {
                let reason = format!("reads has {:?}, which names no files", error.pattern);
                Fault::new(line("reads"), reason, error.mend)
            })?;
        let lateness = raw.lateness.unwrap_or_default();
        let out_of_orderness = raw.out_of_orderness.unwrap_or(OUT_OF_ORDERNESS);
        for (key, span, most) in [
            ("lateness", lateness, LATENESS_MAX),
            ("out_of_orderness", out_of_orderness, OUT_OF_ORDERNESS_MAX),
        ] {
            if span > most {
                return Err(Fault::new(
                    line(key),
                    format!("{key} is {span:?}: windows would stay in memory for too long"),
                    format!("give at most {most:?}; later rows go to the topic of late rows"),
                ));
            }
        }
        let dedup = raw
            .dedup
            .checked()
            .map_err(|(reason, mend)| Fault::new(line("dedup"), reason, mend))?;
        let message = Template::parse(&raw.message).map_err(|reason| {
            Fault::new(
                line("message"),
                reason,
                "write columns of the SELECT as {column}, braces as {{ and }}",
            )
        })?;
        Ok(Self {
            title: raw.title,
            description: raw.description,
            message,
            severity: raw.severity,
            status: raw.status,
            risk,
            attack: raw.attack,
            false_positives: raw.false_positives,
            blind_spots: raw.blind_spots,
            references: raw.references,
            reads,
            response: raw.response,
            allow: raw.allow,
            dedup,
            lateness,
            out_of_orderness,
        })
    }

    /// Checks that what the header names is a column of the query's result.
    pub(crate) fn check_columns(&self, file: &SqlFile, columns: &[String]) -> Result<(), Fault> {
        let in_message = self.message.columns().map(|column| ("message", column));
        let in_key = self
            .dedup
            .key
            .iter()
            .map(|column| ("dedup", column.as_str()));
        for (key, column) in in_message.chain(in_key) {
            if !columns.iter().any(|known| known == column) {
                let mend = match nearest(column, columns.iter().map(String::as_str)) {
                    Some(known) => format!("did you mean {known}?"),
                    None => format!("add {column} to the SELECT"),
                };
                let reason = format!("{key} names {column}, which the SELECT does not yield");
                return Err(Fault::new(line_of_key(&file.header, key), reason, mend));
            }
        }
        Ok(())
    }
}

impl RawHeader {
    fn read(file: &SqlFile) -> Result<Self, Fault> {
        if file.header.len() > HEADER_BYTES_MAX {
            let reason = format!("the header has {} bytes", file.header.len());
            let mend = format!("keep it to {HEADER_BYTES_MAX}: every alert holds it");
            return Err(Fault::new(1, reason, mend));
        }
        toml::from_str(&file.header).map_err(|error| faults::of_toml(file, &error))
    }
}

impl RawDedup {
    /// Checks it; the error is the reason and the mend.
    fn checked(self) -> Result<Dedup, (String, String)> {
        if let Some(period) = self.period.filter(|period| !PERIODS.contains(period)) {
            let reason = format!("dedup has a period of {period:?}");
            return Err((reason, "give a period from 1 s to 7 days".to_owned()));
        }
        if self.limit == Some(0) {
            return Err((
                "dedup has a limit of 0, so nothing would ever be said".to_owned(),
                "give a limit of 1 or more".to_owned(),
            ));
        }
        if self.limit.is_some() && self.period.is_none() {
            return Err((
                "dedup has a limit and no period".to_owned(),
                "add a period such as period = \"1h\"".to_owned(),
            ));
        }
        Ok(Dedup {
            key: self.key,
            period: self.period,
            limit: self.limit.unwrap_or(1),
        })
    }
}

/// `T` and four digits, then perhaps a dot and three.
fn is_technique(id: &str) -> bool {
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match id
        .strip_prefix('T')
        .map(|rest| rest.split_once('.').unwrap_or((rest, "000")))
    {
        Some((technique, part)) => digits(technique, 4) && digits(part, 3),
        None => false,
    }
}

/// Line of the file where a key of the header stands, else 1.
pub(super) fn line_of_key(header: &str, key: &str) -> usize {
    let place = header.lines().position(|line| is_key(line, key));
    place.map_or(1, |index| index + 1)
}

/// Whether a line of a header gives a key.
fn is_key(line: &str, key: &str) -> bool {
    let rest = line.trim_start().strip_prefix(key);
    rest.is_some_and(|rest| rest.trim_start().starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"-- title = "t"
-- description = "d"
-- message = "{a} did it"
-- severity = "low"
-- status = "stable"
-- risk = 10
-- attack = ["T1059.004"]
-- false_positives = []
-- blind_spots = []
-- reads = ["/etc/shadow", "*/.kube/config"]
-- dedup = { key = ["a"] }
SELECT a FROM events
"#;

    fn check(from: &str, to: &str, line: usize, reason: &str, mend: &str) {
        assert!(GOOD.contains(from), "{from}");
        let file = SqlFile::parse(&GOOD.replace(from, to));
        let fault = Header::parse(&file)
            .and_then(|header| header.check_columns(&file, &["a".into(), "proc_name".into()]))
            .expect_err("refused");
        assert_eq!((fault.line, fault.reason.as_str()), (line, reason));
        assert!(fault.mend.contains(mend), "{}", fault.mend);
    }

    #[test]
    fn a_good_header_is_read() {
        let file = SqlFile::parse(GOOD);
        let header = Header::parse(&file).expect("good");
        assert_eq!(header.severity, Severity::Low);
        assert_eq!(header.severity.priority(), "Notice");
        assert_eq!(header.dedup.key, ["a"]);
        assert_eq!((header.dedup.period, header.dedup.limit), (None, 1));
        assert_eq!(header.out_of_orderness, OUT_OF_ORDERNESS);
        let reads: Vec<String> = header.reads.iter().map(ToString::to_string).collect();
        assert_eq!(reads, ["/etc/shadow", "*/.kube/config"]);
        header.check_columns(&file, &["a".into()]).expect("good");
    }

    #[test]
    fn a_rule_of_falcos_is_told_as_one() {
        let rule = "# ours\n- rule: Terminal shell\n  condition: spawned_process\n";
        let fault = Header::parse(&SqlFile::parse(rule)).expect_err("refused");
        assert_eq!(fault.line, 2);
        assert_eq!(fault.reason, "this is a rule of Falco's, in YAML");
        assert!(fault.mend.contains("docs/detections.md"), "{}", fault.mend);
    }

    #[test]
    fn a_header_that_would_fill_alerts_is_refused() {
        let long = format!("\"{}\"", "d".repeat(HEADER_BYTES_MAX));
        let file = SqlFile::parse(&GOOD.replace("\"d\"", &long));
        let fault = Header::parse(&file).expect_err("refused");
        assert!(
            fault.reason.starts_with("the header has"),
            "{}",
            fault.reason
        );
    }

    #[test]
    fn keys_of_dedup_are_told_apart_from_the_headers_own() {
        let whole = "dedup = { key = [\"a\"] }";
        for (wrong, reason, mend) in [
            (
                "dedup = { by = [] }",
                "by in dedup",
                "use key, period, limit",
            ),
            ("dedup = { kye = [] }", "kye in dedup", "did you mean key?"),
            (
                "dedup = { risk = 1 }",
                "risk in dedup",
                "use key, period, limit",
            ),
            (
                "key = [\"a\"]",
                "key",
                "write it into dedup, such as dedup = { key = .. }",
            ),
            (
                "period = \"1h\"",
                "period",
                "such as dedup = { period = .. }",
            ),
        ] {
            check(
                whole,
                wrong,
                11,
                &format!("header: unknown key {reason}"),
                mend,
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_mend() {
        check(
            "severity",
            "sevrity",
            4,
            "header: unknown key sevrity",
            "did you mean severity?",
        );
        check(
            "\"low\"",
            "\"bad\"",
            4,
            "header: unknown variant `bad`, expected one of `informational`, `low`, `medium`, `high`, `critical`",
            "write one of these words",
        );
        check(
            "\"low\"",
            "\"WARNING\"",
            4,
            "header: unknown variant `WARNING`, expected one of `informational`, `low`, `medium`, `high`, `critical`",
            "write severity = \"medium\" for Falco's WARNING",
        );
        check("risk = 10", "risk = 101", 6, "risk is 101", "0 to 100");
        check(
            "T1059.004",
            "T1059.4",
            7,
            "attack names \"T1059.4\", which is no technique id",
            "T1059",
        );
        check("\"t\"", "\" \"", 1, "title is empty", "sentence");
        check(
            "*/.kube/config",
            "id_rsa",
            10,
            "reads has \"id_rsa\", which names no files",
            "*/ for a name",
        );
        check("{a}", "{a", 3, "message: a { without its }", "{{");
        check(
            "{a}",
            "{proc_nam}",
            3,
            "message names proc_nam, which the SELECT does not yield",
            "did you mean proc_name?",
        );
        check(
            "[\"a\"]",
            "[\"b\"]",
            11,
            "dedup names b, which the SELECT does not yield",
            "add b to the SELECT",
        );
        check(
            "-- status = \"stable\"\n",
            "-- status = \"stable\"\n-- title = \"again\"\n",
            6,
            "header: duplicate key",
            "take one of them out",
        );
        check(
            "risk = 10",
            "risk = \"high\"",
            6,
            "header: invalid type: string \"high\", expected i64",
            "numbers without",
        );
        check(
            "[\"T1059.004\"]",
            "\"T1059.004\"",
            7,
            "header: invalid type: string \"T1059.004\", expected a sequence",
            "lists as [\"a\", \"b\"]",
        );
        check(
            "-- status = \"stable\"\n",
            "",
            1,
            "header: missing field `status`",
            "keys",
        );
    }

    #[test]
    fn what_is_no_toml_and_no_span_is_told_with_how_it_is_written() {
        for (from, to, line, mend) in [
            (
                "dedup = { key = [\"a\"] }",
                "dedup = { key = [\"a\"], period = \"an hour\" }",
                11,
                "a time span such as \"30s\"",
            ),
            (
                "title = \"t\"",
                "title = A shell",
                1,
                r#"write title = "A shell""#,
            ),
            ("title = \"t\"", "title = t", 1, r#"write title = "t""#),
            (
                "title = \"t\"",
                "title: A shell",
                1,
                r#"write title = "A shell""#,
            ),
            ("title = \"t\"", "title: \"t\"", 1, r#"write title = "t""#),
            (
                "title = \"t\"",
                "title = \u{201c}t\u{201d}",
                1,
                r#"write title = "t""#,
            ),
            ("title = \"t\"", "title = \"t", 1, r#"write title = "t""#),
            ("title = \"t\"", "title = 't", 1, r#"write title = "t""#),
            ("title = \"t\"", "title => \"t\"", 1, r#"write title = "t""#),
            ("title = \"t\"", "title =", 1, r#"write title = "..""#),
            (
                "title = \"t\"",
                "title = \"a \"b\" c\"",
                1,
                "a quote inside of a text",
            ),
            (
                "severity = \"low\"",
                "severity = low",
                4,
                r#"write severity = "low""#,
            ),
            (
                "severity = \"low\"",
                "severity: low",
                4,
                r#"write severity = "low""#,
            ),
            ("severity = \"low\"", "severity = 3", 4, "in double quotes"),
            (
                "severity = \"low\"",
                "severity = \"Low\"",
                4,
                "did you mean \"low\"?",
            ),
            ("risk = 10", "risk 10", 6, "write risk = 10"),
            ("risk = 10", "risk = 10%", 6, "write risk = 10"),
            (
                "[\"T1059.004\"]",
                "[T1059]",
                7,
                r#"write attack = ["T1059"]"#,
            ),
            (
                "[\"T1059.004\"]",
                "T1059, T1053",
                7,
                r#"write attack = ["T1059", "T1053"]"#,
            ),
            (
                "title = \"t\"",
                "This finds shells.\n-- title = \"t\"",
                1,
                "put # before a remark",
            ),
            (
                "title = \"t\"",
                "-----\n-- title = \"t\"",
                1,
                "leave the line out",
            ),
            (
                "dedup = { key = [\"a\"] }",
                "dedup = { period = \"1h\", limit = -1 }",
                11,
                "give a whole number of 1 or more",
            ),
            (
                "dedup = { key = [\"a\"] }",
                "dedup = { period = 1h }",
                11,
                "write texts in double quotes, such as",
            ),
        ] {
            let file = SqlFile::parse(&GOOD.replace(from, to));
            let fault = Header::parse(&file).expect_err("refused");
            assert_eq!(fault.line, line, "{fault:?}");
            assert!(fault.reason.starts_with("header: "), "{fault:?}");
            assert!(fault.mend.contains(mend), "{fault:?}");
        }
    }
}
