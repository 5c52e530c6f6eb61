//! The state and the steps of a plan as documents: for `dump`, and for `plan` against a state that was dumped before.
//!
//! Owns the names of fields. It refuses to know tables on a screen. Invariants: fields are added, never renamed; a state that
//! is written and read back gives the same plan.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nodeport_common::{Address, Backend, Frontend, FrontendKey, V4, V6, backend_flags, protocol};

use super::contents::{Contents, Limits};
use super::diff::Plan;
use super::family::{Ip, protocol_name, serving_key, socket_address, source_key, source_range};
use super::flags::{address_flag_names, address_flags_of, frontend_flag_names, frontend_flags_of};
use super::ids::Ids;
use super::installed::{Installed, Tables};
use super::noted::Noted;
use super::step::Action;

/// What is in the maps.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// IPv4.
    pub v4: FamilyState,
    /// IPv6.
    pub v6: FamilyState,
}

/// What is in the maps of one address family.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FamilyState {
    /// How much fits.
    pub limits: Limits,
    /// Front ends, in order of address, port and protocol; NodePorts first.
    pub frontends: Vec<FrontendView>,
    /// Addresses.
    pub addresses: Vec<AddressView>,
    /// Endpoints that UDP flows may keep.
    pub serving: Vec<ServingView>,
    /// Who may use restricted front ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceView>,
}

/// A front end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrontendView {
    /// Virtual address; none for a NodePort.
    pub address: Option<IpAddr>,
    /// Port, host order.
    pub port: u16,
    /// Protocol, or its number.
    pub protocol: String,
    /// Names of its flags.
    pub flags: Vec<String>,
    /// Number of the service port.
    pub service: u32,
    /// The service port, where its name is known: names are not in the maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<String>,
    /// Number of endpoints that UDP flows may keep.
    pub serving: u32,
    /// For how long a client is sent to the same endpoint again, in seconds; 0 for every connection anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub affinity_secs: u32,
    /// The set for clients that are not on this node.
    pub outside: SetView,
    /// The set for Pods of this node.
    pub inside: SetView,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(secs: &u32) -> bool {
    *secs == 0
}

/// A backend set.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct SetView {
    /// First slot.
    pub base: u32,
    /// The backends, one for each slot.
    pub backends: Vec<BackendView>,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackendView {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub local: bool,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AddressView {
    /// The address.
    pub address: IpAddr,
    /// Names of its flags.
    pub flags: Vec<String>,
}

/// An endpoint that UDP flows may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServingView {
    /// Number of the service port.
    pub service: u32,
    /// Address and port.
    pub endpoint: SocketAddr,
}

/// A range of sources that may use a service port's restricted front ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceView {
    /// Number of the service port.
    pub service: u32,
    /// The range.
    pub range: IpNet,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StepView {
    /// What it does.
    pub action: Action,
    /// Name of the map.
    pub map: &'static str,
    /// How many entries it changes.
    pub entries: usize,
    /// The service port, where there is one and its name is known.
    pub service_port: Option<String>,
    /// All of it, in words.
    pub text: String,
}

/// A document that describes no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// An address of the other family.
    #[error("{0} is in the wrong address family")]
    Family(IpAddr),
    /// A protocol that is neither TCP, UDP or SCTP nor a number.
    #[error("`{0}` is no protocol")]
    Protocol(String),
    /// A flag without meaning.
    #[error("`{0}` is no flag")]
    Flag(String),
    /// A set that leaves the array.
    #[error("slot {0} is beyond the end of the array")]
    Slot(u64),
}

impl State {
    /// Describes a state.
    #[must_use]
    pub fn of(installed: &Installed) -> Self {
        Self {
            v4: family(installed.v4(), installed.ids()),
            v6: family(installed.v6(), installed.ids()),
        }
    }

    /// The state that is described, as after a restart: without names of service ports.
    ///
    /// # Errors
    /// The first value that cannot be in the maps.
    pub fn installed(&self) -> Result<Installed, StateError> {
        let v4 = contents::<V4>(&self.v4)?;
        Ok(Installed::adopt(&v4, &contents::<V6>(&self.v6)?))
    }
}

impl Plan {
    /// Describes the steps. `installed` is what the plan was made against; it knows the names of the others.
    #[must_use]
    pub fn view(&self, installed: &Installed) -> Vec<StepView> {
        let mut ids = installed.ids().clone();
        for (name, id) in &self.names {
            ids.assign(name, *id);
        }
        let view = |planned: &super::diff::Planned| StepView {
            action: planned.step.action(),
            map: planned.step.map(),
            entries: planned.step.entries(),
            service_port: planned.service.and_then(|id| name(&ids, id)),
            text: planned.step.to_string(),
        };
        self.steps.iter().map(view).collect()
    }
}

/// The service port with its protocol, which is part of its identity.
fn name(ids: &Ids, id: u32) -> Option<String> {
    let name = ids.name(id)?;
    Some(format!("{name} {}", name.protocol))
}

fn family<A: Ip>(tables: &Tables<A>, ids: &Ids) -> FamilyState {
    let set = |base, len| SetView {
        base,
        backends: (tables.sets().content(base, len).unwrap_or_default().iter())
            .map(|slot| BackendView {
                address: socket_address(slot.address, slot.port),
                local: slot.flags & backend_flags::LOCAL != 0,
            })
            .collect(),
    };
    let frontend = |(key, value): (&FrontendKey<A>, &Frontend)| FrontendView {
        address: (key.address != A::UNSPECIFIED).then(|| key.address.ip()),
        port: u16::from_be_bytes(key.port),
        protocol: protocol_name(key.protocol),
        flags: frontend_flag_names(value.flags),
        service: value.service,
        service_port: name(ids, value.service),
        serving: value.serving,
        affinity_secs: value.affinity_secs,
        outside: set(value.base, value.len),
        inside: set(value.local_base, value.local_len),
    };
    FamilyState {
        limits: tables.limits(),
        frontends: tables.frontends().iter().map(frontend).collect(),
        addresses: (tables.addresses().iter())
            .map(|(address, flags)| AddressView {
                address: address.ip(),
                flags: address_flag_names(*flags),
            })
            .collect(),
        serving: (tables.serving())
            .map(|key| ServingView {
                service: key.service,
                endpoint: socket_address(key.address, key.port),
            })
            .collect(),
        sources: (tables.sources())
            .filter_map(|key| {
                Some(SourceView {
                    service: u32::from_be_bytes(key.service),
                    range: source_range(&key)?,
                })
            })
            .collect(),
    }
}

fn contents<A: Ip>(state: &FamilyState) -> Result<Contents<A>, StateError> {
    let own = |ip: IpAddr| A::from_ip(ip).ok_or(StateError::Family(ip));
    let mut contents = Contents::empty(state.limits);
    for view in &state.frontends {
        let key = FrontendKey {
            address: view.address.map_or(Ok(A::UNSPECIFIED), own)?,
            port: view.port.to_be_bytes(),
            protocol: protocol_of(&view.protocol)?,
            pad: 0,
        };
        let value = Frontend {
            base: view.outside.base,
            len: view.outside.backends.len() as u32,
            local_base: view.inside.base,
            local_len: view.inside.backends.len() as u32,
            serving: view.serving,
            service: view.service,
            flags: frontend_flags_of(&view.flags).map_err(StateError::Flag)?,
            affinity_secs: view.affinity_secs,
        };
        for set in [&view.outside, &view.inside] {
            write_set(&mut contents, set)?;
        }
        contents.frontends.push((key, value));
    }
    for view in &state.addresses {
        let flags = address_flags_of(&view.flags).map_err(StateError::Flag)?;
        contents
            .addresses
            .push((own(view.address)?, Address { flags }));
    }
    for view in &state.serving {
        let ip = view.endpoint.ip();
        let key = serving_key(view.service, view.endpoint).ok_or(StateError::Family(ip))?;
        contents.serving.push(key);
    }
    for view in &state.sources {
        let ip = view.range.addr();
        let key = source_key(view.service, view.range).ok_or(StateError::Family(ip))?;
        contents.sources.push(key);
    }
    contents.noted = noted(&contents);
    Ok(contents)
}

/// A state that is installed is noted; the document does not repeat it.
fn noted<A: Ip>(contents: &Contents<A>) -> Vec<u64> {
    let mut noted = Noted::adopt(&[]);
    for (key, _) in &contents.frontends {
        noted.frontend(key);
    }
    for (address, value) in &contents.addresses {
        noted.address(*address, value.flags);
    }
    noted.trust();
    noted.words().to_vec()
}

/// Puts a set into the slots where it was.
fn write_set<A: Ip>(contents: &mut Contents<A>, set: &SetView) -> Result<(), StateError> {
    let end = u64::from(set.base) + set.backends.len() as u64;
    if end > u64::from(contents.limits.backends) {
        return Err(StateError::Slot(end - 1));
    }
    let empty = Backend {
        address: A::UNSPECIFIED,
        port: [0; 2],
        flags: 0,
    };
    let slots = &mut contents.backends;
    slots.resize(slots.len().max(end as usize), empty);
    for (slot, view) in slots.iter_mut().skip(set.base as usize).zip(&set.backends) {
        let ip = view.address.ip();
        *slot = Backend {
            address: A::from_ip(ip).ok_or(StateError::Family(ip))?,
            port: view.address.port().to_be_bytes(),
            flags: u16::from(view.local) * backend_flags::LOCAL,
        };
    }
    Ok(())
}

fn protocol_of(name: &str) -> Result<u8, StateError> {
    match name {
        "TCP" => Ok(protocol::TCP),
        "UDP" => Ok(protocol::UDP),
        "SCTP" => Ok(protocol::SCTP),
        other => other
            .parse()
            .map_err(|_| StateError::Protocol(other.to_owned())),
    }
}
