//! Which of some words a text looks most like.

/// The candidate that looks most like `text` in whichever case, when one is at least as like it as `least`, from 0 to 1.
#[must_use]
pub fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    least: f64,
) -> Option<&'a str> {
    let text = text.to_lowercase();
    let alike = candidates.into_iter().map(|candidate| {
        let likeness = strsim::normalized_damerau_levenshtein(&text, &candidate.to_lowercase());
        (likeness, candidate)
    });
    let alike = alike.filter(|(likeness, _)| *likeness >= least);
    let best = alike.max_by(|(left, shorter), (right, longer)| {
        // Of two that are as near the shorter: something was written too much more often than in another order.
        let alike = left.total_cmp(right);
        alike.then_with(|| longer.len().cmp(&shorter.len()))
    });
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found_where_one_is_near() {
        let columns = ["proc_name", "proc_pname", "fd_name"];
        assert_eq!(nearest("proc_nme", columns, 0.55), Some("proc_name"));
        assert_eq!(nearest("PROC_NAME", columns, 1.0), Some("proc_name"));
        assert_eq!(nearest("proc_nme", columns, 0.9), None);
        assert_eq!(nearest("zzz", columns, 0.55), None);
    }
}
