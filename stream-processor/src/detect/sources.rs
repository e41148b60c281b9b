//! The files of a folder of detections, read at once: what is compiled, compared and told is of the same texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::lists::{self, Loaded};
use super::sql_file::{Fault, Refusal, hex};
use super::tables::is_table;
use super::views::{VIEWS_FOLDER, detection_files, view_files};
use super::{LoadError, find_files};
use crate::checkpoint::Epoch;
use crate::config::Caps;

/// Folder of the lists, below the detections' folder.
const LISTS_FOLDER: &str = "lists";
/// Largest file of a list, bytes.
const LIST_BYTES_MAX: u64 = 16 << 20;
/// Largest file of a detection, bytes.
const DETECTION_BYTES_MAX: u64 = 1 << 20;

/// A text, or why there is none.
type Text = Result<Arc<str>, Fault>;

/// Which published set files are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its number.
    pub epoch: Epoch,
    /// Who published it, by their own words.
    pub by: String,
    /// When, by their own clock, milliseconds.
    pub at: i64,
    /// The number of the set that it is again.
    pub again: Option<u64>,
    /// The public key that it is signed with.
    pub signed_with: Option<String>,
    /// What its windows may hold.
    pub caps: Caps,
}

/// The files of a folder of detections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    folder: PathBuf,
    origin: Option<Origin>,
    detections: BTreeMap<PathBuf, Text>,
    views: BTreeMap<PathBuf, Text>,
    lists: BTreeMap<PathBuf, Text>,
}

impl Sources {
    /// Reads the detections of a folder, their views and their lists.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no detection; a file that cannot be read is among the others.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        if folder.is_file()
            && let Some(meant) = folder.parent().and_then(above)
        {
            let file = folder.to_owned();
            return Err(LoadError::File { file, meant });
        }
        let files = detection_files(folder)?;
        if files.is_empty() {
            return Err(LoadError::Empty {
                folder: folder.to_owned(),
            });
        }
        if let Some((found, meant)) = meant_folder(folder, &files) {
            let folder = folder.to_owned();
            return Err(LoadError::Misplaced {
                folder,
                found,
                meant,
            });
        }
        let read = |file: PathBuf| {
            let text = read(&file, "file", DETECTION_BYTES_MAX);
            (file, text)
        };
        Ok(Self {
            folder: folder.to_owned(),
            origin: None,
            detections: files.into_iter().map(read).collect(),
            views: view_files(folder)?.into_iter().map(read).collect(),
            lists: read_lists(folder)?,
        })
    }

    /// The files of a published set, by their names below a folder that need not be there.
    #[must_use]
    pub fn of_set(place: &str, origin: Origin, files: BTreeMap<String, String>) -> Self {
        let folder = PathBuf::from(place);
        let mut sources = Self {
            detections: BTreeMap::new(),
            views: BTreeMap::new(),
            lists: BTreeMap::new(),
            origin: Some(origin),
            folder: folder.clone(),
        };
        for (name, text) in files {
            let list = name.ends_with(".csv");
            let (kind, what, bytes_max) = match name.split('/').next() {
                _ if list => (&mut sources.lists, "list", LIST_BYTES_MAX),
                Some(VIEWS_FOLDER) => (&mut sources.views, "file", DETECTION_BYTES_MAX),
                _ => (&mut sources.detections, "file", DETECTION_BYTES_MAX),
            };
            let text = match fits(text.len() as u64, what, bytes_max) {
                Ok(()) => Ok(Arc::from(text)),
                Err(fault) => Err(fault),
            };
            kind.insert(folder.join(name), text);
        }
        sources
    }

    /// The texts of all files, by their names below the folder.
    ///
    /// # Errors
    /// What is wrong with the first that has none.
    pub fn texts(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let all = self.detections().chain(self.views()).chain(self.lists());
        let text = |(file, text): (&Path, &Text)| {
            let name = file.strip_prefix(&self.folder).unwrap_or(file);
            let unnamed = || Fault::new(1, "its name is no text", "give it a name in ASCII");
            let name = name.to_str().ok_or_else(unnamed);
            let text = text.clone().and_then(|text| Ok((name?, text)));
            let (name, text) = text.map_err(|fault| fault.in_file(file))?;
            Ok((name.to_owned(), text.to_string()))
        };
        all.map(text).collect()
    }

    /// The caps that they are run with, where a processor's own configuration says these: of a published set its own, so that
    /// they are the same on all processors.
    #[must_use]
    pub fn caps(&self, configured: Caps) -> Caps {
        let own = self.origin.as_ref();
        own.map_or(configured, |origin| origin.caps)
    }

    /// Which published set they are; none of a folder.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Where they lie; of a published set its topic's name.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files of detections, in order.
    pub(super) fn detections(&self) -> impl Iterator<Item = (&Path, &Text)> {
        pairs(&self.detections)
    }

    /// The files of views, in order.
    pub(super) fn views(&self) -> impl Iterator<Item = (&Path, &Text)> {
        pairs(&self.views)
    }

    /// The files of lists, in order.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&Path, &Text)> {
        pairs(&self.lists)
    }

    /// The first 16 hexadecimal digits of the SHA-256 over names and texts.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (file, text) in self.detections().chain(self.views()).chain(self.lists()) {
            let name = file.strip_prefix(&self.folder).unwrap_or(file);
            hash.update(name.as_os_str().as_encoded_bytes());
            hash.update([0, u8::from(text.is_ok())]);
            let text = text.as_deref().unwrap_or_default();
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hex(&hash.finalize()[..8])
    }

    /// The hash of each list that can be read, by its file's name below the folder.
    #[must_use]
    pub fn list_hashes(&self) -> BTreeMap<String, String> {
        let hashed = self.lists().filter_map(|(file, text)| {
            let name = file.strip_prefix(&self.folder).unwrap_or(file);
            let hash = Sha256::digest(text.as_ref().ok()?.as_bytes());
            Some((name.display().to_string(), hex(&hash[..8])))
        });
        hashed.collect()
    }

    /// Takes a file's text from others; says whether that is another one.
    pub fn take_from(&mut self, file: &Path, others: &Self) -> bool {
        let kinds = [
            (&mut self.detections, &others.detections),
            (&mut self.views, &others.views),
            (&mut self.lists, &others.lists),
        ];
        let mut changed = false;
        for (own, others) in kinds {
            if let (Some(own), Some(other)) = (own.get_mut(file), others.get(file))
                && own != other
            {
                own.clone_from(other);
                changed = true;
            }
        }
        changed
    }

    /// Leaves a file out.
    pub fn leave_out(&mut self, file: &Path) {
        self.detections.remove(file);
        self.views.remove(file);
        self.lists.remove(file);
    }
}

/// Reads and loads the lists of a folder of detections.
///
/// # Errors
/// When the folder of lists cannot be read.
pub(crate) fn load_lists(folder: &Path) -> Result<Loaded, LoadError> {
    Ok(lists::load(pairs(&read_lists(folder)?), is_table))
}

fn read_lists(folder: &Path) -> Result<BTreeMap<PathBuf, Text>, LoadError> {
    let below = folder.join(LISTS_FOLDER);
    let mut files = Vec::new();
    if below.is_dir() {
        find_files(&below, "csv", &mut files)?;
    }
    let read = |file: PathBuf| {
        let text = read(&file, "list", LIST_BYTES_MAX);
        (file, text)
    };
    Ok(files.into_iter().map(read).collect())
}

fn pairs(files: &BTreeMap<PathBuf, Text>) -> impl Iterator<Item = (&Path, &Text)> {
    files.iter().map(|(file, text)| (file.as_path(), text))
}

fn read(file: &Path, what: &str, bytes_max: u64) -> Text {
    let unreadable = |error: std::io::Error| {
        let reason = format!("could not read the {what}: {error}");
        Fault::new(1, reason, "make it a readable UTF-8 file")
    };
    let found = fs::metadata(file).map_err(unreadable)?;
    if !found.is_file() {
        let reason = format!("the {what} is no file");
        return Err(Fault::new(1, reason, "make it a readable UTF-8 file"));
    }
    fits(found.len(), what, bytes_max)?;
    Ok(fs::read_to_string(file).map_err(unreadable)?.into())
}

fn fits(bytes: u64, what: &str, bytes_max: u64) -> Result<(), Fault> {
    if bytes > bytes_max {
        let reason = format!("the {what} has {bytes} bytes");
        return Err(Fault::new(1, reason, format!("keep it to {bytes_max}")));
    }
    Ok(())
}

/// A file, and the folder that holds it as `<tactic>/<name>.sql`, where none of the folder's own lies so.
fn meant_folder(folder: &Path, files: &[PathBuf]) -> Option<(PathBuf, PathBuf)> {
    let depth = |file: &&PathBuf| {
        let below = file.strip_prefix(folder).unwrap_or(file);
        below.iter().count()
    };
    if files.iter().any(|file| depth(&file) == 2) {
        return None;
    }
    let shallowest = files.iter().min_by_key(depth)?;
    let meant = match depth(&shallowest) {
        0 | 1 => above(folder),
        _ => shallowest.parent()?.parent().map(Path::to_owned),
    }?;
    let found = shallowest.strip_prefix(folder).unwrap_or(shallowest);
    Some((found.to_owned(), meant))
}

/// The folder above one, however it was named.
fn above(folder: &Path) -> Option<PathBuf> {
    match folder.parent() {
        Some(above) if above != Path::new("") => Some(above.to_owned()),
        _ => folder.canonicalize().ok()?.parent().map(Path::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_folder_is_told_by_one_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        for name in ["a", "lists"] {
            fs::create_dir(file(name)).expect("a folder");
        }
        let write = |name: &str, text: &str| fs::write(file(name), text).expect("a file");
        let read = || Sources::read(folder.path()).expect("files");
        assert!(matches!(
            Sources::read(folder.path()),
            Err(LoadError::Empty { .. })
        ));
        write("a/x.sql", "1");
        write("lists/l.csv", "name\nsh\n");
        let before = read();
        assert_eq!(read(), before);
        write("a/notes.txt", "no detection");
        write("a/.hidden.sql", "none either");
        assert_eq!(read(), before);
        write("lists/l.csv", "name\nsh\nbash\n");
        let mut after = read();
        assert!(after != before && after.hash() != before.hash());
        assert_ne!(after.list_hashes(), before.list_hashes());
        assert_eq!(
            after.list_hashes().into_keys().collect::<Vec<_>>(),
            ["lists/l.csv"]
        );
        // What a file held before can be put in its place.
        assert!(!after.take_from(&file("a/x.sql"), &before));
        assert!(after.take_from(&file("lists/l.csv"), &before));
        assert_eq!(after.hash(), before.hash());
        after.leave_out(&file("lists/l.csv"));
        assert_ne!(after.hash(), before.hash());
    }

    #[test]
    fn a_set_holds_the_files_of_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [
            ("a/x.sql", "1"),
            ("views/v.sql", "2"),
            ("lists/l.csv", "name\nsh\n"),
        ];
        for (name, text) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, text).expect("a file");
        }
        let read = Sources::read(folder.path()).expect("files");
        let origin = Origin {
            epoch: Epoch {
                began: 5,
                number: 7,
            },
            by: "alice".to_owned(),
            at: 6,
            again: None,
            signed_with: None,
            caps: Caps {
                keys_max: 9,
                state_bytes_max: 1 << 20,
            },
        };
        let texts = read.texts().expect("texts");
        let set = Sources::of_set("topic", origin.clone(), texts.clone());
        assert_eq!(set.hash(), read.hash());
        assert_eq!(set.list_hashes(), read.list_hashes());
        assert_eq!((set.origin(), set.texts()), (Some(&origin), Ok(texts)));
        let counts = (
            set.detections().count(),
            set.views().count(),
            set.lists().count(),
        );
        assert_eq!(counts, (1, 1, 1));
        let large = "x".repeat(DETECTION_BYTES_MAX as usize + 1);
        let large = BTreeMap::from([("a/large.sql".to_owned(), large)]);
        let refused = Sources::of_set("topic", origin, large)
            .texts()
            .expect_err("too large");
        assert_eq!(refused.reason, "the file has 1048577 bytes");
        fs::write(folder.path().join("a/bytes.sql"), [0xff]).expect("a file");
        let read = Sources::read(folder.path()).expect("files");
        let refused = read.texts().expect_err("no text");
        assert!(refused.file.ends_with("a/bytes.sql"), "{refused}");
    }

    #[test]
    fn what_is_no_text_is_a_fault_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join("a").join(name);
        fs::create_dir(folder.path().join("a")).expect("a folder");
        fs::write(file("bytes.sql"), [0xff]).expect("a file");
        fs::write(file("large.sql"), vec![b' '; (1 << 20) + 1]).expect("a file");
        std::os::unix::fs::symlink("/nowhere", file("link.sql")).expect("a link");
        std::os::unix::fs::symlink("/dev/zero", file("device.sql")).expect("a link");
        let read = Sources::read(folder.path()).expect("files");
        let reasons: Vec<&str> = read
            .detections()
            .map(|(_, text)| text.as_ref().expect_err("a fault").reason.as_str())
            .collect();
        let begin = [
            "could not read the file: stream did not",
            "the file is no file",
            "the file has 1048577 bytes",
            "could not read the file: No such file",
        ];
        assert_eq!(reasons.len(), begin.len());
        for (reason, begin) in reasons.iter().zip(begin) {
            assert!(reason.starts_with(begin), "{reason}");
        }
    }
}
