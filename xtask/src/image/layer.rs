//! The only layer of the image: the agent and our licences, as a compressed archive.
//!
//! Invariant: owner, modes, order and times of what is in it depend on nothing of this machine.

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

/// Where the agent lies in the image.
pub(crate) const AGENT: &str = "/bin/nodeport-agent";

/// A layer in both forms that an image names.
pub(crate) struct Layer {
    /// The archive.
    pub(crate) plain: Vec<u8>,
    /// The same, compressed.
    pub(crate) gzip: Vec<u8>,
}

/// Packs the agent and some texts.
pub(crate) fn pack(agent: &[u8], licenses: &[(&str, Vec<u8>)], epoch_secs: u64) -> Result<Layer> {
    let mut tar = Builder::new(Vec::new());
    directory(&mut tar, "bin/", epoch_secs)?;
    file(
        &mut tar,
        AGENT.trim_start_matches('/'),
        0o755,
        agent,
        epoch_secs,
    )?;
    directory(&mut tar, "licenses/", epoch_secs)?;
    for (name, text) in licenses {
        file(
            &mut tar,
            &format!("licenses/{name}"),
            0o644,
            text,
            epoch_secs,
        )?;
    }
    let plain = tar.into_inner().context("cannot pack the layer")?;
    let gzip = compress(&plain).context("cannot compress the layer")?;
    Ok(Layer { plain, gzip })
}

/// Adds a directory of root's.
pub(crate) fn directory(tar: &mut Builder<Vec<u8>>, path: &str, epoch_secs: u64) -> Result<()> {
    append(tar, path, EntryType::Directory, 0o755, &[], epoch_secs)
}

/// Adds a file of root's.
pub(crate) fn file(
    tar: &mut Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    bytes: &[u8],
    epoch_secs: u64,
) -> Result<()> {
    append(tar, path, EntryType::Regular, mode, bytes, epoch_secs)
}

fn append(
    tar: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
    epoch_secs: u64,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch_secs);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
        .with_context(|| format!("cannot pack {path}"))
}

/// Compresses without a name and a time; flate2 writes 255 (unknown) for the operating system.
fn compress(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_the_agent_and_no_trace_of_who_packed_it() {
        let texts = [("LICENSE-MIT", b"text".to_vec())];
        let layer = pack(b"agent", &texts, 7).unwrap();
        let mut archive = tar::Archive::new(layer.plain.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 7);
            let path = header.path().unwrap().display().to_string();
            seen.push((path, header.mode().unwrap(), header.size().unwrap()));
        }
        let wanted = [
            ("bin/", 0o755, 0),
            ("bin/nodeport-agent", 0o755, 5),
            ("licenses/", 0o755, 0),
            ("licenses/LICENSE-MIT", 0o644, 4),
        ];
        assert_eq!(
            seen,
            wanted.map(|(path, mode, size)| (path.to_owned(), mode, size))
        );
        assert_eq!(layer.gzip, pack(b"agent", &texts, 7).unwrap().gzip);
        assert_ne!(layer.gzip, pack(b"agent", &texts, 8).unwrap().gzip);
    }
}
