//! Finds the folder of detections when none is named.

use std::path::{Path, PathBuf};

/// Where `dogwatch.sh install --programs` and packages put the detections.
const INSTALLED: &str = "/usr/share/dogwatch/detections";

/// No folder of detections was found.
#[derive(Debug, thiserror::Error)]
#[error(
    "found no folder of detections beside the program, in the repository around it or around the working directory, nor in {INSTALLED}; name one: `dogwatch detections lint DIR`, `dogwatch local --detections DIR`"
)]
pub struct NotFound;

/// Returns `named`, or the first folder of detections found: beside the program, in the repository around it, around
/// the working directory, then where a package installs it.
///
/// # Errors
/// [`NotFound`] when nothing is named and nothing found.
pub fn detections(named: Option<&Path>) -> Result<PathBuf, NotFound> {
    if let Some(folder) = named {
        return Ok(folder.to_owned());
    }
    let program = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .ok();
    let around = [program, std::env::current_dir().ok()];
    let candidates = around
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .map(|folder| folder.join("detections"))
        .chain([PathBuf::from(INSTALLED)]);
    candidates
        .into_iter()
        .find(|folder| holds_detections(folder))
        .ok_or(NotFound)
}

/// Whether one of the folder's subfolders (tactics) holds an SQL file.
fn holds_detections(folder: &Path) -> bool {
    let entries = |folder: &Path| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    entries(folder)
        .flat_map(|tactic| entries(&tactic))
        .any(|file| file.extension().is_some_and(|extension| extension == "sql"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_folder_wins() {
        assert_eq!(
            detections(Some(Path::new("/x"))).unwrap(),
            PathBuf::from("/x")
        );
    }

    #[test]
    fn folder_counts_only_with_detections_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_detections(folder.path()));
        std::fs::create_dir(folder.path().join("execution")).unwrap();
        assert!(!holds_detections(folder.path()));
        std::fs::write(folder.path().join("execution/shell.sql"), "SELECT 1").unwrap();
        assert!(holds_detections(folder.path()));
    }
}
