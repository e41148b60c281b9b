//! Views: what many detections ask in the same words, written once.
//!
//! ```text
//! views/container_events.sql: SELECT *, program(..) AS program FROM events WHERE a
//!
//! SELECT program FROM container_events WHERE b
//!   ──► SELECT program(..) AS program FROM events WHERE (a) AND (b)
//! ```
//! A view is put in where a query names it, in FROM or inside `tumble` and `hop`, before anything is planned: what runs, what
//! is linted and what the state's hash is of is the query with its views put in. A view keeps every column of events, adds
//! some under new names and asks a condition; it reads events, no other view, so that what is put in stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, Ident, ObjectName,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, TableAlias, TableFactor, VisitMut,
    VisitorMut, WildcardAdditionalOptions,
};
use serde::Deserialize;

use super::check::{self, only_query};
use super::lists::is_snake_case;
use super::session::{EVENTS, Session};
use super::sql_file::{Fault, Refusal, SqlFile, digest};
use super::tables;
use super::window::names_window;
use super::{Lists, LoadError, find_files};
use crate::tables::Table;

/// Folder of the views, below the detections' folder.
pub(crate) const VIEWS_FOLDER: &str = "views";
/// Longest text of what views put into one query, bytes: a column that is named often is put in as often.
const PUT_IN_BYTES_MAX: usize = 128 << 10;
/// What a view is.
const SHAPE: &str = "write SELECT *, <expression> AS <name>, .. FROM events WHERE .., each part but the first as needed";

/// One view.
#[derive(Debug, Clone)]
struct View {
    /// The columns it adds, by name.
    columns: BTreeMap<String, Expr>,
    /// What it asks of a row.
    condition: Option<Expr>,
    content_hash: String,
}

/// The views of a folder, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Views(BTreeMap<String, View>);

/// The header of a view.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// What it is, for those who write detections.
    #[serde(rename = "description")]
    _description: String,
}

/// What was put into a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PutIn {
    /// The names of the views.
    pub views: BTreeSet<String>,
}

impl PutIn {
    /// The statement's text; none where no view was put in.
    pub fn text(&self, statement: &Statement) -> Option<String> {
        (!self.views.is_empty()).then(|| statement.to_string())
    }
}

impl Views {
    /// Of the texts of files; those that are no views are refused.
    pub fn load<'a>(
        files: impl Iterator<Item = (&'a Path, &'a Result<Arc<str>, Fault>)>,
        session: &Session,
        columns: &[&str],
        lists: &Lists,
    ) -> (Self, Vec<Refusal>) {
        let mut views = Self::default();
        let mut refused = Vec::new();
        for (file, text) in files {
            let text = text.as_deref().map_err(Fault::clone);
            match text.and_then(|text| View::load((file, text), session, columns, lists)) {
                Ok((name, view)) => drop(views.0.insert(name, view)),
                Err(fault) => refused.push(fault.in_file(file)),
            }
        }
        (views, refused)
    }

    /// Reads the views of a folder that are known to be right.
    ///
    /// # Errors
    /// The first that is not, with its reason.
    pub fn read(folder: &Path) -> Result<Self, (PathBuf, String)> {
        let mut views = Self::default();
        let files = view_files(folder).map_err(|error| (folder.to_owned(), error.to_string()))?;
        for file in files {
            let parsed = read_file(&file).and_then(|file| View::parse(&file));
            match parsed {
                Ok((view, _)) => drop(views.0.insert(name_of(&file), view)),
                Err(fault) => return Err((file, fault.reason)),
            }
        }
        Ok(views)
    }

    /// The names of the views.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Puts the views that a statement names into it.
    ///
    /// # Errors
    /// When too much would be put in.
    pub fn put_in(&self, statement: &mut Statement, file: &SqlFile) -> Result<PutIn, Fault> {
        let mut work = Work {
            views: self,
            put_in: PutIn::default(),
            bytes: 0,
            own_names: BTreeSet::new(),
        };
        let Statement::Statement(inner) = statement else {
            return Ok(work.put_in);
        };
        match inner.visit(&mut work) {
            ControlFlow::Continue(()) => Ok(work.put_in),
            ControlFlow::Break(view) => {
                let reason = format!(
                    "the view {view} puts more than {PUT_IN_BYTES_MAX} bytes into the query"
                );
                let mend = "name its columns less often, or make what they are shorter";
                Err(Fault::new(file.line_of(&view), reason, mend))
            }
        }
    }

    /// A file's query with its views put in and its table named events, the hash of both, and the table.
    ///
    /// # Errors
    /// When the file holds no query.
    pub fn asked(&self, file: &SqlFile) -> Result<(String, String, Table), String> {
        let put_in = || -> Result<(String, String, Table), Fault> {
            let mut statement = check::parsed(file)?;
            let table = tables::take(&mut statement, file)?;
            let put_in = self.put_in(&mut statement, file)?;
            let text = match table {
                Table::Events => put_in.text(&statement).unwrap_or_else(|| file.sql.clone()),
                _ => statement.to_string(),
            };
            Ok((text, self.content_hash(file, &put_in), table))
        };
        put_in().map_err(|fault| fault.reason)
    }

    /// The hash of a file with the views that are put into it; the file's own where there are none.
    pub fn content_hash(&self, file: &SqlFile, put_in: &PutIn) -> String {
        if put_in.views.is_empty() {
            return file.content_hash.clone();
        }
        let views = put_in.views.iter().filter_map(|name| self.0.get(name));
        let hashes = views.map(|view| view.content_hash.as_str());
        digest(std::iter::once(file.content_hash.as_str()).chain(hashes))
    }
}

/// The files of views, sorted.
pub(super) fn view_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let views = folder.join(VIEWS_FOLDER);
    let mut files = Vec::new();
    if views.is_dir() {
        find_files(&views, "sql", &mut files)?;
    }
    Ok(files)
}

/// The files of detections below a folder, sorted: SQL files that are no views.
pub(crate) fn detection_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = Vec::new();
    find_files(folder, "sql", &mut files)?;
    let views = folder.join(VIEWS_FOLDER);
    files.retain(|file| !file.starts_with(&views));
    Ok(files)
}

fn name_of(file: &Path) -> String {
    let name = file.file_stem().and_then(|stem| stem.to_str());
    name.unwrap_or_default().to_owned()
}

/// Reads a file of SQL.
fn read_file(file: &Path) -> Result<SqlFile, Fault> {
    let text = fs::read_to_string(file).map_err(|error| {
        let reason = format!("could not read the file: {error}");
        Fault::new(1, reason, "make it a readable UTF-8 file")
    })?;
    Ok(SqlFile::parse(&text))
}

impl View {
    fn load(
        (path, text): (&Path, &str),
        session: &Session,
        columns: &[&str],
        lists: &Lists,
    ) -> Result<(String, Self), Fault> {
        let name = name_of(path);
        if tables::is_table(&name) {
            let reason = format!("there is a table {name}, which queries would read instead");
            return Err(Fault::new(1, reason, "give the view another name"));
        }
        if !is_snake_case(&name) || names_window(&name) {
            let reason = format!("{name:?} cannot be a view's name");
            let mend = "name the file in snake case, and not tumble or hop";
            return Err(Fault::new(1, reason, mend));
        }
        if lists.contains_key(&name) {
            let reason = format!("there is a list {name}");
            return Err(Fault::new(1, reason, "give the view another name"));
        }
        let file = SqlFile::parse(text);
        if let Err(error) = toml::from_str::<Header>(&file.header) {
            let reason = format!("the header of the view: {}", error.message());
            let mend = "write -- description = \"...\", and nothing else, in its first line";
            return Err(Fault::new(1, reason, mend));
        }
        let (view, statement) = Self::parse(&file)?;
        for column in view.columns.keys() {
            if columns.contains(&column.as_str()) {
                let reason = format!("{EVENTS} has a column {column} already");
                let mend = "give what the view adds another name";
                return Err(Fault::new(file.line_of(column), reason, mend));
            }
        }
        let known = check::Known {
            columns,
            lists,
            views: &Views::default(),
        };
        check::plan(session, &file, statement, &known)?;
        Ok((name, view))
    }

    /// Takes a view's query apart.
    fn parse(file: &SqlFile) -> Result<(Self, Statement), Fault> {
        let statement = check::parsed(file)?;
        let query = only_query(&statement, file)?;
        let shape = |reason: &str| Fault::new(file.query_line, reason, SHAPE);
        let plain =
            query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none();
        let SetExpr::Select(select) = query.body.as_ref() else {
            return Err(shape("the view is no plain SELECT"));
        };
        let grouped = match &select.group_by {
            GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
            GroupByExpr::All(_) => true,
        };
        if !plain || grouped || select.having.is_some() || select.distinct.is_some() {
            return Err(shape("the view is more than columns and a condition"));
        }
        if !reads_events(select) {
            return Err(shape("the view does not read events, once and alone"));
        }
        let Some((SelectItem::Wildcard(options), added)) = select.projection.split_first() else {
            return Err(shape("the view does not begin with all columns of events"));
        };
        if *options != WildcardAdditionalOptions::default() {
            return Err(shape("the view leaves out columns of events"));
        }
        let mut columns = BTreeMap::new();
        for item in added {
            let SelectItem::ExprWithAlias { expr, alias } = item else {
                let line = file.line_of(&item.to_string());
                return Err(Fault::new(line, "a column has no name", SHAPE));
            };
            if !is_snake_case(&alias.value) || columns.contains_key(&alias.value) {
                let line = file.line_of(&alias.value);
                let reason = format!("the column {alias} is there twice, or not in snake case");
                return Err(Fault::new(line, reason, "give it another name"));
            }
            columns.insert(alias.value.clone(), expr.clone());
        }
        let view = Self {
            columns,
            condition: select.selection.clone(),
            content_hash: file.content_hash.clone(),
        };
        Ok((view, statement))
    }
}

/// Whether a SELECT reads the table of events and nothing beside it.
fn reads_events(select: &Select) -> bool {
    let [from] = &select.from[..] else {
        return false;
    };
    let TableFactor::Table {
        name, alias, args, ..
    } = &from.relation
    else {
        return false;
    };
    from.joins.is_empty() && alias.is_none() && args.is_none() && name.to_string() == EVENTS
}

/// Puts views into each SELECT that names one.
struct Work<'a> {
    views: &'a Views,
    put_in: PutIn,
    bytes: usize,
    /// Names that the statement gives to queries of its own.
    own_names: BTreeSet<String>,
}

impl VisitorMut for Work<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.own_names
            .extend(tables.map(|table| folded(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
        let Query { body, order_by, .. } = query;
        let SetExpr::Select(select) = body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let joined = select.from.len() > 1 || select.from.iter().any(|from| !from.joins.is_empty());
        let relations = select.from.iter_mut().flat_map(|from| {
            let joins = from.joins.iter_mut().map(|join| &mut join.relation);
            std::iter::once(&mut from.relation).chain(joins)
        });
        let named: Vec<Named> = relations
            .filter_map(|table| self.take_name(table))
            .collect();
        for Named { name, alias } in named {
            let view = &self.views.0[&name];
            let mut columns = Columns {
                view,
                alias: alias.as_deref(),
                qualified: joined,
                bytes: self.bytes,
            };
            name_outputs(select, &columns);
            let mut put_in = Own::new(|expr| columns.put_in(expr));
            let too_much =
                select.visit(&mut put_in).is_break() || order_by.visit(&mut put_in).is_break();
            let condition = view.condition.clone().map(|own| columns.own(own));
            self.bytes = columns.bytes;
            if too_much || self.bytes > PUT_IN_BYTES_MAX {
                return ControlFlow::Break(name);
            }
            select.selection = match (condition, select.selection.take()) {
                (Some(own), Some(asked)) => Some(Expr::BinaryOp {
                    left: Box::new(own),
                    op: BinaryOperator::And,
                    right: Box::new(nested(asked)),
                }),
                (own, asked) => own.or(asked),
            };
            self.put_in.views.insert(name);
        }
        ControlFlow::Continue(())
    }
}

/// A view where a query names it.
struct Named {
    name: String,
    /// By what its columns may be qualified.
    alias: Option<String>,
}

impl Work<'_> {
    /// The view that a table of FROM names, replaced by events there.
    fn take_name(&self, table: &mut TableFactor) -> Option<Named> {
        let TableFactor::Table {
            name, alias, args, ..
        } = table
        else {
            return None;
        };
        let [ObjectNamePart::Identifier(table_name)] = &name.0[..] else {
            return None;
        };
        match args {
            None => {
                let view = self.known(table_name)?;
                *name = ObjectName::from(vec![Ident::with_span(table_name.span, EVENTS)]);
                let alias = alias.get_or_insert_with(|| TableAlias {
                    explicit: true,
                    name: Ident::new(view.clone()),
                    columns: Vec::new(),
                    at: None,
                });
                Some(Named {
                    alias: Some(folded(&alias.name)),
                    name: view,
                })
            }
            Some(args) if names_window(&folded(table_name)) => {
                let first = args.args.first_mut()?;
                let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(argument))) = first
                else {
                    return None;
                };
                let view = self.known(argument)?;
                *argument = Ident::with_span(argument.span, EVENTS);
                Some(Named {
                    name: view,
                    alias: alias.as_ref().map(|alias| folded(&alias.name)),
                })
            }
            Some(_) => None,
        }
    }

    fn known(&self, name: &Ident) -> Option<String> {
        let name = folded(name);
        let meant = self.views.0.contains_key(&name) && !self.own_names.contains(&name);
        meant.then_some(name)
    }
}

/// An identifier as SQL compares it.
pub(super) fn folded(name: &Ident) -> String {
    match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    }
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

/// Gives what the SELECT takes of a view's columns their names: an expression that is put in has none.
fn name_outputs(select: &mut Select, columns: &Columns<'_>) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some((name, _)) = columns.find(expr)
        {
            *item = SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias: Ident::new(name),
            };
        }
    }
}

/// Puts what a view's columns are in where they are named, in one SELECT and not in those within it.
struct Columns<'a> {
    view: &'a View,
    alias: Option<&'a str>,
    /// Whether other tables stand beside it, whose columns may be called as those of events are.
    qualified: bool,
    /// Bytes of what was put in.
    bytes: usize,
}

impl<'a> Columns<'a> {
    /// The view's column that an expression names.
    fn find(&self, expr: &Expr) -> Option<(&'a str, &'a Expr)> {
        let name = match expr {
            Expr::Identifier(name) => folded(name),
            Expr::CompoundIdentifier(parts) => match &parts[..] {
                [table, name] if Some(folded(table).as_str()) == self.alias => folded(name),
                _ => return None,
            },
            _ => return None,
        };
        let (name, expr) = self.view.columns.get_key_value(&name)?;
        Some((name, expr))
    }

    /// Puts what a column is where it is named.
    fn put_in(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some((_, own)) = self.find(expr) {
            *expr = self.own(own.clone());
        }
        match self.bytes > PUT_IN_BYTES_MAX {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// An expression of the view's, as it is put in.
    fn own(&mut self, mut expr: Expr) -> Expr {
        if let (true, Some(alias)) = (self.qualified, self.alias) {
            let _ = expr.visit(&mut Own::new(|expr| {
                if let Expr::Identifier(name) = expr {
                    *expr = Expr::CompoundIdentifier(vec![Ident::new(alias), name.clone()]);
                }
                ControlFlow::Continue(())
            }));
        }
        self.bytes += expr.to_string().len();
        nested(expr)
    }
}

/// Changes the expressions of one SELECT, and not those of the queries within it.
struct Own<F> {
    change: F,
    depth: usize,
}

impl<F: FnMut(&mut Expr) -> ControlFlow<()>> Own<F> {
    fn new(change: F) -> Self {
        Self { change, depth: 0 }
    }
}

impl<F: FnMut(&mut Expr) -> ControlFlow<()>> VisitorMut for Own<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match self.depth {
            0 => (self.change)(expr),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests;
