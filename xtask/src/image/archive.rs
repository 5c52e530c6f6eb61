//! The archive: an OCI image layout (image-spec 1.1) with the image, and the list of its parts as an artifact that refers to it.
//!
//! `ctr image import`, `skopeo` and `podman load` read the layout, `docker load` the `manifest.json` beside it. Invariant: every
//! JSON document has its keys in order; the library keeps annotations in hash maps.

use super::{layer, layer::Layer, origin::Origin};
use crate::agent::Arch;
use anyhow::{Context as _, Result};
use oci_spec::image::{
    ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, PlatformBuilder, RootFsBuilder,
    Sha256Digest,
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

/// Type of the list of parts.
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";

/// The content of an empty configuration, which image-spec fixes.
const EMPTY: &[u8] = b"{}";

/// What was packed.
pub(crate) struct Archive {
    /// The whole file.
    pub(crate) bytes: Vec<u8>,
    /// The list of parts.
    pub(crate) parts: Vec<u8>,
    /// Digest of the image's manifest.
    pub(crate) digest: String,
}

/// Contents by their digests.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Takes a content, and describes it.
    fn add(&mut self, bytes: Vec<u8>, media_type: MediaType) -> Result<Descriptor> {
        let digest = sha256(&bytes);
        let described = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(digest.parse::<Sha256Digest>()?)
            .size(bytes.len() as u64)
            .build()?;
        self.0.insert(digest, bytes);
        Ok(described)
    }
}

/// Packs a layer as the image `name`.
pub(crate) fn pack(
    layer: &Layer,
    parts: Vec<u8>,
    arch: Arch,
    name: &str,
    origin: &Origin,
) -> Result<Archive> {
    let mut blobs = Blobs::default();
    let config = blobs.add(
        sorted(&configuration(layer, arch, origin)?)?,
        MediaType::ImageConfig,
    )?;
    let packed = blobs.add(layer.gzip.clone(), MediaType::ImageLayerGzip)?;
    let docker = json!([{
        "Config": blob(&config),
        "RepoTags": [name],
        "Layers": [blob(&packed)],
    }]);
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![packed])
        .annotations(annotations(origin))
        .build()?;
    let image = blobs.add(sorted(&manifest)?, MediaType::ImageManifest)?;
    let referrer = refer(&mut blobs, parts.clone(), &image, origin)?;
    let digest = image.digest().to_string();
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![named(image, arch, name)?, referrer])
        .build()?;
    let bytes = archive(&blobs, &sorted(&index)?, &sorted(&docker)?, origin)?;
    Ok(Archive {
        bytes,
        parts,
        digest,
    })
}

/// What a container of the image does and says.
fn configuration(layer: &Layer, arch: Arch, origin: &Origin) -> Result<impl Serialize> {
    let config = ConfigBuilder::default()
        .user("0:0")
        .env(vec!["PATH=/bin".to_owned()])
        .entrypoint(vec![layer::AGENT.to_owned()])
        .cmd(vec!["run".to_owned()])
        .working_dir("/")
        .labels(annotations(origin))
        .build()?;
    let files = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![format!("sha256:{}", sha256(&layer.plain))])
        .build()?;
    Ok(ImageConfigurationBuilder::default()
        .created(origin.created.clone())
        .architecture(arch.name())
        .os("linux")
        .config(config)
        .rootfs(files)
        .history(Vec::new())
        .build()?)
}

/// The keys that image-spec predefines.
fn annotations(origin: &Origin) -> HashMap<String, String> {
    [
        ("title", "nodeport-agent"),
        (
            "description",
            "Kubernetes Services by eBPF, in the place of kube-proxy: the agent of a node",
        ),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("created", &origin.created),
        ("revision", &origin.revision),
    ]
    .into_iter()
    .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()))
    .collect()
}

/// Adds the list of parts as an artifact whose subject is the image.
fn refer(
    blobs: &mut Blobs,
    parts: Vec<u8>,
    image: &Descriptor,
    origin: &Origin,
) -> Result<Descriptor> {
    let list = blobs.add(parts, MediaType::from(CYCLONEDX))?;
    let empty = blobs.add(EMPTY.to_vec(), MediaType::EmptyJSON)?;
    let created = (
        "org.opencontainers.image.created".to_owned(),
        origin.created.clone(),
    );
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .artifact_type(MediaType::from(CYCLONEDX))
        .config(empty)
        .layers(vec![list])
        .subject(image.clone())
        .annotations(HashMap::from([created]))
        .build()?;
    let mut described = blobs.add(sorted(&manifest)?, MediaType::ImageManifest)?;
    described.set_artifact_type(Some(MediaType::from(CYCLONEDX)));
    Ok(described)
}

/// The image as the index has it: containerd takes the name from its own key, others take the tag from that of image-spec.
fn named(mut image: Descriptor, arch: Arch, name: &str) -> Result<Descriptor> {
    let tag = name
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .map(|(_, tag)| tag)
        .with_context(|| format!("--name {name} has no tag: write {name}:TAG"))?;
    let names = [
        ("io.containerd.image.name", name),
        ("org.opencontainers.image.ref.name", tag),
    ];
    image.set_annotations(Some(
        names
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    ));
    image.set_platform(Some(
        PlatformBuilder::default()
            .architecture(arch.name())
            .os("linux")
            .build()?,
    ));
    Ok(image)
}

fn archive(blobs: &Blobs, index: &[u8], docker: &[u8], origin: &Origin) -> Result<Vec<u8>> {
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0".to_owned())
        .build()?;
    let when = origin.epoch_secs;
    let mut tar = tar::Builder::new(Vec::new());
    layer::file(&mut tar, "oci-layout", 0o644, &sorted(&layout)?, when)?;
    layer::file(&mut tar, "index.json", 0o644, index, when)?;
    layer::file(&mut tar, "manifest.json", 0o644, docker, when)?;
    layer::directory(&mut tar, "blobs/", when)?;
    layer::directory(&mut tar, "blobs/sha256/", when)?;
    for (digest, bytes) in &blobs.0 {
        layer::file(
            &mut tar,
            &format!("blobs/sha256/{digest}"),
            0o644,
            bytes,
            when,
        )?;
    }
    tar.into_inner().context("cannot pack the archive")
}

/// The place of a content in the archive.
fn blob(described: &Descriptor) -> String {
    format!("blobs/sha256/{}", described.digest().digest())
}

fn sorted(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(document)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::Read as _;

    fn example() -> Archive {
        let layer = layer::pack(b"agent", &[], 7).unwrap();
        let name = "example.com:5000/nodeport:1";
        pack(
            &layer,
            b"parts".to_vec(),
            Arch::Arm64,
            name,
            &Origin::example(),
        )
        .unwrap()
    }

    fn files(archive: &Archive) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive.bytes.as_slice())
            .entries()
            .unwrap()
        {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        files
    }

    fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    /// What a descriptor points to, its size and digest found right.
    fn follow(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        let bytes = files[&format!("blobs/{digest}")].clone();
        assert_eq!(descriptor["size"], bytes.len());
        assert_eq!(digest, format!("sha256/{}", sha256(&bytes)));
        bytes
    }

    #[test]
    fn the_index_leads_to_the_agent() {
        let archive = example();
        let files = files(&archive);
        assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json(&files, "index.json");
        let image = &index["manifests"][0];
        assert_eq!(image["digest"], archive.digest.as_str());
        assert_eq!(image["platform"]["architecture"], "arm64");
        let names = &image["annotations"];
        assert_eq!(
            names["io.containerd.image.name"],
            "example.com:5000/nodeport:1"
        );
        assert_eq!(names["org.opencontainers.image.ref.name"], "1");
        let manifest: Value = serde_json::from_slice(&follow(&files, image)).unwrap();
        let config: Value = serde_json::from_slice(&follow(&files, &manifest["config"])).unwrap();
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(
            config["config"]["Entrypoint"],
            json!(["/bin/nodeport-agent"])
        );
        assert_eq!(config["config"]["Cmd"], json!(["run"]));
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.revision"], "0123abc");
        let layer = layer::pack(b"agent", &[], 7).unwrap();
        assert_eq!(follow(&files, &manifest["layers"][0]), layer.gzip);
        let diff = format!("sha256:{}", sha256(&layer.plain));
        assert_eq!(config["rootfs"]["diff_ids"], json!([diff]));
    }

    #[test]
    fn the_list_of_parts_refers_to_the_image_and_is_no_image_itself() {
        let archive = example();
        let files = files(&archive);
        let index = json(&files, "index.json");
        let artifact = &index["manifests"][1];
        assert!(artifact["annotations"].is_null() && artifact["platform"].is_null());
        let manifest: Value = serde_json::from_slice(&follow(&files, artifact)).unwrap();
        assert_eq!(manifest["artifactType"], CYCLONEDX);
        assert_eq!(manifest["subject"]["digest"], archive.digest.as_str());
        assert_eq!(follow(&files, &manifest["config"]), b"{}");
        assert_eq!(follow(&files, &manifest["layers"][0]), b"parts");
    }

    #[test]
    fn docker_finds_the_same_image() {
        let files = files(&example());
        let docker = json(&files, "manifest.json");
        assert_eq!(
            docker[0]["RepoTags"],
            json!(["example.com:5000/nodeport:1"])
        );
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn the_same_image_is_the_same_bytes() {
        let first = example();
        for _ in 0..20 {
            assert_eq!(example().bytes, first.bytes);
        }
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        let layer = layer::pack(b"agent", &[], 7).unwrap();
        let name = "example.com:5000/nodeport";
        let error = pack(&layer, Vec::new(), Arch::Amd64, name, &Origin::example())
            .err()
            .unwrap();
        assert!(error.to_string().contains("has no tag"), "{error}");
    }
}
