//! The command line.

use std::path::PathBuf;

use millstream_server::config::Settings;
use millstream_server::oneshot::OutputFormat;

/// SQL views that are always right.
#[derive(Debug, clap::Parser)]
#[command(name = "millstream", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve the Postgres wire and HTTP
    Server {
        /// TOML file with settings [default: ./millstream.toml if there is one]
        #[arg(long, env = "MILLSTREAM_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Serve a generated auction site with three views, and show them live
    Demo {
        /// Events a second
        #[arg(long, default_value_t = 10_000)]
        rate: u64,
        /// Seed of the generator
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// TOML file with settings [default: ./millstream.toml if there is one]
        #[arg(long, env = "MILLSTREAM_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Run scripts of statements with expected results, on a clock of their own
    Test {
        /// Scripts in the format of sqllogictest
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Write what came out into the scripts
        #[arg(long)]
        bless: bool,
    },
    /// Run statements on an engine in memory, and print the results
    Sql {
        /// Statements, separated by semicolons
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        sql: Option<String>,
        /// Read the statements from a file, - for standard input
        #[arg(short, long)]
        file: Option<PathBuf>,
        /// How results look
        #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
        format: OutputFormat,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
