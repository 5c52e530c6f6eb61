//! The README's table of flags is what `nodeport-agent run --help` says.
//!
//! Owns the form of a row. Refuses to write the README: a table that is out of step is printed as it should be, to be pasted.

use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, CommandFactory as _};
use nodeport_agent::cli::Cli;
use nodeport_agent::config::flags::HEADING;

/// The line before the table. The table ends with the first line that is no row.
const MARK: &str = "<!-- checked by nodeport-agent/tests/readme.rs -->";

#[test]
fn the_flags_in_the_readme_are_those_of_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path).expect("the README");
    let found: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != MARK)
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let wanted = table();
    assert_eq!(found, wanted, "it should be:\n{}\n", wanted.join("\n"));
}

#[test]
fn a_row_says_name_value_default_and_other_spellings() {
    let row = |id: &str| {
        let start = format!("| `--{id} ");
        table().into_iter().find(|row| row.starts_with(&start))
    };
    assert_eq!(
        row("xdp").as_deref(),
        Some(
            "| `--xdp MODE` | `auto` | Mode of the XDP programs on uplinks: auto, native, generic, off |"
        )
    );
    assert_eq!(
        row("node-name").as_deref(),
        Some(
            "| `--node-name NAME` | `$NODE_NAME` | Name of this node, as Node objects and endpoints' nodeName have it; by default the host's name (also `--hostname-override`) |"
        )
    );
}

fn table() -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").expect("the verb");
    let mut rows = vec![
        "| flag | default | meaning |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    rows.extend(
        run.get_arguments()
            .filter(|flag| !matches!(flag.get_action(), ArgAction::Help | ArgAction::HelpLong))
            .filter(|flag| flag.get_help_heading() != Some(HEADING))
            .map(row),
    );
    rows
}

fn row(flag: &Arg) -> String {
    let name = flag.get_long().expect("every flag has a long name");
    let switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let values = flag.get_value_names().unwrap_or_default();
    let value = if switch {
        String::new()
    } else {
        format!(" {}", values.join(" "))
    };
    let many = if flag
        .get_num_args()
        .is_some_and(|range| range.max_values() > 1)
    {
        "..."
    } else {
        ""
    };
    format!(
        "| `--{name}{value}{many}` | {} | {}{}{} |",
        default(flag),
        flag.get_help().map(ToString::to_string).unwrap_or_default(),
        choices(flag),
        spellings(flag),
    )
}

/// The default, or the variable that gives the value.
fn default(flag: &Arg) -> String {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return String::new();
    }
    let values = flag.get_default_values();
    let text = match (values.first(), flag.get_env()) {
        (Some(value), _) => value.to_string_lossy().into_owned(),
        (None, Some(variable)) => format!("${}", variable.to_string_lossy()),
        (None, None) => return String::new(),
    };
    format!("`{text}`")
}

/// The values that there are, unless the help names them.
fn choices(flag: &Arg) -> String {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return String::new();
    }
    let values = flag.get_possible_values();
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let names: Vec<&str> = values
        .iter()
        .map(clap::builder::PossibleValue::get_name)
        .collect();
    if names.iter().filter(|name| !help.contains(**name)).count() > 1 {
        format!(": {}", names.join(", "))
    } else {
        String::new()
    }
}

/// Other names of the flag, among them those that kube-proxy has.
fn spellings(flag: &Arg) -> String {
    let short = flag.get_short().map(|short| format!("`-{short}`"));
    let long = flag
        .get_all_aliases()
        .unwrap_or_default()
        .into_iter()
        .filter(|alias| alias.len() > 1)
        .map(|alias| format!("`--{alias}`"));
    let all: Vec<String> = short.into_iter().chain(long).collect();
    if all.is_empty() {
        String::new()
    } else {
        format!(" (also {})", all.join(", "))
    }
}
