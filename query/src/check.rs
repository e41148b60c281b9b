//! What a query may be at all: one SELECT of known tables, of bounded depth, whose answer depends on its rows alone.
//!
//! Parsing and planning are DataFusion's; this module says no to what it would plan but we cannot promise,
//! and turns its errors into line, reason and mend.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, Result as PlanResult, SchemaError};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Volatility,
};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use dogwatch_schemas::vocabulary;

use crate::falco;
use crate::session::Session;
use crate::sql_file::{Fault, SqlFile, nearest};
use crate::tables::EVENTS;
use crate::window::names_window;

mod slips;
mod syntax;

/// Longest text of a file, bytes: parser and planner take memory of its square.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// How deep an expression may be nested: `a OR b OR c` is two deep.
const DEPTH_MAX: usize = 400;

/// What to write instead of what is no query.
pub const ONLY_SELECT: &str = "write exactly one SELECT";
/// As [`ONLY_SELECT`], for who asks what there is.
const DESCRIBED: &str = "write exactly one SELECT; dogwatch query --tables says what there is, and --columns TABLE what it has";

/// The file's one statement.
///
/// # Errors
/// When it is longer than a query may be, is no SQL, or more than one statement.
pub fn parsed(file: &SqlFile) -> Result<Statement, Fault> {
    if file.sql.len() > TEXT_BYTES_MAX {
        let reason = format!("the file has {} bytes", file.sql.len());
        let mend =
            format!("keep it to {TEXT_BYTES_MAX}: long lists of values go into lists/<name>.csv");
        return Err(Fault::new(file.query_line, reason, mend));
    }
    let parsed = DFParserBuilder::new(file.sql.as_str())
        .build()
        .and_then(|mut parser| parser.parse_statements());
    let mut statements = parsed.map_err(|error| explain(file, &error, &[]))?;
    if statements.len() > 1 {
        return Err(Fault::new(
            file.query_line,
            format!("{} statements", statements.len()),
            ONLY_SELECT,
        ));
    }
    statements
        .pop_front()
        .ok_or_else(|| Fault::new(file.query_line, "there is no query", ONLY_SELECT))
}

/// The query that a statement is.
///
/// # Errors
/// When it is none, or has a clause that would not be obeyed.
pub fn only_query<'s>(statement: &'s Statement, file: &SqlFile) -> Result<&'s ast::Query, Fault> {
    let Statement::Statement(inner) = statement else {
        return Err(Fault::new(
            file.query_line,
            "the statement is no SELECT",
            ONLY_SELECT,
        ));
    };
    let ast::Statement::Query(query) = inner.as_ref() else {
        let first_word = inner
            .to_string()
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        let describes = ["SHOW", "DESCRIBE", "DESC"].contains(&first_word.as_str());
        let mend = if describes { DESCRIBED } else { ONLY_SELECT };
        return Err(Fault::new(
            file.query_line,
            format!("the statement is {first_word}, no SELECT"),
            mend,
        ));
    };
    syntax::check(inner, file)?;
    Ok(query)
}

/// Plans a statement over tables of these names, and refuses what is nested too deep or would not give the same answer again.
///
/// `columns` are the names that a mistaken one is compared to; `absent` says what to do where there is no table of a name.
///
/// # Errors
/// What is wrong with it, with line and mend.
pub fn planned(
    session: &Session,
    file: &SqlFile,
    statement: Statement,
    tables: &[&str],
    columns: &[&str],
    absent: impl Fn(&str) -> String,
) -> Result<LogicalPlan, Fault> {
    let state = session.context.state();
    let references = state
        .resolve_table_references(&statement)
        .map_err(|error| explain(file, &error, columns))?;
    for reference in &references {
        let table = reference.table();
        // The file of a list reads as a table of a schema.
        if let Some(list) = reference.schema().filter(|_| table == "csv") {
            let mend = match tables.contains(&list) {
                true => format!("write {list}: a list goes by its file's name without .csv"),
                false => absent(list),
            };
            let reason = format!("there is no table {reference}");
            return Err(Fault::new(
                file.line_of(&reference.to_string()),
                reason,
                mend,
            ));
        }
        if reference.schema().is_none() && (names_window(table) || tables.contains(&table)) {
            continue;
        }
        let mend = match nearest(table, tables.iter().copied()) {
            Some(known) => format!("did you mean {known}?"),
            None => absent(table),
        };
        let reason = format!("there is no table {reference}");
        return Err(Fault::new(file.line_of(table), reason, mend));
    }
    let plan = session
        .wait(state.statement_to_plan(statement))
        .map_err(|error| {
            of_list(file, &error, tables).unwrap_or_else(|| explain(file, &error, columns))
        })?;
    check_depth(&plan, file)?;
    check_joins_of_truth(&plan, file)?;
    check_functions(&plan, file)?;
    Ok(plan)
}

/// What is wrong where a list stands for a column.
fn of_list(file: &SqlFile, error: &DataFusionError, tables: &[&str]) -> Option<Fault> {
    let DataFusionError::SchemaError(schema_error, _) = error.find_root() else {
        return None;
    };
    let SchemaError::FieldNotFound { field, .. } = schema_error.as_ref() else {
        return None;
    };
    let list = match &field.relation {
        Some(relation) => relation.table(),
        None => field.name.as_str(),
    };
    if list == EVENTS || !tables.contains(&list) {
        return None;
    }
    let column = field.relation.as_ref().map_or("name", |_| &field.name);
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    let line = span.map_or_else(|| file.line_of(list), |span| span.start.line as usize);
    Some(Fault::new(
        line,
        format!("{list} is a list, and no column"),
        format!("write IN (SELECT {column} FROM {list}), with the list's own column"),
    ))
}

/// Refuses `a || b` of what is true or false: SQL joins texts by it.
fn check_joins_of_truth(plan: &LogicalPlan, file: &SqlFile) -> Result<(), Fault> {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        let inputs = node.inputs();
        let schema = match inputs[..] {
            [input] => input.schema(),
            _ => node.schema(),
        };
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::BinaryExpr(BinaryExpr {
                    left,
                    op: Operator::StringConcat,
                    right,
                }) = part
                {
                    let is_truth = |own: &Expr| {
                        own.get_type(schema.as_ref())
                            .is_ok_and(|kind| kind == DataType::Boolean)
                    };
                    found |= is_truth(left) || is_truth(right);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(|error| explain(file, &error, &[]))?;
    match found {
        true => Err(Fault::new(file.line_of("||"), JOINS, "write OR")),
        false => Ok(()),
    }
}

/// What `||` is.
const JOINS: &str = "|| joins texts";

/// Turns an error of the parser or planner into a fault; columns come with the nearest name.
pub fn explain(file: &SqlFile, error: &DataFusionError, columns: &[&str]) -> Fault {
    let root = error.find_root();
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    if let DataFusionError::SchemaError(schema_error, _) = root
        && let SchemaError::FieldNotFound {
            field,
            valid_fields,
        } = schema_error.as_ref()
    {
        let line = span.map_or_else(
            || file.line_of(&field.name),
            |span| span.start.line as usize,
        );
        let reason = format!("there is no column {}", field.flat_name());
        for (quote, called) in [('"', "double quotes"), ('`', "backticks")] {
            if file.sql.contains(&format!("{quote}{}{quote}", field.name)) {
                let mend = format!(
                    "write '{}' where a text is meant: {called} are for names of columns",
                    field.name
                );
                return Fault::new(line, reason, mend);
            }
        }
        let mend = column_meant(file, field, valid_fields, columns);
        return Fault::new(line, reason, mend);
    }
    let text = root.strip_backtrace();
    let line = span
        .map(|span| span.start.line as usize)
        .or_else(|| line_in(&text))
        .or_else(|| line_of_constant(file, &text))
        .unwrap_or_else(|| line_of_function(file, &text));
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = words.join(" ");
    let reason = words
        .strip_prefix("Error during planning: ")
        .unwrap_or(&words);
    if let Some(fault) = unknown_function(file, reason) {
        return fault;
    }
    if let Some(fault) = text_for_number(file, line, reason) {
        return fault;
    }
    if let Some(rest) = reason.strip_prefix("Arrow error: ") {
        let what = rest.split_once(" error: ").map_or(rest, |(_, what)| what);
        let what = what.trim_start_matches("Error ");
        return Fault::new(line, what, "correct the constant");
    }
    if let Some((before, _)) = reason.split_once("' failed to match any signature")
        && let Some((_, name)) = before.rsplit_once('\'')
    {
        let reason = format!("{name} does not take what it is given here");
        let mend = "give it what it is made for: a number, a text, a time; CAST(x AS BIGINT) makes one of another";
        return Fault::new(file.line_of(&format!("{name}(")), reason, mend);
    }
    if reason.starts_with("Cannot infer common argument type for comparison") {
        // a = 'x' || b = 'y' reads as a = ('x' || b) = 'y'.
        if file.sql.contains("||") && reason.contains("Boolean") {
            return Fault::new(file.line_of("||"), JOINS, "write OR");
        }
        let mend =
            "compare values of one type: text in single quotes, numbers, true and false without";
        return Fault::new(line, reason, mend);
    }
    // What the planner does not know it prints as it holds it.
    if let Some(what) = reason.strip_prefix("This feature is not implemented: ") {
        let words = what.split(' ').take_while(|word| !word.starts_with('{'));
        let words: Vec<&str> = words.collect();
        for (name, written, mend) in OPERATORS {
            let mut written = written
                .iter()
                .filter(|own| file.sql.to_lowercase().contains(*own));
            if let Some(own) = written.next().filter(|_| what.contains(name)) {
                let reason = format!("{own} is no operator here");
                return Fault::new(file.line_of(own), reason, mend);
            }
        }
        let reason = format!("the SQL engine does not know this: {}", words.join(" "));
        return Fault::new(line, reason, "write it in other words");
    }
    if let Some((reason, mend)) = falco::operator(reason) {
        return Fault::new(line, reason, mend);
    }
    if let Some((reason, mend)) = slips::at_place(file, reason) {
        return Fault::new(line, reason, mend);
    }
    let parser_says = slips::plain(reason);
    let reason = parser_says.as_deref().unwrap_or(reason);
    // Our own relations and functions say what to write instead.
    if let Some((reason, mend)) = reason
        .split_once("; ")
        .filter(|(_, mend)| mend.starts_with("write ") || mend.starts_with("the nearest "))
    {
        return Fault::new(line, reason, mend);
    }
    Fault::new(line, reason, "correct the query")
}

/// Operators that are parsed and not planned: what the engine calls them, how they are written, and ours.
const OPERATORS: [(&str, &[&str], &str); 2] = [
    ("PGOverlap", &["&&"], "write AND"),
    (
        "RLike",
        &["rlike", "regexp"],
        "write regexp_like(column, 'pattern')",
    ),
];

/// Columns of numbers beside which a name is known.
const NAMED: [(&str, &str); 3] = [
    ("user_uid", "user_name"),
    ("user_loginuid", "user_loginname"),
    ("group_gid", "group_name"),
];

/// A text that is compared with a number.
fn text_for_number(file: &SqlFile, line: usize, reason: &str) -> Option<Fault> {
    let (_, rest) = reason.split_once("Cannot cast string '")?;
    let (text, rest) = rest.split_once("' to value of ")?;
    let whole = rest.starts_with("Int") || rest.starts_with("UInt");
    if !whole && !rest.starts_with("Float") {
        return None;
    }
    let query = file.sql.split_inclusive('\n').skip(file.query_line - 1);
    let query: String = query.collect();
    let (compared, _) = query.split_once(&format!("'{text}'"))?;
    let words = compared.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let column = words
        .iter()
        .rev()
        .find(|word| !["in", "not", "IN", "NOT"].contains(word))?;
    let named = NAMED.iter().find(|(number, _)| number == column);
    let mend = match named {
        Some((number, name)) if text == "root" => {
            format!("write {number} = 0 for root, or {name} = 'root'")
        }
        Some((_, name)) => format!("write the number, or {name} = '{text}'"),
        None => "write a number, without quotes".to_owned(),
    };
    Some(Fault::new(
        line,
        format!("'{text}' is no number, and {column} is one"),
        mend,
    ))
}

/// Whether a word is a value that some column has, such as `execve`.
fn is_value(word: &str, columns: &[&str]) -> bool {
    let known = columns.iter().filter_map(|column| vocabulary::of(column));
    let mut values = known.filter_map(|known| known.values.as_ref()).flatten();
    values.any(|value| value == word)
}

/// How alike a word that is compared must be to a column to be meant as one.
const ALIKE_COLUMNS: f64 = 0.75;

/// Most columns of a list that are named in a mend.
const COLUMNS_NAMED: usize = 12;

/// What a column that is not there was to be: a field by Falco's name, one that is misspelt, or one of a list.
fn column_meant(file: &SqlFile, field: &Column, valid: &[Column], columns: &[&str]) -> String {
    // Falco's evt.type reads as a column of a table evt.
    let joined = field.flat_name().replace('.', "_");
    if field.relation.is_some() && columns.contains(&joined.as_str()) {
        return format!("write {joined}: columns are Falco's fields with _ for each dot");
    }
    if let Some(argument) = joined
        .strip_prefix("evt_arg_")
        .or_else(|| joined.strip_prefix("evt_args_"))
    {
        return format!(
            "write evt_args['{argument}']: the map has the arguments that have no column of their own"
        );
    }
    if let Some(mend) = falco::field(&joined) {
        return mend.to_owned();
    }
    if field.relation.is_none() {
        if let Some(mend) = falco::name(&field.name) {
            return mend;
        }
        if is_value(&field.name, columns) {
            return format!("write '{}' where a text is meant", field.name);
        }
    }
    let valid_names = valid.iter().map(|column| column.name.as_str());
    let of_lists = valid.len() <= COLUMNS_NAMED;
    let known: Vec<&str> = match of_lists {
        true => valid_names.collect(),
        false => columns.iter().copied().chain(valid_names).collect(),
    };
    let near = nearest(&field.name, known.iter().copied());
    // What is compared is a text more often than another column.
    if field.relation.is_none() && slips::is_compared(file, &field.name) {
        let known = known.iter().copied();
        if dogwatch_schemas::nearest::nearest(&field.name, known, ALIKE_COLUMNS).is_none() {
            return format!("write '{}' where a text is meant", field.name);
        }
    }
    let near = near.or_else(|| nearest(&joined, known.iter().copied()));
    match near {
        Some(near) => format!("did you mean {near}?"),
        None if of_lists && !known.is_empty() => {
            format!("there are the columns {}", known.join(", "))
        }
        None => format!("take a column of {EVENTS} (docs/events.md) or of a list the query names"),
    }
}

/// The line where a function is called that a message begins with, else the query's first.
fn line_of_function(file: &SqlFile, text: &str) -> usize {
    let text = text.trim_start_matches("Error during planning: ");
    let name = text
        .split(|letter: char| !letter.is_ascii_lowercase() && letter != '_')
        .next();
    match name.filter(|name| name.len() > 2) {
        Some(name) => file.line_of(&format!("{name}(")),
        None => file.query_line,
    }
}

/// A function that is not there; what the engine proposes may be like it by chance.
fn unknown_function(file: &SqlFile, reason: &str) -> Option<Fault> {
    let quoted = |text: &str| text.split('\'').next().map(str::to_owned);
    let name = quoted(reason.strip_prefix("Invalid function '")?)?;
    let proposed = reason.split_once("Did you mean '");
    let proposed = proposed.and_then(|(_, proposed)| quoted(proposed));
    let near = proposed.as_deref().and_then(|own| nearest(&name, [own]));
    let mend = match near {
        Some(near) => format!("did you mean {near}?"),
        None => "docs/detections.md says which functions there are".to_owned(),
    };
    let line = file.line_of(&format!("{name}("));
    Some(Fault::new(
        line,
        format!("there is no function {name}"),
        mend,
    ))
}

/// The line of a constant that a message quotes, and the query holds.
fn line_of_constant(file: &SqlFile, text: &str) -> Option<usize> {
    let mut quoted = text.split(['\'', '"']).skip(1).step_by(2);
    let constant = quoted.find(|constant| file.sql.contains(&format!("'{constant}'")))?;
    Some(file.line_of(&format!("'{constant}'")))
}

/// The line that a message names: the SQL parser as `Line: 3`, the planner as `Location(3,7)`.
fn line_in(text: &str) -> Option<usize> {
    let named = text.split_once("Line: ");
    let digits = named.or_else(|| text.split_once("Location("))?.1;
    digits
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Refuses what is nested too deep: it is walked by calls within calls, and a stack that overflows ends the process.
fn check_depth(plan: &LogicalPlan, file: &SqlFile) -> Result<(), Fault> {
    let mut deep = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            deep |= is_deep(expr)?;
            Ok(TreeNodeRecursion::Continue)
        })
    });
    walked.map_err(|error| explain(file, &error, &[]))?;
    if !deep {
        return Ok(());
    }
    let reason = format!("an expression is nested more than {DEPTH_MAX} deep");
    let mend = "write column IN ('a', 'b', ..), or put the values into a list";
    Err(Fault::new(file.query_line, reason, mend))
}

/// Whether an expression is nested more than [`DEPTH_MAX`] deep, without calls within calls.
fn is_deep(expr: &Expr) -> PlanResult<bool> {
    let mut waiting = vec![(expr, 0)];
    while let Some((expr, depth)) = waiting.pop() {
        if depth > DEPTH_MAX {
            return Ok(true);
        }
        expr.apply_children(|child| {
            waiting.push((child, depth + 1));
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(false)
}

/// Functions that tell of the engine, not of an event, though it calls them immutable: an upgrade changes what they say.
const OF_THE_ENGINE: [&str; 1] = ["version"];

/// Refuses functions whose answer depends on something else than their arguments.
fn check_functions(plan: &LogicalPlan, file: &SqlFile) -> Result<(), Fault> {
    let mut found: Option<String> = None;
    let mut look = |expr: &Expr| {
        let name = match expr {
            Expr::ScalarFunction(call)
                if call.func.signature().volatility != Volatility::Immutable
                    || OF_THE_ENGINE.contains(&call.name()) =>
            {
                call.name()
            }
            Expr::Placeholder(_) => "a placeholder",
            Expr::ScalarVariable(..) => "a variable",
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        found = Some(name.to_owned());
        Ok(TreeNodeRecursion::Stop)
    };
    let walked =
        plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut look)));
    walked.map_err(|error| explain(file, &error, &[]))?;
    match found {
        Some(name) => {
            let reason = format!(
                "{name} does not give the same answer each time, so a replay would not either"
            );
            Err(Fault::new(
                file.line_of(&name),
                reason,
                "use the event's own columns: ts and ingest_ts for time",
            ))
        }
        None => Ok(()),
    }
}
