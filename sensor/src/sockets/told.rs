//! What is kept of an answer: whoever serves a socket may have been given labels of any size.

use dogwatch_schemas::Text;

use crate::container::{LABELS_BYTES_MAX, Told};

/// Bytes kept of a single text.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Bytes of a command: as much as the kernel part takes of an exec.
const COMMAND_BYTES_MAX: usize = 32 << 10;
/// What a label takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// What is kept first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// Names of labels that are kept however many others there are.
    pub labels: &'a [Text],
}

impl Bounds<'_> {
    /// A text, cut; `None` for an empty one.
    pub fn line(&self, text: &str) -> Option<Text> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        (!text.is_empty()).then(|| text.into())
    }

    /// Whether a command is kept.
    pub fn holds(&self, command: &[Text]) -> bool {
        let bytes = command.iter().map(|word| word.len() + ENTRY_BYTES);
        bytes.sum::<usize>() <= COMMAND_BYTES_MAX
    }

    /// Keeps labels as long as there is room, the first of a name.
    pub fn labels(&self, labels: impl IntoIterator<Item = (String, String)>, told: &mut Told) {
        let mut labels: Vec<(String, String)> = labels.into_iter().collect();
        let first = |name: &str| self.labels.iter().any(|label| **label == *name);
        labels.sort_by_key(|(name, _)| !first(name));
        let mut left = LABELS_BYTES_MAX;
        for (name, value) in labels {
            if told.labels.contains_key(&*name) {
                continue;
            }
            let cut = &value[..value.floor_char_boundary(TEXT_BYTES_MAX)];
            let bytes = name.len() + cut.len() + ENTRY_BYTES;
            told.truncated |= bytes > left || cut.len() < value.len();
            if bytes <= left {
                left -= bytes;
                told.labels.insert(name.into(), cut.into());
            }
        }
    }
}

/// The digest among `NAME@sha256:…`; of several the one of this repository.
pub(super) fn digest_of(digests: &[String], repository: Option<&str>) -> Option<Text> {
    let parts = || digests.iter().filter_map(|digest| digest.split_once('@'));
    let own = parts().find(|(name, _)| Some(*name) == repository);
    let (_, digest) = own.or_else(|| parts().next())?;
    let hex = digest.strip_prefix("sha256:")?;
    let whole = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| digest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_every_row_keeps_come_first_and_all_are_bounded() {
        let names = ["team".into()];
        let bounds = Bounds { labels: &names };
        let many = (0..10_000).map(|number| (format!("a{number}"), "v".repeat(100)));
        let labels = many.chain([("team".into(), "x".repeat(1 << 20))]);
        let mut told = Told::default();
        bounds.labels(labels, &mut told);
        assert!(told.truncated);
        assert_eq!(told.labels["team"].len(), TEXT_BYTES_MAX);
        assert!(told.bytes() < LABELS_BYTES_MAX * 2);
        let mut few = Told::default();
        let twice = [("a", "1"), ("b", "2"), ("a", "3")];
        bounds.labels(
            twice.map(|(name, value)| (name.into(), value.into())),
            &mut few,
        );
        assert_eq!((&*few.labels["a"], few.truncated), ("1", false));
    }

    #[test]
    fn a_digest_is_that_of_the_containers_own_repository() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let digests = [format!("a/b@{}", digest("1")), format!("c@{}", digest("2"))];
        let found = |repository| digest_of(&digests, repository);
        assert_eq!(found(Some("c")).as_deref(), Some(&*digest("2")));
        assert_eq!(found(Some("x")).as_deref(), Some(&*digest("1")));
        assert_eq!(found(None).as_deref(), Some(&*digest("1")));
        assert_eq!(digest_of(&["a@sha256:0".into()], None), None);
        assert_eq!(digest_of(&[], None), None);
    }
}
