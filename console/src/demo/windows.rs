//! The detections as the demo runs them: the shipped files, of which one looks at a shorter time.
//!
//! `cpu_at_limit` asks for five minutes, and nobody watches a demo for so long.

use std::io;
use std::path::Path;

/// The file whose window is made shorter, and what stands for what in it.
const FILE: &str = "cpu_at_limit.sql";
const SHORTER: [(&str, &str); 3] = [
    ("INTERVAL '5 minutes'", "INTERVAL '5 seconds'"),
    (">= 240000000000", ">= 4000000000"),
    ("for five minutes", "for five seconds"),
];

/// Copies the folder of detections.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copied = to.join(entry.file_name());
        // What a link leads to decides.
        if entry.path().is_dir() {
            copy(&entry.path(), &copied)?;
        } else if entry.file_name() == FILE {
            std::fs::write(copied, shorter(&std::fs::read_to_string(entry.path())?))?;
        } else {
            std::fs::copy(entry.path(), copied)?;
        }
    }
    Ok(())
}

fn shorter(sql: &str) -> String {
    let shorten = |sql: String, (long, short): (&str, &str)| sql.replace(long, short);
    SHORTER.into_iter().fold(sql.to_owned(), shorten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_has_the_window_that_is_made_shorter() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
        let folder = tempfile::tempdir().unwrap();
        let copied = folder.path().join("detections");
        copy(&shipped, &copied).unwrap();
        let file = Path::new("impact").join(FILE);
        let sql = std::fs::read_to_string(shipped.join(&file)).unwrap();
        let copied_sql = std::fs::read_to_string(copied.join(&file)).unwrap();
        for (long, short) in SHORTER {
            assert!(sql.contains(long), "{long}");
            assert!(
                copied_sql.contains(short) && !copied_sql.contains(long),
                "{short}"
            );
        }
        assert!(copied.join("lists/shells.csv").exists());
    }
}
