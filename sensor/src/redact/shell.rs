//! A shell's text taken apart into commands and words, as far as finding their options needs it.

use std::ops::Range;

/// How deep texts in quotes are looked into: `ssh host "su -c 'mysql -p…'"`.
const DEPTH_MAX: usize = 3;

/// Calls `look` with the words of each command, each without the quotes around it, and goes on with what stands between
/// quotes and is more than a word.
pub(super) fn each_command(text: &str, look: &mut dyn FnMut(&[Range<usize>])) {
    within(text, 0..text.len(), 0, look);
}

fn within(text: &str, range: Range<usize>, depth: usize, look: &mut dyn FnMut(&[Range<usize>])) {
    for command in commands(text, range) {
        let words: Vec<_> = command
            .iter()
            .map(|word| content(text, word.clone()))
            .collect();
        look(&words);
        let quoted = words
            .iter()
            .zip(&command)
            .filter(|(content, word)| content != word);
        for (content, _) in quoted {
            if depth < DEPTH_MAX && text[content.clone()].contains(char::is_whitespace) {
                within(text, content.clone(), depth + 1, look);
            }
        }
    }
}

/// The words of each command, as they stand there. All that is looked for is ASCII, so every border is one of characters.
fn commands(text: &str, range: Range<usize>) -> Vec<Vec<Range<usize>>> {
    let bytes = text.as_bytes();
    let (mut commands, mut words) = (Vec::new(), Vec::new());
    let (mut start, mut quote, mut escaped) = (None, None, false);
    let end_word = |start: &mut Option<usize>, end: usize, words: &mut Vec<_>| {
        words.extend(start.take().map(|start| start..end));
    };
    for at in range.clone() {
        let byte = bytes[at];
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, byte) {
            (Some(b'"') | None, b'\\') => {
                start.get_or_insert(at);
                escaped = true;
            }
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => {
                start.get_or_insert(at);
                quote = Some(byte);
            }
            (None, b' ' | b'\t') => end_word(&mut start, at, &mut words),
            (None, b';' | b'|' | b'&' | b'\n' | b'\r' | b'(' | b')' | b'`') => {
                end_word(&mut start, at, &mut words);
                commands.push(std::mem::take(&mut words));
            }
            (None, _) => _ = start.get_or_insert(at),
        }
    }
    end_word(&mut start, range.end, &mut words);
    commands.push(words);
    commands
}

/// A word without the quotes around all of it.
fn content(text: &str, word: Range<usize>) -> Range<usize> {
    let quoted = &text[word.clone()];
    for quote in ['"', '\''] {
        let inner = quoted
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if inner.is_some_and(|inner| !inner.contains(quote)) {
            return word.start + 1..word.end - 1;
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken_apart(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        each_command(text, &mut |words| {
            let words: Vec<_> = words.iter().map(|word| &text[word.clone()]).collect();
            if !words.is_empty() {
                found.push(words.join("_"));
            }
        });
        found
    }

    #[test]
    fn commands_and_words_are_found_in_quotes_as_well() {
        for (text, expected) in [
            ("a b;c|d  e", &["a_b", "c", "d_e"][..]),
            (
                "x=1 curl -u 'me:p w' h",
                &["x=1_curl_-u_me:p w_h", "me:p_w"],
            ),
            (
                "ssh h \"mysql -pa 'b c'\"",
                &["ssh_h_mysql -pa 'b c'", "mysql_-pa_b c", "b_c"],
            ),
            ("a\\ b $(c d)", &["a\\ b_$", "c_d"]),
            ("", &[]),
            ("'open", &["'open"]),
        ] {
            assert_eq!(taken_apart(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_apart(text in "[a-zä'\"\\\\ ;()$|]{0,60}") {
            taken_apart(&text);
        }
    }
}
