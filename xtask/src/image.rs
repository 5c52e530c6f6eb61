//! `cargo xtask image`: the agent as an OCI image, without a container engine.
//!
//! Owns the order: the agent without line tables, its list of parts, the archive, and what is held against it. Refuses to know formats.
//! Invariant: the archive is a function of the sources, the compilers and the commit, and not of when, where and by whom it is built.

mod archive;
mod layer;
mod origin;
mod parts;

use crate::{
    agent::{self, Agent, Arch},
    build, shell,
};
use anyhow::{Context as _, Result, bail};
use origin::Origin;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The most that an archive may have.
const LIMIT_BYTES: u64 = 20 * 1024 * 1024;

/// What the image is called unless told otherwise; deploy/ names it, too. No registry is meant by `localhost`.
const REPOSITORY: &str = "localhost/nodeport-agent";

/// What `cargo xtask image` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to write the archive, an OCI image layout; the list of its parts goes beside it (.cdx.json)
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Processor of the nodes; that of this machine by default
    #[arg(long)]
    arch: Option<Arch>,
    /// Name of the image
    #[arg(long, value_name = "REFERENCE", default_value_t = reference())]
    name: String,
}

/// The name with this version as its tag.
fn reference() -> String {
    format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Builds the binary, packs it and checks what came out.
pub(crate) fn main(args: &Args) -> Result<()> {
    build(args).map(drop)
}

/// The archive for this machine, built, by its usual name and at its usual place.
pub(crate) fn usual() -> Result<PathBuf> {
    build(&Args {
        output: None,
        arch: None,
        name: reference(),
    })
}

fn build(args: &Args) -> Result<PathBuf> {
    let arch = args.arch.map_or_else(Arch::of_this_machine, Ok)?;
    build::object()?;
    let built = shell::stage(&format!("build the agent ({arch})"), || agent::build(arch))?;
    let output = args
        .output
        .clone()
        .map_or_else(|| default_output(arch), Ok)?;
    let beside = output.with_extension("cdx.json");
    let binary = built.stripped(arch)?;
    let archive = shell::stage("pack the image", || pack(&built, &binary, arch, &args.name))?;
    write(&output, &archive.bytes)?;
    write(&beside, &archive.parts)?;
    println!("{}", output.display());
    println!("{}", beside.display());
    println!(
        "{} {}: {} of at most {}, the agent in it {}",
        args.name,
        archive.digest,
        mebibytes(archive.bytes.len() as u64),
        mebibytes(LIMIT_BYTES),
        mebibytes(binary.len() as u64),
    );
    check_size(archive.bytes.len() as u64)?;
    Ok(output)
}

fn pack(built: &Agent, binary: &[u8], arch: Arch, name: &str) -> Result<archive::Archive> {
    let origin = Origin::read()?;
    let parts = parts::list(&built.packages, arch, &origin)?;
    let licenses = ["LICENSE-APACHE", "LICENSE-MIT"]
        .map(|file| fs::read(shell::root().join(file)).map(|text| (file, text)))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .context("cannot read the licences")?;
    let layer = layer::pack(binary, &licenses, origin.epoch_secs)?;
    archive::pack(&layer, parts, arch, name, &origin)
}

fn default_output(arch: Arch) -> Result<PathBuf> {
    let directory = build::target_directory().join("image");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory.join(format!("nodeport-agent-{arch}.tar")))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn check_size(bytes: u64) -> Result<()> {
    if bytes >= LIMIT_BYTES {
        bail!(
            "the image has {}: it must stay below {}; look at what was added to the agent (`cargo tree -p nodeport-agent`)",
            mebibytes(bytes),
            mebibytes(LIMIT_BYTES)
        );
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_at_the_limit_is_refused() {
        assert!(check_size(LIMIT_BYTES - 1).is_ok());
        let error = check_size(LIMIT_BYTES).unwrap_err().to_string();
        assert!(error.contains("20.0 MiB"), "{error}");
    }
}
