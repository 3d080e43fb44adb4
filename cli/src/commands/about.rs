//! Verbs about the command line itself: `help`, `completion`, `man`. Everything they print is made from the definitions that
//! parse the arguments, so it cannot tell another story.

use crate::definition;
use crate::error::Error;
use clap::Subcommand;
use clap_complete::Shell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// The verbs of this group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every command on one screen, or one command in whole
    Help {
        /// The command
        words: Vec<String>,
    },
    /// Print the completion script of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page of shoal, or write one page for each command
    Man {
        /// The folder to write the pages into
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Print the whole reference as Markdown instead
        #[arg(long, hide = true)]
        markdown: bool,
    },
}

/// The first screen: every verb once, in the rooms where a user looks for it.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Containers",
        &[
            "run",
            "create",
            "start",
            "stop",
            "restart",
            "kill",
            "pause",
            "unpause",
            "rm",
            "wait",
            "rename",
            "update",
            "exec",
            "attach",
            "logs",
            "ps",
            "inspect",
            "top",
            "stats",
            "port",
            "diff",
            "cp",
            "export",
            "commit",
            "events",
            "container",
            "healthcheck",
            "generate",
            "boot",
        ],
    ),
    (
        "Images",
        &["pull", "push", "images", "rmi", "tag", "history", "save", "load", "import", "login", "logout", "image"],
    ),
    ("This host", &["network", "volume", "system", "info", "version"]),
    ("Many hosts", &["mesh", "node", "service", "stack", "kv"]),
    ("This tool", &["help", "completion", "man"]),
];

/// The widest line of the first screen.
const WIDTH: usize = 80;
/// The width of the reference's text blocks.
const REFERENCE_WIDTH: usize = 110;

/// Runs one verb.
pub(crate) fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Help { words } => return Ok(help(&words)),
        Command::Completion { shell } => {
            // Into memory first: a reader that leaves early is no panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition(), "shoal", &mut script);
            print(&script)?;
        }
        Command::Man { markdown: true, .. } => print(reference(definition()).as_bytes())?,
        Command::Man { output: Some(folder), .. } => {
            std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(definition(), &folder)).map_err(
                |error| Error::from(error).context(format!("failed to write pages to {}", folder.display())),
            )?;
        }
        Command::Man { output: None, .. } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(definition()).render(&mut page)?;
            print(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `help VERB…` is `VERB… --help`: one text, and the same answer to a verb that is none.
fn help(words: &[String]) -> ExitCode {
    let line = std::iter::once("shoal").chain(words.iter().map(String::as_str)).chain(["--help"]);
    let Err(error) = definition().try_get_matches_from(line) else { return ExitCode::SUCCESS };
    crate::usage::report(&error);
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Returns the first screen of help.
pub(crate) fn overview(command: &clap::Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut out = format!("{about}\n\nUsage: shoal [--root DIR] COMMAND …\n");
    for (title, names) in GROUPS {
        let mut line = format!("\n{title:12}");
        for name in names.iter().filter(|name| command.find_subcommand(name).is_some()) {
            if line.trim_start_matches('\n').chars().count() + name.len() + 1 > WIDTH {
                out.push_str(&line);
                line = format!("\n{:12}", "");
            }
            line.push(' ');
            line.push_str(name);
        }
        out.push_str(&line);
        out.push('\n');
    }
    out.push_str(
        "
First steps
  shoal run -it --rm IMAGE sh            a shell in a new container
  shoal run -d --name web -p 8080:80 IMAGE
  shoal logs -f web                      what it says
  shoal mesh up --detach                 this host becomes a node
  shoal stack deploy -c compose.yaml     services on every node
  shoal image mirror SRC DST             a repository kept in step

Options
  --root DIR       keep everything below one folder [env: SHOAL_ROOT]
  -h, --help       this page; `shoal help COMMAND`: one command in whole
  -V, --version    the version
",
    );
    out
}

/// Returns the reference: every command with its help, in the order of the first screen.
fn reference(command: clap::Command) -> String {
    let mut command = command.term_width(REFERENCE_WIDTH);
    command.build();
    let overview = overview(&command);
    let mut out = format!("## Every command\n\n```text\n{}\n```\n", overview.trim_end());
    for (title, names) in GROUPS {
        let _ = write!(out, "\n## {title}\n");
        for name in *names {
            if let Some(found) = command.find_subcommand_mut(name) {
                section(found, &format!("shoal {name}"), &mut out);
            }
        }
    }
    out
}

/// Writes one command and those below it.
fn section(command: &mut clap::Command, path: &str, out: &mut String) {
    let help = command.clone().term_width(REFERENCE_WIDTH).render_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(out, "\n### {path}\n\n```text\n{}\n```\n", lines.join("\n"));
    let below: Vec<String> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in below {
        if let Some(found) = command.find_subcommand_mut(&name) {
            section(found, &format!("{path} {name}"), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_place_on_the_first_screen() {
        let command = definition();
        for found in command.get_subcommands().filter(|found| !found.is_hide_set()) {
            let places = GROUPS.iter().flat_map(|(_, names)| *names).filter(|name| **name == found.get_name()).count();
            assert_eq!(places, 1, "shoal {}", found.get_name());
        }
        let screen = overview(&command);
        assert!(screen.lines().count() <= 40, "{screen}");
        assert!(screen.lines().all(|line| line.chars().count() <= WIDTH), "{screen}");
    }

    #[test]
    fn the_definitions_hold_together() {
        definition().debug_assert();
    }

    #[test]
    fn the_reference_in_docs_is_that_of_the_code() {
        let page = include_str!("../../../docs/cli.md");
        let (_, written) = page.split_once(GENERATED).expect("the page says where the generated part begins");
        assert!(written.trim() == reference(definition()).trim(), "docs/cli.md is stale: run `cargo xtask docs`");
    }

    /// The line of docs/cli.md above the generated part; `cargo xtask docs` knows it too.
    const GENERATED: &str = "<!-- below: made by `cargo xtask docs` -->";
}
