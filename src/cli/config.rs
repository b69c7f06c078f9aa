//! `magnetar config`: prints the annotated defaults, or checks a file. Owns the words of this command.

use crate::config::{
    Config, annotated,
    layers::{Layers, Source},
};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Prints every setting with its default, or checks a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar config > magnetar.toml\n  magnetar config check magnetar.toml\n  magnetar standalone --config magnetar.toml"
)]
pub struct ConfigArgs {
    /// What to do instead of printing the defaults.
    #[command(subcommand)]
    pub command: Option<ConfigCommand>,
    /// As the page docs/config.md
    #[arg(long)]
    pub markdown: bool,
}

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file, and show what it changes
    Check {
        /// The file
        file: PathBuf,
    },
}

impl ConfigArgs {
    /// Does what was asked.
    ///
    /// # Errors
    /// The file is not a valid configuration.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Some(ConfigCommand::Check { file }) => {
                let mut layers = Layers::default();
                layers.file(&file)?;
                if layers.source("node.data_dir") == Source::Default {
                    // Where data would be kept is not the file's business if it does not say so.
                    let mut complete = layers.clone();
                    complete.set("node.data_dir", ".".into(), Source::Default)?;
                    Config::read(&complete)?;
                } else {
                    Config::read(&layers)?;
                }
                for (path, value, _) in layers.iter() {
                    println!("{path} = {value}");
                }
                println!("{} is valid", file.display());
            }
            None if self.markdown => print!("{}", annotated::markdown()),
            None => print!("{}", annotated::defaults()),
        }
        Ok(())
    }
}
