//! What could not be planned, and why.
//!
//! Owns the reasons and the count of free entries that leads to them. It refuses to know the steps. Invariant: a refusal is of
//! one service port in one address family as a whole; what was installed for it stays (edge-cases I6).

use std::net::IpAddr;

use super::contents::Limits;
use crate::model::desired::{Family, ServicePortName};

/// Something that stays as it was, although it should be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    /// The service port; `None` for an address of the node.
    pub service_port: Option<ServicePortName>,
    /// The family in which it stays as it was. The other family is planned on its own.
    pub family: Family,
    /// Why.
    pub reason: Reason,
}

/// Why a service port was refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The array of backends has no run of free slots that is long enough.
    #[error(
        "{map}: no run of {wanted} free slots ({available} free, {resting} about to be, of {capacity})"
    )]
    NoSlots {
        /// Name of the map.
        map: &'static str,
        /// Length of the set.
        wanted: u32,
        /// Free slots, in shorter runs or kept for changes of what is installed.
        available: u32,
        /// Slots that become free after the grace period.
        resting: u32,
        /// Size of the array.
        capacity: u32,
    },
    /// A hash map is full.
    #[error("{map}: {wanted} more entries wanted, {available} of {capacity} free")]
    TableFull {
        /// Name of the map.
        map: &'static str,
        /// Entries that the service port needs in addition.
        wanted: u32,
        /// Entries that are free.
        available: u32,
        /// `max_entries`.
        capacity: u32,
    },
    /// The table of addresses has no room for an address of this node.
    #[error("{map}: no room for the node address {address}")]
    NodeAddress {
        /// Name of the map.
        map: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// The protocol is not carried.
    #[error("SCTP is not supported")]
    Sctp,
    /// The unspecified address means every node address in the map, so it cannot be a front end of its own.
    #[error("a front end has the unspecified address")]
    UnspecifiedAddress,
    /// An endpoint is of the other family than its front end.
    #[error("an endpoint of the other address family")]
    MixedFamilies,
}

/// Entries that are still free in the hash maps, as a plan goes along.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) frontends: u32,
    pub(super) addresses: u32,
    pub(super) serving: u32,
    pub(super) sources: u32,
    limits: Limits,
}

/// Entries that a service port needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) frontends: u32,
    /// Front ends that it no longer wants; they can make room, if they are deleted first.
    pub(super) frontends_given: u32,
    pub(super) addresses: u32,
    pub(super) serving: u32,
    pub(super) sources: u32,
}

/// Names of the hash maps of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapNames {
    pub(super) frontends: &'static str,
    pub(super) addresses: &'static str,
    pub(super) serving: &'static str,
    pub(super) sources: &'static str,
}

impl Room {
    /// What is left, when so many entries are taken.
    pub(super) fn new(limits: Limits, taken: Need) -> Self {
        Self {
            frontends: limits.frontends.saturating_sub(taken.frontends),
            addresses: limits.addresses.saturating_sub(taken.addresses),
            serving: limits.serving.saturating_sub(taken.serving),
            sources: limits.sources.saturating_sub(taken.sources),
            limits,
        }
    }

    /// Whether there is room, and whether front ends must be deleted before others are created.
    pub(super) fn check(&self, need: &Need, names: MapNames) -> Result<bool, Reason> {
        let full = |map, wanted, available, capacity| Reason::TableFull {
            map,
            wanted,
            available,
            capacity,
        };
        let Self { limits, .. } = self;
        if need.addresses > self.addresses {
            let (wanted, free) = (need.addresses, self.addresses);
            return Err(full(names.addresses, wanted, free, limits.addresses));
        }
        if need.serving > self.serving {
            let (wanted, free) = (need.serving, self.serving);
            return Err(full(names.serving, wanted, free, limits.serving));
        }
        if need.sources > self.sources {
            let (wanted, free) = (need.sources, self.sources);
            return Err(full(names.sources, wanted, free, limits.sources));
        }
        if need.frontends > self.frontends + need.frontends_given {
            let (wanted, free) = (need.frontends, self.frontends);
            return Err(full(names.frontends, wanted, free, limits.frontends));
        }
        Ok(need.frontends > self.frontends)
    }

    pub(super) fn take(&mut self, need: &Need, delete_first: bool) {
        if delete_first {
            self.frontends += need.frontends_given;
        }
        self.frontends -= need.frontends;
        self.addresses -= need.addresses;
        self.serving -= need.serving;
        self.sources -= need.sources;
    }
}
