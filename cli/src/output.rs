//! Where data goes: stdout, in the format that was asked for.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::terminal;

/// How data is printed on stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// The format that was asked for.
    pub format: Format,
    /// Whether stdout takes colours.
    pub colored: bool,
    /// Columns of the terminal, if there is one.
    pub width: Option<u16>,
}

impl Output {
    /// For this process's stdout.
    pub fn new(global: &Global) -> Self {
        Self {
            format: global.output,
            colored: terminal::color_on_stdout(global.color),
            width: terminal::width(),
        }
    }

    /// Whether tables and sentences are wanted.
    pub fn for_people(self) -> bool {
        self.format == Format::Table
    }

    /// Whether a progress bar would be seen, and would not mix with data in a file.
    pub fn on_terminal(self) -> bool {
        self.for_people() && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Prints one line.
    ///
    /// # Errors
    /// stdout cannot be written to.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(std::io::stdout().lock(), "{text}")?)
    }

    /// Prints `document` as JSON or YAML. Nothing in table format: the caller prints that.
    ///
    /// # Errors
    /// stdout cannot be written to.
    pub fn document(self, document: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Table => Ok(()),
            Format::Json => self.line(&encode(serde_json::to_string_pretty, document)?),
            Format::Jsonl => self.line(&encode(serde_json::to_string, document)?),
            Format::Yaml => {
                let text = serde_norway::to_string(document);
                self.line(text.map_err(|error| Failure::local(error.to_string()))?.trim_end())
            }
        }
    }

    /// Prints the list `document[key]`: whole as JSON or YAML, one element a line as JSON Lines.
    ///
    /// # Errors
    /// stdout cannot be written to.
    pub fn list(self, document: &Value, key: &str) -> Result<(), Failure> {
        if self.format != Format::Jsonl {
            return self.document(document);
        }
        for element in document[key].as_array().into_iter().flatten() {
            self.document(element)?;
        }
        Ok(())
    }
}

fn encode<T: Serialize>(
    encoder: impl Fn(&T) -> Result<String, serde_json::Error>,
    value: &T,
) -> Result<String, Failure> {
    encoder(value).map_err(|error| Failure::local(error.to_string()))
}
