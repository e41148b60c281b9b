//! Errors as one line.

use std::error::Error;
use std::fmt::Write as _;

/// The error and its causes, joined by colons; a cause that the text before it already holds is left out.
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open the book")]
    struct Closed(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("could not read: {0}")]
    struct Told(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once() {
        let cause = || std::io::Error::other("locked");
        assert_eq!(in_full(&Closed(cause())), "could not open the book: locked");
        assert_eq!(in_full(&Told(cause())), "could not read: locked");
    }
}
