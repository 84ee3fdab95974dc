//! Where output goes: data to stdout, talk to stderr. The only place that writes to either.
//!
//! It does not know what it prints. A reader that closed stdout (`sealane … | head`) ends the command without a word.

use std::io::{IsTerminal, Write};

use prost::Message;
use serde_json::Value;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};

/// The two streams and what they can show.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    data_colour: bool,
    talk_colour: bool,
    talk_terminal: bool,
}

/// How a human answer is to be laid out.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Paint words.
    pub colour: bool,
    /// Show every column.
    pub wide: bool,
}

impl Printer {
    /// A printer for this process: colour only on a terminal, never with `NO_COLOR` or `TERM=dumb`.
    #[must_use]
    pub fn new(no_color: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let allowed = !no_color && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let talk_terminal = std::io::stderr().is_terminal() && !dumb;
        Self {
            data_colour: allowed && std::io::stdout().is_terminal(),
            talk_colour: allowed && talk_terminal,
            talk_terminal,
        }
    }

    /// Whether stderr can show a line that changes.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.talk_terminal
    }

    /// How human answers look on stdout.
    #[must_use]
    pub fn look(&self, format: Format) -> Look {
        Look { colour: self.data_colour, wide: format == Format::Wide }
    }

    /// Whether stderr is painted.
    #[must_use]
    pub fn talks_in_colour(&self) -> bool {
        self.talk_colour
    }

    /// Prints a message of package `sealane.v1` in the format asked for.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn show(
        &self,
        format: Format,
        kind: &str,
        message: &impl Message,
        names: impl FnOnce() -> Vec<String>,
        human: impl FnOnce(Look) -> String,
    ) -> Result<(), Failure> {
        match format {
            Format::Human | Format::Wide => self.text(&human(self.look(format))),
            Format::Name => self.text(&names().iter().map(|name| clean(name) + "\n").collect::<String>()),
            Format::Json | Format::Yaml => self.value(format, &sealane_proto::json::to_json(kind, message)),
        }
    }

    /// Prints a value as YAML, or as JSON over several lines.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn value(&self, format: Format, value: &Value) -> Result<(), Failure> {
        if format == Format::Yaml {
            return self.text(&yaml(value)?);
        }
        self.text(&format!("{value:#}\n"))
    }

    /// Prints one of a stream of values: a line of JSON, or a YAML document.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn value_of_many(&self, format: Format, value: &Value) -> Result<(), Failure> {
        if format == Format::Yaml {
            return self.text(&format!("---\n{}", yaml(value)?));
        }
        self.text(&format!("{value}\n"))
    }

    /// Prints one line of data.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that went away is [`Exit::Done`], without a word.
    pub fn data(&self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Prints data as it is.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Prints data as it is.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::quiet(Exit::Done),
            _ => Failure::new(Exit::Failed, "cannot write to stdout").because(error),
        })
    }

    /// Says one line. Nobody listening is fine.
    pub fn talk(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    /// Says text that brings its own line breaks.
    pub fn talk_text(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "{text}");
    }

    /// Says what to do next.
    pub fn hint(&self, text: &str) {
        self.talk(&format!("{} {text}", Paint::Quiet.apply(self.talk_colour, "hint:")));
    }

    /// Says what is not as it should be, though the command goes on.
    pub fn warn(&self, text: &str) {
        self.talk(&format!("{} {text}", Paint::Careful.apply(self.talk_colour, "warning:")));
    }

    /// Says why the command failed, unless that has been said.
    pub fn failure(&self, failure: &Failure) {
        if let Some(sentence) = failure.sentence() {
            self.talk(&format!("{} {}", Paint::Bad.apply(self.talk_colour, "error:"), clean(&sentence)));
        }
        if let Some(hint) = failure.next_step() {
            self.hint(&clean(hint));
        }
    }
}

fn yaml(value: &Value) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::new(Exit::Failed, "cannot write the answer as YAML").because(error))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
