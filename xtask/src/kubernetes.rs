//! The programs of a Kubernetes cluster, for the cluster tier, and Helm for the chart: built from the Go modules below `tests/kubernetes`, once.
//!
//! Owns which programs there are and where they are kept. Refuses to know how they are started. Invariant: a program is kept under
//! a name made of its module's `go.mod`, `go.sum` and own sources, so a changed version is another file.

mod go;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;
pub(crate) use go::Go;

/// Programs that are built from one Go module.
struct Group {
    /// Directory of the module below `tests/kubernetes`.
    module: &'static str,
    /// Where a program's package is, before its name.
    packages: &'static str,
    /// Where each program's package is below that; the last part is its name.
    programs: &'static [&'static str],
    /// The variable of the linker that holds the version, and the module whose version it is.
    version: Option<(&'static str, &'static str)>,
    /// Build tags.
    tags: &'static str,
}

/// What a control plane without real nodes needs.
const CONTROL_PLANE: &[Group] = &[
    Group {
        module: "etcd",
        packages: "go.etcd.io/etcd/server/v3",
        programs: &["etcd"],
        version: None,
        tags: "",
    },
    KUBERNETES,
];

/// The programs of Kubernetes that a control plane and its clients are.
const KUBERNETES: Group = Group {
    module: "kubernetes",
    packages: "k8s.io/kubernetes/cmd/",
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kubectl",
        "kube-proxy",
    ],
    version: Some((
        "k8s.io/component-base/version.gitVersion",
        "k8s.io/kubernetes",
    )),
    tags: "",
};

/// What real nodes need beside it.
const REAL_NODES: &[Group] = &[
    Group {
        programs: &["kube-scheduler", "kubelet"],
        ..KUBERNETES
    },
    Group {
        module: "containerd",
        packages: "github.com/containerd/containerd/v2/cmd/",
        programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
        version: Some((
            "github.com/containerd/containerd/v2/version.Version",
            "github.com/containerd/containerd/v2",
        )),
        tags: "no_btrfs,no_devmapper,no_zfs,no_aufs",
    },
    Group {
        module: "cni",
        packages: "github.com/containernetworking/plugins/plugins/",
        programs: &[
            "ipam/host-local",
            "main/loopback",
            "main/ptp",
            "meta/portmap",
        ],
        version: None,
        tags: "",
    },
    Group {
        module: "coredns",
        packages: "github.com/coredns/coredns",
        programs: &["coredns"],
        version: None,
        tags: "",
    },
    Group {
        module: "pod",
        packages: "nodeport.test/pod",
        programs: &["pod"],
        version: None,
        tags: "",
    },
];

/// What checks and renders the chart.
const HELM: &[Group] = &[Group {
    module: "helm",
    packages: "helm.sh/helm/v3/cmd/",
    programs: &["helm"],
    version: Some((
        "helm.sh/helm/v3/internal/version.version",
        "helm.sh/helm/v3",
    )),
    tags: "",
}];

/// Builds Helm if it is not there yet. Returns the program.
pub(crate) fn helm() -> Result<PathBuf> {
    Ok(PathBuf::from(build(HELM)?).join("helm"))
}

/// Builds what a control plane takes and is not there yet. Returns the directories as one list.
pub(crate) fn control_plane() -> Result<OsString> {
    build(CONTROL_PLANE)
}

/// The directories of what a control plane takes, as one list, if all of it was built.
pub(crate) fn built() -> Result<Option<OsString>> {
    let mut directories = Vec::new();
    for group in CONTROL_PLANE {
        let directory = group.directory()?;
        if !group.missing(&directory).is_empty() {
            return Ok(None);
        }
        directories.push(directory);
    }
    Ok(Some(std::env::join_paths(directories)?))
}

/// Builds what a cluster with real nodes takes and is not there yet. Returns the directories as one list.
pub(crate) fn real_nodes() -> Result<OsString> {
    if shell::find("runc").is_none() {
        shell::stage("install runc", || crate::packages::install(&["runc"]))?;
    }
    let groups = CONTROL_PLANE.iter().chain(REAL_NODES);
    build(groups)
}

fn build<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Result<OsString> {
    let mut go = None;
    let directories = groups
        .into_iter()
        .map(|group| group.build(&mut go))
        .collect::<Result<Vec<_>>>()?;
    std::env::join_paths(directories).context("a directory of the cache has a colon in its name")
}

impl Group {
    /// Builds the programs that are not there, with a Go that is looked for if it is needed. Returns the directory that they are in.
    fn build(&self, go: &mut Option<Go>) -> Result<PathBuf> {
        let directory = self.directory()?;
        let missing = self.missing(&directory);
        if missing.is_empty() {
            return Ok(directory);
        }
        let go = match go {
            Some(go) => go,
            None => go.insert(Go::find()?),
        };
        let names: Vec<_> = missing.iter().map(|program| name(program)).collect();
        let title = format!("build {} with {go}", names.join(", "));
        shell::stage(&title, || {
            self.build_missing(go, &self.source(), &directory, &missing)
        })?;
        Ok(directory)
    }

    fn source(&self) -> PathBuf {
        shell::root().join("tests/kubernetes").join(self.module)
    }

    /// Where its programs are, or will be.
    fn directory(&self) -> Result<PathBuf> {
        let fingerprint = fingerprint(&self.source())?;
        Ok(cache()?.join(format!("{}-{fingerprint}", self.module)))
    }

    fn missing(&self, directory: &Path) -> Vec<&'static str> {
        let programs = self.programs.iter().copied();
        programs
            .filter(|program| !directory.join(name(program)).is_file())
            .collect()
    }

    /// One call for all of them: while one is linked, another is compiled.
    fn build_missing(
        &self,
        go: &Go,
        source: &Path,
        directory: &Path,
        programs: &[&str],
    ) -> Result<()> {
        // Whoever is interrupted leaves nothing under the names that count.
        let unfinished = directory.join(format!(".unfinished.{}", std::process::id()));
        std::fs::create_dir_all(&unfinished)
            .with_context(|| format!("make {}", unfinished.display()))?;
        let mut flags = String::from("-s -w");
        if let Some((variable, module)) = self.version {
            let mut list = go.command(source);
            list.args(["list", "-m", "-f", "{{.Version}}", module]);
            let version = shell::output(&mut list)?;
            // Writing to a string cannot fail.
            let _ = write!(flags, " -X {variable}={}", version.trim());
        }
        let mut build = go.command(source);
        build
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags])
            // Nobody debugs these, and it is a good part of the compiler's work.
            .arg("-gcflags=all=-dwarf=false")
            .args(["-tags", self.tags])
            .arg("-o");
        if self.packages.ends_with('/') {
            build.arg(&unfinished);
            build.args(programs.iter().map(|one| format!("{}{one}", self.packages)));
        } else {
            // The package's path does not end in the program's name.
            build
                .arg(unfinished.join(self.programs[0]))
                .arg(self.packages);
        }
        shell::run(&mut build)?;
        for program in programs {
            let made = unfinished.join(name(program));
            std::fs::rename(&made, directory.join(name(program)))
                .with_context(|| format!("rename {}", made.display()))?;
        }
        std::fs::remove_dir(&unfinished).with_context(|| format!("remove {}", unfinished.display()))
    }
}

/// The name of a program, from the place of its package.
fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Where programs are kept.
fn cache() -> Result<PathBuf> {
    Ok(shell::cache()?.join("kubernetes"))
}

/// A name for the versions that a module asks for.
fn fingerprint(source: &Path) -> Result<String> {
    let mut text = Vec::new();
    for file in ["go.mod", "go.sum"] {
        let path = source.join(file);
        text.extend(std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    for file in own_files(source)? {
        text.extend(std::fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    sha256(&text)
}

/// The text of a program of our own, which is beside its `go.mod`.
fn own_files(source: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(source).with_context(|| format!("list {}", source.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "go") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The first 16 digits of the SHA-256 of a text.
fn sha256(text: &[u8]) -> Result<String> {
    let directory = cache()?;
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let file = directory.join(format!(".sum.{}", std::process::id()));
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let sum = shell::output(Command::new("sha256sum").arg(&file));
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    Ok(sum?.chars().take(16).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_is_there_and_names_its_programs_as_tools() {
        for group in CONTROL_PLANE.iter().chain(REAL_NODES).chain(HELM) {
            if group.module == "pod" {
                continue;
            }
            let source = shell::root().join("tests/kubernetes").join(group.module);
            let text = std::fs::read_to_string(source.join("go.mod")).unwrap();
            for program in group.programs {
                let package = group.packages.strip_suffix('/').map_or_else(
                    || group.packages.to_owned(),
                    |parent| format!("{parent}/{program}"),
                );
                assert!(
                    text.lines().any(|line| line == format!("tool {package}")),
                    "{package} is no tool of {}",
                    source.display()
                );
            }
        }
    }

    #[test]
    fn another_version_is_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
        file("go.mod", "require a v1").unwrap();
        file("go.sum", "").unwrap();
        let one = fingerprint(directory.path()).unwrap();
        file("go.mod", "require a v2").unwrap();
        let two = fingerprint(directory.path()).unwrap();
        assert_eq!(one.len(), 16);
        assert_ne!(one, two);
        file("main.go", "package main").unwrap();
        let three = fingerprint(directory.path()).unwrap();
        file("more.go", "package main").unwrap();
        let four = fingerprint(directory.path()).unwrap();
        assert_ne!(two, three);
        assert_ne!(three, four);
    }
}
