//! Bytes of the kernel as text.
//!
//! Paths and arguments are bytes; columns are UTF-8.
//! What is not UTF-8 becomes `\xNN`, and the caller is told, so that a reader can tell it from a literal backslash.

use std::fmt::Write as _;

use dogwatch_schemas::Text;

/// Turns bytes into text; bytes that are not UTF-8 become `\xNN` and set `escaped`.
pub(crate) fn text(bytes: &[u8], escaped: &mut bool) -> Text {
    if let Ok(valid) = std::str::from_utf8(bytes) {
        return Text::from(valid);
    }
    *escaped = true;
    let mut written = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        written.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing into a String cannot fail.
            let _ = write!(written, "\\x{byte:02x}");
        }
    }
    Text::from(written)
}

/// Cuts text at `bytes_max`, on a character's border.
pub(crate) fn cut(text: &Text, bytes_max: usize) -> Text {
    if text.len() <= bytes_max {
        return text.clone();
    }
    Text::from(&text[..text.floor_char_boundary(bytes_max)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_bytes_are_escaped_and_flagged() {
        let mut escaped = false;
        assert_eq!(&*text(b"/tmp/\xff\xfea", &mut escaped), "/tmp/\\xff\\xfea");
        assert!(escaped);
    }

    proptest! {
        #[test]
        fn valid_text_is_unchanged(given in ".*") {
            let mut escaped = false;
            prop_assert_eq!(&*text(given.as_bytes(), &mut escaped), given.as_str());
            prop_assert!(!escaped);
        }

        #[test]
        fn a_cut_never_exceeds_its_limit(given in ".*", bytes_max in 0usize..64) {
            let whole = Text::from(given.as_str());
            let short = cut(&whole, bytes_max);
            prop_assert!(short.len() <= bytes_max);
            prop_assert!(whole.starts_with(&*short));
        }
    }
}
