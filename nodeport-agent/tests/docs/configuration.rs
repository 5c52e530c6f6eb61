//! docs/configuration.md: the table of kube-proxy's settings, and the fields of our own.

use std::fmt::Write as _;

use clap::CommandFactory as _;
use nodeport_agent::cli::Cli;
use nodeport_agent::config::kube_proxy::KubeProxyConfiguration;
use nodeport_agent::config::own;
use nodeport_agent::config::table::{BESIDE_CONFIG, FLAGS, SETTINGS, Setting, Use};

const HEAD: &str = "\
# Configuration

<!-- Written by `cargo xtask docs` from nodeport-agent/src/config/table.rs and the command line; do not edit. -->

The agent takes kube-proxy's configuration: the same file (`--config`), the same flags, the same defaults. What has no effect here is accepted,
and named at the start and by `nodeport-agent status` if it is given with another value than kube-proxy's default.

- `--config FILE` reads a KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`). It is read strictly first; a field that is unknown or given
  twice is warned of, and the file is used without it. A value of a wrong type, or one that means nothing, is an error that names the field.
- With a file, kube-proxy's own flags do not count, but for those marked below. Each that is given in vain is warned of. That is as in kube-proxy.
- When the file changes, the agent ends with exit status 1, to be started again with what it says then. The datapath goes on meanwhile.
- `--write-config-to FILE` writes what is in effect, with all defaults. kube-proxy can read it, too.

## Our own settings

They are the flags of `nodeport-agent run`, and have a document of their own in the same file, behind `---`. A flag that is given counts before the field.
kube-proxy reads only the first document of a file, so one file (or ConfigMap) can serve both ([why](adr/0006-settings-beside-kube-proxys.md)).

```yaml
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
nodePortAddresses: [primary]
---
apiVersion: nodeport.dev/v1alpha1
kind: NodeportConfiguration
devices: [eth0, eth1]
xdp: native
```

| field | flag | meaning |
|---|---|---|
";

/// The page.
pub(crate) fn page() -> String {
    let mut text = HEAD.to_owned();
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").expect("the verb");
    for (field, arg) in own::fields(run) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let flag = arg.get_long().expect("a flag");
        let _ = writeln!(text, "| `{field}` | `--{flag}` | {help} |");
    }
    text.push_str("\n## KubeProxyConfiguration\n\n");
    text.push_str("Flags with a star count beside `--config` too.\n\n");
    text.push_str("| field | flag | default | here |\n|---|---|---|---|\n");
    let defaults =
        serde_json::to_value(KubeProxyConfiguration::default().defaulted()).expect("it is JSON");
    for setting in SETTINGS {
        let pointer = format!("/{}", setting.field.replace('.', "/"));
        let default = defaults.pointer(&pointer).map(ToString::to_string);
        let default = default.filter(|text| text != "null" && text != "\"\"");
        row(&mut text, setting, &default.unwrap_or_default());
    }
    text.push_str("\n## Flags of kube-proxy without a field\n\n");
    text.push_str("| flag | here |\n|---|---|\n");
    for setting in FLAGS {
        let (flag, here) = (flag(setting), here(setting));
        let _ = writeln!(text, "| {flag} | {here} |");
    }
    text
}

fn row(text: &mut String, setting: &Setting, default: &str) {
    let default = default.trim_matches('"');
    let default = if default.is_empty() {
        String::new()
    } else {
        format!("`{default}`")
    };
    let (field, flag, here) = (setting.field, flag(setting), here(setting));
    let _ = writeln!(text, "| `{field}` | {flag} | {default} | {here} |");
}

fn flag(setting: &Setting) -> String {
    let star = if BESIDE_CONFIG.contains(&setting.flag) {
        " *"
    } else {
        ""
    };
    match setting.flag {
        "" => String::new(),
        "v" => format!("`-v`, `--v`{star}"),
        flag => format!("`--{flag}`{star}"),
    }
}

fn here(setting: &Setting) -> String {
    match setting.used {
        Use::Honoured(how) => how.to_owned(),
        Use::Ignored(why) => format!("**no effect**: {why}"),
    }
}
