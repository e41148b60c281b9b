//! Where alerts and notes go: terminal, pipe, file.
//!
//! ```text
//! alert ─┬─► standard output, for people or as JSON lines
//!        └─► the alerts' file, as JSON lines (flushed each)
//! note  ───► standard output, or standard error where standard output carries JSON
//! ```

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch_schemas::records::Alert;

use crate::alerts_file::{AlertsFile, Written};
use crate::output::{Gone, Output};
use crate::render::{self, Colour};

/// Something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// Nobody reads standard output any more.
    #[error("nobody reads standard output any more")]
    Output,
    /// The alerts' file could not be opened.
    #[error("could not write to {}; check the folder and the free space", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Alerts, and events, that are not where they should be.
    #[error("{count} {lines} could not be written to {place}")]
    Unwritten {
        /// How many.
        count: u64,
        /// What they are.
        lines: &'static str,
        /// The file, or standard output.
        place: String,
    },
    /// An alert could not be written as JSON.
    #[error("could not write alert {alert_id} as JSON")]
    Json {
        /// The alert.
        alert_id: String,
        /// Why it failed.
        source: serde_json::Error,
    },
}

impl From<Gone> for PrintError {
    fn from(_: Gone) -> Self {
        Self::Output
    }
}

impl PrintError {
    /// The program's exit code: 2 for a path that cannot be, 3 for a disk that is full, 1 for what failed while running.
    pub fn exit_code(&self) -> u8 {
        use io::ErrorKind as Kind;
        match self {
            Self::File { source, .. } => match source.kind() {
                Kind::NotFound | Kind::PermissionDenied | Kind::IsADirectory => 2,
                Kind::NotADirectory | Kind::ReadOnlyFilesystem => 2,
                _ => 3,
            },
            Self::Output | Self::Unwritten { .. } | Self::Json { .. } => 1,
        }
    }
}

/// How standard output is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Human(Colour),
    /// One JSON object an alert.
    JsonLines,
}

impl Format {
    /// JSON lines when asked for, otherwise text, coloured where standard output is a terminal.
    pub fn chosen(json: bool) -> Self {
        if json {
            Self::JsonLines
        } else {
            Self::Human(Colour::for_output(io::stdout().is_terminal()))
        }
    }
}

/// Writes alerts and notes.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    file: Option<AlertsFile>,
    output: Output,
}

impl Printer {
    /// Opens `file` for appending, if one is given.
    ///
    /// # Errors
    /// [`PrintError::File`] when it cannot be opened.
    pub fn new(format: Format, file: Option<&Path>) -> Result<Self, PrintError> {
        let mut printer = Self {
            format,
            file: None,
            output: Output::default(),
        };
        if let Some(path) = file {
            let opened = AlertsFile::open(path).map_err(|source| PrintError::File {
                path: path.to_owned(),
                source,
            });
            let (file, said) = opened?;
            printer.file = Some(file);
            if let Some(said) = said {
                printer.note(&said)?;
            }
        }
        Ok(printer)
    }

    /// Whoever reads standard output holds nothing back from now on.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn detach(&mut self) -> io::Result<()> {
        self.output.detach()
    }

    /// Whether somebody may read standard output yet.
    ///
    /// # Errors
    /// [`PrintError::Output`] when nobody does.
    pub fn read(&self) -> Result<(), PrintError> {
        Ok(self.output.read()?)
    }

    /// Colours of notes.
    pub fn colour(&self) -> Colour {
        match self.format {
            Format::Human(colour) => colour,
            Format::JsonLines => Colour::Plain,
        }
    }

    /// Writes one alert; `latency` is the time from event to alert, where it means something. A file or an output that
    /// takes no more costs its line alone, which is counted and said.
    ///
    /// # Errors
    /// [`PrintError`] when nobody reads the output any more.
    pub fn alert(&mut self, alert: &Alert, latency: Option<Duration>) -> Result<(), PrintError> {
        let json = |alert: &Alert| {
            let line = serde_json::to_string(alert).map(|text| text + "\n");
            line.map_err(|source| PrintError::Json {
                alert_id: alert.alert_id.to_string(),
                source,
            })
        };
        if let Some(file) = &mut self.file {
            let written = file.append(json(alert)?.as_bytes());
            let path = file.path().display();
            let said = match written {
                Written::Well | Written::FailedStill => None,
                Written::Failed(why) => Some(format!(
                    "could not write to {path}: {why}; watching goes on, alerts that are not written are counted"
                )),
                Written::Again(missing) => Some(format!(
                    "{path} is written again; {missing} alerts before are not in it"
                )),
            };
            if let Some(said) = said {
                self.note(&said)?;
            }
        }
        let text = match self.format {
            Format::Human(colour) => render::alert(alert, latency, colour),
            Format::JsonLines => json(alert)?,
        };
        Ok(self.output.line(text)?)
    }

    /// Writes one event, which is a line of JSON.
    ///
    /// # Errors
    /// As [`Printer::alert`].
    pub fn event(&mut self, json: &str) -> Result<(), PrintError> {
        Ok(self.output.line(format!("{json}\n"))?)
    }

    /// Opens the alerts' file anew: it was moved away.
    pub fn reopen(&mut self) {
        if let Some(file) = &mut self.file {
            file.reopen();
        }
    }

    /// Writes a line about what goes on.
    ///
    /// # Errors
    /// [`PrintError::Output`] when nobody reads it any more.
    pub fn note(&self, line: &str) -> Result<(), PrintError> {
        let line = format!("{line}\n");
        match self.format {
            Format::Human(_) => Ok(self.output.note(line)?),
            // Whoever closes standard error does not want to hear of it.
            Format::JsonLines => {
                let _ = io::stderr().write_all(line.as_bytes());
                Ok(())
            }
        }
    }

    /// Says whether all alerts are where they should be.
    ///
    /// # Errors
    /// [`PrintError::Unwritten`] when some are not.
    pub fn complete(&self) -> Result<(), PrintError> {
        let unwritten = |count: u64, lines, place: String| match count {
            0 => Ok(()),
            count => Err(PrintError::Unwritten {
                count,
                lines,
                place,
            }),
        };
        if let Some(file) = &self.file {
            let place = file.path().display().to_string();
            unwritten(file.unwritten(), "alerts", place)?;
        }
        let place = "standard output".to_owned();
        unwritten(self.output.unwritten(), "alerts and events", place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_gets_one_line_of_json_an_alert() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        std::fs::write(&path, "{\"earlier\":1}\n").unwrap();
        let mut printer = Printer::new(Format::Human(Colour::Plain), Some(&path)).unwrap();
        let alert = Alert {
            alert_id: "a1".into(),
            message: "two\nlines".into(),
            ..Alert::default()
        };
        printer.alert(&alert, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(serde_json::from_str::<Alert>(lines[1]).unwrap(), alert);
    }

    #[test]
    fn file_in_a_missing_folder_is_named() {
        let error =
            Printer::new(Format::JsonLines, Some(Path::new("/nowhere/alerts.jsonl"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not write to /nowhere/alerts.jsonl; check the folder and the free space"
        );
    }
}
