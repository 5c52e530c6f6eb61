//! What the stories of files have in common: small manifests, and what is read of them in a few words.

mod follow;
mod keep;

use tempfile::TempDir;

use crate::model::Objects;

pub(super) fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: d}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

pub(super) fn list(services: &[&str]) -> String {
    let documents: Vec<String> = services.iter().map(|name| service(name, 80)).collect();
    documents.join("---\n")
}

pub(super) fn names(objects: &Objects) -> Vec<&str> {
    objects.services.keys().map(|key| &*key.name).collect()
}

/// Reports with the directory cut off.
pub(super) fn told(objects: &Objects, directory: &TempDir) -> Vec<String> {
    let prefix = format!("{}/", directory.path().display());
    objects
        .reports
        .iter()
        .map(|report| report.to_string().replace(&prefix, ""))
        .collect()
}
