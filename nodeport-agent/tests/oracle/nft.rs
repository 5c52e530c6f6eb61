//! Reads the ruleset of kube-proxy's nftables mode: which front ends there are, and which endpoints a packet can reach.
//!
//! Owns the listing's syntax as far as kube-proxy uses it. Invariant: a rule that is not understood is a panic, never an
//! endpoint fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// One family's table.
pub(crate) struct Table {
    elements: BTreeMap<String, Vec<String>>,
    chains: BTreeMap<String, Vec<String>>,
    family: &'static str,
}

/// Address (none for a NodePort), protocol, port.
pub(crate) type Key = (Option<IpAddr>, String, u16);

/// What kube-proxy does with new connections to one front end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontend {
    /// `namespace/name:port`, or `namespace/name`.
    pub(crate) service_port: String,
    /// Endpoints for clients outside.
    pub(crate) outside: BTreeSet<SocketAddr>,
    /// Endpoints for Pods.
    pub(crate) pods: BTreeSet<SocketAddr>,
    /// `reject` or `drop`, if packets to it are refused before they are translated.
    pub(crate) refused: Option<&'static str>,
    /// The client's address is kept, except where Pods and the host are short-circuited.
    pub(crate) keeps_client: bool,
    /// Clients are sent to the same endpoint again.
    pub(crate) affinity: bool,
    /// Only some sources are let in.
    pub(crate) source_ranges: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Client {
    Outside,
    Pod,
}

impl Table {
    pub(crate) fn parse(text: &str) -> Self {
        let mut table = Self {
            elements: BTreeMap::new(),
            chains: BTreeMap::new(),
            family: if text.starts_with("table ip6") {
                "ip6"
            } else {
                "ip"
            },
        };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind @ ("set" | "map" | "chain"), name, "{"] = words[..] else {
                continue;
            };
            let body: Vec<&str> = (&mut lines)
                .take_while(|line| *line != "\t}")
                .map(str::trim)
                .collect();
            if kind == "chain" {
                let rules = body.into_iter().map(ToOwned::to_owned);
                table.chains.insert(name.to_owned(), rules.collect());
            } else {
                table
                    .elements
                    .insert(name.to_owned(), elements(&body.join(" ")));
            }
        }
        table
    }

    /// The plain addresses in a set.
    pub(crate) fn addresses(&self, set: &str) -> BTreeSet<IpAddr> {
        self.elements[set].iter().map(|one| parse(one)).collect()
    }

    /// Endpoints on this node: `address . address . protocol . port`.
    pub(crate) fn hairpins(&self) -> BTreeSet<(String, SocketAddr)> {
        let of = |one: &String| {
            let [address, _, protocol, port] = one.split(" . ").collect::<Vec<_>>()[..] else {
                panic!("hairpin {one:?}");
            };
            (
                protocol.to_owned(),
                SocketAddr::new(parse(address), parse(port)),
            )
        };
        self.elements["hairpin-connections"]
            .iter()
            .map(of)
            .collect()
    }

    /// Whether an address is a front end of this protocol and of no other.
    pub(crate) fn serves_only(&self, address: IpAddr, protocol: &str) -> bool {
        let frontends = self.frontends();
        let mut of_address = frontends
            .keys()
            .filter(|key| key.0 == Some(address))
            .peekable();
        of_address.peek().is_some() && of_address.all(|key| key.1 == protocol)
    }

    pub(crate) fn frontends(&self) -> BTreeMap<Key, Frontend> {
        let mut found: BTreeMap<Key, Frontend> = BTreeMap::new();
        for map in ["service-ips", "service-nodeports"] {
            for (key, _, verdict) in self.verdicts(map) {
                let chain = verdict.strip_prefix("goto ").expect("goto");
                let frontend = found.entry(key).or_default();
                frontend.service_port = service_port(chain);
                frontend.outside = self.endpoints(chain, Client::Outside);
                frontend.pods = self.endpoints(chain, Client::Pod);
                let rules = &self.chains[chain];
                let external = chain.starts_with("external-");
                let masquerades = |rule: &String| rule.starts_with("meta mark set");
                let local = chain.starts_with("local-");
                frontend.keeps_client = local || external && !rules.iter().any(masquerades);
                frontend.affinity = self.has_affinity(chain);
            }
        }
        for map in ["no-endpoint-services", "no-endpoint-nodeports"] {
            for (key, comment, verdict) in self.verdicts(map) {
                let frontend = found.entry(key).or_default();
                comment
                    .trim_end_matches(':')
                    .clone_into(&mut frontend.service_port);
                frontend.refused = Some(match verdict.as_str() {
                    "goto reject-chain" => "reject",
                    "drop" => "drop",
                    other => panic!("verdict {other:?}"),
                });
            }
        }
        for (key, _, _) in self.verdicts("firewall-ips") {
            found.entry(key).or_default().source_ranges = true;
        }
        found
    }

    /// Key, comment and verdict of each element of a verdict map.
    fn verdicts(&self, map: &str) -> Vec<(Key, String, String)> {
        let of = |element: &String| {
            let (key, verdict) = element.rsplit_once(" : ").expect("verdict");
            let (key, comment) = key.split_once(" comment ").unwrap_or((key, ""));
            let key = match key.split(" . ").collect::<Vec<_>>()[..] {
                [address, protocol, port] => {
                    (Some(parse(address)), protocol.to_owned(), parse(port))
                }
                [protocol, port] => (None, protocol.to_owned(), parse(port)),
                _ => panic!("key {key:?}"),
            };
            (
                key,
                comment.trim_matches('"').to_owned(),
                verdict.to_owned(),
            )
        };
        self.elements
            .get(map)
            .into_iter()
            .flatten()
            .map(of)
            .collect()
    }

    fn has_affinity(&self, chain: &str) -> bool {
        self.chains[chain].iter().any(|rule| {
            rule.contains(" saddr @affinity-")
                || rule
                    .strip_prefix("goto ")
                    .is_some_and(|next| self.has_affinity(next))
        })
    }

    /// Follows a packet of a client through a chain to all endpoints it can be sent to.
    fn endpoints(&self, chain: &str, client: Client) -> BTreeSet<SocketAddr> {
        let short_circuit = format!("{} saddr ", self.family);
        for rule in &self.chains[chain] {
            let words: Vec<&str> = rule.split(' ').collect();
            match words[..] {
                ["meta", "mark", "set", ..]
                | ["fib", "saddr", "type", "local", ..]
                | ["update", ..] => {}
                [_, "saddr", affinity, "goto", _] if affinity.starts_with("@affinity-") => {}
                ["goto", next] => return self.endpoints(next, client),
                [
                    _,
                    "saddr",
                    _,
                    "goto",
                    next,
                    "comment",
                    "\"short-circuit",
                    "pod",
                    "traffic\"",
                ] if rule.starts_with(&short_circuit) => {
                    if client == Client::Pod {
                        return self.endpoints(next, client);
                    }
                }
                ["meta", "l4proto", _, "dnat", "to", address] => return [parse(address)].into(),
                [
                    "meta",
                    "l4proto",
                    _,
                    "dnat",
                    _,
                    "to",
                    "numgen",
                    "random",
                    "mod",
                    _,
                    "map",
                    ..,
                ] => {
                    let of = |one: String| {
                        let (_, endpoint) = one.split_once(" : ").expect("slot");
                        let (address, port) = endpoint.split_once(" . ").expect("endpoint");
                        SocketAddr::new(parse(address), parse(port))
                    };
                    return braced(rule).into_iter().map(of).collect();
                }
                ["numgen", "random", "mod", _, "vmap", ..] => {
                    let next = |one: String| one.split_once(" : goto ").expect("slot").1.to_owned();
                    let chains = braced(rule).into_iter().map(next);
                    return chains
                        .flat_map(|chain| self.endpoints(&chain, client))
                        .collect();
                }
                _ => panic!("chain {chain}: rule {rule:?} is not understood"),
            }
        }
        BTreeSet::new()
    }
}

/// `external-I6JFR4TR-every/lb-vip/tcp/http` is `every/lb-vip:http`.
fn service_port(chain: &str) -> String {
    let mut rest = chain.splitn(3, '-').nth(2).expect("chain name").split('/');
    let mut next = || rest.next().expect("chain name");
    let (namespace, name, _, port) = (next(), next(), next(), next());
    if port.is_empty() {
        format!("{namespace}/{name}")
    } else {
        format!("{namespace}/{name}:{port}")
    }
}

fn elements(body: &str) -> Vec<String> {
    body.split_once("elements = ")
        .map_or_else(Vec::new, |(_, rest)| braced(rest))
}

fn braced(text: &str) -> Vec<String> {
    let (_, rest) = text.split_once('{').expect("{");
    let (inside, _) = rest.split_once('}').expect("}");
    inside.split(',').map(|one| one.trim().to_owned()).collect()
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?}"))
}
