//! What an author should know of a detection that loads.

use dogwatch_schemas::reads::{self, ReadPattern};

use crate::detect::{Code, Detection};
use crate::tables::Table;

/// How much something matters that a linter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The detection may never say anything, or leave out what it should not.
    Warning,
    /// An author should know.
    Remark,
}

impl Weight {
    /// The word before what is said.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Remark => "remark",
        }
    }
}

/// What a linter says of one detection that loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Line in the file, from 1.
    pub line: usize,
    /// How much it matters.
    pub weight: Weight,
    /// What to know, and what to do about it.
    pub text: String,
}

/// Says what is wrong with a detection and what an author should know of it, where sensors publish these reads every time.
#[must_use]
pub fn lint(detection: &Detection, published: &[ReadPattern]) -> Vec<Remark> {
    let warning = |line: usize, text: String, code: Code| Remark {
        line,
        weight: Weight::Warning,
        text: format!("{text} [{}]", code.name()),
    };
    let own = detection.warnings.iter().map(|doubt| {
        let fault = &doubt.fault;
        let text = format!("{}; {}", fault.reason, fault.mend);
        warning(fault.line, text, doubt.code)
    });
    let unpublished = unpublished_reads(detection, published);
    let unpublished = unpublished
        .filter(|_| !detection.allows(Code::UnpublishedReads))
        .map(|text| warning(detection.reads_line, text, Code::UnpublishedReads));
    let general = lint_header(detection).into_iter().map(|text| Remark {
        line: 1,
        weight: Weight::Remark,
        text,
    });
    own.chain(unpublished).chain(general).collect()
}

/// Says which of the declared reads no sensor publishes every time.
fn unpublished_reads(detection: &Detection, published: &[ReadPattern]) -> Option<String> {
    let missing: Vec<String> = reads::uncovered(published, &detection.header.reads)
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "reads of {} are published once an hour, not every time; add {} to kernel.sensitive_read_paths of the sensors",
            missing.join(", "),
            if missing.len() == 1 { "it" } else { "them" },
        )
    })
}

fn lint_header(detection: &Detection) -> Vec<String> {
    let mut remarks = Vec::new();
    let header = &detection.header;
    if detection.table == Table::Events && detection.event_types().is_none() {
        remarks.push("no condition on evt_type: it is shown every event".to_owned());
    }
    if !detection.filters() {
        remarks.push("more than a filter: it costs a plan's run for each batch".to_owned());
    }
    let of_fleet = detection.plan.windowed().is_some_and(|plan| plan.fleet);
    let mut outputs = detection.outputs.iter();
    if !of_fleet && !outputs.any(|column| column == "container_id") {
        remarks.push("its row does not name container_id".to_owned());
    }
    let empty = [
        ("attack", header.attack.is_empty()),
        ("false_positives", header.false_positives.is_empty()),
        ("blind_spots", header.blind_spots.is_empty()),
        ("references", header.references.is_empty()),
        (
            "dedup",
            header.dedup.key.is_empty() && header.dedup.period.is_none(),
        ),
        ("response", header.response.is_none()),
    ];
    let empty = empty.into_iter().filter(|(_, empty)| *empty);
    let empty: Vec<&str> = empty.map(|(key, _)| key).collect();
    if !empty.is_empty() {
        remarks.push(format!("its header says nothing of {}", empty.join(", ")));
    }
    remarks
}
