//! What is wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the configuration to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No document at all.
    #[error("{path}: there is no document in it")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No YAML.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        problem: String,
    },
    /// A document of a kind that is not read.
    #[error(
        "{path}: {kind:?} is neither a kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration nor a nodeport.dev/v1alpha1 NodeportConfiguration"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it has.
        kind: String,
    },
    /// Two documents of one kind.
    #[error("{path}: {kind} is in it twice")]
    Twice {
        /// The file.
        path: PathBuf,
        /// The kind.
        kind: String,
    },
    /// A field whose value cannot be read.
    #[error("{path}: {field}: {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A flag whose value cannot be read.
    #[error("--{flag}: {problem}")]
    Flag {
        /// Name of the flag.
        flag: String,
        /// What is wrong.
        problem: String,
    },
    /// Values that mean nothing.
    #[error("the configuration is invalid: {}", join(.0))]
    Invalid(Vec<Invalid>),
}

/// A field whose value means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {}", self.field, self.value, self.problem)
    }
}

fn join(all: &[Invalid]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join("; ")
}
