//! `cargo xtask run`: a lab, one agent per node, objects and real traffic.
//!
//! Owns the order of the stages and what is printed. Invariant: whatever happens, the lab is gone when the verb ends.

mod cluster;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nodeport_tests::agent::{self, Agent, AgentSpec};
use nodeport_tests::cluster::Cluster;
use nodeport_tests::objects::Objects;
use nodeport_tests::plan::{Breadth, trials};
use nodeport_tests::trial::{self, Asker, Row, Trial};
use nodeport_tests::{Lab, LabSpec, interrupt, servers};

use crate::shell::{root, seconds, stage};
use crate::{build, packages};

/// What `cargo xtask run` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End by itself; exit status 0 only if every row was right
    #[arg(long)]
    pub(crate) check: bool,
    /// Objects to use instead of the examples: files or directories of YAML or JSON
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,
    /// Most Nodes of those objects to make; with --cluster, the number of nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) nodes: usize,
    /// A real API server instead of objects from files: kubectl as in any cluster
    #[arg(long, conflicts_with = "manifests")]
    pub(crate) cluster: bool,
    /// Mode of the XDP programs: auto, native, generic or off
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) xdp: String,
}

/// Runs the verb.
///
/// # Errors
///
/// If something cannot be made or started, and with `--check` if a row is wrong.
pub(crate) fn main(args: &Args) -> Result<()> {
    packages::ensure_tools()?;
    let built = build::all(false)?;
    if args.cluster {
        return cluster::main(args, built.agent);
    }
    let start = Instant::now();
    let paths = match args.manifests.as_slice() {
        [] => vec![root().join("tests/manifests/example.yaml")],
        paths => paths.to_vec(),
    };
    let paths = paths.iter().map(|path| {
        path.canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))
    });
    let mut spec = AgentSpec::new(&paths.collect::<Result<Vec<_>>>()?).xdp(&args.xdp);
    spec.binary = built.agent;
    let objects = stage("read the objects", || Objects::read(&spec.manifests))?;
    let outcome = if args.manifests.is_empty() {
        example(args, &spec, &objects, start)
    } else {
        users(args, &spec, &objects, start)
    };
    match outcome? {
        0 => Ok(()),
        wrong => bail!("{wrong} rows are wrong"),
    }
}

/// The example objects, with nginx and dnsmasq as servers, curl and dig as clients. Returns the number of wrong rows.
fn example(args: &Args, spec: &AgentSpec, objects: &Objects, start: Instant) -> Result<usize> {
    let lab = stage("make the lab", || LabSpec::nodes(3).pods(3).start())?;
    let servers = stage("start nginx and dnsmasq in every Pod", || {
        servers::start_all(&lab)
    })?;
    let agents = stage("start an agent on every node", || {
        agent::start_all(&lab, spec)
    })?;
    let (trials, _) = trials(&lab, objects, Breadth::Full);
    let rows = traffic(&lab, &agents, &trials, Asker::Programs(&servers), start)?;
    println!("{}", table::full(&rows));
    Ok(finish(args, &lab, &agents, &rows))
}

/// A user's objects, with stand-ins for their endpoints. Returns the number of wrong rows.
fn users(args: &Args, spec: &AgentSpec, objects: &Objects, start: Instant) -> Result<usize> {
    let cluster = Cluster::new(objects, args.nodes)?;
    print_objects(objects, &cluster);
    let lab = stage("make the lab", || cluster.spec.clone().start())?;
    let (_stand_ins, listeners) = stage("start stand-ins for the endpoints", || {
        cluster.stand_ins(&lab, objects)
    })?;
    println!("{listeners} ports of endpoints have a stand-in");
    let agents = stage("start an agent on every node", || {
        agent::start_all(&lab, spec)
    })?;
    let (trials, left_out) = trials(&lab, objects, Breadth::Once);
    if left_out > 0 {
        println!("{left_out} service ports are SCTP, which nodeport does not serve: not tried");
    }
    let rows = traffic(&lab, &agents, &trials, Asker::Sockets, start)?;
    println!("{}", table::full(&rows));
    Ok(finish(args, &lab, &agents, &rows))
}

fn traffic(
    lab: &Lab,
    agents: &[Agent],
    trials: &[Trial],
    asker: Asker<'_>,
    start: Instant,
) -> Result<Vec<Row>> {
    println!("traffic {} after the build", seconds(start.elapsed()));
    stage(&format!("try {} connections", trials.len()), || {
        trial::run(lab, agents, trials, asker)
    })
}

fn print_objects(objects: &Objects, cluster: &Cluster) {
    let not_served: Vec<_> = objects
        .not_served
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    println!(
        "{} Services to serve, {} slices of endpoints, {} Nodes; not served by any proxy: {}",
        objects.services.len(),
        objects.slices.len(),
        objects.nodes.len(),
        if not_served.is_empty() {
            "none".to_owned()
        } else {
            not_served.join(", ")
        },
    );
    if objects.unreadable > 0 {
        println!("{} objects could not be read", objects.unreadable);
    }
    if !cluster.left_out.is_empty() {
        println!(
            "only the first {} Nodes are made (--nodes): without {}; their endpoints answer from one host on the fabric",
            cluster.spec.nodes.len(),
            cluster.left_out.join(", "),
        );
    }
    if !cluster.spec.outsider.is_empty() {
        println!(
            "{} endpoint addresses are on no node: one host on the fabric has them",
            cluster.spec.outsider.len()
        );
    }
}

/// Sums up, and without `--check` stays until Ctrl-C.
fn finish(args: &Args, lab: &Lab, agents: &[Agent], rows: &[Row]) -> usize {
    let wrong = rows.iter().filter(|row| row.wrong.is_some()).count();
    println!("{}", table::summary(rows));
    if wrong > 0 {
        for agent in agents {
            println!(
                "log of the agent of {}: {}",
                agent.node,
                agent.log_path().display()
            );
        }
    }
    if args.check {
        if wrong > 0 {
            for agent in agents {
                println!("--- the agent of {} said:\n{}", agent.node, agent.log());
            }
        }
        return wrong;
    }
    println!("{}", commands(lab, agents, rows));
    interrupt::wait();
    println!("removing the lab");
    0
}

/// What to try by hand.
fn commands(lab: &Lab, agents: &[Agent], rows: &[Row]) -> String {
    let mut lines = vec!["The lab is up. Things to try, each in another terminal:".to_owned()];
    let inside =
        |netns: &nodeport_tests::Netns| format!("nsenter --net={}", netns.path().display());
    let answered = rows
        .iter()
        .find(|row| row.trial.client == "client" && row.wrong.is_none());
    if let Some(row) = answered {
        lines.push(format!(
            "  {} curl http://{}/",
            inside(&lab.client),
            row.trial.to
        ));
    }
    if let (Some(agent), Some(node)) = (agents.first(), lab.nodes.first()) {
        lines.push(format!("  {}", agent.command_line(&["status"])));
        lines.push(format!("  {}", agent.command_line(&["dump", "flows"])));
        lines.push(format!(
            "  bpftool map dump pinned {}",
            agent.map_path("FRONTENDS4").display()
        ));
        lines.push(format!("  {} tcpdump -ni eth0", inside(&node.netns)));
    }
    lines.push("Ctrl-C removes it.".to_owned());
    lines.join("\n")
}
