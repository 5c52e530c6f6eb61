//! Brings devices and programs in step: the device table, attached programs, and links of devices that are gone.
//!
//! Owns the order of these steps. Refuses to know netlink and the reasons why a device is covered. Invariants: a device stands in
//! the table before it has a program; what fails on one device is remembered and tried again, and stops no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aya::programs::TcAttachType;
use nodeport_common::{Device, Hook, device_flags, programs};

use super::classify::{Covered, Role};
use super::inventory::Inventory;
use super::table::DeviceTable;
use super::xdp_features::RedirectTargets;
use crate::datapath::attach::{Attached, Attacher, Mode, Target};
use crate::datapath::clsact;
use crate::datapath::config::{TcApi, XdpPolicy};
use crate::datapath::error::{DatapathError, chain};
use crate::datapath::load::Loaded;
use crate::datapath::pins::Place;

/// One program of a device.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HookState {
    /// How it is attached; `None` if it is not.
    pub mode: Option<Mode>,
    /// Since when, in seconds since 1970.
    pub since: Option<u64>,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// A covered device and its programs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceState {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// XDP; `None` where none is wanted.
    pub xdp: Option<HookState>,
    /// TC ingress.
    pub tc_ingress: HookState,
    /// TC egress.
    pub tc_egress: HookState,
}

/// What is attached where, and keeps it that way.
#[derive(Debug)]
pub struct Cover {
    loaded: Arc<Mutex<Loaded>>,
    attacher: Attacher,
    table: DeviceTable,
    xdp: XdpPolicy,
    tc: TcApi,
    attached: BTreeMap<Place, Attached>,
    failed: BTreeMap<Place, String>,
    names: BTreeMap<u32, String>,
    targets: RedirectTargets,
}

impl Cover {
    /// Nothing attached yet.
    #[must_use]
    pub fn new(
        loaded: Arc<Mutex<Loaded>>,
        attacher: Attacher,
        table: DeviceTable,
        xdp: XdpPolicy,
        tc: TcApi,
    ) -> Self {
        Self {
            loaded,
            attacher,
            table,
            xdp,
            tc,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            names: BTreeMap::new(),
            targets: RedirectTargets::default(),
        }
    }

    /// Covers exactly the devices of `wanted`. With `retry`, also checks what is attached and tries again what failed. Returns whether what programs
    /// know of a device changed.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the device table cannot be written; failures of one device are in [`Self::states`] instead.
    pub fn apply(
        &mut self,
        inventory: &Inventory,
        wanted: &BTreeMap<u32, Covered>,
        retry: bool,
    ) -> Result<bool, DatapathError> {
        let mut changed = false;
        self.release(inventory, wanted);
        for (&index, device) in wanted {
            changed |= self.table.set(index, &self.value(index, device))?;
            self.attach(index, device, inventory, retry);
            // The mode of its XDP program is known only now.
            changed |= self.table.set(index, &self.value(index, device))?;
        }
        changed |= self.table.retain(|index| wanted.contains_key(&index))?;
        Ok(changed)
    }

    /// Takes note of which devices take redirected frames. Returns whether what programs know of a device changed.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the device table cannot be written.
    pub(super) fn set_targets(
        &mut self,
        wanted: &BTreeMap<u32, Covered>,
        targets: RedirectTargets,
    ) -> Result<bool, DatapathError> {
        self.targets = targets;
        let mut changed = false;
        for (&index, device) in wanted {
            changed |= self.table.set(index, &self.value(index, device))?;
        }
        Ok(changed)
    }

    /// Which devices take redirected frames, as far as is known.
    #[must_use]
    pub(super) fn targets(&self) -> &RedirectTargets {
        &self.targets
    }

    /// Forgets a device that was removed, so that another one with its index is covered from the start.
    pub fn forget(&mut self, index: u32) {
        self.targets.forget(index);
        for &hook in Hook::ON_DEVICES {
            let place = Place {
                device: index,
                hook,
            };
            self.failed.remove(&place);
            if self.attached.remove(&place).is_some()
                && let Err(error) = self.attacher.detach(place)
            {
                tracing::warn!(%place, error = %chain(&error), "cannot let go");
            }
        }
    }

    /// The covered devices and their programs.
    #[must_use]
    pub fn states(&self, wanted: &BTreeMap<u32, Covered>) -> Vec<DeviceState> {
        wanted
            .iter()
            .map(|(&index, device)| DeviceState {
                index,
                name: device.name.clone(),
                role: device.role,
                xdp: device.xdp.then(|| self.hook(index, Hook::Xdp)),
                tc_ingress: self.hook(index, Hook::TcIngress),
                tc_egress: self.hook(index, Hook::TcEgress),
            })
            .collect()
    }

    fn hook(&self, device: u32, hook: Hook) -> HookState {
        let place = Place { device, hook };
        let attached = self.attached.get(&place);
        HookState {
            mode: attached.map(|attached| attached.mode),
            since: attached.and_then(|attached| {
                let since = attached.since.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                Some(since.as_secs())
            }),
            error: self.failed.get(&place).cloned(),
        }
    }

    /// What programs are told of a device.
    fn value(&self, index: u32, device: &Covered) -> Device {
        let place = Place {
            device: index,
            hook: Hook::Xdp,
        };
        let xdp = match self.attached.get(&place).map(|attached| attached.mode) {
            Some(Mode::Native) if self.targets.contains(index) => device_flags::XDP_TARGET,
            Some(Mode::Generic) => device_flags::XDP_GENERIC,
            _ => 0,
        };
        Device {
            flags: device.value.flags | xdp,
            ..device.value
        }
    }

    /// Attaches what is missing on a device. What is attached already is attached again in a check: that does nothing if it is
    /// still so, and mends what somebody else detached.
    fn attach(&mut self, index: u32, device: &Covered, inventory: &Inventory, check: bool) {
        let Some(link) = inventory.links.get(&index) else {
            return;
        };
        // A renamed device keeps its programs.
        self.names.insert(index, device.name.clone());
        let target = Target {
            index,
            name: &device.name,
            xdp: link.xdp,
        };
        for &hook in Hook::ON_DEVICES {
            let place = Place {
                device: index,
                hook,
            };
            let wanted = hook != Hook::Xdp || device.xdp;
            let tried = self.attached.contains_key(&place) || self.failed.contains_key(&place);
            if !wanted || (tried && !check) {
                continue;
            }
            let result = {
                let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
                match hook {
                    Hook::Xdp => self.attacher.attach_xdp(&mut loaded, target, self.xdp),
                    _ => self.attacher.attach_tc(&mut loaded, target, hook).map(Some),
                }
            };
            self.note(place, &device.name, result);
        }
    }

    /// Remembers and logs what came of an attachment.
    fn note(&mut self, place: Place, name: &str, result: Result<Option<Attached>, DatapathError>) {
        match result {
            Ok(Some(attached)) => {
                self.failed.remove(&place);
                let before = self.attached.insert(place, attached);
                if before.map(|before| before.mode) != Some(attached.mode) {
                    let (index, hook, mode) = (place.device, place.hook.name(), attached.mode);
                    let how = if attached.taken_over {
                        "taken over"
                    } else {
                        "attached"
                    };
                    tracing::info!(device = name, index, hook, ?mode, "{how}");
                }
            }
            Ok(None) => {}
            Err(error) => {
                let reason = match &error {
                    DatapathError::Attach { reason, .. } => reason.clone(),
                    other => chain(other),
                };
                self.attached.remove(&place);
                if self.failed.get(&place) != Some(&reason) {
                    let (index, hook) = (place.device, place.hook.name());
                    tracing::error!(device = name, index, hook, %reason, "not attached");
                    self.failed.insert(place, reason);
                }
            }
        }
    }

    /// Lets go of every place that is no longer wanted: of devices that are gone, became ports, or lost their addresses.
    fn release(&mut self, inventory: &Inventory, wanted: &BTreeMap<u32, Covered>) {
        let xdp_off = self.xdp == XdpPolicy::Off;
        let keeps = |place: Place| {
            wanted
                .get(&place.device)
                .is_some_and(|device| place.hook != Hook::Xdp || (device.xdp && !xdp_off))
        };
        self.failed.retain(|&place, _| keeps(place));
        // Pins are asked, not memory: an earlier agent may have left links of devices that are gone by now.
        let mut places = self.attacher.pinned().unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "cannot list links");
            Vec::new()
        });
        places.extend(self.attached.keys().copied());
        places.sort_unstable();
        places.dedup();
        for place in places.into_iter().filter(|&place| !keeps(place)) {
            if let Err(error) = self.attacher.detach(place) {
                tracing::warn!(%place, error = %chain(&error), "cannot let go");
                continue;
            }
            if self.tc == TcApi::Clsact {
                release_clsact(inventory, place);
            }
            self.attached.remove(&place);
            tracing::info!(%place, device = self.names.get(&place.device), "let go");
        }
        self.names.retain(|index, _| wanted.contains_key(index));
    }
}

/// Filters of a clsact qdisc are not pinned: they go with their device, or by name.
fn release_clsact(inventory: &Inventory, place: Place) {
    let Some(link) = inventory.links.get(&place.device) else {
        return;
    };
    match place.hook {
        Hook::TcIngress => {
            clsact::detach(&link.name, TcAttachType::Ingress, programs::TC_INGRESS);
        }
        Hook::TcEgress => {
            clsact::detach(&link.name, TcAttachType::Egress, programs::TC_EGRESS);
        }
        Hook::Xdp | Hook::Socket => {}
    }
}
