//! Reads the small text files in which the kernel keeps accounts.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// No file of accounts is longer; what is behind is not read.
const BYTES_MAX: u64 = 256 << 10;

/// The text of a file of accounts; none when it is not there any more, or cannot be read.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The one number of a file.
pub(super) fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// The number behind a word at the beginning of a line, blanks and a colon between them.
pub(super) fn named(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        if !rest.starts_with([' ', '\t']) {
            return None;
        }
        rest.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// A limit: none where it is `max`, or so large that it is none.
pub(super) fn limit(text: &str) -> Option<u64> {
    let limit: u64 = text.trim().parse().ok()?;
    (limit < 1 << 62).then_some(limit)
}

/// The total of a line of pressure, `some` or `full`, in nanoseconds.
pub(super) fn pressure(text: &str, kind: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let total = line.split("total=").nth(1)?.trim().parse::<u64>().ok()?;
    total.checked_mul(1_000)
}

/// A number as columns have it.
pub(super) fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_names() {
        let text = "user 1\nuser_usec 20\nrchar: 300\nsyscr:\t4\n";
        assert_eq!(named(text, "user"), Some(1));
        assert_eq!(named(text, "user_usec"), Some(20));
        assert_eq!(named(text, "rchar"), Some(300));
        assert_eq!(named(text, "syscr"), Some(4));
        assert_eq!(named(text, "sys"), None);
        assert_eq!(named("user -1", "user"), None);
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("-1"), None);
        assert_eq!(limit("67108864\n"), Some(67_108_864));
    }

    #[test]
    fn pressure_is_the_total_of_its_line() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n";
        assert_eq!(pressure(text, "some"), Some(123_000));
        assert_eq!(pressure(text, "full"), Some(4_000));
        assert_eq!(pressure("", "some"), None);
    }
}
