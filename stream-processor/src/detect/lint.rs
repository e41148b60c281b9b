//! What loads and can never be right: values that no sensor sends, conditions that contradict each other, negations that
//! leave out whatever is unknown, constants that cannot be computed, counts that no group can reach.
//!
//! ```text
//! plan ─► conditions ─► problem: terms, each with a few values that stand for all ─► solver: can they all hold?
//!    └──► every expression ─► values: what no sensor sends · constants: what fails whatever the event is
//! ```
//! Refused is only what no event could ever pass, whoever sends it, and what fails for every event.
//! The rest is a warning: vocabularies are open, and a newer sensor may send more than this version knows.

use datafusion::common::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::codes::{Code, Doubt};
use super::lists::Lists;
use super::session::Session;
use super::sql_file::{Fault, SqlFile};
use crate::tables::Table;

#[cfg(test)]
mod case_tests;
mod conditions;
mod constants;
mod counts;
mod equals;
mod facts;
mod filters;
mod handed;
mod laws;
mod literals;
mod mixed;
mod nulls;
mod origin;
mod parts;
mod patterns;
mod problem;
mod satisfy;
#[cfg(test)]
mod shape_tests;
mod terms;
#[cfg(test)]
mod tests;
mod text;
mod values;
mod yields;

pub(super) use conditions::Conditions;
use problem::Problem;
use terms::Domain;

/// What all parts of the lint look at.
pub(super) struct Subject<'a> {
    pub session: &'a Session,
    pub table: Table,
    /// The checked query, with what it asks of lists put in.
    pub plan: &'a LogicalPlan,
    pub file: &'a SqlFile,
    pub lists: &'a Lists,
}

/// Judges a query; what comes back are its warnings.
///
/// # Errors
/// A refusal, where no event could ever pass, or an expression fails for every event.
pub(super) fn lint(subject: &Subject<'_>) -> std::result::Result<Vec<Doubt>, Fault> {
    constants::check(subject)?;
    values::check_patterns(subject)?;
    let conditions = Conditions::of(subject.plan, subject.table);
    let mut warnings = values::check(subject, &conditions);
    let misspelt = !warnings.is_empty();
    let judged = judge(subject, &conditions, misspelt);
    // What the lint cannot look through is no fault of the query's.
    if let Ok(found) = judged {
        warnings.extend(found?);
    }
    warnings.extend(Code::AlwaysFails.of_all(constants::doubts(subject)));
    warnings.extend(Code::GlobInLike.of_all(constants::globs(subject)));
    warnings.extend(Code::MixedAndOr.of_all(mixed::check(subject.file)));
    warnings.sort_by_key(|doubt| doubt.fault.line);
    warnings.dedup();
    Ok(warnings)
}

/// Asks whether the conditions can hold, with and without what is known of sensors; `misspelt` where a value is known to be
/// wrong, so that its consequences need not be told.
fn judge(
    subject: &Subject<'_>,
    conditions: &Conditions,
    misspelt: bool,
) -> Result<std::result::Result<Vec<Doubt>, Fault>> {
    let problem = Problem::new(subject, conditions)?;
    if let Some(culprits) = problem.conflict(Domain::All) {
        return Ok(Err(text::impossible(subject.file, &culprits)));
    }
    if let Some(culprits) = equals::conflict(subject, conditions) {
        return Ok(Err(text::impossible(
            subject.file,
            &culprits.iter().collect::<Vec<_>>(),
        )));
    }
    if let Some(culprits) = handed::conflict(subject, conditions, Domain::All) {
        let culprits: Vec<&Expr> = culprits.iter().collect();
        return Ok(Err(text::impossible(subject.file, &culprits)));
    }
    let nulls = nulls::check(subject, &problem);
    let mut warnings: Vec<Doubt> = Code::NullLeftOut.of_all(nulls).collect();
    if misspelt {
        return Ok(Ok(warnings));
    }
    if let Some(culprits) = problem.conflict(Domain::Known) {
        let fact = problem.needed_fact(&culprits);
        let fault = text::unheard_of(subject.file, &culprits, fact);
        warnings.push(Code::NeverPasses.of(fault));
        return Ok(Ok(warnings));
    }
    if let Some(culprits) = handed::conflict(subject, conditions, Domain::Known) {
        let culprits: Vec<&Expr> = culprits.iter().collect();
        let fault = text::unheard_of(subject.file, &culprits, None);
        warnings.push(Code::NeverPasses.of(fault));
        return Ok(Ok(warnings));
    }
    let own = |part: &&Expr| text::is_own(subject.file, part);
    let dead = problem.dead_alternatives().into_iter().filter(own);
    let dead = dead.map(|part| text::dead(subject.file, part)).collect();
    warnings.extend(Code::DeadAlternative.of_all(dead));
    let empty = problem.empty_conditions().into_iter().filter(own);
    let empty = empty.map(|part| text::empty(subject.file, part)).collect();
    warnings.extend(Code::AsksNothing.of_all(empty));
    let counts = counts::check(subject, conditions, &problem);
    warnings.extend(Code::CountTooHigh.of_all(counts));
    warnings.extend(Code::CountsNone.of_all(filters::check(subject, conditions)?));
    Ok(Ok(warnings))
}
