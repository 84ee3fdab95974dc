//! Commands, from clap.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};
use sealane_cli::exit::Exit;

use super::cell;

pub(super) fn page() -> String {
    let mut root = sealane_cli::args::command();
    root.build();
    let mut page = "# Commands\n\nWritten from the program's own command line: the same as `sealane COMMAND --help` and the manual pages. An option's \
                    value is taken from the flag, then the environment variable, then the client file, then the default.\n\n\
                    ## Exit codes\n\n| Code | |\n|---|---|\n"
        .to_owned();
    for (exit, means) in Exit::MEANINGS {
        let _ = writeln!(page, "| {} | {means} |", exit as u8);
    }
    page.push_str("\n## Options of every command\n\n");
    let (shared, _): (Vec<&Arg>, Vec<&Arg>) = root.get_arguments().partition(|argument| argument.is_global_set());
    table(&mut page, &shared);
    for command in root.get_subcommands() {
        one(&mut page, "sealane", command);
    }
    page
}

fn one(page: &mut String, above: &str, command: &Command) {
    let name = format!("{above} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n## {name}\n\n{about}.\n");
    let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    if let Some(examples) = examples.strip_prefix("Examples:\n") {
        let lines: Vec<&str> = examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let _ = write!(page, "\n```text\n{}\n```\n", lines.join("\n"));
    }
    let own = |argument: &&Arg| {
        let is_log = ["log_level", "log_json", "no_color"].contains(&argument.get_id().as_str());
        !is_log && !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
    };
    let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
    if !arguments.is_empty() {
        page.push('\n');
        table(page, &arguments);
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        one(page, &name, below);
    }
}

fn table(page: &mut String, arguments: &[&Arg]) {
    page.push_str("| Option | Variable | Default | |\n|---|---|---|---|\n");
    for argument in arguments {
        let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let value = match argument.get_value_names() {
            Some(names) if takes_value => names.join(" "),
            _ => String::new(),
        };
        let option = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
            (None, Some(long)) => format!("--{long} {value}"),
            _ => value,
        };
        let words: Vec<String> =
            argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>();
        let default = if argument.is_required_set() { "required".to_owned() } else { ticks(&defaults.join(",")) };
        let mut about = argument.get_help().map(ToString::to_string).unwrap_or_default();
        if takes_value && !words.is_empty() {
            let _ = write!(about, ": {}", words.join(", "));
        }
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let _ =
            writeln!(page, "| `{}` | {} | {} | {} |", cell(&option), ticks(&variable), cell(&default), cell(&about));
    }
}

fn ticks(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}
