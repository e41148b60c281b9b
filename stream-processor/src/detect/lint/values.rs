//! Constants that a column never has: misspelt, of the wrong case, too long, out of range; patterns that take no value.

use std::collections::BTreeSet;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, LogicalPlan, Operator};
use dogwatch_schemas::vocabulary::{Shape, Vocabulary};
use dogwatch_schemas::{arguments, calls, nearest as likeness};
use regex::Regex;

use super::Subject;
use super::conditions::Conditions;
use super::literals;
use super::origin;
use super::parts::{argument_below, compared_with, operands, text, whole_number};
use super::patterns::{asked_like, mend_of_text, never, pattern};
use super::text::{line_of, sql};
use crate::detect::codes::{Code, Doubt};
use crate::detect::sql_file::{Fault, SqlFile, nearest};

/// Most values of a column that are listed in a mend.
const LISTED_MAX: usize = 24;

/// The type of events that a call is sent as, where it is another word than its name.
fn sent_as(call: &str) -> Option<&str> {
    match call {
        "fexecve" => Some("execve"),
        "exit" | "exit_group" => Some("procexit"),
        call => Some(calls::event_type(call)).filter(|sent_as| *sent_as != call),
    }
}

/// Most values of a list that are named.
const NAMED_MAX: usize = 3;

/// Says which constants no sensor sends in the column they are compared with.
pub(super) fn check(subject: &Subject<'_>, conditions: &Conditions) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    each_renamed(subject.plan, &mut |part| {
        let unlikely = literals::unlikely(subject, conditions, part);
        if !unlikely.is_empty() {
            doubts.extend(Code::UnlikelyText.of_all(unlikely));
            return;
        }
        let mut faults = Vec::new();
        let comparisons = comparisons(part).into_iter();
        let of_events = comparisons.filter_map(|(column, constant)| {
            let column = conditions.values_of(column)?;
            let known = conditions.vocabulary(&column.name)?;
            Some((column.name.as_str(), known, constant))
        });
        let mut listed = Listed::default();
        for (column, known, constant) in of_events {
            let Some(text) = text(&constant).filter(|text| !text.is_empty()) else {
                continue;
            };
            if !subject.file.sql.contains(&format!("'{text}'")) {
                listed.look(column, known, text);
            } else if let Some((reason, mend)) = misfit(column, known, text) {
                faults.push(Fault::new(
                    line_of_text(subject.file, part, text),
                    reason,
                    mend,
                ));
            }
        }
        faults.extend(listed.fault(line_of(subject.file, part)));
        let told = |(reason, mend)| Fault::new(line_of(subject.file, part), reason, mend);
        let own = pattern(part, conditions)
            .or_else(|| key(part, conditions))
            .or_else(|| argument(part, conditions))
            .or_else(|| network_of_no_address(part, conditions));
        faults.extend(own.map(told));
        doubts.extend(Code::UnknownValue.of_all(faults));
        let octal = octal(part, conditions).map(told);
        doubts.extend(octal.map(|fault| Code::OctalMode.of(fault)));
        let empty = empty_list(subject.file, part);
        doubts.extend(empty.map(|fault| Code::EmptyList.of(fault)));
    });
    doubts
}

/// The column of events that an expression is, and what is known of it.
pub(super) fn known<'e>(
    expr: &'e Expr,
    conditions: &'e Conditions,
) -> Option<(&'e str, &'static Vocabulary)> {
    let column = conditions.values_of(column_below(expr)?)?;
    Some((column.name.as_str(), conditions.vocabulary(&column.name)?))
}

/// Why a map never has a key, and the mend.
fn key(part: &Expr, conditions: &Conditions) -> Option<(String, String)> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = part else {
        return None;
    };
    if func.name() != "get_field" || args.len() != 2 {
        return None;
    }
    let (column, known) = known(&args[0], conditions)?;
    let Expr::Literal(key, _) = &args[1] else {
        return None;
    };
    let (key, keys) = (text(key)?, known.keys.as_ref()?);
    if keys.iter().any(|known| known == key) {
        return None;
    }
    let mend = match nearest(key, keys.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {column}['{near}']?"),
        None if column == "evt_args" => "docs/events.md lists the arguments of each call; a descriptor is fd_num, a path fd_name, two are fs_path_source and fs_path_target".to_owned(),
        None => format!("docs/events.md says what {column} has"),
    };
    Some((format!("{column} never has '{key}'"), mend))
}

/// Why an argument of system calls is never what it is compared with, and the mend.
fn argument(part: &Expr, conditions: &Conditions) -> Option<(String, String)> {
    if let Some(asked) = asked_like(part) {
        let key = argument_below(asked.of, conditions)?;
        let known = arguments::of(key)?;
        let mend = asked.likes.iter().find_map(|like| known.mend_like(like))?;
        return Some((never(&asked, &format!("evt_args['{key}']")), mend));
    }
    let operands = operands(part).into_iter();
    let mut operands = operands.filter(|_| literals::is_equality(part));
    let (operand, key) = operands.find_map(|operand| {
        let key = argument_below(operand, conditions)?;
        Some((operand, key))
    })?;
    let known = arguments::of(key)?;
    let stand_ins = stand_ins(operand);
    compared_with(part).find_map(|constant| {
        let text = match text(&constant) {
            Some(text) => text.to_owned(),
            // As a number it has no zeros before it, and no name.
            None if known.is_named() => whole_number(&constant)?.to_string(),
            None => return None,
        };
        let mend = known
            .mend(&text)
            .filter(|_| !stand_ins.contains(&&constant))?;
        Some((format!("evt_args['{key}'] is never '{text}'"), mend))
    })
}

/// Columns that hold an address with its port, or two of them.
const WITH_PORTS: [&str; 6] = [
    "fd_name",
    "fd_nameraw",
    "proc_socket_name",
    "proc_stdin_name",
    "proc_stdout_name",
    "proc_stderr_name",
];

/// Why a network is asked of what is no address, and the mend.
fn network_of_no_address(part: &Expr, conditions: &Conditions) -> Option<(String, String)> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = part else {
        return None;
    };
    let column = args.first().filter(|_| func.name() == "cidr_match")?;
    let column = &conditions.values_of(column)?.name;
    let known = conditions.vocabulary(column);
    let is_other = known.is_some_and(|known| {
        let of_shape = known.shape.is_some_and(|shape| shape != Shape::Address);
        of_shape || known.values.is_some()
    });
    (is_other || WITH_PORTS.contains(&column.as_str())).then(|| {
        let reason =
            format!("cidr_match({column}, ..) is never true: {column} is no address alone");
        let mend = "ask fd_rip, fd_lip, fd_cip or fd_sip".to_owned();
        (reason, mend)
    })
}

/// Permission bits as people write them, which are octal.
const MODES: [i64; 18] = [
    400, 600, 640, 644, 660, 664, 666, 700, 711, 744, 750, 755, 770, 775, 777, 1777, 2755, 4755,
];

/// Why permission bits are never a number that is written in octal digits, and the mend.
fn octal(part: &Expr, conditions: &Conditions) -> Option<(String, String)> {
    let mode = comparisons(part)
        .into_iter()
        .find_map(|(column, constant)| {
            let is_mode = conditions.values_of(column)?.name == "fd_mode";
            let number =
                whole_number(&constant).filter(|number| is_mode && MODES.contains(number))?;
            Some(number)
        })?;
    let decimal = i64::from_str_radix(&mode.to_string(), 8).ok()?;
    Some((
        format!("fd_mode = {mode} is decimal, and permission bits are written in octal"),
        format!("write {decimal} for 0{mode}"),
    ))
}

/// Says that a list which is asked is empty.
fn empty_list(file: &SqlFile, part: &Expr) -> Option<Fault> {
    let Expr::InList(list) = part else {
        return None;
    };
    (list.list.is_empty() && !list.negated).then(|| {
        let reason = format!(
            "{} is true for nothing: what it asks of lists yields no row",
            sql(part)
        );
        Fault::new(
            line_of(file, part),
            reason,
            "fill the list, or correct what is asked of it",
        )
    })
}

/// The values of a list that no sensor sends: told together, as a list may be long.
#[derive(Default)]
struct Listed {
    column: String,
    named: Vec<String>,
    more: usize,
    mend: String,
}

impl Listed {
    fn look(&mut self, column: &str, known: &Vocabulary, text: &str) {
        // A list may be for several columns: a text that is too long for this one may be meant for another.
        let Some(values) = known
            .values
            .as_ref()
            .filter(|values| !values.iter().any(|value| value == text))
        else {
            return;
        };
        if self.named.is_empty() {
            self.column = column.to_owned();
            self.mend = mend(column, values, text);
        }
        match self.named.len() < NAMED_MAX {
            true => self.named.push(format!("'{text}'")),
            false => self.more += 1,
        }
    }

    fn fault(self, line: usize) -> Option<Fault> {
        if self.named.is_empty() {
            return None;
        }
        let more = match self.more {
            0 => String::new(),
            count => format!(" nor {count} more"),
        };
        let named = self.named.join(" nor ");
        let reason = format!(
            "{} is never {named}{more}, which a list or a view gives",
            self.column
        );
        Some(Fault::new(line, reason, self.mend))
    }
}

/// Walks every expression of a plan, its subqueries too.
pub(super) fn each_expr(plan: &LogicalPlan, look: &mut dyn FnMut(&Expr)) {
    // The walk itself never fails.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                look(part);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
}

/// As [`each_expr`], with columns of events under their own names, whatever subqueries call them.
fn each_renamed(plan: &LogicalPlan, look: &mut dyn FnMut(&Expr)) {
    let _ = plan.apply_with_subqueries(|node| {
        let inputs = node.inputs();
        let over = match inputs[..] {
            [] => return Ok(TreeNodeRecursion::Continue),
            [input] => input,
            _ => node,
        };
        node.apply_expressions(|expr| {
            origin::renamed(expr, over).apply(|part| {
                look(part);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
}

/// The columns that an expression compares with constants, and these.
pub(super) fn comparisons(part: &Expr) -> Vec<(&Expr, ScalarValue)> {
    let (compared, constants): (Option<&Expr>, Vec<ScalarValue>) = match part {
        Expr::BinaryExpr(BinaryExpr { op, .. })
            if !matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
            ) =>
        {
            (None, Vec::new())
        }
        Expr::BinaryExpr(_) | Expr::InList(_) => {
            let mut operands = operands(part).into_iter();
            let compared = operands.find(|operand| column_below(operand).is_some());
            (compared, compared_with(part).collect())
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "array_has" => {
            let constant = args.get(1).and_then(|item| match item {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            });
            (args.first(), constant.into_iter().collect())
        }
        Expr::Case(Case {
            expr: Some(expr),
            when_then_expr,
            ..
        }) => {
            let constants = when_then_expr
                .iter()
                .filter_map(|(when, _)| match when.as_ref() {
                    Expr::Literal(value, _) => Some(value.clone()),
                    _ => None,
                });
            (Some(expr.as_ref()), constants.collect())
        }
        _ => (None, Vec::new()),
    };
    let Some(compared) = compared else {
        return Vec::new();
    };
    let stand_ins = stand_ins(compared);
    let constants = constants.into_iter();
    let constants = constants.filter(|value| !stand_ins.contains(&value));
    let Some(column) = column_below(compared) else {
        return Vec::new();
    };
    constants.map(|value| (column, value)).collect()
}

/// What stands in for NULL in an expression: the constants that a `coalesce` has.
fn stand_ins(expr: &Expr) -> Vec<&ScalarValue> {
    match expr {
        Expr::Alias(alias) => stand_ins(&alias.expr),
        Expr::Cast(cast) => stand_ins(&cast.expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "coalesce" => {
            let constants = args.iter().filter_map(|argument| match argument {
                Expr::Literal(value, _) => Some(value),
                _ => None,
            });
            let below = args.first().map(stand_ins).unwrap_or_default();
            constants.chain(below).collect()
        }
        _ => Vec::new(),
    }
}

/// The column that an expression is, but for what stands in for NULL and for a change of type.
fn column_below(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Column(_) | Expr::OuterReferenceColumn(..) => Some(expr),
        Expr::Alias(alias) => column_below(&alias.expr),
        Expr::Cast(cast) => column_below(&cast.expr),
        // An item of a list is of the list's column.
        Expr::ScalarFunction(ScalarFunction { func, args })
            if ["coalesce", "array_element"].contains(&func.name()) =>
        {
            column_below(args.first()?)
        }
        _ => None,
    }
}

/// Why a column never has a text that the query gives, and what to write instead.
fn misfit(column: &str, known: &Vocabulary, text: &str) -> Option<(String, String)> {
    if let Some(values) = &known.values
        && !values.iter().any(|value| value == text)
    {
        return Some((
            format!("{column} is never '{text}'"),
            mend(column, values, text),
        ));
    }
    if (column, text) == ("evt_type", "mark") {
        let reason = "detections are not shown rows of 'mark', by which sensors tell the time";
        let mend = "leave it out; what was lost stands in the losses of alerts";
        return Some((reason.to_owned(), mend.to_owned()));
    }
    if let Some(mend) = known.flags.as_ref().and_then(|flags| flags.mend(text)) {
        return Some((format!("{column} is never '{text}'"), mend));
    }
    if let Some(shape) = known.shape.filter(|shape| !shape.holds(text)) {
        return Some((
            format!("{column} is never '{text}'"),
            mend_of_text(column, shape, text),
        ));
    }
    let most = known.bytes_max?;
    if known.fits(text) {
        return None;
    }
    let start = &text[..text.floor_char_boundary(most)];
    let reason = format!(
        "{column} has at most {most} bytes, and '{text}' has {}",
        text.len()
    );
    let mend = match column {
        "container_id" => format!("write '{start}', or compare container_full_id"),
        "proc_name" => {
            format!("write '{start}', or compare program(proc_exepath, proc_exe, proc_args)")
        }
        _ => format!("write '{start}'"),
    };
    Some((reason, mend))
}

fn mend(column: &str, values: &[String], text: &str) -> String {
    if column == "evt_type"
        && let Some(sent_as) = sent_as(text)
    {
        return format!("it is sent as '{sent_as}', and evt_call has its own name");
    }
    // Of many, short words look alike without meaning the same.
    let alike = if values.len() <= 6 { 0.55 } else { 0.7 };
    if let Some(near) = likeness::nearest(text, values.iter().map(String::as_str), alike) {
        return format!("did you mean '{near}'?");
    }
    if values.len() > LISTED_MAX {
        return format!(
            "sensors of this version send none such; docs/events.md lists what {column} is"
        );
    }
    format!("sensors of this version send {}", values.join(", "))
}

fn line_of_text(file: &SqlFile, part: &Expr, text: &str) -> usize {
    let written = format!("'{text}'");
    // A column's place is exact; a text may stand elsewhere, too.
    match file.sql.matches(&written).count() {
        1 => file.line_of(&written),
        _ => line_of(file, part),
    }
}

/// Refuses patterns that are none, in the query or in a list: each event would fail on them.
pub(super) fn check_patterns(subject: &Subject<'_>) -> Result<(), Fault> {
    let mut broken = None;
    each_expr(subject.plan, &mut |part| {
        if broken.is_none()
            && let Some(pattern) = pattern_of(part)
        {
            let found = broken_pattern(subject, pattern);
            broken =
                found.map(|(reason, mend)| Fault::new(line_of(subject.file, part), reason, mend));
        }
    });
    broken.map_or(Ok(()), Err)
}

/// Why an expression gives a pattern that is none, and what to do about it.
fn broken_pattern(subject: &Subject<'_>, pattern: &Expr) -> Option<(String, &'static str)> {
    let why = |text: &str| {
        let error = Regex::new(text).err()?.to_string();
        let last = error.lines().last().unwrap_or_default();
        Some(last.trim_start_matches("error: ").to_owned())
    };
    if let Expr::Literal(value, _) = pattern {
        let text = text(value)?;
        let why = why(text)?;
        return Some((
            format!("'{text}' is no pattern: {why}"),
            "correct it: every event would fail on it",
        ));
    }
    texts_of_list(subject, pattern)
        .into_iter()
        .find_map(|(list, column, text)| {
            let why = why(&text)?;
            let reason =
                format!("the list {list} has {text:?} in {column}, which is no pattern: {why}");
            Some((reason, "correct the cell: every event would fail on it"))
        })
}

/// What a comparison takes as a regular expression.
fn pattern_of(part: &Expr) -> Option<&Expr> {
    match part {
        Expr::BinaryExpr(BinaryExpr { op, right, .. }) => matches!(
            op,
            Operator::RegexMatch
                | Operator::RegexIMatch
                | Operator::RegexNotMatch
                | Operator::RegexNotIMatch
        )
        .then_some(right.as_ref()),
        Expr::ScalarFunction(call) if call.name().starts_with("regexp_") => call.args.get(1),
        _ => None,
    }
}

/// The texts of the list's column that an expression is, with the names of both.
fn texts_of_list(subject: &Subject<'_>, expr: &Expr) -> BTreeSet<(String, String, String)> {
    let (Expr::Column(column) | Expr::OuterReferenceColumn(_, column)) = expr else {
        return BTreeSet::new();
    };
    let texts = subject.lists.iter().filter(|(name, _)| {
        column
            .relation
            .as_ref()
            .is_none_or(|relation| relation.table() == name.as_str())
            || alias_of(
                subject.plan,
                column.relation.as_ref().map(|own| own.table()),
                name,
            )
    });
    let texts = texts.filter_map(|(name, rows)| {
        let values = rows.column_by_name(&column.name)?;
        let values = arrow::array::AsArray::as_string_view(values.as_ref());
        let own = values
            .iter()
            .flatten()
            .map(|text| (name.clone(), column.name.clone(), text.to_owned()));
        Some(own.collect::<Vec<_>>())
    });
    texts.flatten().collect()
}

/// Whether a query calls a list by this name.
fn alias_of(plan: &LogicalPlan, alias: Option<&str>, list: &str) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::SubqueryAlias(own) = node {
            let of_list = matches!(own.input.as_ref(), LogicalPlan::TableScan(scan)
                if scan.table_name.table() == list);
            found |= of_list && alias == Some(own.alias.table());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
