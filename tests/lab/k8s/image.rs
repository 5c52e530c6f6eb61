//! Container images of one program: OCI image layouts in a tar file, as `ctr images import` takes them.
//!
//! Owns the few documents of image-spec 1.1 that this takes. Invariant: a descriptor's digest and size are those of the bytes that
//! are packed under it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The environment variable that names the agent's own image, as `cargo xtask image` makes it.
pub const AGENT_VARIABLE: &str = "NODEPORT_IMAGE";

/// The file of the agent's own image.
///
/// # Errors
/// If the environment does not name it.
pub fn agent_from_environment() -> Result<PathBuf> {
    std::env::var_os(AGENT_VARIABLE).map(PathBuf::from).with_context(|| {
        format!("{AGENT_VARIABLE} is not set: `cargo xtask test cluster` builds the image and sets it")
    })
}

/// A copy of an archive whose image has another name of the same length: to a cluster, another image.
///
/// # Errors
/// If the name is not in it, or a file cannot be read or written.
pub fn renamed(archive: &Path, from: &str, to: &str, copy: &Path) -> Result<()> {
    ensure!(from.len() == to.len(), "{from} and {to} differ in length");
    let mut bytes = fs::read(archive).with_context(|| format!("read {}", archive.display()))?;
    // Names are in the index alone, whose content nothing is a digest of.
    let windows = bytes.windows(from.len()).enumerate();
    let named = windows.filter(|(_, window)| *window == from.as_bytes());
    let places: Vec<_> = named.map(|(place, _)| place).collect();
    ensure!(!places.is_empty(), "{} is no {from}", archive.display());
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    fs::write(copy, bytes).with_context(|| format!("write {}", copy.display()))
}

/// Packs a static program as `/bin/NAME` of an image, run with these arguments unless others are given.
///
/// # Errors
/// If the program cannot be read or the file not be written.
pub fn pack(program: &Path, arguments: &[&str], image: &str, to: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let path = format!("bin/{}", name.display());
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let layer = archive(&[(&path, 0o755, &bytes)])?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{path}")], "Cmd": arguments, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut described = describe("application/vnd.oci.image.manifest.v1+json", &manifest);
    // containerd names the image by this.
    described["annotations"] = json!({"io.containerd.image.name": image});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });
    let layout: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let index = index.to_string().into_bytes();
    let places = [&config, &manifest, &layer].map(|blob| blob_path(blob));
    let all = archive(&[
        ("oci-layout", 0o644, layout),
        ("index.json", 0o644, &index),
        (&places[0], 0o644, &config),
        (&places[1], 0o644, &manifest),
        (&places[2], 0o644, &layer),
    ])?;
    fs::write(to, all).with_context(|| format!("write {}", to.display()))
}

/// Files with their modes.
fn archive(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, *bytes)
            .with_context(|| format!("pack {path}"))?;
    }
    tar.into_inner().context("end the archive")
}

fn describe(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// This machine, as images call it.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    #[test]
    fn an_image_is_renamed_in_the_index_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let [program, one, two] = ["pod", "one.tar", "two.tar"].map(|name| dir.path().join(name));
        fs::write(&program, "ELF").expect("written");
        pack(&program, &["pause"], "lab/pause:1", &one).expect("packed");
        renamed(&one, "lab/pause:1", "lab/pause:2", &two).expect("renamed");
        pack(&program, &["pause"], "lab/pause:2", &one).expect("packed");
        assert_eq!(fs::read(&one).expect("one"), fs::read(&two).expect("two"));
        assert!(renamed(&one, "lab/other:1", "lab/other:2", &two).is_err());
    }

    #[test]
    fn descriptors_lead_to_the_program() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, image) = (dir.path().join("pod"), dir.path().join("pod.tar"));
        fs::write(&program, "ELF").expect("written");
        pack(&program, &["pause"], "lab/pause:1", &image).expect("packed");
        let mut files = BTreeMap::new();
        let file = fs::File::open(&image).expect("it is there");
        for entry in tar::Archive::new(file).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            files.insert(entry.path().expect("a path").display().to_string(), bytes);
        }
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let follow = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index = json(&files["index.json"]);
        let described = &index["manifests"][0];
        assert_eq!(
            described["annotations"]["io.containerd.image.name"],
            "lab/pause:1"
        );
        let manifest = json(&follow(described));
        let config = json(&follow(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/pod"]));
        assert_eq!(config["config"]["Cmd"], json!(["pause"]));
        let layer = follow(&manifest["layers"][0]);
        let mut layer = tar::Archive::new(layer.as_slice());
        let entry = layer.entries().expect("an archive").next().expect("a file");
        let entry = entry.expect("an entry");
        assert_eq!(entry.path().expect("a path"), Path::new("bin/pod"));
        assert_eq!(entry.header().mode().expect("a mode"), 0o755);
    }
}
