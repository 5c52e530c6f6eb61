//! Lives of flows, told with a clock of 250 ticks a second.

use nodeport_common::{Flow, NextHop, V4, flow_flags, protocol, tcp_flags};

use super::*;

const HZ: u32 = 250;

fn at(seconds: u32) -> Now {
    Now {
        jiffies: seconds * HZ,
        hz: HZ,
    }
}

fn entry(seen_at: u32, flags: u8, tcp: u8) -> Flow<V4> {
    Flow {
        packets: 1,
        bytes: 60,
        last_seen: seen_at * HZ,
        endpoint_generation: 1,
        flags,
        tcp,
        source_port: [0; 2],
        destination_port: [0; 2],
        pad: [0; 2],
        source: [0; 4],
        destination: [0; 4],
        next_hop: NextHop::default(),
    }
}

fn forward(seen_at: u32, tcp: u8) -> Flow<V4> {
    entry(seen_at, flow_flags::SEEN, tcp)
}

fn reply(seen_at: u32, tcp: u8) -> Flow<V4> {
    entry(seen_at, flow_flags::SEEN | flow_flags::REPLY, tcp)
}

/// The last second at which the flow is kept; it is expired one second later.
fn lives_until(table: Table, protocol: u8, forward: &Flow<V4>, reply: &Flow<V4>) -> u32 {
    let lifetimes = Lifetimes::default();
    let at_second = |second| {
        verdict(
            &lifetimes,
            table,
            protocol,
            Some(forward),
            Some(reply),
            at(second),
        )
    };
    let mut last = 0;
    for second in [10, 30, 120, 3600, 86400].map(|lifetime| 1000 + lifetime) {
        if at_second(second) == Verdict::Keep {
            last = second;
            assert!(
                second == 1000 + 86400 || at_second(second + 86401) == Verdict::Expire,
                "it ends some day"
            );
        }
    }
    assert_eq!(at_second(last + 1), Verdict::Expire, "one second later");
    last - 1000
}

const ESTABLISHED: Table = Table::Established;

#[test]
fn an_established_connection_lives_24_hours_after_its_last_packet_b16() {
    let (f, r) = (forward(1000, tcp_flags::SYN), reply(999, tcp_flags::SYN));
    assert_eq!(lives_until(ESTABLISHED, protocol::TCP, &f, &r), 86400);
}

#[test]
fn either_direction_keeps_the_whole_flow_alive_b8() {
    let stale = forward(1, 0);
    let fresh = reply(1000, 0);
    assert_eq!(
        lives_until(ESTABLISHED, protocol::TCP, &stale, &fresh),
        86400
    );
    let (f, r) = (forward(1000, 0), reply(1, 0));
    assert_eq!(lives_until(ESTABLISHED, protocol::UDP, &f, &r), 120);
}

#[test]
fn a_half_closed_connection_lives_an_hour_b3() {
    let cases = [
        (tcp_flags::FIN, tcp_flags::PEER_FIN),
        (tcp_flags::PEER_FIN, tcp_flags::FIN),
        // The other entry's note was lost.
        (tcp_flags::FIN, 0),
        (0, tcp_flags::FIN),
    ];
    for (f, r) in cases {
        let (f, r) = (forward(1000, f), reply(1000, r));
        assert_eq!(lives_until(ESTABLISHED, protocol::TCP, &f, &r), 3600);
    }
}

#[test]
fn crossing_fins_close_a_connection_b4() {
    let cases = [
        (tcp_flags::CLOSED, tcp_flags::CLOSED),
        (tcp_flags::FIN, tcp_flags::FIN),
        (tcp_flags::PEER_FIN, tcp_flags::PEER_FIN),
        (tcp_flags::CLOSED, 0),
    ];
    for (f, r) in cases {
        let (f, r) = (forward(1000, f), reply(1000, r));
        assert_eq!(lives_until(ESTABLISHED, protocol::TCP, &f, &r), 120);
    }
}

#[test]
fn a_reset_only_shortens_the_life_b5() {
    let (f, r) = (forward(1000, tcp_flags::RST), reply(1000, tcp_flags::RST));
    assert_eq!(lives_until(ESTABLISHED, protocol::TCP, &f, &r), 10);
    // The programs clear the flag when the connection goes on: then it has its full life again.
    let (f, r) = (forward(1000, 0), reply(1000, 0));
    assert_eq!(lives_until(ESTABLISHED, protocol::TCP, &f, &r), 86400);
}

#[test]
fn a_handshake_that_never_ends_lives_two_minutes_b6() {
    let mut unanswered = reply(1000, 0);
    unanswered.flags = flow_flags::REPLY;
    let syn = forward(1000, tcp_flags::SYN);
    assert_eq!(
        lives_until(Table::Pending, protocol::TCP, &syn, &unanswered),
        120
    );
    // A FIN does not prolong it.
    let fin = forward(1000, tcp_flags::FIN);
    assert_eq!(
        lives_until(Table::Pending, protocol::TCP, &fin, &unanswered),
        120
    );
}

#[test]
fn udp_lives_30_seconds_unanswered_and_two_minutes_answered() {
    let mut unanswered = reply(1000, 0);
    unanswered.flags = flow_flags::REPLY;
    let f = forward(1000, 0);
    assert_eq!(
        lives_until(Table::Pending, protocol::UDP, &f, &unanswered),
        30
    );
    assert_eq!(
        lives_until(ESTABLISHED, protocol::UDP, &f, &reply(1000, 0)),
        120
    );
}

#[test]
fn the_clock_may_wrap() {
    let lifetimes = Lifetimes::default();
    let seen = u32::MAX - 5 * HZ;
    let mut f = forward(0, 0);
    f.last_seen = seen;
    let after = |seconds: u32| {
        let now = Now {
            jiffies: seen.wrapping_add(seconds * HZ),
            hz: HZ,
        };
        verdict(&lifetimes, ESTABLISHED, protocol::UDP, Some(&f), None, now)
    };
    assert_eq!(after(30), Verdict::Keep);
    assert_eq!(after(31), Verdict::Expire);
}

#[test]
fn a_packet_that_came_after_the_clock_was_read_is_new() {
    let now = at(1000);
    assert_eq!(now.age(now.jiffies), 0);
    assert_eq!(now.age(now.jiffies.wrapping_add(3)), 0);
    assert_eq!(now.age(now.jiffies - 3), 3);
    // Days ago is not the future: an agent that was away for 20 days still expires what it finds.
    let hz = 1000;
    let now = Now { jiffies: 5, hz };
    assert_eq!(
        now.age(now.jiffies.wrapping_sub(20 * 86400 * hz)),
        20 * 86400 * hz
    );
}

#[test]
fn a_side_that_is_missing_does_not_speak() {
    let lifetimes = Lifetimes::default();
    let none: Option<&Flow<V4>> = None;
    let expired = verdict(&lifetimes, ESTABLISHED, protocol::TCP, none, none, at(0));
    assert_eq!(expired, Verdict::Expire);
    let r = reply(1000, 0);
    let kept = verdict(
        &lifetimes,
        ESTABLISHED,
        protocol::UDP,
        None,
        Some(&r),
        at(1120),
    );
    assert_eq!(kept, Verdict::Keep);
}

#[test]
fn one_entry_alone_can_prove_life_but_not_death() {
    let lifetimes = Lifetimes::default();
    let lives = |flow: &Flow<V4>, protocol, second| {
        surely_lives(&lifetimes, ESTABLISHED, protocol, flow, at(second))
    };
    // An idle connection needs no look at its other half.
    assert!(lives(&forward(1000, 0), protocol::TCP, 1000 + 86400));
    // A datagram's sender does not know whether it was answered.
    assert!(lives(&forward(1000, 0), protocol::UDP, 1030));
    assert!(!lives(&forward(1000, 0), protocol::UDP, 1031));
    assert!(lives(&reply(1000, 0), protocol::UDP, 1120));
    assert!(!lives(&forward(1000, tcp_flags::RST), protocol::TCP, 1011));
}

#[test]
fn pressure_takes_only_what_is_over() {
    let usual = Lifetimes::default();
    let pressed = usual.under_pressure();
    assert_eq!((pressed.tcp_closed, pressed.tcp_reset), (10, 1));
    assert_eq!(pressed.tcp_established, usual.tcp_established);
    assert_eq!(pressed.tcp_half_closed, usual.tcp_half_closed);
    assert_eq!(pressed.udp_replied, usual.udp_replied);
    assert_eq!(pressed.udp_unreplied, usual.udp_unreplied);
}
