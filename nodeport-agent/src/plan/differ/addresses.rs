//! What addresses are to this node, as the plan of one family sees it.
//!
//! Owns the flags of `ADDRESSES`. It refuses to know how packets use them. Invariant: an address is virtual from after its first
//! front end is there until its last one goes, and the node's own addresses have room before those of Services.

use std::collections::{BTreeMap, BTreeSet};

use nodeport_common::{FrontendKey, address_flags, frontend_flags};

use super::{Differ, Phase, Scope};
use crate::model::desired::{Desired, FrontendId, FrontendKind, Listen, Protocol, ServicePortName};
use crate::plan::family::Ip;
use crate::plan::refusal::{Reason, Refused};
use crate::plan::step::Change;
use crate::plan::unit::Unit;

impl<A: Ip> Differ<'_, A> {
    /// The flags of the node's own addresses, as far as they fit.
    pub(super) fn node_addresses(&mut self, desired: &Desired) -> BTreeMap<A, u32> {
        let mut wanted: BTreeMap<A, u32> = BTreeMap::new();
        let host = desired.host_addresses.iter();
        let node_port = desired.node_port_addresses.iter();
        let flagged = host
            .map(|ip| (*ip, address_flags::HOST))
            .chain(node_port.map(|ip| (*ip, address_flags::NODE_PORT)));
        for (ip, flag) in flagged {
            if let Some(address) = A::from_ip(ip) {
                *wanted.entry(address).or_default() |= flag;
            }
        }
        let tables = self.tables;
        wanted.retain(|&address, _| {
            if tables.addresses.contains_key(&address) {
                return true;
            }
            if self.room.addresses == 0 {
                self.out.refused.push(Refused {
                    service_port: None,
                    family: A::FAMILY,
                    reason: Reason::NodeAddress {
                        map: A::ADDRESSES,
                        address: address.ip(),
                    },
                });
                return false;
            }
            self.room.addresses -= 1;
            self.added.insert(address);
            true
        });
        wanted
    }

    /// Brings the table of addresses in line with the front ends that will be there.
    pub(super) fn addresses(&mut self, node: BTreeMap<A, u32>, desired: &Desired) {
        if matches!(self.scope, Scope::Only(_)) {
            return self.changed_addresses(&node, desired);
        }
        let mut wanted: BTreeMap<A, (u32, Option<u32>)> = node
            .into_iter()
            .map(|(address, flags)| (address, (flags, None)))
            .collect();
        for unit in self.units {
            for (address, flags) in self.virtual_addresses(unit) {
                let owner = (0, Some(unit.id));
                let entry = wanted.entry(address).or_insert(owner);
                entry.0 |= flags;
            }
        }
        let tables = self.tables;
        for (&address, &(flags, service)) in &wanted {
            if tables.addresses.get(&address) != Some(&flags) {
                let change = Change::PutAddress { address, flags };
                self.emit(Phase::PutAddresses, service, change);
            }
        }
        for &address in tables.addresses.keys() {
            if !wanted.contains_key(&address) {
                let change = Change::DeleteAddress { address };
                self.emit(Phase::DeleteAddresses, None, change);
            }
        }
    }

    /// The same for the addresses alone at which a front end comes, goes or changes. No service port is kept back.
    fn changed_addresses(&mut self, node: &BTreeMap<A, u32>, desired: &Desired) {
        let Scope::Only(ids) = self.scope else {
            return;
        };
        let tables = self.tables;
        let members = self.units.iter().flat_map(|unit| &unit.members);
        let before = ids.iter().flat_map(|id| tables.keys_of(*id));
        let touched = members.map(|member| member.0.address);
        let mut touched: BTreeSet<A> = touched.chain(before.map(|key| key.address)).collect();
        touched.remove(&A::UNSPECIFIED);
        for address in touched {
            let (flags, service) = self.wanted_at(address, node, desired);
            let change = if flags == 0 {
                Change::DeleteAddress { address }
            } else {
                Change::PutAddress { address, flags }
            };
            let known = tables.addresses.get(&address).copied();
            match change {
                Change::DeleteAddress { .. } if known.is_some() => {
                    self.emit(Phase::DeleteAddresses, None, change);
                }
                Change::PutAddress { .. } if known != Some(flags) => {
                    self.emit(Phase::PutAddresses, service, change);
                }
                _ => {}
            }
        }
    }

    /// What an address is to be, 0 if nothing, and the first service port that has a front end there.
    fn wanted_at(
        &self,
        address: A,
        node: &BTreeMap<A, u32>,
        desired: &Desired,
    ) -> (u32, Option<u32>) {
        let listen = Listen::Address(address.ip());
        let first = FrontendId {
            listen,
            port: 0,
            protocol: Protocol::Tcp,
        };
        let here = desired.frontends.range(first..);
        let here = here.take_while(|(id, _)| id.listen == listen);
        let mut flags = node.get(&address).copied().unwrap_or_default();
        let mut owner = None;
        for (_, frontend) in here {
            flags |= virtual_flags(frontend.kind == FrontendKind::ClusterIp);
            owner = [owner, self.rank(&frontend.service_port)]
                .into_iter()
                .flatten()
                .min();
        }
        let owner = owner.filter(|_| !node.contains_key(&address));
        (flags, owner.map(|(_, _, id)| id))
    }

    /// Where a service port stands in the order of planning, and its number: those that have a number first.
    fn rank(&self, name: &ServicePortName) -> Option<(bool, usize, u32)> {
        if let Some(id) = self.ids.id(name) {
            return Some((false, id as usize, id));
        }
        let index = self.units.iter().position(|unit| unit.name == name)?;
        Some((true, index, self.units[index].id))
    }

    /// The addresses of the front ends that a service port has when the plan is carried out.
    fn virtual_addresses(&self, unit: &Unit<'_, A>) -> Vec<(A, u32)> {
        let mut addresses = Vec::with_capacity(unit.members.len());
        if self.kept.contains(&unit.id) {
            let kept = self.tables.by_service.get(&unit.id).into_iter().flatten();
            let taken_over = |key: &FrontendKey<A>| {
                let claimant = self.claims.get(key).map(|&index| self.units[index].id);
                claimant.is_some_and(|id| id != unit.id && !self.kept.contains(&id))
            };
            for key in kept.filter(|key| !taken_over(key)) {
                let value = self.tables.frontends.get(key);
                let bits = value.map_or(0, |value| value.flags);
                let cluster_ip = bits & frontend_flags::CLUSTER_IP != 0;
                addresses.push((key.address, virtual_flags(cluster_ip)));
            }
        } else {
            for (key, frontend) in &unit.members {
                let cluster_ip = frontend.kind == FrontendKind::ClusterIp;
                addresses.push((key.address, virtual_flags(cluster_ip)));
            }
        }
        addresses.retain(|(address, _)| *address != A::UNSPECIFIED);
        addresses
    }
}

/// The flags of an address that has a front end.
fn virtual_flags(cluster_ip: bool) -> u32 {
    address_flags::VIRTUAL | (u32::from(cluster_ip) * address_flags::CLUSTER_IP)
}
