//! Where alerts and notes go: terminal, pipe, file.
//!
//! ```text
//! alert ─┬─► standard output, for people or as JSON lines
//!        └─► the alerts' file, as JSON lines (flushed each)
//! note  ───► standard output, or standard error where standard output carries JSON
//! ```

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch_schemas::records::Alert;

use crate::render::{self, Colour};

/// Something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// Standard output was closed or refused.
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
    /// The alerts' file could not be opened or written.
    #[error("could not write to {}; check the folder and the free space", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
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
    file: Option<(PathBuf, File)>,
}

impl Printer {
    /// Opens `file` for appending, if one is given.
    ///
    /// # Errors
    /// [`PrintError::File`] when it cannot be opened.
    pub fn new(format: Format, file: Option<&Path>) -> Result<Self, PrintError> {
        let open = |path: &Path| {
            let opened = File::options().create(true).append(true).open(path);
            opened
                .map(|file| (path.to_owned(), file))
                .map_err(|source| PrintError::File {
                    path: path.to_owned(),
                    source,
                })
        };
        Ok(Self {
            format,
            file: file.map(open).transpose()?,
        })
    }

    /// Colours of notes.
    pub fn colour(&self) -> Colour {
        match self.format {
            Format::Human(colour) => colour,
            Format::JsonLines => Colour::Plain,
        }
    }

    /// Writes one alert; `latency` is the time from event to alert, where it means something.
    ///
    /// # Errors
    /// [`PrintError`] when output or file refuse.
    pub fn alert(&mut self, alert: &Alert, latency: Option<Duration>) -> Result<(), PrintError> {
        let json = |alert: &Alert| {
            let line = serde_json::to_string(alert).map(|text| text + "\n");
            line.map_err(|source| PrintError::Json {
                alert_id: alert.alert_id.to_string(),
                source,
            })
        };
        if let Some((path, file)) = &mut self.file {
            let written = file.write_all(json(alert)?.as_bytes());
            written.map_err(|source| PrintError::File {
                path: path.clone(),
                source,
            })?;
        }
        match self.format {
            Format::Human(colour) => {
                print(&mut io::stdout(), &render::alert(alert, latency, colour))
            }
            Format::JsonLines => print(&mut io::stdout(), &json(alert)?),
        }
    }

    /// Writes a line about what goes on.
    ///
    /// # Errors
    /// [`PrintError::Output`] when the output refuses.
    pub fn note(&self, line: &str) -> Result<(), PrintError> {
        match self.format {
            Format::Human(_) => print(&mut io::stdout(), &format!("{line}\n")),
            Format::JsonLines => print(&mut io::stderr(), &format!("{line}\n")),
        }
    }
}

fn print(output: &mut dyn Write, text: &str) -> Result<(), PrintError> {
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(PrintError::Output)
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
