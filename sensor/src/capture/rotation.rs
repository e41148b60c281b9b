//! A recording in files of bounded size: `FILE.000001`, `FILE.000002` and so on, the oldest removed beyond a count.
//!
//! ```text
//! facts, records ──► file n ── due? ──► file n+1: clock · counters so far · cgroups, containers, users · processes · …
//! ```
//! Each file begins with what lives, so that it can be read without those before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch_ebpf::record::Record;

use super::standing::Standing;
use super::{CaptureError, Writer};
use crate::clock::Reading;
use crate::fact::{Fact, Host};

/// A smaller file would hold little beside what lives.
const SIZE_MIN: u64 = 1_000_000;
/// Looking at every process costs some milliseconds.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Digits of a file's number: names sort as numbers do.
const DIGITS: usize = 6;

/// When a recording goes on in another file, and how many files stay. The default is one file without end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of a file. One is larger by the records that are read at once, and where what lives takes more than half of it.
    pub size: Option<u64>,
    /// How long a file is written to.
    pub every: Option<Duration>,
    /// Files that stay, the newest included; none = all.
    pub keep: Option<usize>,
}

impl Rotation {
    /// Whether there is more than one file.
    fn has_any(&self) -> bool {
        self.size.is_some() || self.every.is_some()
    }
}

/// A size in bytes, such as `100MB` or `1GiB`.
///
/// # Errors
/// What is accepted, for the command line.
pub fn size(text: &str) -> Result<u64, String> {
    let mend = || "give a size of at least 1MB, such as 100MB or 1GiB".to_owned();
    let digits = text.find(|sign: char| !sign.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(mend()),
    };
    let number: u64 = number.parse().map_err(|_| mend())?;
    let bytes = number.checked_mul(unit).ok_or_else(mend)?;
    (bytes >= SIZE_MIN).then_some(bytes).ok_or_else(mend)
}

/// A span of at least a second, such as `10m`.
///
/// # Errors
/// What is accepted, for the command line.
pub fn every(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).ok();
    span.filter(|span| *span >= EVERY_MIN)
        .ok_or_else(|| "give a time span of at least 1s, such as 10m or 1h".to_owned())
}

/// How many files stay.
///
/// # Errors
/// What is accepted, for the command line.
pub fn keep(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "give a number of files from 1, such as 12".to_owned())
}

/// Writes a recording into one file, or into one after another.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    host: Host,
    rotation: Rotation,
    standing: Standing,
    writer: Writer,
    begun: Instant,
    /// What the file began with, bytes.
    start_bytes: u64,
}

impl Recorder {
    /// Makes the first file. Of several its number follows those of earlier recordings of the same name.
    ///
    /// # Errors
    /// When the folder cannot be read, the file not be made, or an old one not be removed.
    pub fn create(path: PathBuf, rotation: Rotation, host: Host) -> Result<Self, CaptureError> {
        let first = if rotation.has_any() {
            next_path(&path, rotation.keep)?
        } else {
            path.clone()
        };
        Ok(Self {
            writer: Writer::create(&first, &host)?,
            path,
            host,
            rotation,
            standing: Standing::default(),
            begun: Instant::now(),
            start_bytes: 0,
        })
    }

    /// Appends a record of the ring.
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.writer.record(bytes)
    }

    /// Appends a fact.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), CaptureError> {
        if self.rotation.has_any() {
            self.standing.fact(fact);
        }
        self.writer.fact(fact)
    }

    /// Looks at a record that was written already.
    pub fn see(&mut self, record: &Record) {
        if self.rotation.has_any() {
            self.standing.record(record);
        }
    }

    /// Whether the next file is due.
    pub fn due(&self) -> bool {
        let Rotation { size, every, .. } = self.rotation;
        // What lives may take more than a file: then at least as much follows it.
        let full = size.is_some_and(|size| self.writer.bytes() >= size.max(2 * self.start_bytes));
        full || every.is_some_and(|every| self.begun.elapsed() >= every)
    }

    /// Ends the file and begins the next one, with all that lives but the processes: they follow, then [`Self::started`].
    pub fn next_file(&mut self, clock: Reading) -> Result<(), CaptureError> {
        self.writer.flush()?;
        let path = next_path(&self.path, self.rotation.keep)?;
        self.writer = Writer::create(&path, &self.host)?;
        self.begun = Instant::now();
        self.writer.fact(&Fact::Clock(clock))?;
        for fact in self.standing.facts() {
            self.writer.fact(&fact)?;
        }
        Ok(())
    }

    /// All that lives is written, and can be read from now on.
    pub fn started(&mut self) -> Result<(), CaptureError> {
        self.start_bytes = self.writer.bytes();
        self.writer.flush()
    }

    /// Writes what is buffered.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        self.writer.flush()
    }
}

/// The file after those that are there, of which so many are removed that it is the last of `keep`.
fn next_path(path: &Path, keep: Option<usize>) -> Result<PathBuf, CaptureError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| CaptureError::Open { path, source }
    };
    let found = numbered(path).map_err(failed(path))?;
    let next = found.last().map_or(1, |(number, _)| number + 1);
    if let Some(keep) = keep {
        let surplus = (found.len() + 1).saturating_sub(keep);
        for (_, old) in found.into_iter().take(surplus) {
            match fs::remove_file(&old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CaptureError::Remove {
                        path: old,
                        source: error,
                    });
                }
                _ => {}
            }
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{next:0DIGITS$}"));
    Ok(name.into())
}

/// The files of a recording's name, in their order.
fn numbered(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let Some(name) = path.file_name() else {
        let reason = "name a file, not a folder";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    let start = [name.as_encoded_bytes(), b"."].concat();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.as_encoded_bytes().strip_prefix(start.as_slice());
        let number = number.and_then(|digits| str::from_utf8(digits).ok());
        let number = number.filter(|digits| {
            digits.len() >= DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit())
        });
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.push((number, path.with_file_name(name)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, Reader};
    use super::*;

    const CLOCK: Reading = Reading {
        boot_ns: 1,
        wall_ns: 1,
    };

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn recorder(folder: &Path, keep: usize) -> Recorder {
        let rotation = Rotation {
            size: Some(1_000_000),
            keep: Some(keep),
            ..Rotation::default()
        };
        Recorder::create(folder.join("x"), rotation, Host::default()).unwrap()
    }

    /// Records of 1 KB each.
    fn write(recorder: &mut Recorder, records: usize) {
        for _ in 0..records {
            recorder.record(&[7; 1_000]).unwrap();
            if recorder.due() {
                recorder.next_file(CLOCK).unwrap();
                recorder.started().unwrap();
            }
        }
    }

    #[test]
    fn the_oldest_files_go_and_none_is_much_above_its_size() {
        let folder = tempfile::tempdir().unwrap();
        // Files of others stay.
        for other in ["x.1", "x.000001.gz", "xy.000001", "x.00000a"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        let mut recorder = recorder(folder.path(), 3);
        write(&mut recorder, 5_000);
        recorder.finish().unwrap();
        let mut expected = ["x.000004", "x.000005", "x.000006"].to_vec();
        expected.extend(["x.1", "x.000001.gz", "xy.000001", "x.00000a"]);
        expected.sort_unstable();
        assert_eq!(names(folder.path()), expected);
        let bytes = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!((1_000_000..1_002_000).contains(&bytes("x.000005")));
    }

    #[test]
    fn a_later_recording_follows_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        write(&mut recorder(folder.path(), 2), 2_500);
        recorder(folder.path(), 2).finish().unwrap();
        assert_eq!(names(folder.path()), ["x.000003", "x.000004"]);
    }

    #[test]
    fn a_file_is_never_only_what_lives() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = recorder(folder.path(), 9);
        for _ in 0..3_000 {
            recorder.record(&[7; 1_000]).unwrap();
        }
        recorder.started().unwrap();
        assert!(!recorder.due());
        for _ in 0..3_100 {
            recorder.record(&[7; 1_000]).unwrap();
        }
        assert!(recorder.due());
    }

    #[test]
    fn time_alone_makes_the_next_file_due() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation {
            every: Some(Duration::ZERO),
            ..Rotation::default()
        };
        let path = folder.path().join("x");
        let recorder = Recorder::create(path, rotation, Host::default()).unwrap();
        assert!(recorder.due());
        let whole = Recorder::create(
            folder.path().join("y"),
            Rotation::default(),
            Host::default(),
        );
        assert!(!whole.unwrap().due());
        assert_eq!(names(folder.path()), ["x.000001", "y"]);
    }

    #[test]
    fn a_file_begins_with_what_lives() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = recorder(folder.path(), 2);
        let cgroup = Fact::Cgroup {
            id: 7,
            path: "/a".into(),
        };
        recorder.fact(&cgroup).unwrap();
        recorder.next_file(CLOCK).unwrap();
        recorder.started().unwrap();
        let (mut reader, _) = Reader::open(&folder.path().join("x.000002")).unwrap();
        let clock = Frame::Fact(Fact::Clock(CLOCK));
        assert_eq!(reader.next().unwrap(), Some(clock));
        assert_eq!(reader.next().unwrap(), Some(Frame::Fact(cgroup)));
    }

    #[test]
    fn sizes_spans_and_counts_are_read_or_refused() {
        assert_eq!(size("100MB"), Ok(100_000_000));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert_eq!(size("2000000"), Ok(2_000_000));
        for wrong in ["", "MB", "-1MB", "1", "1.5MB", "10XB", "99999999999999GB"] {
            assert!(size(wrong).unwrap_err().contains("100MB"), "{wrong}");
        }
        assert_eq!(every("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["10", "", "10ms", "-1s"] {
            assert!(every(wrong).unwrap_err().contains("10m"), "{wrong}");
        }
        assert_eq!(keep("12"), Ok(12));
        for wrong in ["0", "-1", "many"] {
            assert!(keep(wrong).unwrap_err().contains("12"), "{wrong}");
        }
    }
}
