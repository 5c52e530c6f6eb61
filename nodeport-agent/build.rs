//! Embeds the BPF object into the agent.
//!
//! The object is `$NODEPORT_BPF_OBJECT`, else `../target/bpf/nodeport.o`, which `cargo xtask build` makes. Without one the
//! agent carries an empty object and says so when it is started, so that its tests need no BPF toolchain.
//! Invariant: a change of the object, its appearance included, builds the agent anew.

use std::{env, ffi::OsString, fs, io, path::PathBuf};

const VARIABLE: &str = "NODEPORT_BPF_OBJECT";

/// The generated file. The macro aligns the bytes as the ELF structures that the loader reads in place.
const SOURCE: &str = r#"
/// The BPF object that this agent loads; empty if it was built without one.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nodeport.o"));
"#;

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");

    let object = if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let object = manifest.join(path);
        println!("cargo::rerun-if-changed={}", object.display());
        object
    } else {
        // Cargo takes a watched path that does not exist as changed each time: watch the directory.
        let directory = manifest.join("../target/bpf");
        fs::create_dir_all(&directory)?;
        println!("cargo::rerun-if-changed={}", directory.display());
        directory.join("nodeport.o")
    };
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && env::var_os(VARIABLE).is_none() =>
        {
            println!(
                "cargo::warning=the agent is built without BPF programs; `cargo xtask build` makes them"
            );
            Vec::new()
        }
        Err(error) => {
            let message = format!("cannot read the BPF object {}: {error}", object.display());
            return Err(io::Error::new(error.kind(), message));
        }
    };
    fs::write(out.join("nodeport.o"), bytes)?;
    fs::write(out.join("object.rs"), SOURCE)
}

fn variable(name: &str) -> io::Result<OsString> {
    env::var_os(name).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
}
