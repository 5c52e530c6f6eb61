//! A node: both families' tables, its devices, its clock, and the order in which the hooks see a frame.
//!
//! Invariant: what packets write is behind cells, so that a node is shared while a packet runs, as it is between CPUs; what the agent
//! writes is plain fields.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use nodeport_common::{
    Control, Counters, Device, Hook, Outcome, SNAT_CURSORS_LEN, TokenBucket, V4, V6, device_flags,
};

use super::frame::{Frame, Skb, XdpFrame};
use super::tables::{FamilyTables, SimFamily, View};
use crate::packet::Packet;
use crate::path::socket::{self, Answer, Call};
use crate::path::{Action, Verdict, egress, handover, ingress};
use crate::wire::parse::{Carried, frame};

const XDP: usize = Hook::Xdp as usize;
const TC_INGRESS: usize = Hook::TcIngress as usize;
const TC_EGRESS: usize = Hook::TcEgress as usize;
const SOCKET: usize = Hook::Socket as usize;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `CONTROL`.
    pub control: Control,
    /// Low 32 bits of jiffies.
    pub jiffies: u32,
    /// `DEVICES`: programs are attached to all of them.
    pub devices: BTreeMap<u32, Device>,
    /// Whether XDP runs on uplinks.
    pub xdp: bool,
    /// IPv4.
    pub v4: FamilyTables<V4>,
    /// IPv6.
    pub v6: FamilyTables<V6>,
    /// `REJECTS` of the only CPU.
    pub budget: Cell<TokenBucket>,
    /// `SNAT_CURSORS` that were used.
    pub cursors: RefCell<BTreeMap<u32, u32>>,
    counters: RefCell<[Counters; Hook::ALL.len()]>,
    interrupts: RefCell<VecDeque<Interrupt>>,
}

/// What became of a frame at each hook that saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// At XDP; `None` where it does not run.
    pub xdp: Option<Verdict>,
    /// At TC; `None` if the frame did not come so far, or the device is none of ours.
    pub tc: Option<Verdict>,
}

/// A call into the tables before which another CPU may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// [`crate::tables::Tables::pending`].
    Pending,
    /// [`crate::tables::Tables::add_flow`].
    AddFlow,
    /// [`crate::tables::Tables::add_pending`].
    AddPending,
    /// [`crate::tables::Tables::remove_flow`].
    RemoveFlow,
    /// [`crate::tables::Tables::remove_pending`].
    RemovePending,
}

/// What another CPU does, and when: before the `skip + 1`st call of its kind.
pub struct Interrupt {
    /// Before which kind of call.
    pub before: Moment,
    /// How many such calls go undisturbed first.
    pub skip: u32,
    /// What happens; it may send packets through the node.
    pub act: Box<dyn FnOnce(&Node)>,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupt({:?} + {})", self.before, self.skip)
    }
}

impl Node {
    /// A node without devices, front ends, flows and routes.
    #[must_use]
    pub fn new(control: Control) -> Self {
        Self {
            control,
            jiffies: 0,
            devices: BTreeMap::new(),
            xdp: true,
            v4: FamilyTables::default(),
            v6: FamilyTables::default(),
            budget: Cell::default(),
            cursors: RefCell::default(),
            counters: RefCell::default(),
            interrupts: RefCell::default(),
        }
    }

    /// A frame comes in by a device: XDP if that runs there, then TC ingress of what it passes on.
    pub fn receive(&self, device_index: u32, frame: &mut Frame) -> Journey {
        let Some(device) = self.devices.get(&device_index) else {
            return Journey {
                xdp: None,
                tc: None,
            };
        };
        let has_xdp = self.xdp && device.flags & device_flags::UPLINK != 0;
        let xdp = if has_xdp {
            self.xdp_ingress(device_index, frame)
        } else {
            None
        };
        if xdp.is_some_and(|verdict| verdict.action != Action::Pass) {
            return Journey { xdp, tc: None };
        }
        if device.flags & device_flags::NO_ETHERNET == 0 {
            frame.enter_stack(device.mac);
        }
        let tc = self.tc_ingress(device_index, frame);
        Journey { xdp, tc }
    }

    /// Whether there is such a device with this flag.
    pub(super) fn device_is(&self, index: u32, flag: u32) -> bool {
        let device = self.devices.get(&index);
        device.is_some_and(|device| device.flags & flag != 0)
    }

    /// The XDP program sees a frame; `None` if the device is none of ours.
    pub fn xdp_ingress(&self, device_index: u32, frame: &mut Frame) -> Option<Verdict> {
        self.run::<XDP, _>(device_index, &mut XdpFrame(frame))
    }

    /// The program at TC ingress sees a frame; `None` if the device is none of ours.
    pub fn tc_ingress(&self, device_index: u32, frame: &mut Frame) -> Option<Verdict> {
        self.run::<TC_INGRESS, _>(device_index, &mut Skb(frame))
    }

    /// The stack sends a frame by a device, and the program at TC egress sees it; `None` if the device is none of ours.
    pub fn tc_egress(&self, device_index: u32, frame: &mut Frame) -> Option<Verdict> {
        self.run::<TC_EGRESS, _>(device_index, &mut Skb(frame))
    }

    /// A process connects a socket.
    pub fn connect<A: SimFamily>(&self, call: &Call<A>) -> Answer<A> {
        self.asked(|view| socket::connect(view, call))
    }

    /// A process sends a datagram and says where.
    pub fn send<A: SimFamily>(&self, call: &Call<A>) -> Answer<A> {
        self.asked(|view| socket::send(view, call))
    }

    /// A process asks who sent a datagram, or whom its socket is connected to.
    pub fn name<A: SimFamily>(&self, call: &Call<A>) -> Answer<A> {
        self.asked(|view| socket::name(view, call))
    }

    /// Whether a process that binds a socket takes a live NodePort.
    pub fn takes_node_port<A: SimFamily>(&self, call: &Call<A>) -> bool {
        socket::takes_node_port(&self.socket_view(), call)
    }

    fn socket_view<A: SimFamily>(&self) -> View<'_, A, SOCKET> {
        const NONE: &Device = &Device {
            flags: 0,
            address4: [0; 4],
            address6: [0; 16],
            mac: [0; 6],
            mtu: 0,
            pad: [0; 2],
        };
        View {
            node: self,
            tables: A::of(self),
            device_index: 0,
            device: NONE,
        }
    }

    fn asked<A: SimFamily>(
        &self,
        ask: impl FnOnce(&View<'_, A, SOCKET>) -> Answer<A>,
    ) -> Answer<A> {
        let answer = ask(&self.socket_view());
        *self.counters.borrow_mut()[SOCKET].get_mut(answer.outcome) += 1;
        answer
    }

    /// How many packets of a hook ended in an outcome.
    #[must_use]
    pub fn count(&self, hook: Hook, outcome: Outcome) -> u64 {
        self.counters.borrow()[hook as usize].get(outcome)
    }

    /// Lets another CPU act in the middle of a coming packet. Interrupts happen in the order in which they were asked for.
    pub fn interrupt(&self, before: Moment, skip: u32, act: impl FnOnce(&Self) + 'static) {
        let act = Box::new(act);
        self.interrupts
            .borrow_mut()
            .push_back(Interrupt { before, skip, act });
    }

    /// What the rim does around the library (`main.rs`, `kernel/`).
    fn run<const HOOK: usize, P: Packet>(
        &self,
        device_index: u32,
        packet: &mut P,
    ) -> Option<Verdict> {
        let device = self.devices.get(&device_index)?;
        let handed_over = if HOOK == TC_INGRESS {
            handover::take(packet, &self.control, device)
        } else {
            None
        };
        let verdict =
            handed_over.unwrap_or_else(|| self.parsed::<HOOK, P>(packet, device_index, device));
        *self.counters.borrow_mut()[HOOK].get_mut(verdict.outcome) += 1;
        Some(verdict)
    }

    fn parsed<const HOOK: usize, P: Packet>(
        &self,
        packet: &mut P,
        device_index: u32,
        device: &Device,
    ) -> Verdict {
        let has_ethernet = HOOK == XDP || device.flags & device_flags::NO_ETHERNET == 0;
        match frame(packet, has_ethernet) {
            Ok((network, Carried::V4)) => {
                self.judge::<V4, HOOK, P>(packet, network, device_index, device)
            }
            Ok((network, Carried::V6)) => {
                self.judge::<V6, HOOK, P>(packet, network, device_index, device)
            }
            Err(outcome) => Verdict::pass(outcome),
        }
    }

    fn judge<A: SimFamily, const HOOK: usize, P: Packet>(
        &self,
        packet: &mut P,
        network: usize,
        device_index: u32,
        device: &Device,
    ) -> Verdict {
        let tables = A::of(self);
        let view = View::<A, HOOK> {
            node: self,
            tables,
            device_index,
            device,
        };
        // Each hook and CPU has its own, and finds in it what its last packet left; an interrupt is another CPU.
        let mut scratch = tables.scratch[HOOK].take().unwrap_or_default();
        let verdict = if HOOK == TC_EGRESS {
            egress::egress(packet, &view, &mut scratch, network)
        } else {
            ingress::ingress(packet, &view, &mut scratch, network)
        };
        tables.scratch[HOOK].replace(Some(scratch));
        verdict
    }

    /// A call into the tables is about to happen: the interrupt that waits for it does, too.
    pub(super) fn at(&self, moment: Moment) {
        let due = {
            let mut interrupts = self.interrupts.borrow_mut();
            match interrupts.front_mut() {
                Some(next) if next.before == moment && next.skip == 0 => interrupts.pop_front(),
                Some(next) if next.before == moment => {
                    next.skip -= 1;
                    None
                }
                _ => None,
            }
        };
        if let Some(interrupt) = due {
            (interrupt.act)(self);
        }
    }

    /// The value of a cursor before it moves on.
    pub(super) fn next_port_cursor(&self, bucket: u32) -> u32 {
        debug_assert!(bucket < SNAT_CURSORS_LEN, "the kernel's array ends here");
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(bucket).or_default();
        let value = *cursor;
        *cursor = value.wrapping_add(1);
        value
    }
}
