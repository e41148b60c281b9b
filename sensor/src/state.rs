//! The small file that remembers the last moment watched, so that the time without a sensor is a stated loss.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is remembered from run to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastWatched {
    /// The boot it was.
    pub boot_id: String,
    /// The last moment, nanoseconds since 1970.
    pub wall_ns: i64,
    /// How that run ended; `None` while it runs, so also after a crash.
    pub ended_by: Option<String>,
}

/// The file; `None` = nothing is remembered.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: Option<PathBuf>,
    warned: bool,
}

impl StateFile {
    /// The file at `path`; its folder is made when it is written first.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            warned: false,
        }
    }

    /// What was remembered; nothing where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn read(&self) -> io::Result<Option<LastWatched>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tries whether the file could be written; nothing is changed.
    ///
    /// # Errors
    /// The system's reason.
    pub fn try_out(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // The first folder on the way that is there: the others would be made in it.
        let absolute = std::path::absolute(path)?;
        let there = absolute.ancestors().skip(1).find(|above| above.exists());
        let name = format!(".dogwatch-check-{}", std::process::id());
        let beside = there.unwrap_or(Path::new("/")).join(name);
        fs::File::create_new(&beside)?;
        fs::remove_file(&beside)
    }

    /// Remembers; a folder that cannot be written to is said once and changes nothing else.
    pub fn write(&mut self, last: &LastWatched) {
        let Some(path) = &self.path else { return };
        if let Err(error) = replace(path, last)
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(path = %path.display(), %error, "could not remember the last moment watched: see state_file");
        }
    }
}

/// Writes beside the file and renames, so that a crash leaves the old or the new.
fn replace(path: &Path, last: &LastWatched) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(last)?)?;
    fs::rename(&beside, path)
}

/// Since when nobody watched, and why; for the loss at the sensor's start.
pub(crate) fn blind_since(
    last: &io::Result<Option<LastWatched>>,
    boot_id: &str,
    boot_wall_ns: i64,
) -> (i64, String) {
    let last = match last {
        Ok(last) => last.as_ref(),
        Err(error) => {
            let detail = format!("the file that remembers the last watch is damaged: {error}");
            return (boot_wall_ns, detail);
        }
    };
    match last {
        None => (
            boot_wall_ns,
            "no sensor's watch is remembered here: the first start, or without its state_file"
                .into(),
        ),
        Some(last) if last.boot_id != boot_id => {
            (last.wall_ns, "the host was started anew in between".into())
        }
        Some(LastWatched {
            ended_by: Some(reason),
            wall_ns,
            ..
        }) => (*wall_ns, format!("the sensor was stopped: {reason}")),
        Some(last) => (last.wall_ns, "the sensor ended without a goodbye".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_broken_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/state.json");
        let mut state = StateFile::new(Some(path.clone()));
        assert_eq!(state.read().unwrap(), None);
        let last = LastWatched {
            boot_id: "b".into(),
            wall_ns: 5,
            ended_by: None,
        };
        state.write(&last);
        assert_eq!(state.read().unwrap(), Some(last));
        fs::write(&path, "{").unwrap();
        let (from, detail) = blind_since(&state.read(), "now", 7);
        assert_eq!(from, 7);
        assert!(detail.contains("damaged"), "{detail}");
    }

    #[test]
    fn trying_it_out_tells_what_writing_would_meet_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| StateFile::new(Some(folder.path().join(path))).try_out();
        at("state.json").unwrap();
        at("a/b/state.json").unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(at("file/state.json").is_err());
        assert!(at("").is_err());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn blind_time_begins_where_watching_ended() {
        let last = |boot: &str, ended_by: Option<&str>| LastWatched {
            boot_id: boot.into(),
            wall_ns: 50,
            ended_by: ended_by.map(String::from),
        };
        let check = |last: Option<LastWatched>, from: i64, part: &str| {
            let (found, detail) = blind_since(&Ok(last), "now", 7);
            assert_eq!(found, from);
            assert!(detail.contains(part), "{detail}");
        };
        check(None, 7, "the first start");
        check(Some(last("before", None)), 50, "started anew");
        check(Some(last("now", Some("SIGTERM"))), 50, "SIGTERM");
        check(Some(last("now", None)), 50, "without a goodbye");
    }
}
