//! The configuration as kube-proxy takes it: KubeProxyConfiguration, its flags, and our own settings beside them.
//!
//! Owns reading, defaults, validation, and what becomes of each setting. Refuses to carry settings out. Invariant: nothing is
//! ignored silently: [`Settings`] names all that has no effect.

pub mod document;
mod error;
pub mod flags;
pub mod go_duration;
pub mod kube_proxy;
pub mod own;
mod settings;
pub mod table;
mod validate;
mod values;
mod watch;
mod yaml;

pub use document::Documents;
pub use error::{ConfigError, Invalid};
pub use flags::KubeProxyFlags;
pub use go_duration::{GoDuration, NotADuration};
pub use kube_proxy::KubeProxyConfiguration;
pub use settings::{Ignored, Settings};
pub use validate::validate;
pub use watch::until_changed;
pub use yaml::write as write_yaml;

use std::fs;
use std::path::{Path, PathBuf};

/// The file of `--config`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says.
    pub documents: Documents,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, or is no configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            documents: document::read(path, &text)?,
            text,
        })
    }
}
