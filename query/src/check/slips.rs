//! What people write who know another language: forms that the SQL parser does not take, each with what to write instead.
//!
//! ```text
//! parser: Expected: (, found: shells at Line: 3, Column: 20 ─► the place in the text ─► IN shells ─► write IN (SELECT ..)
//! ```

use crate::falco;
use crate::sql_file::SqlFile;

/// What is wrong at the place where the parser stopped, and the mend; none where nothing is known of it.
pub(super) fn at_place(file: &SqlFile, parser_says: &str) -> Option<(String, String)> {
    let (before, rest) = around(file, parser_says)?;
    let before = before.trim_end();
    let word = word_at(rest);
    let lines = file.sql.split_inclusive('\n').take(file.query_line - 1);
    let begins = before.get(lines.map(str::len).sum()..).unwrap_or_default();
    // A parenthesis may begin a query.
    if begins
        .chars()
        .all(|letter| letter == '(' || letter.is_whitespace())
    {
        return Some(no_query(&format!("{begins}{rest}"), word));
    }
    let told = |reason: String, mend: String| Some((reason, mend));
    if rest.starts_with('!') {
        return told(
            "! is no operator here".to_owned(),
            "write NOT, and <> for !=".to_owned(),
        );
    }
    let name = word.trim_end_matches(".csv");
    let is_name = name.starts_with(|letter: char| letter.is_ascii_alphabetic());
    if is_name && ends_with_word(before, "in") {
        return told(
            format!("IN {word} is no list of values"),
            format!("write IN (SELECT name FROM {name}), with the list's own column for name"),
        );
    }
    if is_name
        && before
            .strip_suffix('(')
            .is_some_and(|before| ends_with_word(before, "exists"))
    {
        return told(
            format!("EXISTS ({word}) asks nothing of {name}"),
            format!(
                "write EXISTS (SELECT 1 FROM {name} WHERE name = proc_name), with the columns that are to be equal"
            ),
        );
    }
    if rest.starts_with('/') || rest.starts_with('~') {
        let home = if before.ends_with('~') { "~" } else { "" };
        let text = format!("{home}{}", text_at(rest));
        return told(
            format!("{text} is a text without quotes"),
            format!("write '{text}'"),
        );
    }
    let digits = before.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    if rest.starts_with('.') && digits.len() < before.len() {
        let text = format!("{}{}", &before[digits.len()..], text_at(rest));
        return told(
            format!("{text} is an address without quotes"),
            format!("write '{text}'"),
        );
    }
    if word.eq_ignore_ascii_case("exists") {
        let column = last_word(before).replace('.', "_");
        return told(
            "exists is an operator of Falco's, not of SQL".to_owned(),
            format!("write {column} IS NOT NULL"),
        );
    }
    if rest.starts_with("=>") || rest.starts_with("=<") {
        let (wrong, right) = rest.split_at(2);
        debug_assert!(!right.is_empty());
        let right = if wrong == "=>" { ">=" } else { "<=" };
        return told(format!("{wrong} is no operator"), format!("write {right}"));
    }
    if rest.starts_with(',') && parser_says.contains("end of statement") {
        return told(
            "several values stand where one is compared".to_owned(),
            "write column IN (80, 443) for one of several".to_owned(),
        );
    }
    None
}

/// What begins no query, and the mend.
fn no_query(text: &str, word: &str) -> (String, String) {
    let shown = "container_id, proc_name, proc_cmdline";
    if let Some(condition) = falco::condition(text) {
        return (
            "this is a filter as Falco and sysdig have it, and no query".to_owned(),
            format!("write SELECT {shown} FROM events WHERE {condition}"),
        );
    }
    (
        format!("{word} begins no query"),
        format!("write SELECT {shown} FROM events WHERE .. and the condition"),
    )
}

/// What the parser says without its wrapping.
pub(super) fn plain(parser_says: &str) -> Option<String> {
    let inside = parser_says.split_once("ParserError(\"")?.1;
    let inside = inside.trim_end_matches("\")");
    Some(match inside.split_once(" at Line: ") {
        Some((what, place)) => match place.split_once("Column: ") {
            Some((_, column)) => format!("{what} in column {column}"),
            None => what.to_owned(),
        },
        None => inside.to_owned(),
    })
}

/// The text before and behind the place that the parser names.
fn around<'f>(file: &'f SqlFile, parser_says: &str) -> Option<(&'f str, &'f str)> {
    let number = |before: &str| {
        let digits = parser_says.rsplit_once(before)?.1;
        let digits = digits
            .split(|letter: char| !letter.is_ascii_digit())
            .next()?;
        digits.parse::<usize>().ok()?.checked_sub(1)
    };
    let (line, column) = (number("Line: ")?, number("Column: ")?);
    let start: usize = file
        .sql
        .split_inclusive('\n')
        .take(line)
        .map(str::len)
        .sum();
    let place = file.sql.get(start..)?.char_indices().nth(column)?.0;
    Some(file.sql.split_at(start + place))
}

/// Whether a text ends with a word, in whichever case.
fn ends_with_word(text: &str, word: &str) -> bool {
    last_word(text).eq_ignore_ascii_case(word)
}

fn last_word(text: &str) -> &str {
    let text = text.trim_end();
    let is_of_word = |letter: char| letter.is_alphanumeric() || "_.".contains(letter);
    let start = text.trim_end_matches(is_of_word).len();
    &text[start..]
}

/// The name that a text begins with.
fn word_at(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && !"_.".contains(letter));
    &text[..end.unwrap_or(text.len())]
}

/// The text without blanks that a text begins with.
fn text_at(text: &str) -> &str {
    let end = text.find(|letter: char| letter.is_whitespace() || "(),;".contains(letter));
    &text[..end.unwrap_or(text.len())]
}

/// Whether a word stands where a value is compared: behind an operator, or in a list of IN.
pub(super) fn is_compared(file: &SqlFile, word: &str) -> bool {
    let sql = &file.sql;
    let is_of_word = |letter: char| letter.is_alphanumeric() || "_.\"'`".contains(letter);
    let mut places = sql.match_indices(word);
    places.any(|(place, _)| {
        let (before, rest) = (&sql[..place], &sql[place + word.len()..]);
        let is_whole = !before.ends_with(is_of_word) && !rest.starts_with(is_of_word);
        let before = before.trim_end();
        let behind_operator = before.ends_with(['=', '<', '>'])
            || ["like", "ilike"]
                .iter()
                .any(|own| ends_with_word(before, own));
        let in_list = before.ends_with(['(', ','])
            && before
                .rsplit_once('(')
                .is_some_and(|(before, _)| ends_with_word(before, "in"));
        is_whole && (behind_operator || in_list)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::parsed;

    fn check(condition: &str, reason: &str, mend: &str) {
        let text = format!("SELECT container_id FROM events\nWHERE {condition}");
        let fault = parsed(&SqlFile::parse(&text)).expect_err(condition);
        assert_eq!(fault.line, 2, "{condition}");
        assert!(fault.reason.contains(reason), "{condition}: {fault:?}");
        assert!(fault.mend.contains(mend), "{condition}: {fault:?}");
    }

    #[test]
    fn what_other_languages_have_comes_with_ours() {
        check(
            "proc_name IN shells",
            "IN shells is no list",
            "write IN (SELECT name FROM shells)",
        );
        check(
            "proc_name in shells.csv",
            "no list",
            "write IN (SELECT name FROM shells)",
        );
        check(
            "EXISTS (shells)",
            "asks nothing",
            "write EXISTS (SELECT 1 FROM shells WHERE",
        );
        check("!evt_failed", "! is no operator", "write NOT");
        check("NOT !evt_failed", "! is no operator", "write NOT");
        check(
            "proc_name = /bin/bash",
            "/bin/bash is a text",
            "write '/bin/bash'",
        );
        check("fd_name LIKE /etc/%", "without quotes", "write '/etc/%'");
        check(
            "fd_name = ~/.ssh/id_rsa AND evt_failed",
            "quotes",
            "write '~/.ssh/id_rsa'",
        );
        check(
            "fd_rip = 10.0.0.1",
            "an address without quotes",
            "write '10.0.0.1'",
        );
        check(
            "fd.name exists",
            "an operator of Falco's",
            "write fd_name IS NOT NULL",
        );
        check("proc_pid => 5", "=> is no operator", "write >=");
        check(
            "fd_sport = 80,443",
            "several values",
            "write column IN (80, 443)",
        );
    }

    #[test]
    fn a_filter_of_falcos_comes_as_a_query() {
        for (filter, condition) in [
            (
                "proc.name = bash and fd.name contains /etc",
                "proc_name = 'bash' AND fd_name LIKE '%/etc%'",
            ),
            (
                "evt.type in (open, openat) and not fd.name startswith \"/tmp/a b\"",
                "evt_type IN ('open', 'openat') AND NOT starts_with(fd_name, '/tmp/a b')",
            ),
            (
                "(user.uid=0 or proc.tty != 0)",
                "(user_uid = 0 OR proc_tty <> 0)",
            ),
            (
                "evt.arg.flags contains NEWUSER",
                "evt_args['flags'] LIKE '%NEWUSER%'",
            ),
            (
                "proc.name in (shell_binaries)",
                "proc_name IN (SELECT name FROM shells)",
            ),
            ("fd.sip exists", "fd_sip IS NOT NULL"),
            ("proc_name = 'it''s'", "proc_name = 'it''s'"),
        ] {
            let fault = parsed(&SqlFile::parse(filter)).expect_err(filter);
            let wanted = format!(
                "write SELECT container_id, proc_name, proc_cmdline FROM events WHERE {condition}"
            );
            assert_eq!((fault.line, fault.mend), (1, wanted), "{filter}");
            assert!(
                fault.reason.contains("a filter as Falco"),
                "{}",
                fault.reason
            );
        }
        let fault = parsed(&SqlFile::parse("events where x")).expect_err("no query");
        assert_eq!(fault.reason, "events begins no query");
    }
}
