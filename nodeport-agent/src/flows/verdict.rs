//! Whether a flow is over: by both of its directions together, and by the lifetimes of the kernel's conntrack (behaviours 17.11).
//!
//! Owns lifetimes and the reading of TCP states. Pure: refuses to know tables and clocks. Invariant: whoever spoke last keeps the
//! whole flow alive; a flag alone ends nothing before its time.

use nodeport_common::{Flow, flow_flags, protocol, tcp_flags};

/// How long a flow lives without a packet, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// TCP, established.
    pub tcp_established: u32,
    /// TCP, one side has sent FIN (edge-cases B3).
    pub tcp_half_closed: u32,
    /// TCP, both sides have sent FIN (edge-cases B4).
    pub tcp_closed: u32,
    /// TCP, after a RST (edge-cases B5).
    pub tcp_reset: u32,
    /// TCP, of which no third leg was seen (edge-cases B6).
    pub tcp_pending: u32,
    /// UDP, answered.
    pub udp_replied: u32,
    /// UDP, not answered.
    pub udp_unreplied: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            tcp_established: 24 * 3600,
            tcp_half_closed: 3600,
            tcp_closed: 120,
            tcp_reset: 10,
            tcp_pending: 120,
            udp_replied: 120,
            udp_unreplied: 30,
        }
    }
}

impl Lifetimes {
    /// While the table is full: connections that are over make room for new ones sooner. No live one is shortened.
    #[must_use]
    pub fn under_pressure(self) -> Self {
        Self {
            tcp_closed: self.tcp_reset.min(self.tcp_closed),
            tcp_reset: 1,
            ..self
        }
    }
}

/// Which table a flow is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `FLOWS4` and `FLOWS6`.
    Established,
    /// `PENDING4` and `PENDING6`.
    Pending,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still be used.
    Keep,
    /// It is over.
    Expire,
}

/// Ages by a clock that wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Low 32 bits of the kernel's jiffies.
    pub jiffies: u32,
    /// Jiffies per second.
    pub hz: u32,
}

/// A packet may be this much younger than our reading of the clock, in seconds.
const AHEAD_SECS: u32 = 60;

impl Now {
    /// Jiffies since `then`. What lies a little in the future (a packet that came after the clock was read) is 0 old.
    #[must_use]
    pub fn age(self, then: u32) -> u32 {
        let age = self.jiffies.wrapping_sub(then);
        if age > u32::MAX - AHEAD_SECS.saturating_mul(self.hz) {
            0
        } else {
            age
        }
    }

    /// Seconds as jiffies.
    #[must_use]
    pub fn jiffies_of(self, seconds: u32) -> u32 {
        seconds.saturating_mul(self.hz)
    }
}

/// What becomes of a flow, given the entries of its two directions as far as they exist.
#[must_use]
pub fn verdict<A>(
    lifetimes: &Lifetimes,
    table: Table,
    protocol: u8,
    forward: Option<&Flow<A>>,
    reply: Option<&Flow<A>>,
    now: Now,
) -> Verdict {
    let both = [forward, reply];
    let youngest = both
        .iter()
        .flatten()
        .map(|flow| now.age(flow.last_seen))
        .min();
    let Some(age) = youngest else {
        return Verdict::Expire;
    };
    if age > now.jiffies_of(lifetime(lifetimes, table, protocol, forward, reply)) {
        Verdict::Expire
    } else {
        Verdict::Keep
    }
}

/// How long a flow lives after its last packet, in seconds.
fn lifetime<A>(
    lifetimes: &Lifetimes,
    table: Table,
    protocol: u8,
    forward: Option<&Flow<A>>,
    reply: Option<&Flow<A>>,
) -> u32 {
    let tcp = |flow: Option<&Flow<A>>| flow.map_or(0, |flow| flow.tcp);
    if protocol == protocol::TCP {
        return tcp_lifetime(lifetimes, table, tcp(forward), tcp(reply));
    }
    if reply.is_some_and(|reply| reply.flags & flow_flags::SEEN != 0) {
        lifetimes.udp_replied
    } else {
        lifetimes.udp_unreplied
    }
}

fn tcp_lifetime(lifetimes: &Lifetimes, table: Table, forward: u8, reply: u8) -> u32 {
    let has = |flags: u8, bit: u8| flags & bit != 0;
    // Each side's FIN is noted in both entries; either note will do.
    let client = has(forward, tcp_flags::FIN) || has(reply, tcp_flags::PEER_FIN);
    let backend = has(reply, tcp_flags::FIN) || has(forward, tcp_flags::PEER_FIN);
    if has(forward | reply, tcp_flags::RST) {
        lifetimes.tcp_reset
    } else if client && backend {
        lifetimes.tcp_closed
    } else if table == Table::Pending {
        lifetimes.tcp_pending
    } else if client || backend {
        lifetimes.tcp_half_closed
    } else {
        lifetimes.tcp_established
    }
}

/// Whether one entry alone shows that its flow lives on: its age is within the shortest lifetime that its own flags leave open. The
/// other entry can only be younger, and whichever of the two carries a flag that shortens the life is looked at in full.
#[must_use]
pub fn surely_lives<A>(
    lifetimes: &Lifetimes,
    table: Table,
    protocol: u8,
    flow: &Flow<A>,
    now: Now,
) -> bool {
    let is_reply = flow.flags & flow_flags::REPLY != 0;
    let (forward, reply) = if is_reply {
        (None, Some(flow))
    } else {
        (Some(flow), None)
    };
    verdict(lifetimes, table, protocol, forward, reply, now) == Verdict::Keep
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
