//! Texts of words that are joined, always in one order: flags by name, capabilities.

use crate::like::{Like, Piece};
use crate::nearest::nearest;

/// How alike a word must be to be the one that is meant.
const ALIKE: f64 = 0.6;
/// The same of one that has the words' prefix already, such as `BPF_`: that all have it makes them alike.
const ALIKE_WITH_PREFIX: f64 = 0.8;

/// Which texts there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// Of these each text begins with one; none where it begins with whichever there is.
    pub first: Vec<String>,
    /// The others, in the order in which they are told.
    pub words: Vec<String>,
    /// What joins them.
    pub joined: char,
    /// What there is where there is no word.
    pub zero: &'static str,
    /// Whether bits without a name are told behind the words, in hexadecimal digits.
    pub unnamed: bool,
}

impl Flags {
    /// What to write for a text that there never is; none where there may be.
    #[must_use]
    pub fn mend(&self, text: &str) -> Option<String> {
        if text == self.zero || text.is_empty() {
            return None;
        }
        let parts: Vec<&str> = text.split(self.joined).collect();
        if let Some(wrong) = parts.iter().find(|part| !self.is_word(part)) {
            return Some(match self.near(wrong) {
                Some(word) => format!("did you mean '{}'?", text.replace(wrong, word)),
                None => self.told(),
            });
        }
        let place = |part: &str| self.all().position(|word| word == part);
        let mut told = parts.clone();
        // What has no name stands last.
        told.sort_by_key(|part| place(part).unwrap_or(usize::MAX));
        told.dedup();
        let told = told.join(&self.joined.to_string());
        if told != text {
            return Some(format!(
                "write '{told}': words stand in one order, each once"
            ));
        }
        let begins = self.first.is_empty() || self.first.iter().any(|word| word == parts[0]);
        (!begins).then(|| {
            format!(
                "each begins with one of {}: write LIKE '%{text}%'",
                self.first.join(", ")
            )
        })
    }

    /// What to write for a pattern that no text is like; none where one may be.
    #[must_use]
    pub fn mend_like(&self, like: &Like) -> Option<String> {
        let pieces = like.pieces();
        let wrong = pieces.iter().find_map(|piece| self.never(piece, like))?;
        Some(match self.near(&wrong) {
            Some(word) => format!("did you mean '{word}'?"),
            None => self.told(),
        })
    }

    /// The part of a piece of a pattern that no word is like.
    fn never(&self, piece: &Piece, like: &Like) -> Option<String> {
        let parts = piece.characters.split(|own| *own == Some(self.joined));
        let parts: Vec<&[Option<char>]> = parts.collect();
        let last = parts.len() - 1;
        let alone = |part: &[Option<char>]| -> String {
            part.iter().map(|own| own.unwrap_or('_')).collect()
        };
        let zero = alone(&piece.characters);
        if self.zero.contains(&zero) {
            return None;
        }
        let never = parts.iter().enumerate().find(|(place, part)| {
            let starts = *place > 0 || piece.starts;
            let ends = *place < last || piece.ends;
            let text = alone(part);
            // An underscore in a pattern is any character, and the one in a word as well.
            let word = match (starts, ends) {
                (true, true) => text.clone(),
                (true, false) => format!("{text}%"),
                (false, true) => format!("%{text}"),
                (false, false) => format!("%{text}%"),
            };
            let word = Like::pattern(&word, like.is_insensitive());
            let is_number = self.unnamed && text.starts_with("0x") || text.parse::<u64>().is_ok();
            !is_number && !self.all().any(|known| word.matches(known))
        });
        never.map(|(_, part)| alone(part))
    }

    fn all(&self) -> impl Iterator<Item = &str> + Clone {
        self.first.iter().chain(&self.words).map(String::as_str)
    }

    fn is_word(&self, part: &str) -> bool {
        let digits = part.strip_prefix("0x").unwrap_or_default();
        let lower = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        let is_unnamed = !digits.is_empty() && digits.bytes().all(lower) && digits != "0";
        (self.unnamed && is_unnamed) || self.all().any(|word| word == part)
    }

    fn near(&self, part: &str) -> Option<&str> {
        near(part, self.all())
    }

    fn told(&self) -> String {
        let joined = match self.joined {
            ' ' => "blanks".to_owned(),
            joined => joined.to_string(),
        };
        let word = self.words.first().map_or("", String::as_str);
        format!("it is words such as '{word}', joined by {joined}")
    }
}

/// The word in capitals that a text is most like: with another prefix or none, or nearly so.
pub(crate) fn near<'w>(
    text: &str,
    words: impl Iterator<Item = &'w str> + Clone,
) -> Option<&'w str> {
    let text = text.to_uppercase();
    let mut ends = words.clone().filter(|word| word.ends_with(&text));
    let with_prefix = ends.next().filter(|_| text.len() > 1);
    let prefix = text.split_inclusive('_').next().unwrap_or_default();
    let has_prefix = prefix.ends_with('_') && words.clone().any(|word| word.starts_with(prefix));
    let least = if has_prefix { ALIKE_WITH_PREFIX } else { ALIKE };
    with_prefix.or_else(|| nearest(&text, words, least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens() -> Flags {
        Flags {
            first: ["O_RDONLY", "O_WRONLY"].map(str::to_owned).to_vec(),
            words: ["O_CREAT", "O_EXCL", "O_TRUNC"].map(str::to_owned).to_vec(),
            joined: '|',
            ..Flags::default()
        }
    }

    fn check(text: &str, mend: Option<&str>) {
        assert_eq!(opens().mend(text).as_deref(), mend, "{text}");
    }

    #[test]
    fn what_is_no_word_or_out_of_order_has_a_mend() {
        check("O_RDONLY", None);
        check("O_WRONLY|O_CREAT|O_TRUNC", None);
        check(
            "O_WRONLY|O_CREATE",
            Some("did you mean 'O_WRONLY|O_CREAT'?"),
        );
        check("wronly", Some("did you mean 'O_WRONLY'?"));
        check(
            "O_CREAT|O_WRONLY",
            Some("write 'O_WRONLY|O_CREAT': words stand in one order, each once"),
        );
        check(
            "O_CREAT",
            Some("each begins with one of O_RDONLY, O_WRONLY: write LIKE '%O_CREAT%'"),
        );
        check("rw", Some("it is words such as 'O_CREAT', joined by |"));
    }

    #[test]
    fn what_no_word_is_like_has_a_mend() {
        let mend = |pattern: &str| opens().mend_like(&Like::pattern(pattern, false));
        for pattern in [
            "%O_CREAT%",
            "O_WRONLY|%",
            "%|O_TRUNC",
            "%O_CREAT|O_%",
            "%CREAT%EXCL%",
            "O_%",
            "%Y|O_C%",
            "%",
        ] {
            assert_eq!(mend(pattern), None, "{pattern}");
        }
        for (pattern, word) in [
            ("%O_CREATE%", "O_CREAT"),
            ("O_CREAT|O_EXC|%", "O_EXCL"),
            ("%o_trunc%", "O_TRUNC"),
            ("WRONLY%", "O_WRONLY"),
        ] {
            assert_eq!(mend(pattern), Some(format!("did you mean '{word}'?")));
        }
        assert_eq!(
            mend("%write%").as_deref(),
            Some("it is words such as 'O_CREAT', joined by |")
        );
        assert_eq!(opens().mend_like(&Like::pattern("%o_trunc%", true)), None);
    }
}
