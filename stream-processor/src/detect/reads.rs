//! Which files a query plainly asks the reading of, held against what the header declares.
//!
//! ```text
//! WHERE ─► asked: nothing that is a read | some files | any file ─► those that no declared pattern takes
//! ```
//! Plainly: a literal compared with a path (`=`, `IN`, a list, `LIKE`, a regular expression, `starts_with`). Of a pattern a few
//! paths are made up that it takes, and each must be taken by a declared one. What cannot be told is left alone: a remark that
//! is wrong costs more than one that is missing. Writes and failed opens are published whatever they open.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{InList, Like, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use dogwatch_schemas::reads::ReadPattern;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::filter::text_of;
use super::sql_file::{Fault, SqlFile};

/// The calls that can open a file for reading.
const READING_CALLS: [&str; 3] = ["open", "openat", "openat2"];
/// Stands in a made-up path for what may be anything.
const ANYTHING: char = '\u{1}';
/// Stands in a made-up text for its start.
const START: char = '\u{2}';
/// A root of the made-up paths that may lie anywhere: no pattern of a place takes it.
const ELSEWHERE: &str = "/\u{2}/\u{2}";
/// Most texts that are made up of one regular expression; one with more is not plain.
const EXAMPLES_MAX: usize = 256;

/// Says which reads the query asks for that no pattern of the header takes.
pub(super) fn undeclared(
    plan: &LogicalPlan,
    declared: &[ReadPattern],
    file: &SqlFile,
) -> Vec<Fault> {
    let mut asked = Vec::new();
    // The walk itself cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::Filter(filter) = node {
            asked.push(asked_by(&filter.predicate, declared));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let Asked::Files(files) = every(asked) else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    let mut told: Vec<ReadPattern> = Vec::new();
    for literal in distinct(files.iter().map(|file| &file.literal)) {
        let of_literal = files
            .iter()
            .filter(|file| file.literal == *literal && !file.declared);
        let missing: Vec<&ReadPattern> = distinct(of_literal.map(|file| &file.pattern))
            .into_iter()
            .filter(|pattern| !told.iter().any(|told| told.covers(pattern)))
            .collect();
        if missing.is_empty() {
            continue;
        }
        told.extend(missing.iter().map(|pattern| (*pattern).clone()));
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        faults.push(Fault::new(
            file.line_of(literal),
            format!("the query asks for reads of {} that its header does not declare", names.join(", ")),
            format!("add reads = {names:?} to the header, so that it is said where no sensor publishes them"),
        ));
    }
    faults
}

fn distinct<'a, T: PartialEq>(all: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut found: Vec<&T> = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// What a condition asks of an event that it is true of.
enum Asked {
    /// That it is no successful read.
    NoRead,
    /// Nothing that can be told of the file.
    AnyFile,
    /// That the file is one of these.
    Files(Vec<NamedFile>),
}

/// Files that a query names.
struct NamedFile {
    /// The literal, as it stands in the query.
    literal: String,
    /// How the header would declare them.
    pattern: ReadPattern,
    /// Whether it does.
    declared: bool,
}

impl Asked {
    fn undeclared(&self) -> usize {
        match self {
            Self::Files(files) => files.iter().filter(|file| !file.declared).count(),
            Self::NoRead => 0,
            Self::AnyFile => usize::MAX,
        }
    }
}

/// All of these are true: one that is declared, or asks for nothing, is enough.
fn every(all: impl IntoIterator<Item = Asked>) -> Asked {
    let mut tightest = Asked::AnyFile;
    for asked in all {
        match asked {
            Asked::NoRead => return Asked::NoRead,
            asked if asked.undeclared() < tightest.undeclared() => tightest = asked,
            _ => {}
        }
    }
    tightest
}

/// One of these is true.
fn either(left: Asked, right: Asked) -> Asked {
    match (left, right) {
        (Asked::NoRead, other) | (other, Asked::NoRead) => other,
        (Asked::AnyFile, other) | (other, Asked::AnyFile) => other,
        (Asked::Files(mut left), Asked::Files(right)) => {
            left.extend(right);
            Asked::Files(left)
        }
    }
}

fn asked_by(condition: &Expr, declared: &[ReadPattern]) -> Asked {
    let named = |texts: Option<Vec<(String, Vec<Example>)>>| {
        let texts = texts.unwrap_or_default();
        let files: Vec<NamedFile> = texts
            .iter()
            .flat_map(|(literal, examples)| {
                examples
                    .iter()
                    .filter_map(|example| example.file(literal, declared))
            })
            .collect();
        if files.is_empty() {
            Asked::AnyFile
        } else {
            Asked::Files(files)
        }
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => every([asked_by(left, declared), asked_by(right, declared)]),
            Operator::Or => either(asked_by(left, declared), asked_by(right, declared)),
            Operator::Eq if excludes_reads(left, &[right]) || excludes_reads(right, &[left]) => {
                Asked::NoRead
            }
            Operator::Eq => named(equal(left, &[right]).or_else(|| equal(right, &[left]))),
            Operator::NotEq if is_column(left, "evt_outcome") && is_text(right, "success") => {
                Asked::NoRead
            }
            Operator::RegexMatch | Operator::RegexIMatch => named(matching(left, right)),
            _ => Asked::AnyFile,
        },
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let list: Vec<&Expr> = list.iter().collect();
            if excludes_reads(expr, &list) {
                Asked::NoRead
            } else {
                named(equal(expr, &list))
            }
        }
        Expr::Like(like) if !like.negated && like.escape_char.is_none() => named(like_of(like)),
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), &args[..]) {
            ("regexp_like", [text, pattern, ..]) => named(matching(text, pattern)),
            ("starts_with", [text, start]) => named(starting(text, start)),
            _ => Asked::AnyFile,
        },
        Expr::Not(inner) if is_column(inner, "evt_is_open_read") => Asked::NoRead,
        Expr::IsTrue(inner) => asked_by(inner, declared),
        Expr::Column(column) => match column.name.as_str() {
            "evt_is_open_write" | "evt_is_open_create" | "evt_failed" => Asked::NoRead,
            _ => Asked::AnyFile,
        },
        _ => Asked::AnyFile,
    }
}

/// Whether a column that has one of these values belongs to no successful read.
fn excludes_reads(column: &Expr, values: &[&Expr]) -> bool {
    let Expr::Column(column) = column else {
        return false;
    };
    let texts: Option<Vec<String>> = values.iter().map(|value| literal(value)).collect();
    let none_is = |allowed: &[&str]| {
        texts.is_some_and(|texts| !texts.iter().any(|text| allowed.contains(&text.as_str())))
    };
    match column.name.as_str() {
        "evt_type" => none_is(&READING_CALLS),
        "evt_outcome" => none_is(&["success"]),
        "evt_res" => none_is(&["SUCCESS"]),
        "evt_is_open_write" | "evt_is_open_create" | "evt_failed" => {
            matches!(values, [Expr::Literal(value, _)] if *value == true.into())
        }
        _ => false,
    }
}

fn is_column(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Column(column) if column.name == name)
}

fn is_text(expr: &Expr, text: &str) -> bool {
    literal(expr).is_some_and(|own| own == text)
}

/// The text that a literal is, converted or not.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Cast(cast) => text_of(&cast.expr),
        other => text_of(other),
    }
}

/// Which part of a path a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Folder,
    FileName,
}

/// The part of the opened file's path that an expression is made of; none when it is something else.
fn part_of(expr: &Expr) -> Option<Part> {
    match expr {
        Expr::Column(column) => match column.name.as_str() {
            "fd_name" | "fd_host_name" | "fd_nameraw" => Some(Part::Whole),
            "fd_directory" => Some(Part::Folder),
            "fd_filename" => Some(Part::FileName),
            _ => None,
        },
        Expr::Cast(cast) => part_of(&cast.expr),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::StringConcat,
            right,
        }) => part_of(left).or_else(|| part_of(right)),
        Expr::ScalarFunction(call)
            if matches!(call.name(), "coalesce" | "concat" | "concat_ws") =>
        {
            call.args.iter().find_map(part_of)
        }
        _ => None,
    }
}

type Texts = Option<Vec<(String, Vec<Example>)>>;

fn equal(text: &Expr, values: &[&Expr]) -> Texts {
    let part = part_of(text)?;
    let one = |value: &&Expr| {
        let text = literal(value)?;
        Some((
            text.clone(),
            vec![Example::of(part, format!("{START}{text}"))?],
        ))
    };
    Some(values.iter().filter_map(one).collect())
}

fn starting(text: &Expr, start: &Expr) -> Texts {
    let part = part_of(text)?;
    let start = literal(start)?;
    let example = Example::of(part, format!("{START}{start}{ANYTHING}"))?;
    Some(vec![(start, vec![example])])
}

fn like_of(like: &Like) -> Texts {
    let part = part_of(&like.expr)?;
    let pattern = literal(&like.pattern)?;
    let mut text = String::from(START);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '%' | '_' if text.ends_with(ANYTHING) => {}
            '%' | '_' => text.push(ANYTHING),
            '\\' => text.push(characters.next().unwrap_or('\\')),
            other => text.push(other),
        }
    }
    let example = Example::of(part, text)?;
    Some(vec![(pattern, vec![example])])
}

fn matching(text: &Expr, pattern: &Expr) -> Texts {
    let part = part_of(text)?;
    let pattern = literal(pattern)?;
    let hir = regex_syntax::parse(&pattern).ok()?;
    let examples = texts_of(&hir)?
        .into_iter()
        .filter_map(|text| Example::of(part, text));
    Some(vec![(pattern.clone(), examples.collect())])
}

/// Texts that a regular expression takes, one for each of its alternatives; none when there are too many.
fn texts_of(hir: &Hir) -> Option<Vec<String>> {
    let texts = match hir.kind() {
        HirKind::Empty => vec![String::new()],
        HirKind::Literal(bytes) => vec![std::str::from_utf8(&bytes.0).ok()?.to_owned()],
        HirKind::Class(class) => characters(class),
        HirKind::Look(Look::Start | Look::StartLF | Look::StartCRLF) => vec![START.to_string()],
        HirKind::Look(_) => vec![String::new()],
        HirKind::Repetition(repeated) => {
            let mut texts = texts_of(&repeated.sub)?;
            let anything = texts.iter().any(|text| text.contains(ANYTHING));
            if repeated.min == 0 && !(anything && repeated.max.is_none()) {
                texts.push(String::new());
            }
            texts
        }
        HirKind::Capture(capture) => texts_of(&capture.sub)?,
        HirKind::Concat(parts) => {
            let mut texts = vec![String::new()];
            for part in parts {
                let ends = texts_of(part)?;
                if texts.len() * ends.len() > EXAMPLES_MAX {
                    return None;
                }
                let joined = |text: &String| -> Vec<String> {
                    ends.iter().map(|end| format!("{text}{end}")).collect()
                };
                texts = texts.iter().flat_map(joined).collect();
            }
            texts
        }
        HirKind::Alternation(parts) => {
            let all: Option<Vec<Vec<String>>> = parts.iter().map(texts_of).collect();
            all?.concat()
        }
    };
    (texts.len() <= EXAMPLES_MAX).then_some(texts)
}

/// Each character of a small class, else whatever it may be.
fn characters(class: &Class) -> Vec<String> {
    const FEW: usize = 4;
    let Class::Unicode(class) = class else {
        return vec![ANYTHING.to_string()];
    };
    let ranges = class.ranges();
    let few = ranges.len() <= FEW && ranges.iter().map(|range| range.len()).sum::<usize>() <= FEW;
    if !few {
        return vec![ANYTHING.to_string()];
    }
    let all = ranges.iter().flat_map(|range| range.start()..=range.end());
    all.map(|character| character.to_string()).collect()
}

/// A path that a condition takes, made up.
struct Example {
    path: String,
    /// Whether the path begins there; else it is the end of one.
    whole: bool,
}

impl Example {
    /// Makes a path of a text that a part of it may be; none when that names no file.
    fn of(part: Part, text: String) -> Option<Self> {
        // Paths are joined with spaces where one pattern is asked of two.
        let starts = text.starts_with([START, ' ']);
        let text = text.trim_matches([START, ' ']).replace(START, "");
        if text.is_empty() || text.contains(' ') {
            return None;
        }
        let (path, whole) = match part {
            Part::Whole => (text, starts),
            Part::Folder => (format!("{}/{ANYTHING}", text.trim_end_matches('/')), starts),
            Part::FileName if starts => (format!("/{text}"), false),
            Part::FileName => return None,
        };
        let (path, whole) = match path.strip_prefix(ANYTHING) {
            Some(end) => (end.to_owned(), false),
            None => (path, whole),
        };
        path.starts_with('/').then_some(Self { path, whole })
    }

    /// The files that it stands for, when a header could declare them.
    fn file(&self, literal: &str, declared: &[ReadPattern]) -> Option<NamedFile> {
        let path = match self.whole {
            true => self.path.clone(),
            false => format!("{ELSEWHERE}{}", self.path),
        };
        Some(NamedFile {
            literal: literal.to_owned(),
            pattern: self.pattern()?,
            declared: declared.iter().any(|pattern| pattern.matches(&path)),
        })
    }

    /// How a header would declare it.
    fn pattern(&self) -> Option<ReadPattern> {
        let (folders, name) = self.path.rsplit_once('/')?;
        let known = name.split(ANYTHING).next().unwrap_or_default();
        let open_end = if known.len() < name.len() { "*" } else { "" };
        let text = match self.path.split_once(ANYTHING) {
            None if self.whole => self.path.clone(),
            Some((start, _)) if self.whole && (!open_end.is_empty() || name.is_empty()) => {
                match start.strip_suffix('/') {
                    Some("") => return None,
                    Some(folder) => folder.to_owned(),
                    None => format!("{start}*"),
                }
            }
            _ => match folders.rsplit('/').next() {
                Some(folder) if !folder.is_empty() && !folder.contains(ANYTHING) => {
                    format!("*/{folder}/{known}{open_end}")
                }
                _ => format!("*/{known}{open_end}"),
            },
        };
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_query_with_reads;

    /// The patterns that a query's condition makes a header declare, beside those it does.
    #[track_caller]
    fn check(condition: &str, declared: &str, expected: &[&str]) {
        let query = format!("SELECT container_id FROM events WHERE {condition}");
        let faults = load_query_with_reads(&query, declared);
        let mends: String = faults.iter().map(|fault| fault.mend.as_str()).collect();
        let quoted: Vec<&str> = mends.split('"').skip(1).step_by(2).collect();
        assert_eq!(quoted, expected, "{condition}");
    }

    #[test]
    fn paths_that_a_query_names_are_to_be_declared() {
        check("fd_name = '/etc/shadow'", "", &["/etc/shadow"]);
        check("'/etc/shadow' = fd_host_name", "", &["/etc/shadow"]);
        check("fd_name IN ('/a/b', '/c')", "'/a'", &["/c"]);
        check("fd_name IN (SELECT name FROM files)", "", &["/srv/key"]);
        check("fd_name LIKE '%/.kube/config'", "", &["*/.kube/config"]);
        check(
            "fd_name LIKE '%/.kube/config'",
            "'/root/.kube/config'",
            &["*/.kube/config"],
        );
        check("fd_name LIKE '%/.kube/config'", "'*/config'", &[]);
        check(
            "fd_name LIKE '/etc/ssh/ssh\\_host\\_%\\_key'",
            "",
            &["/etc/ssh/ssh_host_*"],
        );
        check("fd_name LIKE '/proc/%/environ'", "", &["*/environ"]);
        check("fd_name LIKE '/etc/ssl/%'", "'/etc/ssl'", &[]);
        check("starts_with(fd_name, '/root/.ssh/')", "", &["/root/.ssh"]);
        check("fd_filename = 'id_rsa'", "", &["*/id_rsa"]);
        check("fd_directory = '/root/.ssh'", "", &["/root/.ssh"]);
        check(
            "fd_directory = '/root/.ssh' AND fd_filename = 'id_rsa'",
            "'*/id_rsa'",
            &[],
        );
        check(
            "regexp_like(concat(fd_name, ' ', fd_host_name), '/etc/g?shadow( |$)|(^| )/dev/k?mem( |$)')",
            "'*/etc/shadow', '/dev/mem'",
            &["*/etc/gshadow", "/dev/kmem"],
        );
        check(
            "fd_name ~ '/\\.ssh/(id_[a-z]+|identity)$'",
            "",
            &["*/.ssh/id_*", "*/.ssh/identity"],
        );
        check(
            "evt_is_open_read AND (fd_name = '/a' OR fd_name = '/b')",
            "'/a'",
            &["/b"],
        );
        check("coalesce(fd_host_name, fd_name) = '/a'", "", &["/a"]);
    }

    #[test]
    fn writes_failures_and_what_is_not_plain_are_left_alone() {
        for condition in [
            "evt_is_open_write AND fd_name = '/etc/shadow'",
            "(evt_is_open_write OR evt_is_open_create) AND fd_name LIKE '/etc/%'",
            "evt_failed AND fd_name = '/etc/shadow'",
            "evt_outcome <> 'success' AND fd_name = '/etc/shadow'",
            "evt_res IN ('EACCES', 'EPERM') AND fd_name = '/etc/shadow'",
            "evt_type IN ('execve', 'creat') AND fd_name = '/etc/shadow'",
            "evt_type = 'connect' AND fd_name = '/var/run/docker.sock'",
            "NOT evt_is_open_read AND fd_name = '/etc/shadow'",
            "NOT fd_name = '/etc/shadow'",
            "fd_name NOT LIKE '/etc/%'",
            "fd_name LIKE '%.pem'",
            "fd_name LIKE '%shadow%'",
            "fd_name ~ 'shadow'",
            "fd_name ~ '.*'",
            "fd_name = proc_exepath",
            "fd_nameraw = 'shadow'",
            "proc_exepath = '/bin/sh'",
            "length(fd_name) > 3",
        ] {
            check(condition, "", &[]);
        }
    }
}
