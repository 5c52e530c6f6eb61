//! `cargo xtask test`: every tier, with its time, and one closing line for all of them.
//!
//! Owns which tiers there are and what each needs. Refuses to know what they test. Invariant: a tier that cannot run is
//! counted as skipped and says why; in CI that is a failure.

mod summary;

use crate::{build, image, kubernetes, packages, shell};
use anyhow::{Context as _, Result, bail};
use nodeport_tests::k8s::{image::AGENT_VARIABLE, programs::VARIABLE};
use std::{
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use summary::Summary;

/// The package of the tests that need a kernel.
const TESTS: &str = "nodeport-tests";

/// The tiers that need neither root nor the BPF object, in order. All others need both.
const NEEDS_NOTHING: &[&str] = &["unit", "scenario"];

/// The tier with a real API server, whose programs take minutes to build for the first time.
const CLUSTER: &str = "cluster";

/// What `cargo xtask test` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Tiers to run; all if none is named
    #[arg(value_name = "TIER")]
    tiers: Vec<String>,
    /// Arguments for the test programs, such as a part of a test's name
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// What became of a tier.
struct Report {
    tier: String,
    summary: Summary,
    took: Duration,
    /// Why it failed or did not run, if so.
    trouble: Option<String>,
}

/// Runs the tiers and prints the closing line.
pub(crate) fn main(args: &Args) -> Result<()> {
    let all = tiers()?;
    if let Some(unknown) = args
        .tiers
        .iter()
        .find(|name| all.iter().all(|tier| tier.name != **name))
    {
        let names: Vec<_> = all.iter().map(|tier| tier.name.as_str()).collect();
        bail!("there is no tier {unknown}; there are: {}", names.join(" "));
    }
    let chosen: Vec<_> = all
        .iter()
        .filter(|tier| tier.is_chosen(&args.tiers))
        .collect();
    // Made once and before the first tier, so that no tier's time contains it, and a failure is not found out twice.
    let prepared = chosen.iter().any(|tier| tier.is_needy()).then(prepare);
    let mut reports = Vec::new();
    for tier in chosen {
        let agent = match &prepared {
            Some(Ok(agent)) => Some(agent),
            Some(Err(reason)) if tier.is_needy() => {
                reports.push(Report::skipped(&tier.name, format!("{reason:#}")));
                continue;
            }
            _ => None,
        };
        if commands(tier).is_empty() {
            reports.push(Report::skipped(&tier.name, "it has no tests".to_owned()));
            continue;
        }
        let mut environment = Vec::new();
        environment.extend(agent.map(|agent| ("NODEPORT_AGENT", agent.clone().into_os_string())));
        if tier.name == CLUSTER {
            match cluster() {
                Ok(more) => environment.extend(more),
                Err(reason) => {
                    reports.push(Report::skipped(&tier.name, format!("{reason:#}")));
                    continue;
                }
            }
        }
        reports.push(run(tier, &environment, &args.arguments)?);
    }
    conclude(
        &reports,
        env::var_os("CI").is_some_and(|value| value == "true"),
    )
}

/// A tier and the test targets that belong to it.
struct Tier {
    name: String,
    /// Package and target.
    targets: Vec<(String, String)>,
}

impl Tier {
    /// Whether it runs if these are named on the command line.
    fn is_chosen(&self, named: &[String]) -> bool {
        named.is_empty() || named.contains(&self.name)
    }

    fn is_needy(&self) -> bool {
        !NEEDS_NOTHING.contains(&self.name.as_str())
    }
}

/// The tiers in order, with their test targets as cargo knows them.
fn tiers() -> Result<Vec<Tier>> {
    let text =
        shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    Ok(sort(summary::test_targets(&metadata)))
}

/// `unit` is what stands beside the code; a test target is of the tier of its name. Of other names, those of the tests
/// package are tiers by themselves (and need a kernel), the rest are scenarios.
fn sort(targets: Vec<(String, String)>) -> Vec<Tier> {
    let mut tiers: Vec<_> = ["unit", "scenario", "parity", "network"]
        .map(|name| Tier {
            name: name.to_owned(),
            targets: Vec::new(),
        })
        .into();
    for (package, target) in targets {
        let is_known = tiers.iter().any(|tier| tier.name == target);
        let name = if is_known || package == TESTS {
            &target
        } else {
            "scenario"
        };
        match tiers.iter_mut().find(|tier| tier.name == *name) {
            Some(tier) => tier.targets.push((package, target)),
            None => tiers.push(Tier {
                name: name.to_owned(),
                targets: vec![(package, target)],
            }),
        }
    }
    tiers
}

/// What the tiers with a kernel need: root, the programs of the lab, the BPF object and the agent.
fn prepare() -> Result<PathBuf> {
    if !shell::is_root() {
        bail!("it needs root");
    }
    packages::ensure_tools()?;
    nodeport_tests::mount_bpffs()?;
    Ok(build::all(false)?.agent)
}

/// What the cluster tier needs beside that: the programs of Kubernetes, and the agent's image.
fn cluster() -> Result<[(&'static str, OsString); 2]> {
    Ok([
        (VARIABLE, kubernetes::real_nodes()?),
        (AGENT_VARIABLE, image::usual()?.into_os_string()),
    ])
}

fn run(tier: &Tier, environment: &[(&str, OsString)], arguments: &[String]) -> Result<Report> {
    eprintln!("==> tier {}", tier.name);
    let start = Instant::now();
    let mut summary = Summary::default();
    let mut trouble = None;
    for mut command in commands(tier) {
        command.envs(environment.iter().cloned());
        command.arg("--").args(arguments);
        let ended_well = follow(&mut command, &mut summary)?;
        if !ended_well && trouble.is_none() {
            trouble = Some(format!("`{}` failed", shell::describe(&command)));
        }
    }
    let report = Report {
        tier: tier.name.clone(),
        summary,
        took: start.elapsed(),
        trouble,
    };
    eprintln!("==> tier {report}");
    Ok(report)
}

fn commands(tier: &Tier) -> Vec<Command> {
    let test = |arguments: &[&str]| {
        let mut command = shell::cargo();
        command.args(["test", "--no-fail-fast"]).args(arguments);
        command
    };
    if tier.name == "unit" {
        vec![
            test(&["--workspace", "--lib", "--bins"]),
            test(&["--workspace", "--doc"]),
        ]
    } else {
        let of_target =
            |(package, target): &(String, String)| test(&["--package", package, "--test", target]);
        tier.targets.iter().map(of_target).collect()
    }
}

/// Runs cargo, shows what it prints, and adds up the results that it reports.
fn follow(command: &mut Command, summary: &mut Summary) -> Result<bool> {
    let line = shell::describe(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("cargo's output is not piped")?;
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        std::io::stdout().write_all(&bytes)?;
        summary.read(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{line}`"))?;
    Ok(status.success())
}

/// Prints a line for each tier and the closing line, and decides.
fn conclude(reports: &[Report], in_ci: bool) -> Result<()> {
    let mut total = Summary::default();
    println!();
    for report in reports {
        println!("tier {report}");
        total.add(&report.summary);
    }
    println!();
    println!("{total}");
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| report.failed())
        .map(|report| report.tier.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if in_ci && total.skipped > 0 {
        bail!("in CI nothing may be skipped");
    }
    if total.passed == 0 && total.skipped == 0 {
        bail!("no test ran");
    }
    Ok(())
}

impl Report {
    fn skipped(tier: &str, reason: String) -> Self {
        let report = Self {
            tier: tier.to_owned(),
            summary: Summary {
                skipped: 1,
                ..Summary::default()
            },
            took: Duration::ZERO,
            trouble: Some(reason),
        };
        eprintln!("==> tier {report}");
        report
    }

    fn failed(&self) -> bool {
        self.summary.failed > 0 || (self.trouble.is_some() && self.summary.skipped == 0)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} in {}",
            self.tier,
            self.summary,
            shell::seconds(self.took)
        )?;
        match &self.trouble {
            Some(reason) if self.failed() => write!(f, "; FAILED: {reason}"),
            Some(reason) => write!(f, "; SKIPPED: {reason}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(passed: u64, failed: u64, trouble: Option<&str>) -> Report {
        Report {
            tier: "unit".to_owned(),
            summary: Summary {
                passed,
                failed,
                skipped: 0,
            },
            took: Duration::from_secs(1),
            trouble: trouble.map(str::to_owned),
        }
    }

    #[test]
    fn a_skipped_tier_is_a_failure_only_in_ci() {
        let reports = [
            report(3, 0, None),
            Report::skipped("network", "it needs root".to_owned()),
        ];
        assert!(conclude(&reports, false).is_ok());
        assert_eq!(
            conclude(&reports, true).unwrap_err().to_string(),
            "in CI nothing may be skipped"
        );
    }

    #[test]
    fn a_tier_that_did_not_compile_fails_although_no_test_of_it_did() {
        let error = conclude(&[report(0, 0, Some("`cargo test` failed"))], false).unwrap_err();
        assert_eq!(error.to_string(), "failed: unit");
    }

    #[test]
    fn a_run_of_no_test_is_no_success() {
        assert_eq!(
            conclude(&[report(0, 0, None)], false)
                .unwrap_err()
                .to_string(),
            "no test ran"
        );
    }

    #[test]
    fn every_test_target_is_of_a_tier() {
        let target = |package: &str, name: &str| (package.to_owned(), name.to_owned());
        let tiers = sort(vec![
            target("nodeport-agent", "oracle"),
            target("nodeport-agent", "scenario"),
            target(TESTS, "network"),
            target(TESTS, "upgrade"),
        ]);
        let names: Vec<_> = tiers
            .iter()
            .map(|tier| (tier.name.as_str(), tier.targets.len(), tier.is_needy()))
            .collect();
        assert_eq!(
            names,
            [
                ("unit", 0, false),
                ("scenario", 2, false),
                ("parity", 0, true),
                ("network", 1, true),
                ("upgrade", 1, true)
            ]
        );
    }
}
