//! The file that alerts are appended to: it may be moved away, cut or run full while it is written.
//!
//! ```text
//! line ──► moved away? open anew ──► append ──► failed: cut what was written of it, count, go on
//! ```
//! Every line in it is whole. What a crash or a full disk left of a line is cut off when the file is opened or written next.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How much of the file's end is read to find the beginning of its last line: far more than an alert has.
const TAIL_BYTES_MAX: u64 = 16 << 20;

/// A file of JSON lines that is only appended to.
#[derive(Debug)]
pub struct AlertsFile {
    path: PathBuf,
    /// None while it cannot be opened.
    file: Option<File>,
    /// Lines that could not be written since the last that was.
    failing: u64,
    /// All lines that could not be written.
    unwritten: u64,
}

/// What is to be said of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing: the line is in it.
    Well,
    /// The first line that could not be written, and why.
    Failed(String),
    /// One more line that could not be written.
    FailedStill,
    /// The line is in it, after so many that are not.
    Again(u64),
}

impl AlertsFile {
    /// Opens the file, which is made when it is missing. Returns what is to be said of its end, too: what an earlier run
    /// left of its last line is cut off.
    ///
    /// # Errors
    /// The system's reason when it cannot be opened or mended.
    pub fn open(path: &Path) -> io::Result<(Self, Option<String>)> {
        let mut file = open(path)?;
        let cut = mend_end(&mut file)?;
        let cut = cut.filter(|&bytes| bytes > 0);
        let said = cut.map(|bytes| {
            let name = path.display();
            format!("{name}: an earlier run left a half line of {bytes} bytes at its end; it was cut off")
        });
        let opened = Self {
            path: path.to_owned(),
            file: Some(file),
            failing: 0,
            unwritten: 0,
        };
        Ok((opened, said))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines that could not be written.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Opens the file anew, whoever moved it away; the next line does where that fails.
    pub fn reopen(&mut self) {
        self.file = None;
        // What does not succeed now is tried and told with the next line.
        let _ = self.ready();
    }

    /// Appends a line, which ends with a line end, as a whole or not at all.
    pub fn append(&mut self, line: &[u8]) -> Written {
        match self.try_append(line) {
            Ok(()) if self.failing == 0 => Written::Well,
            Ok(()) => Written::Again(std::mem::take(&mut self.failing)),
            Err(error) => {
                self.failing += 1;
                self.unwritten += 1;
                match self.failing {
                    1 => Written::Failed(error.to_string()),
                    _ => Written::FailedStill,
                }
            }
        }
    }

    fn try_append(&mut self, line: &[u8]) -> io::Result<()> {
        let file = self.ready()?;
        let before = file.metadata()?;
        let written = file.write_all(line);
        if written.is_err() {
            // A device or a pipe has no end to be cut off.
            let cut = before.is_file().then(|| file.set_len(before.len()));
            if cut.is_some_and(|cut| cut.is_err()) {
                // Opened anew, its end is mended first.
                self.file = None;
            }
        }
        written
    }

    /// The open file that the path names now.
    fn ready(&mut self) -> io::Result<&mut File> {
        let current = match &self.file {
            Some(file) => leads_to(&self.path, &file.metadata()?),
            None => false,
        };
        if !current {
            self.file = None;
        }
        match &mut self.file {
            Some(file) => Ok(file),
            empty => {
                let mut file = open(&self.path)?;
                mend_end(&mut file)?;
                Ok(empty.insert(file))
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    match File::options()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
    {
        // A pipe or a device may be for writing only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            File::options().create(true).append(true).open(path)
        }
        opened => opened,
    }
}

/// Says whether a path still leads to an open file: one that was moved away goes on being open under its new name.
fn leads_to(path: &Path, open: &Metadata) -> bool {
    let same = |at: Metadata| (at.dev(), at.ino()) == (open.dev(), open.ino());
    path.metadata().is_ok_and(same)
}

/// Cuts off what stands behind the file's last line end; returns how many bytes, where that was needed.
/// A whole object there only lacks its line end. What is no object of ours is left alone and closed by a line end.
fn mend_end(file: &mut File) -> io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(None);
    }
    let from = metadata.len().saturating_sub(TAIL_BYTES_MAX);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    // What this user may append to and not read is taken as it is.
    if file.take(TAIL_BYTES_MAX).read_to_end(&mut tail).is_err() {
        return Ok(None);
    }
    let last = tail.iter().rposition(|byte| *byte == b'\n');
    let begin = last.map_or(0, |end| end + 1);
    let rest = &tail[begin..];
    if rest.is_empty() {
        return Ok(None);
    }
    let whole = serde_json::from_slice::<serde_json::Value>(rest).is_ok();
    let ours = rest.first() == Some(&b'{') && (last.is_some() || from == 0);
    if whole || !ours {
        file.write_all(b"\n")?;
        return Ok(Some(0));
    }
    file.set_len(from + begin as u64)?;
    Ok(Some(rest.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_half_line_of_an_earlier_crash_is_cut_off_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        for (before, after, cut) in [
            ("", "{\"b\":2}\n", None),
            ("{\"a\":1}\n", "{\"a\":1}\n{\"b\":2}\n", None),
            ("{\"a\":1}\n{\"mess", "{\"a\":1}\n{\"b\":2}\n", Some(6)),
            ("{\"mess", "{\"b\":2}\n", Some(6)),
            ("{\"a\":1}", "{\"a\":1}\n{\"b\":2}\n", None),
            ("somebody's notes", "somebody's notes\n{\"b\":2}\n", None),
        ] {
            std::fs::write(&path, before).unwrap();
            let (mut file, said) = AlertsFile::open(&path).unwrap();
            assert_eq!(file.append(b"{\"b\":2}\n"), Written::Well);
            assert_eq!(text(&path), after);
            let expected = cut.map(|bytes: u64| {
                format!(
                    "{}: an earlier run left a half line of {bytes} bytes at its end; it was cut off",
                    path.display()
                )
            });
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let old = folder.path().join("alerts.jsonl.1");
        let (mut file, _) = AlertsFile::open(&path).unwrap();
        assert_eq!(file.append(b"1\n"), Written::Well);
        std::fs::rename(&path, &old).unwrap();
        file.reopen();
        assert_eq!(text(&path), "", "opened at once");
        assert_eq!(file.append(b"2\n"), Written::Well);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.append(b"3\n"), Written::Well, "without being told");
        assert_eq!((text(&old), text(&path)), ("1\n".into(), "3\n".into()));
    }

    #[test]
    fn a_file_that_was_copied_and_cut_goes_on_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let (mut file, _) = AlertsFile::open(&path).unwrap();
        assert_eq!(file.append(b"1\n"), Written::Well);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        assert_eq!(file.append(b"2\n"), Written::Well);
        assert_eq!(text(&path), "2\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_no_half_line_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let (mut file, _) = AlertsFile::open(&path).unwrap();
        assert_eq!(file.append(b"1\n"), Written::Well);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(file.append(b"2\n"), Written::Failed(_)));
        assert_eq!(file.append(b"3\n"), Written::FailedStill);
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(file.append(b"4\n"), Written::Again(2));
        assert_eq!(file.append(b"5\n"), Written::Well);
        assert_eq!(file.unwritten(), 2);
        assert_eq!(text(&path), "4\n5\n");
    }

    #[test]
    fn devices_are_written_as_they_are() {
        let (mut file, said) = AlertsFile::open(Path::new("/dev/full")).unwrap();
        assert_eq!(said, None);
        let failed = file.append(b"1\n");
        assert!(
            matches!(&failed, Written::Failed(why) if why.contains("No space left")),
            "{failed:?}"
        );
        let (mut file, _) = AlertsFile::open(Path::new("/dev/null")).unwrap();
        assert_eq!(file.append(b"1\n"), Written::Well);
    }
}
