//! Follows the kernel: devices, addresses, routes and neighbours, as they are now and as they change.
//!
//! Owns the loop and its pace. Refuses to know how programs are attached. Invariants: every change is covered within a second; a
//! remembered next hop is invalid 50 ms after the change that makes it wrong; what events miss, the slow pass finds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::advice::advice;
use super::classify::{Covered, Criteria, classify};
use super::cover::{Cover, DeviceState};
use super::events::{Due, consider};
use super::hops::UsedHops;
use super::inventory::Inventory;
use super::neighbours::{Neighbour, NeighbourKey, Neighbours};
use super::netlink::{self, Reader};
use super::xdp_features::{self, Change, XdpFeatures};
use crate::datapath::control::ControlMap;
use crate::datapath::error::{DatapathError, chain};
use crate::datapath::kernel;

/// Shortest time between two reactions: a burst of events is one.
const PACE: Duration = Duration::from_millis(50);
/// How often everything is read anew.
const SLOW_PASS: Duration = Duration::from_secs(30);

/// What the rest of the agent needs to know of this node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether a first pass is done.
    pub complete: bool,
    /// Every address of this node, with the index of its device.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// Covered devices.
    pub devices: Vec<DeviceState>,
    /// Settings of devices that keep packets from being carried.
    pub warnings: Vec<String>,
    /// What last went wrong with the whole, if it still does.
    pub error: Option<String>,
}

/// The loop's state.
#[derive(Debug)]
pub struct Follower {
    cover: Cover,
    control: Arc<ControlMap>,
    used: Arc<UsedHops>,
    criteria: watch::Receiver<Criteria>,
    observed: watch::Sender<Observed>,
    neighbours: Neighbours,
    inventory: Inventory,
}

/// Most neighbours that one pass asks after.
const PROBES_MAX: usize = 256;

/// What we want to hear of.
const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];
/// Bytes of events that may wait for us. The kernel caps it at `net.core.rmem_max`; an overrun is heard of and costs a full pass.
const EVENT_BUFFER: i32 = 4 << 20;

impl Follower {
    /// A follower that tells what it sees to `observed`, and covers devices by `criteria`.
    #[must_use]
    pub fn new(
        cover: Cover,
        control: Arc<ControlMap>,
        used: Arc<UsedHops>,
        criteria: watch::Receiver<Criteria>,
        observed: watch::Sender<Observed>,
    ) -> Self {
        Self {
            cover,
            control,
            used,
            criteria,
            observed,
            neighbours: Neighbours::default(),
            inventory: Inventory::default(),
        }
    }

    /// Follows until the sender of the criteria is gone. A netlink socket that fails is opened again.
    pub async fn run(mut self) {
        while let Err(error) = self.follow().await {
            let text = chain(&error);
            tracing::error!(error = %text, "netlink failed, trying again");
            self.observed.send_modify(|seen| seen.error = Some(text));
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), DatapathError> {
        let mut tasks = JoinSet::new();
        // Listen before reading, so that no change falls between.
        let (mut connection, _handle, mut events) =
            rtnetlink::new_multicast_connection(GROUPS).map_err(netlink::failed("listen"))?;
        let buffer = connection
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(EVENT_BUFFER);
        if let Err(error) = buffer {
            tracing::debug!(%error, "the buffer for netlink events keeps its size");
        }
        tasks.spawn(connection);
        let (reader, answers) = Reader::open()?;
        tasks.spawn(answers);
        let (features, mut changes) = XdpFeatures::open(&mut tasks).await?;

        let mut slow = interval(SLOW_PASS);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            let mut due = tokio::select! {
                _ = slow.tick() => Due::everything(),
                event = events.next() => self.consider(event)?,
                change = changes.next() => self.consider_features(change)?,
                changed = self.criteria.changed() => match changed {
                    Ok(()) => Due { read: true, ..Due::default() },
                    Err(_) => return Ok(()),
                },
            };
            if due == Due::default() {
                continue;
            }
            self.collect(&mut events, &mut due, last + PACE).await?;
            last = Instant::now();
            self.react(&reader, &features, due).await?;
        }
    }

    /// Merges further events until `until`, and those that have arrived by then.
    async fn collect<S>(
        &mut self,
        events: &mut S,
        due: &mut Due,
        until: Instant,
    ) -> Result<(), DatapathError>
    where
        S: Stream<Item = Event> + Unpin,
    {
        // A storm that never pauses must not keep us from acting.
        let latest = Instant::now() + 4 * PACE;
        while Instant::now() < latest {
            tokio::select! {
                biased;
                event = events.next() => due.merge(self.consider(event)?),
                () = sleep_until(until) => break,
            }
        }
        Ok(())
    }

    /// What one event asks for. The end of the stream is an error.
    fn consider(&mut self, event: Option<Event>) -> Result<Due, DatapathError> {
        let Some((message, _)) = event else {
            let closed = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(netlink::failed("listen")(closed));
        };
        Ok(match message.payload {
            NetlinkPayload::InnerMessage(message) => consider(&message, &mut self.neighbours),
            NetlinkPayload::Overrun(_) => Due {
                raise: true,
                ..Due::everything()
            },
            _ => Due::default(),
        })
    }

    /// What news of a device's features ask for: nothing if they are none.
    fn consider_features(&self, change: Option<Change>) -> Result<Due, DatapathError> {
        let read = match change {
            Some(Change::Device { index, takes }) => self.cover.targets().is_news(index, takes),
            Some(Change::Missed) => true,
            None => {
                let closed = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(netlink::failed("listen to netdev")(closed));
            }
        };
        Ok(Due {
            read,
            ..Due::default()
        })
    }

    /// Does what is due.
    async fn react(
        &mut self,
        reader: &Reader,
        features: &XdpFeatures,
        due: Due,
    ) -> Result<(), DatapathError> {
        if due.raise {
            self.raise();
        }
        if due.neighbours {
            let all = reader.neighbours().await?;
            if self.neighbours.replace(&all) {
                self.raise();
            }
            self.probe(reader, &all).await;
        }
        for &index in &due.gone {
            self.cover.forget(index);
        }
        if due.read {
            let inventory = reader.inventory().await?;
            let wanted = classify(&inventory, &self.criteria.borrow_and_update());
            if inventory.without_xdp() != self.inventory.without_xdp() {
                self.raise();
            }
            self.inventory = inventory;
            // Attaching to a device waits for its driver.
            let covered = tokio::task::block_in_place(|| {
                self.cover.apply(&self.inventory, &wanted, due.retry)
            });
            self.raise_if_changed(&covered);
            // Asked once programs are attached: some drivers take redirected frames only then.
            let targets = features.targets(&wanted).await?;
            let targeted = self.cover.set_targets(&wanted, targets);
            self.raise_if_changed(&targeted);
            self.tell(&wanted, covered.and(targeted).err());
        }
        Ok(())
    }

    /// Asks after neighbours that only redirected packets go to. One that does not answer fails, one that moved tells its new
    /// address, and either is an event.
    async fn probe(&self, reader: &Reader, all: &[(NeighbourKey, Neighbour)]) {
        let used = all.iter().filter(|(key, neighbour)| {
            neighbour.stale && self.used.contains(key.device, &neighbour.mac)
        });
        for (key, _) in used.take(PROBES_MAX) {
            if let Err(error) = reader.probe(*key).await {
                tracing::debug!(address = %key.address, error = %chain(&error), "not probed");
            }
        }
    }

    /// Tells what came of covering the devices.
    fn tell(&self, wanted: &BTreeMap<u32, Covered>, error: Option<DatapathError>) {
        let error = error.map(|error| chain(&error));
        if let Some(error) = &error {
            tracing::error!(%error, "the device table is not up to date");
        }
        let devices = self.cover.states(wanted);
        let mut warnings = advice(
            &self.inventory,
            wanted,
            &self.criteria.borrow(),
            &kernel::net_setting,
        );
        warnings.extend(xdp_features::notes(&devices, self.cover.targets()));
        let now = Observed {
            complete: true,
            addresses: self.inventory.addresses().collect(),
            devices,
            warnings,
            error,
        };
        let before = self.observed.borrow().warnings.clone();
        for warning in now.warnings.iter().filter(|one| !before.contains(one)) {
            tracing::warn!("{warning}");
        }
        self.observed.send_if_modified(|seen| {
            let changed = *seen != now;
            *seen = now;
            changed
        });
    }

    /// What programs know of a device is part of a remembered next hop.
    fn raise_if_changed(&self, written: &Result<bool, DatapathError>) {
        if !matches!(written, Ok(false)) {
            self.raise();
        }
    }

    fn raise(&self) {
        match self.control.raise_routes() {
            Ok(generation) => tracing::debug!(generation, "next hops are looked up anew"),
            Err(error) => tracing::error!(error = %chain(&error), "cannot raise the generation"),
        }
    }
}

type Event = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);
