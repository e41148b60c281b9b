//! Patterns that no text of a column is like, and what texts of a kind look like.

use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use dogwatch_schemas::like::{Like, Piece};
use dogwatch_schemas::vocabulary::Shape;

use super::conditions::Conditions;
use super::parts::text;
use super::values::known;

/// A condition that asks what a text looks like.
pub(super) struct Asked<'e> {
    pub of: &'e Expr,
    /// It holds where the text looks like one of these.
    pub likes: Vec<Like>,
    /// The pattern as it is written.
    pub written: String,
    /// The word or the function that asks.
    pub word: &'e str,
}

/// What a condition asks a text to look like; none where it asks for something else, or is negated.
pub(super) fn asked_like(part: &Expr) -> Option<Asked<'_>> {
    match part {
        Expr::Like(like) if !like.negated && like.escape_char.is_none() => {
            let pattern = literal_text(&like.pattern)?;
            let word = if like.case_insensitive {
                "ILIKE"
            } else {
                "LIKE"
            };
            let likes = vec![Like::pattern(pattern, like.case_insensitive)];
            Some(Asked::new(&like.expr, likes, pattern, word))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let insensitive = match op {
                Operator::RegexMatch => false,
                Operator::RegexIMatch => true,
                _ => return None,
            };
            let pattern = literal_text(right)?;
            let word = if insensitive { "~*" } else { "~" };
            Some(Asked::new(
                left,
                likes_of_regex(pattern, insensitive)?,
                pattern,
                word,
            ))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let (of, written) = (args.first()?, literal_text(args.get(1)?)?);
            let with = |starts, ends| vec![Like::with(written, starts, ends, false)];
            let likes = match func.name() {
                _ if written.is_empty() => return None,
                "starts_with" => with(true, false),
                "ends_with" => with(false, true),
                "contains" | "strpos" => with(false, false),
                "regexp_like" => {
                    let flags = args.get(2).map(|flags| literal_text(flags));
                    let insensitive = match flags {
                        None => false,
                        Some(Some("i")) => true,
                        Some(_) => return None,
                    };
                    likes_of_regex(written, insensitive)?
                }
                _ => return None,
            };
            Some(Asked::new(of, likes, written, func.name()))
        }
        _ => None,
    }
}

impl<'e> Asked<'e> {
    fn new(of: &'e Expr, likes: Vec<Like>, written: &str, word: &'e str) -> Self {
        Self {
            of,
            likes,
            written: written.to_owned(),
            word,
        }
    }
}

/// The text of a constant expression.
fn literal_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => text(value),
        _ => None,
    }
}

/// What the alternatives of a plain regular expression ask a text to look like: of one that is anchored and goes on as more
/// than letters, its start. None where it is not so plain.
fn likes_of_regex(pattern: &str, insensitive: bool) -> Option<Vec<Like>> {
    let alternatives = match pattern.contains(['(', '[']) {
        true if pattern.contains('|') => return None,
        true => vec![pattern],
        false => pattern.split('|').collect(),
    };
    let likes = alternatives.into_iter().map(|alternative| {
        let (starts, rest) = match alternative.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, alternative),
        };
        let mut plain = String::new();
        let mut characters = rest.chars().peekable();
        while let Some(character) = characters.next() {
            let own = match character {
                '$' if characters.peek().is_none() => {
                    return Some(Like::with(&plain, starts, true, insensitive));
                }
                // A class of letters, such as \d.
                '\\' => characters.next_if(|next| !next.is_alphanumeric()),
                '.' | '(' | '[' | '{' | '*' | '+' | '?' | '^' | '$' => None,
                other => Some(other),
            };
            let Some(own) = own else {
                return starts.then(|| Like::with(&plain, true, false, insensitive));
            };
            // What may be left out, or stand more than once.
            if characters.peek().is_some_and(|next| "*+?{".contains(*next)) {
                return starts.then(|| Like::with(&plain, true, false, insensitive));
            }
            plain.push(own);
        }
        Some(Like::with(&plain, starts, false, insensitive))
    });
    likes.collect()
}

/// Why no text of a column is like a pattern, and the mend.
pub(super) fn pattern(part: &Expr, conditions: &Conditions) -> Option<(String, String)> {
    let asked = asked_like(part)?;
    let (column, known) = known(asked.of, conditions)?;
    if let Some(flags) = &known.flags
        && let Some(mend) = asked.likes.iter().find_map(|like| flags.mend_like(like))
    {
        return Some((never(&asked, column), mend));
    }
    if let Some(shape) = known.shape
        && !asked.likes.iter().all(|like| can_be_like(shape, like))
    {
        return Some((never(&asked, column), mend_of_shape(column, shape, &asked)));
    }
    let most = known.bytes_max?;
    let least = asked.likes.iter().map(Like::bytes_min).min()?;
    (least > most).then(|| {
        let what = match asked.word {
            "LIKE" | "ILIKE" => format!("what is {} '{}'", asked.word, asked.written),
            _ => format!("'{}'", asked.written),
        };
        let reason = format!("{column} has at most {most} bytes, and {what} has {least}");
        let mend = match column {
            "proc_name" => "ask program(proc_exepath, proc_exe, proc_args) instead".to_owned(),
            _ => "shorten it".to_owned(),
        };
        (reason, mend)
    })
}

/// That what a condition asks about is never like its pattern.
pub(super) fn never(asked: &Asked<'_>, of: &str) -> String {
    let Asked { word, written, .. } = asked;
    match word.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        true => format!("{word}({of}, '{written}') is never true"),
        false => format!("{of} is never {word} '{written}'"),
    }
}

/// Whether a text of a shape can be like a pattern.
fn can_be_like(shape: Shape, like: &Like) -> bool {
    let pieces = like.pieces();
    let mut texts = pieces.iter().flat_map(Piece::texts).peekable();
    let first = texts.next();
    // The root is the one folder that ends with a slash.
    if first.as_ref().is_some_and(|(text, ..)| text == "/") && texts.peek().is_none() {
        return true;
    }
    let mut all = first.into_iter().chain(texts);
    all.all(|(text, starts, ends)| shape.can_have(&text, starts, ends))
}

fn mend_of_shape(column: &str, shape: Shape, asked: &Asked<'_>) -> String {
    match shape {
        Shape::Address => {
            format!("{column} is an address: ask cidr_match({column}, '10.0.0.0/8') for a network")
        }
        Shape::Path | Shape::Folder | Shape::Object
            if asked
                .likes
                .iter()
                .all(|like| !can_be_like(Shape::Object, like)) =>
        {
            format!(
                "{}; {column} is {}",
                from_the_root(&asked.written),
                shape.told()
            )
        }
        shape => format!("{column} is {}", shape.told()),
    }
}

/// How a path is written that begins as people write it.
fn from_the_root(text: &str) -> String {
    let (anchor, text) = match text.strip_prefix('^') {
        Some(rest) => ("^", rest),
        None => ("", text),
    };
    match text.starts_with(['~', '$']) {
        true => "write the whole path, such as '/root/.ssh' or LIKE '/home/%/.ssh/%': no shell expands it"
            .to_owned(),
        false => format!("write '{anchor}/{}'", text.trim_start_matches("./")),
    }
}

/// What to write for a text that no text of a shape is.
pub(super) fn mend_of_text(column: &str, shape: Shape, text: &str) -> String {
    let told = shape.told();
    let paths = [Shape::Path, Shape::Folder, Shape::Object];
    if !paths.contains(&shape) {
        return format!("write {told}");
    }
    let slashes = text.contains('/') || text.starts_with('~');
    match column {
        _ if text.starts_with('/') => {
            format!("write '{}': it is {told}", text.trim_end_matches('/'))
        }
        "fd_name" if !slashes => format!("write fd_filename = '{text}', or {told}"),
        "proc_exepath" if !slashes => {
            format!(
                "write proc_exepath LIKE '%/{text}', or program(proc_exepath, proc_exe, proc_args) = '{text}'"
            )
        }
        _ if text.trim_matches('/').is_empty() => format!("write {told}"),
        _ => format!("{}; it is {told}", from_the_root(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_regular_expressions_are_patterns() {
        let with = |text: &str, starts, ends| Like::with(text, starts, ends, false);
        for (pattern, likes) in [
            ("^etc/", Some(vec![with("etc/", true, false)])),
            (
                "a|^b|c$",
                Some(vec![
                    with("a", false, false),
                    with("b", true, false),
                    with("c", false, true),
                ]),
            ),
            (r"^/etc/.*\.d$", Some(vec![with("/etc/", true, false)])),
            ("^/?memfd:", Some(vec![with("", true, false)])),
            (r"\.so$", Some(vec![with(".so", false, true)])),
            ("^/(tmp|var)/", None),
            ("^a(b)", Some(vec![with("a", true, false)])),
            ("a.c", None),
            (r"\d", None),
        ] {
            assert_eq!(likes_of_regex(pattern, false), likes, "{pattern}");
        }
    }
}
