//! A busy flow: the CPU carries it by what it remembers, in each mode, and in the end its counters say what was sent (ADR 9 and 12).

use std::net::SocketAddr;
use std::time::Duration;

use nodeport_tests::Family;
use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::{datagrams_from, receive};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::udp::{PORT, world};
use crate::world::World;

/// Datagrams in one go: many more than a flow needs to be a busy one.
const MANY: u64 = 300;
/// A flow's counters are this much behind at most, and a bit.
const BEHIND: Duration = Duration::from_millis(1100);

/// `(request, reply)` packets of the only flow.
fn counted(world: &World) -> (u64, u64) {
    let flows = world.agent("n1").dump("flows").expect("a dump");
    let [flow] = &flows.as_array().expect("flows")[..] else {
        panic!("one flow: {flows}");
    };
    let number = |field: &str| flow[field].as_u64().expect("a number");
    (number("packets"), number("reply_packets"))
}

/// Sends and receives that many datagrams by one socket, one after the other; all are answered.
fn ask(world: &World, socket: &std::net::UdpSocket, to: SocketAddr, times: u64) {
    for _ in 0..times {
        socket.send_to(b"who?", to).expect("it is sent");
        let mut buffer = [0; 512];
        let answer = receive(socket, &mut buffer);
        let (length, from) = answer.unwrap_or_else(|e| panic!("{e}: {}", world.evidence()));
        assert!(length > 0 && from == to, "{from} for {to}");
    }
}

/// What this thread and those that it starts send is received on the same CPU: each keeps counts of its own until it sees the flow again.
fn stay_on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).expect("there is a CPU 0");
}

#[test]
fn busy_flows_are_carried_and_counted_in_every_mode() {
    stay_on_one_cpu();
    for (pod, xdp, arguments) in [
        ("n2-p1", "native", ""),
        ("n2-p1", "off", ""),
        ("n1-p1", "native", ""),
        ("n1-p1", "off", ""),
        ("n1-p1", "native", "--redirect-local"),
        ("n1-p1", "off", "--redirect-local"),
    ] {
        for family in Family::BOTH {
            let (_stand_ins, world) = world(&[pod], xdp, arguments);
            let case = format!("{pod} {xdp} {arguments} {family:?}");
            let to = world.node_port("n1", family, PORT);
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let limit = Duration::from_secs(2);
            let socket = datagrams_from(&world.lab.client, from, limit).expect("a socket");
            ask(&world, &socket, to, MANY);
            let (there, back) = counted(&world);
            assert!(there < MANY && back < MANY, "{there}/{back}, {case}");
            std::thread::sleep(BEHIND);
            ask(&world, &socket, to, 1);
            assert_eq!(counted(&world), (MANY + 1, MANY + 1), "{case}");
        }
    }
}
