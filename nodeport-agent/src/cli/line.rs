//! The command line, completed by the file of `--config`.
//!
//! Owns the order: flags first, then our own settings of the file for what no flag says. Refuses to know what is done with it. Invariant:
//! whoever asks for help or mistypes a flag is answered as without a file.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use super::Cli;
use crate::config::{ConfigError, ConfigFile, own};

/// Reads the command line. Ends the process where clap does: help, version, a mistake.
///
/// # Errors
/// [`ConfigError`] if the file of `--config` cannot be used.
pub(super) fn read(words: Vec<OsString>) -> Result<(Cli, Option<ConfigFile>), ConfigError> {
    let Some(mut file) = file(&words)? else {
        return Ok((parse(&words), None));
    };
    let words = complete(words, &mut file)?;
    Ok((parse(&words), Some(file)))
}

fn parse(words: &[OsString]) -> Cli {
    let matches = Cli::command().get_matches_from(words);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What of `run` can be told from a command line that may lack flags which the file has.
fn probe(words: &[OsString]) -> Option<ArgMatches> {
    let lenient = Cli::command().ignore_errors(true);
    let matches = lenient.try_get_matches_from(words).ok()?;
    let (verb, matches) = matches.subcommand()?;
    (verb == "run").then(|| matches.clone())
}

/// The file, if one is named.
fn file(words: &[OsString]) -> Result<Option<ConfigFile>, ConfigError> {
    let path = probe(words).and_then(|run| run.get_one::<String>("config").cloned());
    path.filter(|path| !path.is_empty())
        .map(|path| ConfigFile::read(Path::new(&path)))
        .transpose()
}

/// The command line with our own settings of the file behind it.
fn complete(mut words: Vec<OsString>, file: &mut ConfigFile) -> Result<Vec<OsString>, ConfigError> {
    let given = probe(&words);
    let is_given = |id: &str| {
        let source = given.as_ref().and_then(|run| run.value_source(id));
        source == Some(ValueSource::CommandLine)
    };
    let cli = Cli::command();
    if let Some(run) = cli.find_subcommand("run") {
        let documents = &mut file.documents;
        let more = own::arguments(
            &file.path,
            &documents.own,
            run,
            is_given,
            &mut documents.warnings,
        )?;
        words.extend(more);
    }
    Ok(words)
}

/// What a line and a file say, for tests: `run`'s arguments.
#[cfg(test)]
pub(super) fn run_of(line: &str) -> Result<(super::RunArgs, Option<ConfigFile>), ConfigError> {
    let (cli, file) = read(line.split_whitespace().map(OsString::from).collect())?;
    match cli.verb {
        super::Verb::Run(args) => Ok((*args, file)),
        other => panic!("not run: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::XdpPolicy;

    const TEXT: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n---\n\
                        apiVersion: nodeport.dev/v1alpha1\nkind: NodeportConfiguration\n\
                        manifests: [a.yaml, b]\npinDir: /p\nxdp: native\ndevices: [eth0, eth1]\nflowsMax: 4096\nspeed: 9\n";

    fn with(text: &str, line: &str) -> Result<(super::super::RunArgs, Option<ConfigFile>), String> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("c.yaml");
        std::fs::write(&path, text).expect("written");
        run_of(&line.replace("FILE", &path.display().to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_says_what_no_flag_says() {
        let (args, file) =
            with(TEXT, "agent run --config FILE --node-name n1 --pin-dir /q").expect("valid");
        assert_eq!(
            args.objects.manifests,
            [Path::new("a.yaml"), Path::new("b")]
        );
        assert_eq!(args.places.pin_dir, Path::new("/q"));
        assert_eq!(args.xdp, XdpPolicy::Native);
        assert_eq!(args.devices, ["eth0", "eth1"]);
        assert_eq!(args.sizes.flows_max, Some(4096));
        let documents = file.expect("a file").documents;
        assert_eq!(documents.kube_proxy.mode, "nftables");
        assert!(
            documents.warnings[0].contains("no field speed"),
            "{:?}",
            documents.warnings
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_an_error_that_names_file_and_field() {
        let error = with(
            &TEXT.replace("native", "fast"),
            "agent run --config=FILE --node-name n1",
        )
        .expect_err("no such mode");
        assert!(
            error.contains("c.yaml: xdp: ") && error.contains("fast"),
            "{error}"
        );
        let error = run_of("agent run --config /nowhere --node-name n1 --manifests a")
            .expect_err("no file")
            .to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
