//! Simplifying conditions without an answer where SQL has none.
//!
//! DataFusion 55 makes one list of two that are asked of the same value, and `false` or `true` where nothing is left:
//!
//! ```text
//! NOT (x IN ('a') AND x NOT IN ('a'))   ──► NOT false ──► true
//! x NOT IN ('a') OR x NOT IN ('b')      ──► true
//! ```
//! Both are NULL where `x` is, so a row without `x` would be found that must not be.
//! A value that may be NULL and that several lists are asked of is therefore told apart here while DataFusion simplifies: it is
//! another alias at each of them, so it makes nothing of two. Lists of equal columns that an OR joins are joined before.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, HashMap, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyExpressions};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::prelude::SessionContext;

/// What the names of the aliases begin with.
const APART: &str = "dogwatch.apart.";

/// A condition or value on a schema's columns, with types that fit and no more than it needs.
///
/// # Errors
/// When its types do not fit, or a part that is constant cannot be computed.
pub fn simplify(context: &SessionContext, expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let options = Arc::clone(context.state().config_options());
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(options)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, schema)?;
    let expr = told_apart(&expr, schema)?.unwrap_or(expr);
    joined(simplifier.simplify(expr)?)
}

/// DataFusion's rules for plans, of which the one that simplifies does so without wrong answers.
pub(crate) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let own = SimplifyApart::default();
    let rules = Optimizer::new().rules.into_iter();
    let rules = rules.map(|rule| match rule.name() == own.name() {
        true => Arc::new(SimplifyApart::default()) as _,
        false => rule,
    });
    rules.collect()
}

/// DataFusion's rule that simplifies, with what must be told apart.
#[derive(Debug, Default)]
struct SimplifyApart(SimplifyExpressions);

impl OptimizerRule for SimplifyApart {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let schema = match &plan {
            LogicalPlan::TableScan(scan) => {
                DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
            }
            _ => merge_schema(&plan.inputs()),
        };
        let mut any = false;
        plan.apply_expressions(|expr| {
            any |= told_apart(expr, &schema)?.is_some();
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !any {
            return self.0.rewrite(plan, config);
        }
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        // As DataFusion's rule does it: the sides of a join's equalities are not put in another order, and names stay.
        let simplifier =
            ExprSimplifier::new(context).with_canonicalize(!matches!(plan, LogicalPlan::Join(_)));
        let names = NamePreserver::new(&plan);
        let mut one = |expr: Expr| {
            let name = names.save(&expr);
            let expr = told_apart(&expr, &schema)?.unwrap_or(expr);
            let simple = joined(simplifier.simplify(expr)?)?;
            Ok(Transformed::yes(name.restore(simple)))
        };
        // A set of groups has no name itself: the columns of its groups have.
        let simplified = plan.clone().map_expressions(|expr| match expr {
            Expr::GroupingSet(_) => expr.map_children(&mut one),
            other => one(other),
        })?;
        // An aggregate that is none any more needs a projection, which that rule makes.
        let is_aggregate =
            |expr: &Expr| matches!(expr.clone().unalias(), Expr::AggregateFunction(_));
        match &simplified.data {
            LogicalPlan::Aggregate(own) if !own.aggr_expr.iter().all(is_aggregate) => {
                self.0.rewrite(plan, config)
            }
            same if *same == plan => Ok(Transformed::no(plan)),
            _ => Ok(simplified),
        }
    }
}

/// The same with each value another one at each list that is asked of it, where there are several and it, or what is in one
/// of them, may be NULL; none where there is no such value.
fn told_apart(expr: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let mut questions = 0_usize;
    expr.apply(|part| {
        questions += usize::from(asked(part).is_some());
        Ok(TreeNodeRecursion::Continue)
    })?;
    if questions < 2 {
        return Ok(None);
    }
    let merged = expr.clone().transform_up(|part| Ok(merged(part)))?.data;
    // What is not known here may be NULL.
    let may_be_null = |value: &Expr| value.nullable(schema).unwrap_or(true);
    let mut lists: HashMap<&Expr, (usize, bool)> = HashMap::new();
    merged.apply(|part| {
        if let Some(value) = asked(part) {
            let (lists, null_in_one) = lists.entry(value).or_default();
            *lists += 1;
            *null_in_one |= match part {
                Expr::InList(list) => list.list.iter().any(may_be_null),
                Expr::BinaryExpr(of) => may_be_null(&of.left) || may_be_null(&of.right),
                _ => false,
            };
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let several = lists.into_iter();
    let several = several
        .filter(|(value, (lists, null_in_one))| *lists > 1 && (*null_in_one || may_be_null(value)));
    let several: HashSet<Expr> = several.map(|(value, _)| value.clone()).collect();
    if several.is_empty() {
        return Ok(None);
    }
    let mut number = 0_usize;
    let apart = merged.transform_up(|part| {
        let asked_of = asked(&part).is_some_and(|value| several.contains(value));
        if !asked_of {
            return Ok(Transformed::no(part));
        }
        number += 1;
        Ok(Transformed::yes(with_alias(part, number)))
    })?;
    Ok(Some(apart.data))
}

/// Takes the aliases away.
fn joined(expr: Expr) -> Result<Expr> {
    let joined = expr.transform_up(|part| {
        Ok(match part {
            Expr::Alias(alias) if alias.name.starts_with(APART) => Transformed::yes(*alias.expr),
            other => Transformed::no(other),
        })
    })?;
    Ok(joined.data)
}

/// The value that a list is asked of, or what may become one: `x IN (..)`, `x NOT IN (..)`, `x = 'a'`.
fn asked(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::InList(list) => Some(list.expr.as_ref()),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(_), Expr::Literal(..)) => Some(left),
            (Expr::Literal(..), Expr::Column(_)) => Some(right),
            _ => None,
        },
        _ => None,
    }
}

/// The same question of an alias of its value.
fn with_alias(expr: Expr, number: usize) -> Expr {
    let alias = |value: Expr| value.alias(format!("{APART}{number}"));
    match expr {
        Expr::InList(InList {
            expr,
            list,
            negated,
        }) => Expr::InList(InList::new(Box::new(alias(*expr)), list, negated)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let [left, right] = [left, right].map(|side| match *side {
                Expr::Column(_) => Box::new(alias(*side)),
                _ => side,
            });
            Expr::BinaryExpr(BinaryExpr { left, op, right })
        }
        other => other,
    }
}

/// One list of two that an OR joins: `x = 'a' OR x IN ('b', 'c')`.
fn merged(expr: Expr) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Or,
        right,
    }) = &expr
    else {
        return Transformed::no(expr);
    };
    let (Some(first), Some(second)) = (list_of(left), list_of(right)) else {
        return Transformed::no(expr);
    };
    if first.expr != second.expr {
        return Transformed::no(expr);
    }
    let mut values = first.list;
    let known: HashSet<Expr> = values.iter().cloned().collect();
    let further = second.list.into_iter();
    values.extend(further.filter(|value| !known.contains(value)));
    Transformed::yes(Expr::InList(InList::new(first.expr, values, false)))
}

/// What finds a column in a list, as a list.
fn list_of(expr: &Expr) -> Option<InList> {
    match (expr, asked(expr)?) {
        (Expr::InList(list), Expr::Column(_)) => (!list.negated).then(|| list.clone()),
        (Expr::BinaryExpr(BinaryExpr { left, right, .. }), column @ Expr::Column(_)) => {
            let value = match left.as_ref() {
                Expr::Literal(..) => left,
                _ => right,
            };
            let list = vec![value.as_ref().clone()];
            Some(InList::new(Box::new(column.clone()), list, false))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
    use datafusion::datasource::MemTable;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, col, lit};

    use super::*;

    /// A table `t` with `x` (of which one is NULL) and `y`, under DataFusion's own rules or ours.
    fn context(own: bool) -> SessionContext {
        let x = StringArray::from(vec![Some("a"), Some("b"), Some("c"), None]);
        let y = StringArray::from(vec!["a", "b", "c", "d"]);
        let columns: [(&str, ArrayRef, bool); 2] =
            [("x", Arc::new(x), true), ("y", Arc::new(y), false)];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).expect("rows");
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table");
        let config = SessionConfig::new().with_target_partitions(1);
        let state = SessionStateBuilder::new_with_default_features().with_config(config);
        let state = match own {
            true => state.with_optimizer_rules(rules()),
            false => state,
        };
        let context = SessionContext::new_with_state(state.build());
        context.register_table("t", Arc::new(table)).expect("new");
        context
    }

    /// The values of `y` that a query finds.
    fn found(context: &SessionContext, query: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let rows = runtime
            .expect("a runtime")
            .block_on(async { context.sql(query).await?.collect().await })
            .expect("rows");
        let texts = |batch: &RecordBatch| -> Vec<String> {
            let texts = batch.column(0).as_string_view_opt().cloned();
            match texts {
                Some(texts) => texts.iter().flatten().map(str::to_owned).collect(),
                None => {
                    let texts = batch.column(0).as_string::<i32>();
                    texts.iter().flatten().map(str::to_owned).collect()
                }
            }
        };
        rows.iter().flat_map(texts).collect()
    }

    fn check(condition: &str, expected: &[&str]) {
        let context = context(true);
        let query = format!("SELECT y FROM t WHERE {condition}");
        assert_eq!(found(&context, &query), expected, "{condition}");
        // The same as a value, below other operators, and counted.
        let query = format!("SELECT CASE WHEN {condition} THEN y END FROM t");
        assert_eq!(found(&context, &query), expected, "{query}");
        let query = format!(
            "SELECT y FROM t GROUP BY y HAVING count(*) FILTER (WHERE {condition}) > 0 ORDER BY y"
        );
        assert_eq!(found(&context, &query), expected, "{query}");
    }

    #[test]
    fn lists_whose_answers_cancel_out_say_nothing_of_null() {
        check(
            "NOT (x IN ('a', 'b') AND x NOT IN ('a', 'b'))",
            &["a", "b", "c"],
        );
        check(
            "x NOT IN ('a', 'b') OR x NOT IN ('c', 'd')",
            &["a", "b", "c"],
        );
        check("NOT (x IN ('a') AND x IN ('b'))", &["a", "b", "c"]);
        check(
            "NOT ((x = 'a' OR x = 'b') AND x IN ('c', 'd', 'e', 'f'))",
            &["a", "b", "c"],
        );
        check(
            "(x IN ('a', 'b') AND x NOT IN ('a', 'b', 'c')) IS NOT NULL",
            &["a", "b", "c"],
        );
        check(
            "(y <> 'b' AND x NOT IN ('a')) OR (y <> 'b' AND x NOT IN ('b'))",
            &["a", "c"],
        );
        check(
            "upper(x) NOT IN ('A', 'B') OR upper(x) NOT IN ('C')",
            &["a", "b", "c"],
        );
    }

    #[test]
    fn lists_are_asked_as_ever() {
        check("x IN ('a', 'b') AND x NOT IN ('b', 'c')", &["a"]);
        check("x IN ('a', 'b') OR x = 'c'", &["a", "b", "c"]);
        check("x NOT IN ('a') AND x NOT IN ('b')", &["c"]);
        check("y NOT IN ('a') OR y NOT IN ('b')", &["a", "b", "c", "d"]);
        check(
            "x IS NULL OR x NOT IN ('a') OR x NOT IN ('b')",
            &["a", "b", "c", "d"],
        );
    }

    #[test]
    fn lists_with_null_in_them_are_asked_as_sql_has_it() {
        check("y NOT IN ('a', NULL) OR y NOT IN ('b')", &["a", "c", "d"]);
        check("y NOT IN ('b', NULL) OR y NOT IN ('a', NULL)", &[]);
        check("y IN ('a', 'b') AND y NOT IN ('a', NULL)", &[]);
        check("NOT (y IN ('a', NULL) AND y IN ('b', 'c'))", &["a", "d"]);
        check("y IN ('a', NULL) OR y = 'b'", &["a", "b"]);
    }

    #[test]
    fn sets_of_groups_keep_the_names_of_their_columns() {
        let query = "SELECT y FROM t GROUP BY ROLLUP (y, x IN ('a') OR x NOT IN ('b')) \
                     HAVING count(*) FILTER (WHERE x NOT IN ('a') OR x NOT IN ('b')) > 0 ORDER BY y";
        assert_eq!(found(&context(true), query), ["a", "a", "b", "b", "c", "c"]);
    }

    #[test]
    fn long_lists_are_simplified_in_little_time() {
        let list = |from: usize| {
            let names = (from..from + 100_000).map(|number| lit(number.to_string()));
            col("x").in_list(names.collect(), false)
        };
        let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
            "x",
            arrow::datatypes::DataType::Utf8,
            true,
        )]);
        let schema = DFSchema::try_from(schema).expect("a schema");
        let begun = std::time::Instant::now();
        let both = told_apart(&list(0).or(list(50_000)), &schema).expect("walked");
        // One list is left of the two: there is nothing to tell apart.
        assert_eq!(both, None);
        let merged = merged(list(0).or(list(50_000))).data;
        assert!(matches!(merged, Expr::InList(list) if list.list.len() == 150_000));
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }

    /// Where this fails, DataFusion has mended it, and this module can go.
    #[test]
    fn datafusion_alone_finds_what_is_null() {
        let context = context(false);
        let query = "SELECT y FROM t WHERE x NOT IN ('a', 'b') OR x NOT IN ('c', 'd')";
        assert_eq!(found(&context, query), ["a", "b", "c", "d"]);
    }

    #[test]
    fn nothing_is_left_of_what_was_told_apart() {
        let context = context(true);
        let schema = DFSchema::try_from_qualified_schema(
            "t",
            &arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
                "x",
                arrow::datatypes::DataType::Utf8,
                true,
            )]),
        )
        .expect("a schema");
        let check = |condition: &str, expected: &str| {
            let expr = context
                .parse_sql_expr(condition, &schema)
                .expect("an expression");
            let simple = simplify(&context, expr, &schema).expect("simplified");
            assert_eq!(simple.to_string(), expected, "{condition}");
        };
        check(
            "x NOT IN ('a', 'b') OR x NOT IN ('c', 'd')",
            r#"t.x NOT IN ([Utf8("a"), Utf8("b")]) OR t.x NOT IN ([Utf8("c"), Utf8("d")])"#,
        );
        // One list alone is as DataFusion has it.
        check(
            "x = 'a' OR x = 'b'",
            r#"t.x = Utf8("a") OR t.x = Utf8("b")"#,
        );
    }
}
