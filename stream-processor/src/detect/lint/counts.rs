//! Counts of distinct values that ask for more of them than a group can have.
//!
//! A window with a key of a host is of one, what stands in GROUP BY has one value in a group, and conditions leave a column few values:
//! `WHERE evt_type = 'connect' .. HAVING count(DISTINCT evt_type) > 3` loads and never speaks.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::Subject;
use super::conditions::Conditions;
use super::origin;
use super::parts::{text, whole_number};
use super::problem::Problem;
use super::satisfy::Question;
use super::terms::{Domain, Representative, Term};
use super::text::sql;
use crate::detect::sql_file::Fault;
use crate::detect::windowed::HOST_KEYS;

/// Columns that have one value in a window of one host.
const OF_ONE_HOST: [&str; 1] = ["host_id"];

/// A `count(DISTINCT column)` of a query.
struct DistinctCount {
    /// What its column is called above the groups.
    name: String,
    /// The column of events, and the name of their relation.
    column: String,
    relation: String,
    /// Whether it has one value in a group.
    is_one: bool,
}

/// Says which conditions on counts are never true.
pub(super) fn check(
    subject: &Subject<'_>,
    conditions: &Conditions,
    problem: &Problem,
) -> Vec<Fault> {
    let counts = counts(subject.plan, conditions);
    let mut faults = Vec::new();
    for (place, term) in problem.terms.iter().enumerate() {
        let asked = name_of(&term.expr);
        let Some(count) = counts
            .iter()
            .find(|count| Some(count.name.as_str()) == asked)
        else {
            continue;
        };
        let Some(most) = most(conditions, problem, count) else {
            continue;
        };
        let never = problem.goals().into_iter().filter(|goal| {
            let question = Question::new(problem, Domain::Known).at_most(place, most);
            !question.holds([*goal])
        });
        faults.extend(never.map(|(expr, _)| fault(subject, count, most, expr)));
    }
    faults
}

fn fault(subject: &Subject<'_>, count: &DistinctCount, most: usize, condition: &Expr) -> Fault {
    let DistinctCount {
        column, relation, ..
    } = count;
    let asked = sql(condition).replace(&format!("{relation}."), "");
    let values = if most == 1 { "value" } else { "values" };
    let reason = format!(
        "{asked} is never true: {column} has at most {most} {values} in a group of this query"
    );
    let mend = "count another column, ask for fewer, or let more values of it pass";
    Fault::new(subject.file.line_of("having"), reason, mend)
}

/// The counts of distinct values of a column of events.
fn counts(plan: &LogicalPlan, conditions: &Conditions) -> Vec<DistinctCount> {
    let mut found = Vec::new();
    // The walk itself never fails.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            let own = aggregate.aggr_expr.iter();
            found.extend(own.filter_map(|expr| distinct_count(aggregate, expr, conditions)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn distinct_count(
    aggregate: &Aggregate,
    expr: &Expr,
    conditions: &Conditions,
) -> Option<DistinctCount> {
    let mut call = expr;
    while let Expr::Alias(alias) = call {
        call = &alias.expr;
    }
    let Expr::AggregateFunction(call) = call else {
        return None;
    };
    let counts = call.func.name() == "count" && call.params.distinct
        || call.func.name() == "approx_distinct";
    let [argument] = &call.params.args[..] else {
        return None;
    };
    let own = origin::renamed(argument, &aggregate.input);
    let column = conditions.column(&own).filter(|_| counts)?;
    Some(DistinctCount {
        name: expr.schema_name().to_string(),
        column: column.name.clone(),
        relation: relation_of(argument)?,
        is_one: aggregate.group_expr.contains(argument)
            || OF_ONE_HOST.contains(&column.name.as_str()) && of_one_host(aggregate),
    })
}

/// What a column is qualified with.
fn relation_of(column: &Expr) -> Option<String> {
    match column {
        Expr::Alias(alias) => relation_of(&alias.expr),
        Expr::Column(column) => Some(column.relation.as_ref()?.to_string()),
        _ => None,
    }
}

/// Whether a key says whose a group is.
fn of_one_host(aggregate: &Aggregate) -> bool {
    let is_host = |key: &Expr| matches!(key, Expr::Column(column) if HOST_KEYS.contains(&column.name.as_str()));
    aggregate.group_expr.iter().any(is_host)
}

/// The column of the groups that a term is.
fn name_of(term: &Expr) -> Option<&str> {
    match term {
        Expr::Column(column) if column.relation.is_none() => Some(&column.name),
        Expr::Cast(cast) => name_of(&cast.expr),
        _ => None,
    }
}

/// How many values of a column a group can have; none where they are not counted.
fn most(conditions: &Conditions, problem: &Problem, count: &DistinctCount) -> Option<usize> {
    if count.is_one {
        return Some(1);
    }
    let own = |column: Option<&str>| column == Some(count.column.as_str());
    let place = problem
        .terms
        .iter()
        .position(|term| own(term.column.as_deref()));
    let Some(place) = place else {
        return values_of(conditions, &count.column);
    };
    let goals = problem.with_facts(Domain::Known, &problem.goals());
    let reached = problem.terms[place].places().filter(|value| {
        let question = Question::new(problem, Domain::Known).with_value(place, *value);
        question.holds(goals.iter().copied())
    });
    let mut values = 0;
    for value in reached {
        values += problem.terms[place].stands_for(value)?;
    }
    Some(values)
}

/// How many values a column of events has that nothing is asked of; none where they are not counted.
fn values_of(conditions: &Conditions, column: &str) -> Option<usize> {
    let events = crate::decode::events_schema();
    let field = events.field_with_name(column).ok()?;
    match field.data_type() {
        DataType::Boolean => Some(2),
        _ => Some(conditions.vocabulary(column)?.values.as_ref()?.len()),
    }
}

impl Term {
    /// The places of its values.
    fn places(&self) -> std::ops::Range<usize> {
        0..self.values.len()
    }

    /// How many values of the column one of these stands for: NULL for none, as it is not counted; none where it is
    /// not known how many they are.
    fn stands_for(&self, place: usize) -> Option<usize> {
        let of_these = &self.values[place];
        match &of_these.value {
            value if value.is_null() => Some(0),
            ScalarValue::Boolean(_) => Some(1),
            value if text(value).is_some() => (!of_these.any).then_some(1),
            // A number stands for its neighbours, too, unless it is compared itself.
            value => {
                let number = whole_number(value);
                let mut compared = self.compared.iter().map(whole_number);
                compared.any(|own| own == number).then_some(1)
            }
        }
    }

    /// Which of its values are numbers up to `most`, or none.
    pub(super) fn values_up_to(&self, most: usize) -> Vec<bool> {
        let fits = |value: &Representative| {
            whole_number(&value.value).is_none_or(|number| number <= most as i64)
        };
        self.values.iter().map(fits).collect()
    }
}
