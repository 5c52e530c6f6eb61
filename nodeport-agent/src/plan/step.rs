//! The steps of a plan: each is one change of one map.
//!
//! Owns what can be done to the maps and how it reads. It refuses to know why. Invariant: after any step each front end names
//! sets that are complete, if it was so before and the steps come in the order of [`diff`](super::diff).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use nodeport_common::{
    Backend, Frontend, FrontendKey, ServingKey, SourceRangeKey, V4, V6, backend_flags, maps,
};

use super::family::{Ip, frontend_text, socket_address, source_range};
use super::flags::{address_flag_names, frontend_flag_names};

/// One change of the maps of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<A> {
    /// Let programs look for front ends at more destinations: a word of `NOTED`, with more bits than before.
    Note {
        /// Index of the word.
        word: u32,
        /// Its new value.
        value: u64,
    },
    /// Let programs go by the bits of `NOTED`, which are complete.
    TrustNotes,
    /// Write a whole set into free slots of `BACKENDS`.
    WriteSet {
        /// First slot.
        base: u32,
        /// The set; never empty.
        backends: Arc<[Backend<A>]>,
    },
    /// Let UDP flows of a service port stay with an endpoint.
    AddServing(ServingKey<A>),
    /// Let a range of sources use a service port's restricted front ends.
    AddSource(SourceRangeKey<A>),
    /// Make a front end name other sets, or create it.
    PutFrontend {
        /// Which front end.
        key: FrontendKey<A>,
        /// Its new value.
        value: Frontend,
    },
    /// Set the flags of an address.
    PutAddress {
        /// The address.
        address: A,
        /// Bits of [`nodeport_common::address_flags`].
        flags: u32,
    },
    /// Remove a front end.
    DeleteFrontend {
        /// Which front end.
        key: FrontendKey<A>,
    },
    /// Remove an address.
    DeleteAddress {
        /// The address.
        address: A,
    },
    /// Let UDP flows of a service port no longer stay with an endpoint.
    RemoveServing(ServingKey<A>),
    /// Let a range of sources no longer use a service port's restricted front ends.
    RemoveSource(SourceRangeKey<A>),
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A change of an IPv4 map.
    V4(Change<V4>),
    /// A change of an IPv6 map.
    V6(Change<V6>),
    /// Make flows look again at their endpoint (behaviours 17.8, edge-cases B11).
    RaiseEndpointGeneration,
}

/// What a step does, without its operands. Steps of one kind that follow each other are written in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// [`Change::Note`].
    Note,
    /// [`Change::TrustNotes`].
    TrustNotes,
    /// [`Change::WriteSet`].
    WriteSet,
    /// [`Change::AddServing`].
    AddServing,
    /// [`Change::AddSource`].
    AddSource,
    /// [`Change::PutFrontend`].
    PutFrontend,
    /// [`Change::PutAddress`].
    PutAddress,
    /// [`Change::DeleteFrontend`].
    DeleteFrontend,
    /// [`Change::DeleteAddress`].
    DeleteAddress,
    /// [`Change::RemoveServing`].
    RemoveServing,
    /// [`Change::RemoveSource`].
    RemoveSource,
    /// [`Step::RaiseEndpointGeneration`].
    RaiseEndpointGeneration,
}

impl From<Change<V4>> for Step {
    fn from(change: Change<V4>) -> Self {
        Self::V4(change)
    }
}

impl From<Change<V6>> for Step {
    fn from(change: Change<V6>) -> Self {
        Self::V6(change)
    }
}

impl<A: Ip> Change<A> {
    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::Note { .. } => Action::Note,
            Self::TrustNotes => Action::TrustNotes,
            Self::WriteSet { .. } => Action::WriteSet,
            Self::AddServing(_) => Action::AddServing,
            Self::PutFrontend { .. } => Action::PutFrontend,
            Self::PutAddress { .. } => Action::PutAddress,
            Self::DeleteFrontend { .. } => Action::DeleteFrontend,
            Self::DeleteAddress { .. } => Action::DeleteAddress,
            Self::RemoveServing(_) => Action::RemoveServing,
            Self::AddSource(_) => Action::AddSource,
            Self::RemoveSource(_) => Action::RemoveSource,
        }
    }

    /// Name of the map that it changes.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Note { .. } | Self::TrustNotes => A::NOTED,
            Self::WriteSet { .. } => A::BACKENDS,
            Self::AddServing(_) | Self::RemoveServing(_) => A::SERVING,
            Self::AddSource(_) | Self::RemoveSource(_) => A::SOURCES,
            Self::PutFrontend { .. } | Self::DeleteFrontend { .. } => A::FRONTENDS,
            Self::PutAddress { .. } | Self::DeleteAddress { .. } => A::ADDRESSES,
        }
    }

    /// How many map entries it changes.
    #[must_use]
    pub fn entries(&self) -> usize {
        match self {
            Self::WriteSet { backends, .. } => backends.len(),
            _ => 1,
        }
    }
}

impl Step {
    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::V4(change) => change.action(),
            Self::V6(change) => change.action(),
            Self::RaiseEndpointGeneration => Action::RaiseEndpointGeneration,
        }
    }

    /// Name of the map that it changes.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::V4(change) => change.map(),
            Self::V6(change) => change.map(),
            Self::RaiseEndpointGeneration => maps::CONTROL,
        }
    }

    /// How many map entries it changes.
    #[must_use]
    pub fn entries(&self) -> usize {
        match self {
            Self::V4(change) => change.entries(),
            Self::V6(change) => change.entries(),
            Self::RaiseEndpointGeneration => 1,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(change) => change.fmt(f),
            Self::V6(change) => change.fmt(f),
            Self::RaiseEndpointGeneration => {
                write!(f, "{}: raise the endpoint generation", maps::CONTROL)
            }
        }
    }
}

impl<A: Ip> fmt::Display for Change<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.map())?;
        match self {
            Self::Note { word, value } => write!(f, "note word {word} = {value:#018x}"),
            Self::TrustNotes => f.write_str("all is noted"),
            Self::WriteSet { base, backends } => {
                write!(f, "write slots {}", Slots(*base, backends.len() as u32))?;
                let mut separator = ": ";
                for backend in backends.iter() {
                    write!(f, "{separator}{}", backend_text(backend))?;
                    separator = ", ";
                }
                Ok(())
            }
            Self::AddServing(key) => write!(f, "add {}", serving_text(key)),
            Self::RemoveServing(key) => write!(f, "remove {}", serving_text(key)),
            Self::AddSource(key) => write!(f, "add {}", source_text(key)),
            Self::RemoveSource(key) => write!(f, "remove {}", source_text(key)),
            Self::PutFrontend { key, value } => {
                write!(f, "put {} = {}", frontend_text(key), FrontendText(value))
            }
            Self::DeleteFrontend { key } => write!(f, "delete {}", frontend_text(key)),
            Self::PutAddress { address, flags } => {
                let ip: IpAddr = address.ip();
                write!(f, "put {ip} = {}", address_flag_names(*flags).join("|"))
            }
            Self::DeleteAddress { address } => write!(f, "delete {}", address.ip()),
        }
    }
}

/// A range of slots: `7`, `7-9`, or `none`.
struct Slots(u32, u32);

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(base, len) = *self;
        match len {
            0 => f.write_str("none"),
            1 => write!(f, "{base}"),
            _ => write!(f, "{base}-{}", u64::from(base) + u64::from(len) - 1),
        }
    }
}

/// The value of a front end on one line.
struct FrontendText<'a>(&'a Frontend);

impl fmt::Display for FrontendText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        write!(
            f,
            "service {}, slots {}",
            value.service,
            Slots(value.base, value.len)
        )?;
        if (value.local_base, value.local_len) != (value.base, value.len) {
            let local = Slots(value.local_base, value.local_len);
            write!(f, ", for local Pods {local}")?;
        }
        if value.serving > 0 {
            write!(f, ", {} serving", value.serving)?;
        }
        if value.affinity_secs > 0 {
            write!(f, ", affinity {} s", value.affinity_secs)?;
        }
        write!(f, ", {}", frontend_flag_names(value.flags).join("|"))
    }
}

/// `10.244.0.7:8080`, with `(local)` if it is on this node.
fn backend_text<A: Ip>(backend: &Backend<A>) -> String {
    let address = socket_address(backend.address, backend.port);
    if backend.flags & backend_flags::LOCAL != 0 {
        format!("{address} (local)")
    } else {
        address.to_string()
    }
}

fn serving_text<A: Ip>(key: &ServingKey<A>) -> String {
    let address = socket_address(key.address, key.port);
    format!("{address} of service {}", key.service)
}

fn source_text<A: Ip>(key: &SourceRangeKey<A>) -> String {
    let service = u32::from_be_bytes(key.service);
    let range = source_range(key).map_or_else(|| format!("{key:?}"), |range| range.to_string());
    format!("{range} of service {service}")
}
