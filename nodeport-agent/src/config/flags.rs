//! kube-proxy's flags on our command line, made from the table.
//!
//! Owns how they are declared to clap, and the fields that they stand for. Refuses to judge values. Invariant: every flag of the
//! table is accepted, in kube-proxy's spelling.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value};

use super::error::ConfigError;
use super::table::{FLAGS, Form, SETTINGS, Setting, Use};

/// Heading of these flags in `--help`.
pub const HEADING: &str = "Flags of kube-proxy (docs/configuration.md says what becomes of each)";

/// Flags of kube-proxy that our own command line declares itself, and under which id. (clap panics in tests if one is declared twice.)
const OURS: [(&str, &str); 6] = [
    ("kubeconfig", "kubeconfig"),
    ("master", "master"),
    ("hostname-override", "node_name"),
    ("nodeport-addresses", "nodeport_addresses"),
    ("logging-format", "format"),
    ("v", "level"),
];

/// The flags of kube-proxy that were given, by name, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeProxyFlags(pub BTreeMap<&'static str, Vec<String>>);

impl KubeProxyFlags {
    /// The last value of a flag, if it was given.
    #[must_use]
    pub fn get(&self, flag: &str) -> Option<&str> {
        Some(self.0.get(flag)?.last()?.as_str())
    }

    /// Whether a switch was given, and not as `=false`.
    #[must_use]
    pub fn is_set(&self, flag: &str) -> bool {
        self.get(flag).is_some_and(|value| value != "false")
    }

    /// The fields that these flags stand for, as a document.
    ///
    /// # Errors
    /// [`ConfigError::Flag`] for the first value that is not of its flag's form.
    pub fn document(&self) -> Result<Value, ConfigError> {
        let mut document = Value::Object(Map::new());
        for (flag, texts) in &self.0 {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.flag == *flag) else {
                continue;
            };
            // Our own form of it also takes names; it is read by the command line.
            if ["v", "vmodule", "logging-format"].contains(flag) {
                continue;
            }
            let value = value(setting.form, texts).map_err(|problem| ConfigError::Flag {
                flag: (*flag).to_owned(),
                problem,
            })?;
            put(&mut document, setting.field, value);
        }
        Ok(document)
    }
}

/// Texts as a value of a form.
fn value(form: Form, texts: &[String]) -> Result<Value, String> {
    let text = texts.last().map_or("", String::as_str);
    let parts = || {
        texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    let wrong = |what: &str| format!("{text:?} is {what}");
    Ok(match form {
        Form::Switch => Value::from(switch(text).ok_or_else(|| wrong("neither true nor false"))?),
        Form::Integer => Value::from(text.parse::<i64>().map_err(|_| wrong("no whole number"))?),
        Form::Number => Value::from(text.parse::<f64>().map_err(|_| wrong("no number"))?),
        Form::Text => Value::from(text),
        Form::List => parts().collect(),
        Form::Gates => {
            let mut gates = Map::new();
            for part in parts() {
                let gate = part
                    .split_once('=')
                    .and_then(|(name, on)| Some((name, switch(on)?)));
                let (name, on) = gate.ok_or_else(|| format!("{part:?} is not NAME=true|false"))?;
                gates.insert(name.to_owned(), Value::from(on));
            }
            Value::Object(gates)
        }
    })
}

/// A boolean as Go reads it.
fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Puts a value at a path, making the objects on the way.
fn put(document: &mut Value, path: &str, value: Value) {
    let (head, rest) = path
        .split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)));
    let Value::Object(fields) = document else {
        return;
    };
    match rest {
        None => {
            fields.insert(head.to_owned(), value);
        }
        Some(rest) => put(
            fields
                .entry(head)
                .or_insert_with(|| Value::Object(Map::new())),
            rest,
            value,
        ),
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = BTreeMap::new();
        for setting in all() {
            let ours = OURS.iter().find(|(flag, _)| *flag == setting.flag);
            let id = ours.map_or(setting.flag, |(_, id)| id);
            let Ok(Some(raw)) = matches.try_get_raw(id) else {
                continue;
            };
            if matches.value_source(id) == Some(ValueSource::CommandLine) {
                let texts = raw
                    .map(|text| text.to_string_lossy().into_owned())
                    .collect();
                given.insert(setting.flag, texts);
            }
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for KubeProxyFlags {
    fn augment_args(command: Command) -> Command {
        let theirs = all().filter(|setting| OURS.iter().all(|(flag, _)| *flag != setting.flag));
        theirs.fold(command, |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn all() -> impl Iterator<Item = &'static Setting> {
    FLAGS
        .iter()
        .chain(SETTINGS)
        .filter(|setting| !setting.flag.is_empty())
}

/// A flag as clap knows it.
fn arg(setting: &'static Setting) -> Arg {
    let help = match setting.used {
        Use::Honoured(how) => how.to_owned(),
        Use::Ignored(why) => format!("Not honoured: {why}"),
    };
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .help(help)
        .help_heading(HEADING)
        .hide_short_help(true)
        .action(ArgAction::Append);
    let value = match setting.form {
        Form::Switch => "BOOL",
        Form::Integer | Form::Number => "N",
        Form::Text => "VALUE",
        Form::List | Form::Gates => "LIST",
    };
    let arg = arg.value_name(value).allow_hyphen_values(true);
    // As in Go's flags, a switch takes its value only with `=`.
    if setting.form == Form::Switch || setting.flag == "version" {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: KubeProxyFlags,
    }

    fn document(line: &str) -> Result<Value, String> {
        let line = Line::augment(&format!("agent {line}"));
        line.flags.document().map_err(|error| error.to_string())
    }

    impl Line {
        fn augment(line: &str) -> Self {
            <Self as clap::Parser>::try_parse_from(line.split_whitespace()).expect("accepted")
        }
    }

    #[test]
    fn flags_become_the_fields_that_they_stand_for() {
        let line = "--conntrack-min 5 --masquerade-all --iptables-localhost-nodeports=false --kube-api-qps=2.5 \
                    --ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8 --ipvs-exclude-cidrs 1.0.0.0/8 --iptables-sync-period=1m --feature-gates A=true,B=false";
        let wanted = serde_json::json!({
            "conntrack": {"min": 5},
            "iptables": {"masqueradeAll": true, "localhostNodePorts": false, "syncPeriod": "1m"},
            "clientConnection": {"qps": 2.5},
            "ipvs": {"excludeCIDRs": ["10.0.0.0/8", "fd00::/8", "1.0.0.0/8"]},
            "featureGates": {"A": true, "B": false},
        });
        assert_eq!(document(line), Ok(wanted));
    }

    #[test]
    fn a_value_of_another_form_is_refused_with_its_flag() {
        for (line, flag) in [
            ("--conntrack-min five", "--conntrack-min"),
            ("--masquerade-all=maybe", "--masquerade-all"),
            ("--feature-gates A", "--feature-gates"),
            ("--kube-api-qps=x", "--kube-api-qps"),
        ] {
            let error = document(line).expect_err(line);
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn negative_numbers_and_switches_are_read_as_go_reads_them() {
        let line =
            Line::augment("agent --oom-score-adj -998 --cleanup --init-only=false --version=raw");
        assert_eq!(line.flags.get("oom-score-adj"), Some("-998"));
        assert!(line.flags.is_set("cleanup") && !line.flags.is_set("init-only"));
        assert_eq!(line.flags.get("version"), Some("raw"));
        assert_eq!(line.flags.get("master"), None);
    }
}
