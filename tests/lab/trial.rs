//! Trying front ends: who asks what, what came of it, which hook carried it, and whether that is right.
//!
//! Invariant: a row is right only if the verdict, the backend and the client's address that it saw are all as expected.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::agent::Agent;
use crate::clients::{self, Answer, Options, Verdict};
use crate::expect::{Asked, Expected};
use crate::lab::{Family, Lab};
use crate::netns::Netns;
use crate::objects::Protocol;
use crate::servers::{DNS_PORT, Servers};
use crate::simple;

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Who asks.
    pub client: String,
    /// Where it is.
    pub from: Netns,
    /// Its address.
    pub from_address: IpAddr,
    /// `namespace/name:port`.
    pub service: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Which kind of front end.
    pub asked: Asked,
    /// Address and port asked.
    pub to: SocketAddr,
    /// Index of the node that translates.
    pub node: usize,
    /// What should come of it.
    pub expected: Expected,
    /// Client addresses that a backend on the translating node may see.
    pub seen_there: Vec<IpAddr>,
    /// Client addresses that another backend may see.
    pub seen_elsewhere: Vec<IpAddr>,
    /// By the client's socket, which fails at once instead of silence.
    pub by_socket: bool,
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was tried.
    pub trial: Trial,
    /// What came of it.
    pub verdict: Verdict,
    /// Name of the node that translates.
    pub node: String,
    /// Which hooks of the translating node decided, e.g. `xdp`.
    pub hook: String,
    /// Why it is wrong, if it is.
    pub wrong: Option<String>,
}

/// Who asks: real programs towards real servers, or sockets of our own towards stand-ins.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// curl towards nginx, dig towards dnsmasq.
    Programs(&'a Servers),
    /// Sockets of this process, towards stand-ins.
    Sockets,
}

/// How long an answer may take. Silence is expected of few trials.
const LIMIT: Duration = Duration::from_secs(1);

/// Tries all, node by node side by side: the counters of a node then tell of one trial at a time.
///
/// # Errors
/// If a client cannot be run or counters cannot be read.
pub fn run(lab: &Lab, agents: &[Agent], trials: &[Trial], asker: Asker<'_>) -> Result<Vec<Row>> {
    let of_node = |node: usize| -> Result<Vec<(usize, Row)>> {
        let numbered = trials
            .iter()
            .enumerate()
            .filter(|(_, trial)| trial.node == node);
        numbered
            .map(|(number, trial)| Ok((number, one(lab, agents.get(node), trial, asker)?)))
            .collect()
    };
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lab.nodes.len())
            .map(|node| scope.spawn(move || of_node(node)))
            .collect();
        for thread in threads {
            rows.extend(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        anyhow::Ok(())
    })?;
    rows.sort_by_key(|(number, _)| *number);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn one(lab: &Lab, agent: Option<&Agent>, trial: &Trial, asker: Asker<'_>) -> Result<Row> {
    let before = agent.map(Agent::outcomes).transpose()?;
    let options = Options {
        limit: Some(LIMIT),
        ..Options::default()
    };
    let verdict = match (asker, trial.protocol) {
        (Asker::Programs(_), Protocol::Tcp) => clients::http(&trial.from, trial.to, options)?,
        (Asker::Programs(servers), _) => clients::dns(&trial.from, trial.to, servers, options)?,
        (Asker::Sockets, protocol) => simple::ask(&trial.from, protocol, trial.to, LIMIT)?,
    };
    let verdict = with_server_address(lab, trial, verdict);
    let hook = match (agent, before) {
        (Some(agent), Some(before)) => agent.outcomes()?.since(&before).carried_by(),
        _ => String::new(),
    };
    let wrong = trial.wrong(lab, &verdict);
    let node = lab.nodes[trial.node].name.clone();
    Ok(Row {
        trial: trial.clone(),
        verdict,
        node,
        hook,
        wrong,
    })
}

/// dnsmasq does not say at which address it was reached: it is its Pod's.
fn with_server_address(lab: &Lab, trial: &Trial, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Answered(Answer {
            name,
            client,
            server: None,
        }) => {
            let pod = lab.pods().find(|pod| pod.spec.name == name);
            let server =
                pod.map(|pod| SocketAddr::new(pod.address(Family::of(trial.to.ip())), DNS_PORT));
            Verdict::Answered(Answer {
                name,
                client,
                server,
            })
        }
        other => other,
    }
}

impl Trial {
    fn wrong(&self, lab: &Lab, verdict: &Verdict) -> Option<String> {
        match (&self.expected, verdict) {
            (Expected::OneOf(backends), Verdict::Answered(answer)) => {
                let Some(server) = answer.server else {
                    return Some("an unknown server".to_owned());
                };
                if !backends.contains(&server) {
                    return Some(format!("{server} is no endpoint of it"));
                }
                let there = lab.nodes[self.node].holds(server.ip());
                let allowed = if there {
                    &self.seen_there
                } else {
                    &self.seen_elsewhere
                };
                let seen = answer.client.map(|client| client.ip());
                (!seen.is_some_and(|seen| allowed.contains(&seen)))
                    .then(|| format!("the backend should see one of {allowed:?}"))
            }
            (Expected::Silent, Verdict::Failed(why))
                if self.by_socket && why.contains("No route") =>
            {
                None
            }
            (Expected::Refused, Verdict::Refused) | (Expected::Silent, Verdict::Silent) => None,
            (expected, _) => Some(match expected {
                Expected::OneOf(backends) => {
                    format!("one of {} endpoints should answer", backends.len())
                }
                Expected::Refused => "it should be refused".to_owned(),
                Expected::Silent => "it should be silent".to_owned(),
            }),
        }
    }
}
