//! `cargo xtask verify`: every program of the object through this kernel's verifier, against a committed budget.
//!
//! Owns what is measured: the instructions that the verifier processed (its limit is one million) and the size of the
//! translated program; what a packet costs on the host is counted beside (`packets`). Invariant: nothing is attached, and no pin stays behind.

mod packets;

use crate::{budget::Budget, build, shell};
use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader, programs::Program};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Maps that are pinned by name go below a directory of our own while we look at the programs.
const PIN_PREFIX: &str = "/sys/fs/bpf/nodeport-verify-";

/// Levels of the programs' log lines, a constant of the loaded program: none (as the agent loads them), and all.
const LOG_NOTHING: u8 = 0;
const LOG_EVERYTHING: u8 = u8::MAX;

/// What the kernel said about one program.
struct Measured {
    name: String,
    /// Instructions that the verifier processed, over all paths.
    instructions: u64,
    /// Bytes after the verifier's rewriting.
    translated: u64,
    /// Bytes of machine code.
    jitted: u64,
    took: Duration,
}

/// Builds the object, loads every program of it, and compares with `xtask/budget.toml`.
pub(crate) fn main() -> Result<()> {
    let object = build::object()?;
    let measured = shell::stage("load every program", || load(&object, LOG_NOTHING))?;
    println!("{}", table(&measured).trim_end());
    // Not held to the budget, but it has to load: it is what `--datapath-log` runs.
    shell::stage("load every program with every log line", || {
        load(&object, LOG_EVERYTHING)
    })?;
    let over = over_budget(&measured, &Budget::read()?);
    if !over.is_empty() {
        bail!("over budget:\n{}", over.join("\n"));
    }
    packets::main()
}

fn load(object: &Path, log_level: u8) -> Result<Vec<Measured>> {
    let pins = Pins::make()?;
    let mut programs = EbpfLoader::new()
        .default_map_pin_directory(&pins.0)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .load_file(object)
        .with_context(|| format!("cannot load the maps of {}", object.display()))?;
    let mut measured = measure(&mut programs)?;
    if measured.is_empty() {
        bail!("{} has no programs", object.display());
    }
    measured.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(measured)
}

fn measure(programs: &mut Ebpf) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (name, program) in programs.programs_mut() {
        let start = Instant::now();
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            other => bail!(
                "{name}: verify does not know how to load {:?}",
                other.prog_type()
            ),
        }
        .with_context(|| format!("the verifier refuses {name}"))?;
        let took = start.elapsed();
        let info = program
            .info()
            .with_context(|| format!("cannot ask for {name}"))?;
        measured.push(Measured {
            name: name.to_owned(),
            instructions: info.verified_instruction_count().unwrap_or(0).into(),
            translated: info.size_translated().unwrap_or(0).into(),
            jitted: info.size_jitted().into(),
            took,
        });
    }
    Ok(measured)
}

fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "{:20}{:>14}{:>12}{:>10}{:>10}\n",
        "program", "instructions", "translated", "jitted", "took"
    );
    for program in measured {
        let _ = writeln!(
            text,
            "{:20}{:>14}{:>12}{:>10}{:>10}",
            program.name,
            program.instructions,
            program.translated,
            program.jitted,
            shell::seconds(program.took)
        );
    }
    text
}

/// What is over its bound or has none; a bound without a program is out of date.
fn over_budget(measured: &[Measured], budget: &Budget) -> Vec<String> {
    let mut over = Vec::new();
    for program in measured {
        for (what, value) in [
            ("instructions", program.instructions),
            ("translated", program.translated),
        ] {
            let name = format!("verify.{}.{what}", program.name);
            match budget.get(&name) {
                Some(bound) if value <= bound => {}
                Some(bound) => over.push(format!("{name}: {value}; at most {bound}")),
                None => over.push(format!(
                    "{name}: {value}, and no bound in xtask/budget.toml"
                )),
            }
        }
    }
    for name in budget
        .names()
        .filter_map(|name| name.strip_prefix("verify."))
    {
        let known = name
            .split_once('.')
            .is_some_and(|(name, _)| measured.iter().any(|program| program.name == name));
        if !known {
            over.push(format!("verify.{name}: the object has no such program"));
        }
    }
    over
}

/// A directory for pins that is removed when we are done.
struct Pins(PathBuf);

impl Pins {
    fn make() -> Result<Self> {
        nodeport_tests::mount_bpffs()?;
        remove_left_pins()?;
        let path = PathBuf::from(format!("{PIN_PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make {} (root and a mounted bpffs are needed)",
                path.display()
            )
        })?;
        Ok(Self(path))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Removes the pins of a `verify` that was killed, and returns how many directories there were.
pub(crate) fn remove_left_pins() -> Result<usize> {
    let mut removed = 0;
    let Ok(entries) = fs::read_dir("/sys/fs/bpf") else {
        return Ok(removed);
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let owner = path.to_str().and_then(|path| path.strip_prefix(PIN_PREFIX));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, instructions: u64, translated: u64) -> Measured {
        Measured {
            name: name.to_owned(),
            instructions,
            translated,
            jitted: 3 * translated,
            took: Duration::from_millis(240),
        }
    }

    #[test]
    fn a_program_within_its_bounds_passes() {
        let budget = "verify.nodeport_xdp.instructions = 100\nverify.nodeport_xdp.translated = 80\nunsafe.rim = 1";
        let budget = budget.parse().unwrap();
        assert_eq!(
            over_budget(&[program("nodeport_xdp", 100, 80)], &budget),
            Vec::<String>::new()
        );
    }

    #[test]
    fn over_a_bound_without_a_bound_and_a_bound_without_a_program_are_named() {
        let budget = "verify.nodeport_xdp.instructions = 100\nverify.gone.translated = 80";
        let budget = budget.parse().unwrap();
        assert_eq!(
            over_budget(&[program("nodeport_xdp", 101, 80)], &budget),
            [
                "verify.nodeport_xdp.instructions: 101; at most 100",
                "verify.nodeport_xdp.translated: 80, and no bound in xtask/budget.toml",
                "verify.gone.translated: the object has no such program",
            ]
        );
    }

    #[test]
    fn the_table_has_a_line_for_each_program() {
        let text = table(&[
            program("nodeport_xdp", 1200, 80),
            program("nodeport_in", 5, 6),
        ]);
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "program instructions translated jitted took",
                "nodeport_xdp 1200 80 240 0.2 s",
                "nodeport_in 5 6 18 0.2 s",
            ]
        );
    }
}
