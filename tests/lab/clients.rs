//! Real clients: curl and dig, run inside a namespace, and what became of their request.
//!
//! Knows nothing of Services: an address is asked, and something answers or not.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::servers::{Servers, dns_name};

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A server answered.
    Answered(Answer),
    /// Refused at once: RST or port unreachable.
    Refused,
    /// Nothing came back within the time limit.
    Silent,
    /// Something else, in words.
    Failed(String),
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// The client's address as the server saw it.
    pub client: Option<SocketAddr>,
    /// The server's own address, as far as it says.
    pub server: Option<SocketAddr>,
}

/// How to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The client's address; else the kernel chooses.
    pub from: Option<IpAddr>,
    /// The client's port; else the kernel chooses.
    pub from_port: Option<u16>,
    /// How long to wait; two seconds if not given.
    pub limit: Option<Duration>,
}

impl Options {
    fn limit(&self) -> Duration {
        self.limit.unwrap_or(Duration::from_secs(2))
    }
}

/// One HTTP request by curl.
///
/// # Errors
/// If curl cannot be run.
pub fn http(from: &Netns, to: SocketAddr, options: Options) -> Result<Verdict> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        // Says why a connection failed; the error alone does not.
        "--verbose",
        "--globoff",
        "--noproxy",
        "*",
        "--max-time",
    ]);
    command.arg(options.limit().as_secs_f32().to_string());
    if let Some(address) = options.from {
        command.arg("--interface").arg(address.to_string());
    }
    if let Some(port) = options.from_port {
        command.arg("--local-port").arg(port.to_string());
    }
    let output = from.output(command.arg(format!("http://{to}/")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(match output.status.code() {
        Some(0) => parse_http(&text).map_or(Verdict::Failed(text.into_owned()), Verdict::Answered),
        // curl's "could not connect" is "connection refused" or "no route to host".
        Some(7) => match String::from_utf8_lossy(&output.stderr) {
            error if error.contains("No route") => Verdict::Failed("No route to host".to_owned()),
            error if error.contains("unreachable") => Verdict::Failed(last_line(&error)),
            _ => Verdict::Refused,
        },
        Some(28) => Verdict::Silent,
        _ => Verdict::Failed(last_line(&String::from_utf8_lossy(&output.stderr))),
    })
}

fn last_line(text: &str) -> String {
    text.trim()
        .lines()
        .next_back()
        .unwrap_or_default()
        .to_owned()
}

/// Reads what nginx and stand-ins say, see [`crate::servers::nginx`].
#[must_use]
pub fn parse_http(text: &str) -> Option<Answer> {
    let field = |key: &str| {
        text.split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let socket = |address: &str, port: &str| {
        Some(SocketAddr::new(
            field(address)?.parse().ok()?,
            field(port)?.parse().ok()?,
        ))
    };
    Some(Answer {
        name: field("name")?.to_owned(),
        client: socket("client", "client_port"),
        server: socket("server", "server_port"),
    })
}

/// One DNS query over UDP by dig; the client's address comes from the log of the server that answered.
///
/// # Errors
/// If dig cannot be run.
pub fn dns(from: &Netns, to: SocketAddr, servers: &Servers, options: Options) -> Result<Verdict> {
    let mut command = Command::new("dig");
    command
        .args(["+short", "+tries=1", "-p"])
        .arg(to.port().to_string());
    command.arg(format!("+time={}", options.limit().as_secs().max(1)));
    if let Some(address) = options.from {
        let port = options
            .from_port
            .map(|port| format!("#{port}"))
            .unwrap_or_default();
        command.arg("-b").arg(format!("{address}{port}"));
    }
    let asked = dns_name();
    command
        .arg(format!("@{}", to.ip()))
        .args([asked.as_str(), "TXT"]);
    let output = from.output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.trim();
    Ok(if said.contains("connection refused") {
        Verdict::Refused
    } else if said.contains("timed out") || said.contains("no servers could be reached") {
        Verdict::Silent
    } else if let Some(name) = said
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        let server = servers.dns.iter().find(|server| server.name == name);
        let client = server
            .context("an unknown server answered")?
            .last_client(&asked);
        Verdict::Answered(Answer {
            name: name.to_owned(),
            client,
            server: None,
        })
    } else {
        Verdict::Failed(said.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = "name=n1-p1 server=fd00:10:244:1::11 server_port=8080 client=2001:db8:113::10 client_port=4711\n";
        let answer = parse_http(text).expect("an answer");
        assert_eq!(answer.name, "n1-p1");
        assert_eq!(
            answer.client,
            Some("[2001:db8:113::10]:4711".parse().expect("an address"))
        );
        assert_eq!(
            answer.server,
            Some("[fd00:10:244:1::11]:8080".parse().expect("an address"))
        );
        assert_eq!(parse_http("<html>"), None);
    }
}
