//! The list of an image's parts (SBOM), as `CycloneDX` 1.5.
//!
//! Owns what counts as a part: the crates that are compiled into the agent and into the BPF programs that it carries, and the
//! C and Rust libraries that are linked into it. Invariant: nothing in it depends on when and where it was made.

use super::origin::Origin;
use crate::{agent::Arch, shell};
use anyhow::{Context as _, Result, bail};
use cyclonedx_bom::{
    external_models::{date_time::DateTime, normalized_string::NormalizedString, uri::Purl},
    models::{
        bom::{Bom, SpecVersion},
        component::{Classification, Component, Components},
        license::{LicenseChoice, Licenses},
        metadata::Metadata,
    },
    validation::Validate as _,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// The package of the programs that the agent carries.
const PROGRAMS: &str = "nodeport-ebpf";

/// With this feature it is programs, without it a library.
const PROGRAMS_FEATURE: &str = "nodeport-ebpf/kernel";

/// Lists the parts as a JSON document; `compiled` are cargo's identifiers of the packages in the agent.
pub(crate) fn list(compiled: &BTreeSet<String>, arch: Arch, origin: &Origin) -> Result<Vec<u8>> {
    let metadata = metadata(arch)?;
    let mut packages = compiled.clone();
    packages.extend(normal_dependencies(&metadata, PROGRAMS));
    let mut components = crates(&metadata, &packages)?;
    components.extend(libraries(arch)?);
    let mut agent = Component::new(
        Classification::Application,
        "nodeport-agent",
        env!("CARGO_PKG_VERSION"),
        Some("nodeport-agent".to_owned()),
    );
    agent.licenses = Some(license(env!("CARGO_PKG_LICENSE")));
    let bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(Metadata {
            timestamp: Some(DateTime::try_from(origin.created.clone())?),
            component: Some(agent),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    write(bom)
}

fn write(bom: Bom) -> Result<Vec<u8>> {
    let found = bom.validate_version(SpecVersion::V1_5);
    if found.has_errors() {
        bail!("the list of parts is not valid CycloneDX 1.5: {found:?}");
    }
    let mut text = Vec::new();
    bom.output_as_json(&mut text, SpecVersion::V1_5)
        .context("cannot write the list of parts")?;
    text.push(b'\n');
    Ok(text)
}

fn metadata(arch: Arch) -> Result<Value> {
    let mut command = shell::cargo();
    command.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--features",
        PROGRAMS_FEATURE,
        "--filter-platform",
        arch.target(),
    ]);
    serde_json::from_str(&shell::output(&mut command)?).context("cargo metadata is not JSON")
}

/// A package of the workspace and everything that it is compiled with, macros and build scripts left out.
fn normal_dependencies(metadata: &Value, name: &str) -> BTreeSet<String> {
    let mut by_id = BTreeMap::new();
    for node in metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if let Some(id) = node["id"].as_str() {
            by_id.insert(id, node);
        }
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = by_id
        .keys()
        .copied()
        .filter(|id| id.contains(&format!("/{name}#")))
        .collect();
    while let Some(id) = open.pop() {
        if !found.insert(id.to_owned()) {
            continue;
        }
        let dependencies = by_id.get(id).and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array();
            let is_normal =
                kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()));
            open.extend(dependency["pkg"].as_str().filter(|_| is_normal));
        }
    }
    let macros = packages(metadata).filter(|package| is_macro(package));
    for id in macros.filter_map(|package| package["id"].as_str()) {
        found.remove(id);
    }
    found
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    targets
        .filter_map(|target| target["kind"].as_array())
        .flatten()
        .any(|kind| kind == "proc-macro")
}

/// The crates of `ids`, in order of name and version.
fn crates(metadata: &Value, ids: &BTreeSet<String>) -> Result<Vec<Component>> {
    let mut found = BTreeMap::new();
    for package in packages(metadata) {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        if !ids.contains(&text("id")) || text("name") == "nodeport-agent" {
            continue;
        }
        let (name, version) = (text("name"), text("version"));
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut part = Component::new(Classification::Library, &name, &version, Some(purl.clone()));
        // Ours are in no registry.
        if !package["source"].is_null() {
            part.purl = Some(Purl::new("cargo", &name, &version).with_context(|| purl)?);
        }
        part.licenses = Some(license(&text("license")));
        found.insert((name, version), part);
    }
    if found.len() + 1 < ids.len() {
        bail!(
            "cargo metadata knows {} of {} packages",
            found.len() + 1,
            ids.len()
        );
    }
    Ok(found.into_values().collect())
}

/// An SPDX expression; older crates write `/` for OR, which is none.
fn license(expression: &str) -> Licenses {
    let expression = expression.replace('/', " OR ");
    let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    Licenses(vec![LicenseChoice::Expression(
        cyclonedx_bom::external_models::spdx::SpdxExpression::new(&expression),
    )])
}

/// What the compilers link in: Rust's standard library and the C library.
fn libraries(arch: Arch) -> Result<Vec<Component>> {
    let rust = shell::output(
        Command::new("rustc")
            .arg("--version")
            .current_dir(shell::root()),
    )?;
    let rust = rust
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let mut found = Vec::new();
    for (name, version, terms) in [
        ("rust-std", rust, "MIT OR Apache-2.0"),
        ("glibc", glibc(arch)?, "LGPL-2.1-or-later"),
    ] {
        let reference = format!("{name}@{version}");
        let mut part = Component::new(Classification::Library, name, &version, Some(reference));
        part.licenses = Some(license(terms));
        part.description = Some(NormalizedString::new("linked statically"));
        found.push(part);
    }
    Ok(found)
}

/// The version that the headers of the C library for `arch` name.
fn glibc(arch: Arch) -> Result<String> {
    let script = format!(
        "printf '#include <features.h>\\n__GLIBC__.__GLIBC_MINOR__\\n' | {} -E -P - | tail -n 1",
        arch.compiler()
    );
    let text = shell::output(Command::new("sh").args(["-c", &script]))?;
    let version: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if !version.starts_with("2.") {
        bail!(
            "the C compiler {} says {version:?} for glibc's version",
            arch.compiler()
        );
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_what_the_programs_are_made_of_and_no_macro() {
        let arch = Arch::of_this_machine().unwrap();
        let text = list(&BTreeSet::new(), arch, &Origin::example()).unwrap();
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(document["bomFormat"], "CycloneDX");
        assert_eq!(document["metadata"]["component"]["name"], "nodeport-agent");
        let parts: BTreeMap<&str, &Value> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| (part["name"].as_str().unwrap(), part))
            .collect();
        for name in [
            "nodeport-ebpf",
            "nodeport-common",
            "aya-ebpf",
            "rust-std",
            "glibc",
        ] {
            assert!(parts.contains_key(name), "{name} of {:?}", parts.keys());
        }
        assert!(!parts.contains_key("aya-ebpf-macros"));
        assert_eq!(parts["aya-ebpf"]["purl"], "pkg:cargo/aya-ebpf@0.2.1");
        assert!(parts["nodeport-common"]["purl"].is_null());
        assert_eq!(
            list(&BTreeSet::new(), arch, &Origin::example()).unwrap(),
            text
        );
    }

    #[test]
    fn whatever_the_agent_is_made_of_can_be_listed() {
        let arch = Arch::of_this_machine().unwrap();
        let compiled = normal_dependencies(&metadata(arch).unwrap(), "nodeport-agent");
        assert!(compiled.len() > 100, "{compiled:?}");
        let text = list(&compiled, arch, &Origin::example()).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in ["pkg:cargo/tokio@", "pkg:cargo/aya@", "pkg:cargo/ring@"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("pkg:cargo/serde_derive@"));
    }

    #[test]
    fn an_unknown_package_is_told_of() {
        let ids = BTreeSet::from(["a#1".to_owned(), "b#1".to_owned()]);
        assert!(crates(&serde_json::json!({"packages": []}), &ids).is_err());
    }

    #[test]
    fn an_old_form_of_a_licence_becomes_an_expression() {
        assert_eq!(license("MIT/Apache-2.0"), license("MIT OR Apache-2.0"));
    }
}
