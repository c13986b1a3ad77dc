//! A program's manual pages, made of its own help.

use std::path::PathBuf;
use std::{fs, io};

use clap::{Args, Command};

/// Write the program's manual pages
#[derive(Debug, Args)]
pub struct Manual {
    /// The folder for them
    folder: PathBuf,
    /// Section of the manual: 1 for everybody's programs, 8 for those of the system
    #[arg(long, default_value = "1")]
    section: String,
}

impl Manual {
    /// Writes a page for the program and one for each of its commands.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, program: Command) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        // What clap adds to each program, `help`, needs no page.
        let mut program = program.disable_help_subcommand(true);
        program.build();
        self.page(&program, program.get_name())
    }

    // Names live as long as this process, which ends soon: clap takes no others.
    fn page(&self, command: &Command, name: &str) -> io::Result<()> {
        let page = clap_mangen::Man::new(command.clone().name(&*name.to_owned().leak()))
            .title(name.to_uppercase())
            .section(&self.section)
            .date("");
        let mut text = Vec::new();
        page.render(&mut text)?;
        fs::write(self.folder.join(format!("{name}.{}", self.section)), text)?;
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            self.page(inner, &format!("{name}-{}", inner.get_name()))?;
        }
        Ok(())
    }
}
