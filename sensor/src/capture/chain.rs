//! Captures one after another: the files of a rotation are read as the one recording that they are.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use super::{CaptureError, Frame, Reader};
use crate::fact::{Fact, Host};

/// Groups captures by the run of the sensor that wrote them, each in the order of its times, the run that began first
/// first. A file that is named twice is read once.
///
/// # Errors
/// When one cannot be opened, or is no capture.
pub fn runs(files: &[PathBuf]) -> Result<Vec<Vec<PathBuf>>, CaptureError> {
    let mut begins = BTreeMap::new();
    for path in files {
        let (mut reader, host) = Reader::open(path)?;
        // A damaged one says so when it is read.
        let begin_ns = match reader.next() {
            Ok(Some(Frame::Fact(Fact::Clock(clock)))) => clock.wall_ns,
            _ => 0,
        };
        begins.insert((begin_ns, path.clone()), host);
    }
    let mut runs: Vec<(Host, Vec<PathBuf>)> = Vec::new();
    for ((_, path), host) in begins {
        match runs.iter_mut().find(|(of, _)| *of == host) {
            Some((_, run)) => run.push(path),
            None => runs.push((host, vec![path])),
        }
    }
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// Reads the captures of one run.
#[derive(Debug)]
pub(crate) struct Chain {
    reader: Reader,
    rest: VecDeque<PathBuf>,
}

impl Chain {
    /// Opens the first of them.
    ///
    /// # Errors
    /// When one cannot be opened or is no capture, or when they are of more than one run.
    pub fn open(files: &[PathBuf]) -> Result<(Self, Host), CaptureError> {
        let mut runs = runs(files)?.into_iter();
        let mut rest: VecDeque<PathBuf> = runs.next().unwrap_or_default().into();
        let first = rest.pop_front().ok_or(CaptureError::Unnamed)?;
        if let Some(other) = runs.flatten().next() {
            return Err(CaptureError::OtherRun { path: other, first });
        }
        let (reader, host) = Reader::open(&first)?;
        Ok((Self { reader, rest }, host))
    }

    /// The next frame of any file; `None` at the end of the last.
    pub fn next(&mut self) -> Result<Option<Frame>, CaptureError> {
        loop {
            let frame = self.reader.next()?;
            if frame.is_some() {
                return Ok(frame);
            }
            let Some(path) = self.rest.pop_front() else {
                return Ok(None);
            };
            (self.reader, _) = Reader::open(&path)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use crate::clock::Reading;

    fn clock(ns: u64) -> Fact {
        Fact::Clock(Reading {
            boot_ns: ns,
            wall_ns: ns as i64,
        })
    }

    #[test]
    fn files_of_a_run_are_read_in_the_order_of_their_times() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, run: &str, ns| {
            let path = folder.path().join(name);
            let host = Host {
                sensor_run: run.into(),
                ..Host::default()
            };
            let mut writer = Writer::create(&path, &host).unwrap();
            writer.fact(&clock(ns)).unwrap();
            writer.flush().unwrap();
            path
        };
        let (b, c, a) = (write("b", "r", 1), write("c", "s", 2), write("a", "r", 3));
        let files = [a.clone(), b.clone(), c.clone(), b.clone()];
        let expected = [vec![b.clone(), a.clone()], vec![c.clone()]];
        assert_eq!(runs(&files).unwrap(), expected);

        let (mut chain, _) = Chain::open(&[a.clone(), b]).unwrap();
        for ns in [1, 3] {
            assert_eq!(chain.next().unwrap(), Some(Frame::Fact(clock(ns))));
        }
        assert_eq!(chain.next().unwrap(), None);
        let refused = Chain::open(&[a, c]).unwrap_err().to_string();
        assert!(refused.contains("another run"), "{refused}");
    }
}
