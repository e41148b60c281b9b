//! Capture files: everything that enters the stages, to be replayed without privileges.
//!
//! ```text
//! "DOGWATCH" · version (u32) · fingerprint of the table of calls (u32) · frame · frame · …
//! frame: length (u32) · CRC-32 of the content (u32) · content
//! content: 0, a record of the ring as it came · 1, a fact as JSON · 2, the host as JSON (the first frame, once)
//! ```
//! Numbers are little-endian. Writes end with a frame. A damaged file is used up to the damage, which is reported with its offset.

pub(crate) mod chain;
pub mod rotation;
mod standing;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use dogwatch_ebpf::calls;

use crate::fact::{Fact, Host};

const MAGIC: &[u8; 8] = b"DOGWATCH";
/// Counts up whenever a record's layout or a fact changes: an older capture is refused, never read wrongly.
const VERSION: u32 = 6;
/// The magic word, the version, and the table's fingerprint.
const HEAD_BYTES: usize = 16;
/// No record or fact is longer: a length beyond it is damage.
const FRAME_BYTES_MAX: u32 = 4 << 20;

/// Bytes that wait to be written at once.
const BUFFER_BYTES: usize = 64 << 10;

const TAG_RECORD: u8 = 0;
const TAG_FACT: u8 = 1;
const TAG_HOST: u8 = 2;

/// Why a capture could not be written or read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or made.
    #[error("could not open capture {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file cannot be written to.
    #[error("could not write capture {path}: {source}; what it has until then can be read")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An old file of a rotation cannot be removed.
    #[error("could not remove capture {path} to make room for the next: {source}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No file to read.
    #[error("no capture is named: name a file")]
    Unnamed,
    /// Files that cannot be read as one recording.
    #[error(
        "capture {path} is of another run of a sensor than {first}: replay one recording at a time, or ask all with dogwatch query --read"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The first file.
        first: PathBuf,
    },
    /// Not a capture, or one of another version.
    #[error("{path} is not a capture of this version: {reason}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file is damaged; everything before the offset was used.
    #[error(
        "capture {path} is damaged at offset {offset}: {reason}; everything before it was used"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Bytes from the file's start to the damaged frame.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// One frame of a capture.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// A record of the ring.
    Record(Vec<u8>),
    /// A fact.
    Fact(Fact),
}

/// Writes a capture.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    /// Whole frames that are not written yet.
    waiting: Vec<u8>,
    /// Bytes of the frames that are.
    written: u64,
    content: Vec<u8>,
}

impl Writer {
    /// Makes the file, readable by its owner alone, and writes its head: what enters is not redacted yet.
    pub fn create(path: &Path, host: &Host) -> Result<Self, CaptureError> {
        let file = create_private(path).map_err(|source| CaptureError::Open {
            path: path.to_owned(),
            source,
        })?;
        let mut writer = Self {
            file,
            path: path.to_owned(),
            waiting: MAGIC.to_vec(),
            written: 0,
            content: Vec::new(),
        };
        for word in [VERSION, calls::fingerprint()] {
            writer.waiting.extend(word.to_le_bytes());
        }
        writer.json(TAG_HOST, host)?;
        Ok(writer)
    }

    /// Appends a record of the ring.
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.content.clear();
        self.content.push(TAG_RECORD);
        self.content.extend_from_slice(bytes);
        self.frame()
    }

    /// Appends a fact.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), CaptureError> {
        self.json(TAG_FACT, fact)
    }

    /// Bytes of the file, those that wait included.
    pub fn bytes(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Writes what waits. Where that fails, on a full disk for example, the file ends with the last write that was whole.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        let written = self.file.write_all(&self.waiting);
        if written.is_ok() {
            self.written += self.waiting.len() as u64;
        } else {
            // What cannot be cut off is found by its checksum.
            let _ = self.file.set_len(self.written);
        }
        self.waiting.clear();
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> CaptureError {
        let path = self.path.clone();
        CaptureError::Write { path, source }
    }

    fn json(&mut self, tag: u8, value: &impl serde::Serialize) -> Result<(), CaptureError> {
        self.content.clear();
        self.content.push(tag);
        serde_json::to_writer(&mut self.content, value)
            .map_err(|error| self.failed(error.into()))?;
        self.frame()
    }

    fn frame(&mut self) -> Result<(), CaptureError> {
        let length = self.content.len() as u32;
        self.waiting.extend(length.to_le_bytes());
        let checksum = crc32fast::hash(&self.content);
        self.waiting.extend(checksum.to_le_bytes());
        self.waiting.extend_from_slice(&self.content);
        if self.waiting.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.flush()
    }
}

/// A run that panics leaves what it had.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

/// Makes the file, or overwrites one of ours. As root it must not be led to another's: through a link in a folder where
/// others may write, a capture would overwrite what the link shows.
fn create_private(path: &Path) -> io::Result<File> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => refusal("it is a symbolic link: name the file itself"),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refusal("it is no file"));
    }
    // SAFETY: a plain system call.
    let own_uid = unsafe { libc::geteuid() };
    if metadata.uid() != own_uid || metadata.nlink() != 1 {
        return Err(refusal(
            "it is another user's file, or has other names as well: remove it, or name another",
        ));
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    Ok(file)
}

fn refusal(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// Reads a capture.
#[derive(Debug)]
pub(crate) struct Reader<R = BufReader<File>> {
    input: R,
    path: PathBuf,
    offset: u64,
}

impl Reader {
    /// Opens a file and reads its head.
    pub fn open(path: &Path) -> Result<(Self, Host), CaptureError> {
        let file = File::open(path).map_err(|source| CaptureError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read> Reader<R> {
    fn new(mut input: R, path: &Path) -> Result<(Self, Host), CaptureError> {
        let foreign = |reason: String| CaptureError::Foreign {
            path: path.to_owned(),
            reason,
        };
        let mut head = [0; HEAD_BYTES];
        input
            .read_exact(&mut head)
            .map_err(|_| foreign("it is shorter than a capture's head".into()))?;
        let (magic, rest) = head.split_at(8);
        let (version, table) = rest.split_at(4);
        if magic != MAGIC {
            return Err(foreign("it does not begin with DOGWATCH".into()));
        }
        if version != VERSION.to_le_bytes() {
            let found = version
                .iter()
                .rev()
                .fold(0u32, |n, &byte| n << 8 | u32::from(byte));
            return Err(foreign(format!(
                "its version is {found}, this sensor reads {VERSION}: record it again"
            )));
        }
        if table != calls::fingerprint().to_le_bytes() {
            return Err(foreign(
                "the sensor that wrote it had another table of system calls: replay it with that one, or record it again".into(),
            ));
        }
        let mut reader = Self {
            input,
            path: path.to_owned(),
            offset: HEAD_BYTES as u64,
        };
        let content = reader
            .content()?
            .ok_or_else(|| foreign("it ends after its head".into()))?;
        let host = match content.split_first() {
            Some((&TAG_HOST, json)) => {
                serde_json::from_slice(json).map_err(|error| foreign(error.to_string()))?
            }
            _ => return Err(foreign("it does not say which host it is from".into())),
        };
        Ok((reader, host))
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Frame>, CaptureError> {
        let offset = self.offset;
        let Some(content) = self.content()? else {
            return Ok(None);
        };
        match content.split_first() {
            Some((&TAG_RECORD, bytes)) => Ok(Some(Frame::Record(bytes.to_vec()))),
            Some((&TAG_FACT, json)) => {
                let fact =
                    serde_json::from_slice(json).map_err(|error| self.damaged(offset, error))?;
                Ok(Some(Frame::Fact(fact)))
            }
            Some((tag, _)) => Err(self.damaged(offset, format!("unknown kind of frame {tag}"))),
            None => Err(self.damaged(offset, "empty frame")),
        }
    }

    fn content(&mut self) -> Result<Option<Vec<u8>>, CaptureError> {
        let mut head = [0; 8];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            8 => {}
            _ => return Err(self.damaged(self.offset, "it ends inside a frame")),
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged(self.offset, format!("a frame of {length} bytes")));
        }
        let mut content = vec![0; length as usize];
        if self.fill(&mut content)? != content.len() {
            return Err(self.damaged(self.offset, "it ends inside a frame"));
        }
        if crc32fast::hash(&content) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(self.damaged(self.offset, "the frame's checksum does not fit"));
        }
        self.offset += 8 + u64::from(length);
        Ok(Some(content))
    }

    /// Reads until the buffer is full or the file ends; returns how much.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, CaptureError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damaged(self.offset, error)),
            }
        }
        Ok(filled)
    }

    fn damaged(&self, offset: u64, reason: impl ToString) -> CaptureError {
        CaptureError::Damaged {
            path: self.path.clone(),
            offset,
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Reading;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        let clock = |n| {
            Frame::Fact(Fact::Clock(Reading {
                boot_ns: n,
                wall_ns: n as i64,
            }))
        };
        vec![
            clock(1),
            Frame::Record(vec![7; 100]),
            clock(2),
            Frame::Record(Vec::new()),
            clock(3),
        ]
    }

    fn written(frames: &[Frame]) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let host = Host {
            host_id: "h".into(),
            ..Host::default()
        };
        let mut writer = Writer::create(file.path(), &host).unwrap();
        for frame in frames {
            match frame {
                Frame::Record(bytes) => writer.record(bytes).unwrap(),
                Frame::Fact(fact) => writer.fact(fact).unwrap(),
            }
        }
        writer.flush().unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Frame>, Option<CaptureError>), CaptureError> {
        let (mut reader, host) = Reader::new(bytes, Path::new("x.capture"))?;
        assert_eq!(&*host.host_id, "h");
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => return Ok((found, None)),
                Err(error) => return Ok((found, Some(error))),
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (found, error) = read(&written(&frames())).unwrap();
        assert_eq!(found, frames());
        assert!(error.is_none());
    }

    #[test]
    fn damage_is_named_with_its_offset_and_all_before_it_is_read() {
        let bytes = written(&frames());
        let shorter = written(&frames()[..4]).len();
        let mut broken = bytes.clone();
        broken[shorter + 12] ^= 1;
        let (found, error) = read(&broken).unwrap();
        assert_eq!(found, &frames()[..4]);
        let message = error.unwrap().to_string();
        assert!(message.contains(&format!("offset {shorter}")), "{message}");
    }

    #[test]
    fn another_file_is_refused() {
        for bytes in [
            &b""[..],
            b"GARBAGE!\x01\0\0\0",
            b"DOGWATCH\x09\0\0\0",
            b"DOGWATCH\x02\0\0\0",
        ] {
            assert!(
                matches!(read(bytes), Err(CaptureError::Foreign { .. })),
                "{bytes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_damage_is_taken_for_content(at in 20usize..200, flip in 1u8..=255) {
            let mut bytes = written(&frames());
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok((found, error)) = read(&bytes) {
                prop_assert!(found.len() <= frames().len());
                prop_assert!(error.is_some() || found == frames());
                prop_assert!(found.iter().zip(frames()).all(|(a, b)| *a == b));
            }
        }

        #[test]
        fn a_cut_file_is_used_up_to_the_cut(cut in 0usize..400) {
            let bytes = written(&frames());
            let cut = cut % bytes.len();
            if let Ok((found, _)) = read(&bytes[..cut]) {
                prop_assert!(found.iter().zip(frames()).all(|(a, b)| *a == b));
            }
        }
    }

    #[test]
    fn a_capture_overwrites_nothing_but_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        std::fs::hard_link(&target, at("second name")).unwrap();
        for (name, part) in [
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("second name", "other names"),
            ("", ""),
        ] {
            let error = Writer::create(&at(name), &Host::default()).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(part), "{name}: {message}");
        }
        let device = Writer::create(Path::new("/dev/null"), &Host::default()).unwrap_err();
        assert!(device.to_string().contains("no file"), "{device}");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn only_its_owner_reads_a_capture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture");
        for before in [None, Some(0o666)] {
            if let Some(mode) = before {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            drop(Writer::create(&path, &Host::default()).unwrap());
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
