//! A running lab: namespaces, run directories, pin directories and cgroups of its nodes.
//!
//! Invariant: dropping it removes all of it, and so does a signal that ends the process.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;
use crate::machine::{make_cgroup, mount_bpffs};
use crate::netns::{Netns, ip_batch};
use crate::record::{Cleaned, Record, undo};
use crate::setup::{Setup, WIRE_OFFLOADS, bridge_address, overlay_addresses};
use crate::spec::{LabSpec, PodNetwork, PodSpec};
use crate::topology::{Topology, netns_name, node_address};

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    /// What it was made from.
    pub spec: LabSpec,
    /// The id that is part of every name.
    pub id: String,
    /// The outside client.
    pub client: Netns,
    /// The router between client and nodes; the fabrics are bridges in it.
    pub router: Netns,
    /// The host on the fabric that is no node, if there is one.
    pub outsider: Option<Netns>,
    /// The nodes.
    pub nodes: Vec<Node>,
    record: Record,
}

/// A node of a running lab.
#[derive(Debug)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Addresses of the first uplink: IPv4, IPv6.
    pub addresses: [Option<IpAddr>; 2],
    /// Addresses of the second uplink, if there is one.
    pub second_addresses: [Option<IpAddr>; 2],
    /// Addresses of its overlay device, if there is one.
    pub overlay_addresses: Vec<IpAddr>,
    /// Its Pods.
    pub pods: Vec<Pod>,
    /// `--run-dir` of its agent.
    pub run_dir: PathBuf,
    /// `--pin-dir` of its agent.
    pub pin_dir: PathBuf,
    /// Its cgroup, where cgroup v2 is mounted.
    pub cgroup: Option<PathBuf>,
}

/// A Pod of a running lab.
#[derive(Debug)]
pub struct Pod {
    /// Name and addresses, those of families that are in use.
    pub spec: PodSpec,
    /// Its namespace.
    pub netns: Netns,
}

impl Lab {
    /// Address of the bridge that the Pods of a node are on, if they are on one.
    #[must_use]
    pub fn bridge(&self, node: usize, family: Family) -> Option<IpAddr> {
        let index = usize::from(family == Family::V6);
        (self.spec.pod_network == PodNetwork::Bridge)
            .then(|| bridge_address(self.spec.nodes.get(node)?, index))?
            .map(|net| net.addr())
    }

    pub(crate) fn start(spec: LabSpec) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let id = match LABS.fetch_add(1, Ordering::Relaxed) {
            0 => std::process::id().to_string(),
            n => format!("{}x{n}", std::process::id()),
        };
        mount_bpffs()?;
        let record = Record::create(&id)?;
        interrupt::watch(record.dir())?;
        let made = Self::make(&spec, &id, &record);
        match made {
            Ok((client, router, outsider, nodes)) => Ok(Self {
                spec,
                id,
                client,
                router,
                outsider,
                nodes,
                record,
            }),
            Err(error) => {
                remove(&record);
                Err(error.context(format!("make lab {id}")))
            }
        }
    }

    fn make(
        spec: &LabSpec,
        id: &str,
        record: &Record,
    ) -> Result<(Netns, Netns, Option<Netns>, Vec<Node>)> {
        let topology = Topology::new(spec, id);
        let names: Vec<_> = topology
            .setups
            .iter()
            .map(|setup| setup.netns.clone())
            .collect();
        if let Some(twice) = names
            .iter()
            .enumerate()
            .find(|(i, name)| names[..*i].contains(name))
        {
            bail!("two parts of the lab have the name {}", twice.1);
        }
        record.netns(&names)?;
        ip_batch(
            &names
                .iter()
                .map(|name| format!("netns add {name}"))
                .collect::<Vec<_>>(),
        )?;
        let spaces = names
            .iter()
            .map(|name| Netns::open(name))
            .collect::<Result<Vec<_>>>()?;
        for (setup, netns) in topology.setups.iter().zip(&spaces) {
            netns.sysctl(&setup.sysctls)?;
        }
        ip_batch(&topology.links)?;
        // All offloads first: a veth learns whether XDP may send to it from its peer's GRO when it comes up, and never again.
        side_by_side(&topology.setups, &spaces, set_offloads)?;
        side_by_side(&topology.setups, &spaces, apply)?;
        side_by_side(&topology.setups, &spaces, wait_for_links)?;
        let open = |part: &str| Netns::open(&netns_name(id, part));
        let nodes = (0..spec.nodes.len())
            .map(|index| Node::make(spec, id, index, record))
            .collect::<Result<_>>()?;
        let outsider = (!spec.outsider.is_empty())
            .then(|| open("outsider"))
            .transpose()?;
        Ok((open("client")?, open("router")?, outsider, nodes))
    }

    /// The lab's own directory, for configurations and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.record.dir()
    }

    /// The lab's record, to start processes.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The node of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap_or_else(|| panic!("the lab has no node {name}"))
    }

    /// The Pod of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        let pod = self.pods().find(|pod| pod.spec.name == name);
        pod.unwrap_or_else(|| panic!("the lab has no Pod {name}"))
    }

    /// All Pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(&self.record);
    }
}

/// What cannot be removed now stays recorded for `cargo xtask clean`.
pub(crate) fn remove(record: &Record) {
    interrupt::forget(record.dir());
    if let Err(error) = undo(record.dir(), &mut Cleaned::default()) {
        not_removed(&error);
    }
}

/// Says so on standard error. `eprintln!` would panic, half way through the end, if nobody reads that.
pub(crate) fn not_removed(error: &anyhow::Error) {
    let _written = writeln!(
        io::stderr(),
        "the lab could not be removed: {error:#}; `cargo xtask clean` tries again"
    );
}

impl Node {
    fn make(spec: &LabSpec, id: &str, index: usize, record: &Record) -> Result<Self> {
        let node = &spec.nodes[index];
        let open = |part: &str| Netns::open(&netns_name(id, part));
        let pods = node.pods.iter().map(|pod| {
            let netns = open(&pod.name)?;
            let mut spec_of_pod = pod.clone();
            spec_of_pod.addresses.retain(|address| spec.uses(*address));
            Ok(Pod {
                spec: spec_of_pod,
                netns,
            })
        });
        let run_dir = record.dir().join(&node.name);
        fs::create_dir_all(&run_dir)?;
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/nodeport-lab-{id}-{}", node.name));
        record.pins(&pin_dir)?;
        let second = |family| {
            (spec.uplinks > 1)
                .then(|| node_address(spec, index, 1, family))
                .flatten()
        };
        Ok(Self {
            name: node.name.clone(),
            netns: open(&node.name)?,
            addresses: [0, 1].map(|family| node_address(spec, index, 0, family)),
            second_addresses: [0, 1].map(second),
            overlay_addresses: overlay_addresses(spec, node),
            pods: pods.collect::<Result<_>>()?,
            run_dir,
            pin_dir,
            cgroup: make_cgroup(id, &node.name, record)?,
        })
    }

    /// Its address of a family.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses[family as usize]
            .unwrap_or_else(|| panic!("{} has no {family:?} address", self.name))
    }

    /// Its own addresses that packets to other nodes may carry: of its uplinks, of the overlay.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let uplinks = self
            .addresses
            .iter()
            .chain(&self.second_addresses)
            .flatten();
        uplinks.chain(&self.overlay_addresses).copied()
    }

    /// Whether an address is this node's or one of its Pods'.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let of_pod = self
            .pods
            .iter()
            .any(|pod| pod.spec.addresses.contains(&address));
        of_pod || self.own_addresses().any(|own| own == address)
    }

    /// The Pod with this number, from 1.
    #[must_use]
    pub fn pod(&self, number: usize) -> &Pod {
        &self.pods[number - 1]
    }
}

impl Pod {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.spec.addresses.iter().copied()
    }

    /// Its first address of a family.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        let mut addresses = self.spec.addresses.iter().copied();
        let address = addresses.find(|a| a.is_ipv6() == (family == Family::V6));
        address.unwrap_or_else(|| panic!("{} has no {family:?} address", self.spec.name))
    }
}

/// Address family, as an index into pairs of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }
}

/// Does something in all namespaces, a thread for each: most of the time is spent in small commands.
fn side_by_side(
    setups: &[Setup],
    spaces: &[Netns],
    work: impl Fn(&Setup, &Netns) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = setups
            .iter()
            .zip(spaces)
            .map(|(setup, netns)| scope.spawn(|| work(setup, netns)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn set_offloads(setup: &Setup, netns: &Netns) -> Result<()> {
    for device in &setup.wires {
        let output = netns.output(
            Command::new("ethtool")
                .args(["-K", device])
                .args(WIRE_OFFLOADS),
        )?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("in {}: ethtool -K {device}: {}", setup.netns, error.trim());
        }
    }
    Ok(())
}

fn apply(setup: &Setup, netns: &Netns) -> Result<()> {
    netns.ip(&setup.lines)?;
    for line in &setup.fdb {
        netns.sh(&format!("bridge {line}"))?;
    }
    Ok(())
}

/// Waits until the kernel has noticed that both ends of each link are up: until then a device has no queue and a bridge port
/// does not forward, and the first packets would be lost.
fn wait_for_links(setup: &Setup, netns: &Netns) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let links = netns.sh("ip -o link show")?;
        let ports = netns.sh("bridge link show")?;
        let down = links
            .lines()
            .find(|line| line.contains(" state DOWN") || line.contains("LOWERLAYERDOWN"));
        let waiting = ports
            .lines()
            .find(|line| !line.contains("state forwarding"));
        let Some(late) = down.or(waiting) else {
            return Ok(());
        };
        if Instant::now() > end {
            bail!("in {}: a link does not come up: {late}", setup.netns);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
