//! How a runtime's files are opened and parsed: below the host's root where this process may look into it, bounded in size.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{BufReader, Read as _, Take};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::de::IoRead;

use crate::host::HOST_PIDS;
use crate::rooted;

/// Larger files are refused: a container's configuration is some kilobytes. Files are parsed while they are read, and only
/// what is [`bounded`](super::bounded) is held.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a container's files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read: another runtime's container, another root, or no permission.
    #[error("could not read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any configuration should be, or is no file.
    #[error("could not read {path}: larger than {FILE_BYTES_MAX} bytes, or no regular file")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what the runtime writes, or is being written.
    #[error("could not parse {path}")]
    Unparsable {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
}

/// A file that is parsed while it is read.
pub(super) type FileParser = serde_json::Deserializer<IoRead<BufReader<Take<File>>>>;

/// Where files of the host are found.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The host's root; `None`: as this process sees files.
    root: Option<File>,
}

impl Files {
    /// Files of the host, through its init's root, where this process may look there.
    pub fn of_host() -> Self {
        let root = HOST_PIDS
            .into_iter()
            .find_map(|pid| File::open(format!("/proc/{pid}/root")).ok());
        Self { root }
    }

    /// Files below a folder.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self {
            root: File::open(root).ok(),
        }
    }

    /// Reads a JSON file.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, path: &Path) -> Result<T, FileError> {
        self.parse(path, |parser| T::deserialize(parser))
    }

    /// Reads a JSON file in the caller's way.
    pub(super) fn parse<T>(
        &self,
        path: &Path,
        parse: impl FnOnce(&mut FileParser) -> Result<T, serde_json::Error>,
    ) -> Result<T, FileError> {
        let (file, _) = self.open(path)?;
        // It may grow meanwhile; what is beyond the bound is not read.
        let mut parser =
            serde_json::Deserializer::from_reader(BufReader::new(file.take(FILE_BYTES_MAX)));
        parse(&mut parser).map_err(|source| FileError::Unparsable {
            path: path.to_owned(),
            source,
        })
    }

    /// The first bytes of a short text, and when it was written.
    pub(super) fn short_text(&self, path: &Path) -> Option<(String, Metadata)> {
        let (file, metadata) = self.open(path).ok()?;
        let mut text = String::new();
        file.take(256).read_to_string(&mut text).ok()?;
        Some((text, metadata))
    }

    /// What is known of a file or folder without opening it.
    pub(super) fn metadata(&self, path: &Path) -> Option<Metadata> {
        let file = self.open_as(path, libc::O_PATH).ok()?;
        file.metadata().ok()
    }

    /// Names in a folder, at most so many.
    pub(crate) fn names(&self, folder: &Path, names_max: usize) -> Vec<String> {
        let Ok(folder) = self.open_as(folder, libc::O_RDONLY | libc::O_DIRECTORY) else {
            return Vec::new();
        };
        let open = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let entries = std::fs::read_dir(open).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(names_max)
            .collect()
    }

    fn open(&self, path: &Path) -> Result<(File, Metadata), FileError> {
        let unreadable = |source| FileError::Unreadable {
            path: path.to_owned(),
            source,
        };
        // A pipe in place of the file must not block the sensor.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = self.open_as(path, flags).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(FileError::TooLarge {
                path: path.to_owned(),
            });
        }
        Ok((file, metadata))
    }

    fn open_as(&self, path: &Path, flags: i32) -> std::io::Result<File> {
        let own = || {
            let mut options = File::options();
            options.read(true).custom_flags(flags).open(path)
        };
        match &self.root {
            // What is mounted into the sensor's own container stands there alone.
            Some(root) => CString::new(path.as_os_str().as_bytes())
                .map_err(std::io::Error::from)
                .and_then(|path| rooted::open(root, &path, flags, 0))
                .or_else(|error| own().map_err(|_| error)),
            None => own(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_below_the_root_and_links_stay_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/a")).unwrap();
        std::fs::write(root.path().join("run/a/x.json"), r#"{"a":"b"}"#).unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.path().join("var/run")).unwrap();
        let files = Files {
            root: Some(File::open(root.path()).unwrap()),
        };
        let read = |path: &str| files.json::<serde_json::Value>(Path::new(path));
        assert_eq!(read("/var/run/a/x.json").unwrap()["a"], "b");
        assert!(matches!(
            read("/run/none.json"),
            Err(FileError::Unreadable { .. })
        ));
        assert!(matches!(read("/run/a"), Err(FileError::TooLarge { .. })));
        assert_eq!(files.names(Path::new("/var/run"), 10), ["a"]);
        assert!(files.metadata(Path::new("/var/run/a")).unwrap().is_dir());
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let read = Files::default().json::<serde_json::Value>(&path);
        assert!(matches!(read, Err(FileError::TooLarge { .. })));
    }
}
