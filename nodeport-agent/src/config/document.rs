//! The file of `--config`: a KubeProxyConfiguration, and beside it a NodeportConfiguration.
//!
//! Owns which documents a file may have, and that a document is read strictly first. Refuses to judge values. Invariant: what a
//! lenient reading ignores is in the warnings, by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::kube_proxy::{API_VERSION, KIND, KubeProxyConfiguration};
use crate::source::manifests::yaml::{self, Chunk};

/// `apiVersion` of our own settings.
pub const OWN_API_VERSION: &str = "nodeport.dev/v1alpha1";
/// `kind` of our own settings.
pub const OWN_KIND: &str = "NodeportConfiguration";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// kube-proxy's configuration, without defaults.
    pub kube_proxy: KubeProxyConfiguration,
    /// Our own settings: names of fields to their values.
    pub own: Map<String, Value>,
    /// What is wrong with the file, but not so much that it could not be used.
    pub warnings: Vec<String>,
}

/// Reads a file's text. `path` is for messages.
///
/// # Errors
/// [`ConfigError`] if a document is no YAML, is of another kind, or has a value of another type than its field's.
pub fn read(path: &Path, text: &str) -> Result<Documents, ConfigError> {
    let mut documents = Documents::default();
    let mut seen: Vec<String> = Vec::new();
    for chunk in yaml::split(text) {
        let document = parse(path, &chunk, &mut documents.warnings)?;
        let word = |name: &str| {
            document
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let kind = format!("{} {}", word("apiVersion"), word("kind"));
        if seen.contains(&kind) {
            return Err(ConfigError::Twice {
                path: path.to_owned(),
                kind,
            });
        }
        if kind == format!("{API_VERSION} {KIND}") {
            documents.kube_proxy = decode(path, document, &mut documents.warnings)?;
        } else if kind == format!("{OWN_API_VERSION} {OWN_KIND}") {
            documents.own = own(path, document)?;
        } else {
            return Err(ConfigError::Kind {
                path: path.to_owned(),
                kind: kind.trim().to_owned(),
            });
        }
        seen.push(kind);
    }
    if seen.is_empty() {
        return Err(ConfigError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(documents)
}

/// Strictly, or else leniently with a warning.
fn parse(path: &Path, chunk: &Chunk<'_>, warnings: &mut Vec<String>) -> Result<Value, ConfigError> {
    let strict = match yaml::parse(chunk) {
        Ok(document) => return Ok(without_nulls(document)),
        Err(strict) => strict,
    };
    match yaml::parse_lenient(chunk) {
        Ok(document) => {
            warnings.push(format!("{}: {strict}; the last one counts", path.display()));
            Ok(without_nulls(document))
        }
        Err(problem) => Err(ConfigError::Syntax {
            path: path.to_owned(),
            problem,
        }),
    }
}

/// In Go a field that is null is one that is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let present = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                present
                    .map(|(name, value)| (name, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// kube-proxy's configuration out of a document; fields that it does not have are named in the warnings.
///
/// # Errors
/// [`ConfigError::Field`] names the first field whose value is of another type.
pub(super) fn decode(
    path: &Path,
    document: Value,
    warnings: &mut Vec<String>,
) -> Result<KubeProxyConfiguration, ConfigError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let decoded = serde_ignored::deserialize(tracked, |field| unknown.push(field.to_string()));
    warnings.extend(unknown.into_iter().map(|field| {
        format!(
            "{}: {KIND} has no field {field}: it is ignored",
            path.display()
        )
    }));
    decoded.map_err(|error| ConfigError::Field {
        path: path.to_owned(),
        field: track.path().to_string(),
        problem: error.to_string(),
    })
}

/// Our own settings: what each name stands for, the command line knows.
fn own(path: &Path, document: Value) -> Result<Map<String, Value>, ConfigError> {
    let Value::Object(mut fields) = document else {
        let kind = OWN_KIND.to_owned();
        return Err(ConfigError::Kind {
            path: path.to_owned(),
            kind,
        });
    };
    for name in ["apiVersion", "kind", "metadata"] {
        fields.remove(name);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn read_text(text: &str) -> Result<Documents, String> {
        read(Path::new("c.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_strict_file_has_no_warnings_and_nulls_are_absent() {
        let text = format!(
            "{HEAD}mode: nftables\nnodePortAddresses: null\nbindAddressHardFail: null\nconntrack: {{min: 5}}\n"
        );
        let read = read_text(&text).expect("valid");
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
        assert_eq!(read.kube_proxy.mode, "nftables");
        assert_eq!(read.kube_proxy.conntrack.min, Some(5));
        assert_eq!(read.kube_proxy.node_port_addresses, None);
    }

    #[test]
    fn unknown_and_duplicate_fields_are_warned_of_by_name() {
        let text = format!(
            "{HEAD}udpIdleTimeout: 1s\nconntrack: {{minimum: 5}}\nmode: ipvs\nmode: iptables\n"
        );
        let read = read_text(&text).expect("lenient");
        assert_eq!(read.kube_proxy.mode, "iptables");
        assert_eq!(read.warnings.len(), 3, "{:?}", read.warnings);
        assert!(read.warnings[0].contains("mode") && read.warnings[0].contains("line 6"));
        assert!(
            read.warnings
                .iter()
                .any(|one| one.contains("no field conntrack.minimum"))
        );
        assert!(
            read.warnings
                .iter()
                .any(|one| one.contains("no field udpIdleTimeout"))
        );
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_the_field() {
        for (text, field) in [
            ("conntrack: {min: five}", "conntrack.min"),
            ("nodePortAddresses: [primary, 7]", "nodePortAddresses[1]"),
            ("iptables: {syncPeriod: 30}", "iptables.syncPeriod"),
            ("iptables: {syncPeriod: soon}", "iptables.syncPeriod"),
            ("bindAddressHardFail: 1", "bindAddressHardFail"),
            (
                "logging: {options: {text: {infoBufferSize: much}}}",
                "logging.options.text.infoBufferSize",
            ),
        ] {
            let error = read_text(&format!("{HEAD}{text}\n")).expect_err(text);
            assert!(error.contains(&format!("{field}: ")), "{error}");
        }
    }

    #[test]
    fn other_kinds_no_yaml_and_nothing_are_refused() {
        let of = |text: &str| read_text(text).expect_err(text);
        assert!(of("").contains("no document"));
        assert!(of("a: [").contains("c.yaml"));
        assert!(of("mode: ipvs").contains("KubeProxyConfiguration"));
        assert!(of("apiVersion: v1\nkind: Pod\n").contains("v1 Pod"));
        assert!(of(&format!("{HEAD}---\n{HEAD}")).contains("twice"));
        let newer = HEAD.replace("v1alpha1", "v1");
        assert!(of(&newer).contains("kubeproxy.config.k8s.io/v1 KubeProxyConfiguration"));
    }

    #[test]
    fn our_own_settings_are_a_document_beside_it() {
        let own = "apiVersion: nodeport.dev/v1alpha1\nkind: NodeportConfiguration\nxdp: native\ndevices: [eth0]\n";
        let read = read_text(&format!("{HEAD}mode: ipvs\n---\n{own}")).expect("valid");
        assert_eq!(read.kube_proxy.mode, "ipvs");
        assert_eq!(
            Value::Object(read.own),
            serde_json::json!({"xdp": "native", "devices": ["eth0"]})
        );
    }
}
