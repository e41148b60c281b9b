//! What a condition asks a text to look like: `LIKE`, `starts_with` and their kin, and which known words can look so.

/// A pattern of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    marks: Vec<Mark>,
    /// Whether it takes letters of either case for the same.
    insensitive: bool,
}

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// `%`: any text.
    Many,
    /// `_`: any character.
    One,
    Is(char),
}

/// A stretch of a pattern without `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its characters; none where any may stand.
    pub characters: Vec<Option<char>>,
    /// Whether a text must begin with it.
    pub starts: bool,
    /// Whether a text must end with it.
    pub ends: bool,
}

impl Like {
    /// A pattern of `LIKE`, or of `ILIKE`.
    #[must_use]
    pub fn pattern(text: &str, insensitive: bool) -> Self {
        let mut characters = text.chars();
        let mut marks = Vec::new();
        while let Some(character) = characters.next() {
            marks.push(match character {
                '%' => Mark::Many,
                '_' => Mark::One,
                '\\' => Mark::Is(characters.next().unwrap_or('\\')),
                other => Mark::Is(other),
            });
        }
        Self { marks, insensitive }.lowered()
    }

    /// What has this text somewhere; at its start or its end where `starts` or `ends` say so.
    #[must_use]
    pub fn with(text: &str, starts: bool, ends: bool, insensitive: bool) -> Self {
        let before = (!starts).then_some(Mark::Many);
        let after = (!ends).then_some(Mark::Many);
        let marks = before.into_iter();
        let marks = marks.chain(text.chars().map(Mark::Is)).chain(after);
        let marks = marks.collect();
        Self { marks, insensitive }.lowered()
    }

    fn lowered(mut self) -> Self {
        for mark in self.marks.iter_mut().filter(|_| self.insensitive) {
            if let Mark::Is(character) = mark {
                *mark = Mark::Is(character.to_lowercase().next().unwrap_or(*character));
            }
        }
        self
    }

    /// Whether a text looks so.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = match self.insensitive {
            true => text.to_lowercase().chars().collect(),
            false => text.chars().collect(),
        };
        // Where the last % stands, and how much of the text it has taken so far.
        let (mut mark, mut place, mut many) = (0, 0, None);
        while place < text.len() {
            match self.marks.get(mark) {
                Some(Mark::Many) => {
                    many = Some((mark, place));
                    mark += 1;
                }
                Some(Mark::One) => (mark, place) = (mark + 1, place + 1),
                Some(Mark::Is(own)) if *own == text[place] => (mark, place) = (mark + 1, place + 1),
                _ => match &mut many {
                    Some((at, taken)) => {
                        *taken += 1;
                        (mark, place) = (*at + 1, *taken);
                    }
                    None => return false,
                },
            }
        }
        self.marks[mark..].iter().all(|rest| *rest == Mark::Many)
    }

    /// Its stretches without `%`, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        let stretches: Vec<&[Mark]> = self.marks.split(|mark| *mark == Mark::Many).collect();
        let last = stretches.len() - 1;
        let pieces = stretches.iter().enumerate().map(|(place, marks)| Piece {
            characters: marks
                .iter()
                .map(|mark| match mark {
                    Mark::Is(character) => Some(*character),
                    _ => None,
                })
                .collect(),
            starts: place == 0,
            ends: place == last,
        });
        pieces
            .filter(|piece| !piece.characters.is_empty())
            .collect()
    }

    /// Whether it takes letters of either case for the same; its pieces are in lower case then.
    #[must_use]
    pub fn is_insensitive(&self) -> bool {
        self.insensitive
    }

    /// The fewest bytes of a text that looks so.
    #[must_use]
    pub fn bytes_min(&self) -> usize {
        let bytes = |mark: &Mark| match mark {
            Mark::Many => 0,
            Mark::One => 1,
            Mark::Is(character) => character.len_utf8(),
        };
        self.marks.iter().map(bytes).sum()
    }
}

impl Piece {
    /// The stretches of it that are given, each with whether a text must begin or end with it.
    pub fn texts(&self) -> impl Iterator<Item = (String, bool, bool)> {
        let runs: Vec<&[Option<char>]> = self.characters.split(Option::is_none).collect();
        let last = runs.len() - 1;
        let texts = runs.into_iter().enumerate().map(move |(place, run)| {
            let text: String = run.iter().flatten().collect();
            let starts = self.starts && place == 0;
            (text, starts, self.ends && place == last)
        });
        texts.filter(|(text, ..)| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matches: &[&str], others: &[&str]) {
        let like = Like::pattern(pattern, false);
        for text in matches {
            assert!(like.matches(text), "{pattern}: {text}");
        }
        for text in others {
            assert!(!like.matches(text), "{pattern}: {text}");
        }
    }

    #[test]
    fn texts_look_like_patterns_or_do_not() {
        check("SIG%", &["SIG", "SIGKILL"], &["sigkill", "ASIG"]);
        check("%KILL", &["KILL", "SIGKILL"], &["SIGKILLED"]);
        check("%A%B%", &["AB", "xAxxBx"], &["BA"]);
        check("_a", &["aa", "ba"], &["a", "aab"]);
        check("%aab", &["aaab", "aab"], &["aaba"]);
        check("", &[""], &["a"]);
        check(r"50\%", &["50%"], &["50", "501"]);
        assert!(Like::pattern("sig%", true).matches("SIGKILL"));
        assert!(Like::with("KILL", false, true, false).matches("SIGKILL"));
        assert!(!Like::with("a%", true, false, false).matches("ab"));
    }

    #[test]
    fn stretches_know_where_they_stand() {
        let pieces = |pattern: &str| {
            let pieces = Like::pattern(pattern, false).pieces();
            let texts = pieces.iter().flat_map(Piece::texts);
            texts.collect::<Vec<_>>()
        };
        assert_eq!(pieces("/etc/%"), [("/etc/".to_owned(), true, false)]);
        assert_eq!(
            pieces("a_b%c"),
            [
                ("a".to_owned(), true, false),
                ("b".to_owned(), false, false),
                ("c".to_owned(), false, true)
            ]
        );
        assert_eq!(pieces("%_%"), []);
    }
}
