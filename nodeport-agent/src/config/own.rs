//! Our own settings in the file of `--config`: every flag of `run` that is not kube-proxy's, in camel case.
//!
//! Owns the way from a field to its flag. Refuses to know what a flag means: its own parser reads the value. Invariant: a flag that
//! is given counts before the field, and a field that no flag stands for is warned of by name.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::ArgAction;
use clap::{Arg, Command};
use serde_json::{Map, Value};

use super::document::OWN_KIND;
use super::error::ConfigError;
use super::table;

/// Flags of `run` that have no field of ours: kube-proxy's configuration has one for them.
const ELSEWHERE: [&str; 3] = ["node_name", "level", "format"];

/// The fields, each with its flag. `run` is the command of that name.
pub fn fields(run: &Command) -> impl Iterator<Item = (String, &Arg)> {
    run.get_arguments().filter_map(|arg| {
        let long = arg.get_long()?;
        let id = arg.get_id().as_str();
        let own = table::of_flag(long).is_none()
            && !ELSEWHERE.contains(&id)
            && !matches!(long, "help" | "version");
        own.then(|| (camel(long), arg))
    })
}

/// `pin-dir` is `pinDir`.
fn camel(flag: &str) -> String {
    let mut parts = flag.split('-');
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |mut name, part| {
        let (first, rest) = part.split_at(part.len().min(1));
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
        name
    })
}

/// The arguments that fields stand for, but for those that `is_given` knows already (by the flag's id). Warnings go to `warnings`.
///
/// # Errors
/// [`ConfigError::Field`] for the first value that its flag does not take.
pub fn arguments(
    path: &Path,
    own: &Map<String, Value>,
    run: &Command,
    is_given: impl Fn(&str) -> bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<OsString>, ConfigError> {
    let known: Vec<(String, &Arg)> = fields(run).collect();
    let mut arguments = Vec::new();
    for (field, value) in own {
        let Some((_, arg)) = known.iter().find(|(name, _)| name == field) else {
            warnings.push(format!(
                "{}: {OWN_KIND} has no field {field}: it is ignored",
                path.display()
            ));
            continue;
        };
        let wrong = |problem: String| ConfigError::Field {
            path: path.to_owned(),
            field: field.clone(),
            problem,
        };
        let words = words(arg, value).map_err(wrong)?;
        let alone = Command::new("field")
            .no_binary_name(true)
            .arg((*arg).clone().required(false));
        if let Err(error) = alone.try_get_matches_from(&words) {
            return Err(wrong(in_short(&error)));
        }
        if !is_given(arg.get_id().as_str()) {
            arguments.extend(words);
        }
    }
    Ok(arguments)
}

/// A field as words of the command line.
fn words(arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let flag = arg.get_long().unwrap_or_default();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Bool(true) => Ok(vec![format!("--{flag}").into()]),
            Value::Bool(false) => Ok(Vec::new()),
            other => Err(format!("{other} is neither true nor false")),
        };
    }
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    items
        .iter()
        .map(|item| match item {
            Value::String(text) => Ok(format!("--{flag}={text}").into()),
            Value::Number(_) | Value::Bool(_) => Ok(format!("--{flag}={item}").into()),
            other => Err(format!("{other} is neither text nor a number")),
        })
        .collect()
}

/// The first lines of what clap says.
fn in_short(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::value_parser;
    use serde_json::json;

    fn run() -> Command {
        let list = Arg::new("devices")
            .long("devices")
            .value_delimiter(',')
            .action(ArgAction::Append);
        Command::new("run")
            .arg(list)
            .arg(
                Arg::new("flows_max")
                    .long("flows-max")
                    .value_parser(value_parser!(u32).range(2..)),
            )
            .arg(
                Arg::new("reserve_ports")
                    .long("reserve-ports")
                    .action(ArgAction::SetTrue),
            )
            .arg(Arg::new("cluster-cidr").long("cluster-cidr"))
    }

    fn of(own: Value, given: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let Value::Object(own) = own else {
            panic!("no object")
        };
        let mut warnings = Vec::new();
        arguments(
            Path::new("c.yaml"),
            &own,
            &run(),
            |id| id == given,
            &mut warnings,
        )
        .map(|words| {
            (
                words
                    .iter()
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect(),
                warnings,
            )
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn fields_become_flags_unless_the_flag_is_given() {
        let own = json!({"devices": ["eth0", "eth1"], "flowsMax": 16, "reservePorts": true});
        let (words, warnings) = of(own.clone(), "").expect("valid");
        assert_eq!(
            words,
            [
                "--devices=eth0",
                "--devices=eth1",
                "--flows-max=16",
                "--reserve-ports"
            ]
        );
        assert!(warnings.is_empty());
        let (words, _) = of(own, "devices").expect("valid");
        assert_eq!(words, ["--flows-max=16", "--reserve-ports"]);
        assert!(
            of(json!({"reservePorts": false}), "")
                .expect("valid")
                .0
                .is_empty()
        );
    }

    #[test]
    fn what_no_flag_of_ours_stands_for_is_warned_of() {
        let (words, warnings) =
            of(json!({"clusterCidr": "10.0.0.0/8", "speed": 9}), "").expect("lenient");
        assert!(words.is_empty());
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn a_value_that_the_flag_does_not_take_is_refused_with_the_field() {
        for (own, field) in [
            (json!({"flowsMax": 1}), "flowsMax: "),
            (json!({"flowsMax": "many"}), "flowsMax: "),
            (json!({"flowsMax": {}}), "flowsMax: "),
            (json!({"reservePorts": "yes"}), "reservePorts: "),
        ] {
            let error = of(own, "flows_max").expect_err(field);
            assert!(error.contains(field), "{error}");
        }
    }
}
