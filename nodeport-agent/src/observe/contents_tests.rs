//! Maps in memory, and the rows that are shown of them.

use nodeport_common::{
    Backend, Frontend, FrontendKey, NextHop, backend_flags, frontend_flags, protocol,
};

use super::*;
use crate::maps::{Backends, Frontends, MemoryStore};

fn store() -> MemoryStore {
    let mut store = MemoryStore::new();
    let slot = |last: u8, flags: u16| Backend {
        address: [10, 244, 1, last],
        port: 8080_u16.to_be_bytes(),
        flags,
    };
    let slots = [
        slot(1, backend_flags::LOCAL),
        slot(2, 0),
        slot(1, backend_flags::LOCAL),
    ];
    let slots: Vec<_> = (0..).zip(slots).collect();
    store.put::<Backends<V4>>(&slots).expect("slots");
    let key = FrontendKey {
        address: [0; 4],
        port: 30080_u16.to_be_bytes(),
        protocol: protocol::TCP,
        pad: 0,
    };
    let value = Frontend {
        base: 2,
        len: 1,
        local_base: 0,
        local_len: 2,
        service: 7,
        flags: frontend_flags::NODE_PORT | frontend_flags::POLICY_LOCAL,
        ..Frontend::default()
    };
    store
        .put::<Frontends<V4>>(&[(key, value)])
        .expect("front end");
    store
}

#[test]
fn a_front_end_has_a_name_if_an_agent_tells_it() {
    let state = state(&store()).expect("readable");
    let names = Names::from([(7, "shop/web:http TCP".to_owned())]);
    let named = frontends(state.clone(), &names);
    assert_eq!(named.len(), 1);
    assert_eq!(
        named[0].view.service_port.as_deref(),
        Some("shop/web:http TCP")
    );
    assert_eq!((named[0].view.address, named[0].view.port), (None, 30080));
    assert_eq!(named[0].view.flags, ["node_port", "policy_local"]);
    let text = frontends_text(&frontends(state, &Names::new()));
    assert!(
        text.contains("IPv4 node:30080/TCP") && text.contains("#7"),
        "{text}"
    );
}

#[test]
fn an_endpoint_says_for_whom_it_is() {
    let rows = backends(&state(&store()).expect("readable"));
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.backend.address.to_string(), row.outside, row.inside))
        .collect();
    assert_eq!(
        found,
        [
            ("10.244.1.1:8080".to_owned(), true, true),
            ("10.244.1.2:8080".to_owned(), false, true),
        ]
    );
    let words: Vec<Vec<String>> = backends_text(&rows)
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(
        words[1],
        ["IPv4", "node:30080/TCP", "10.244.1.1:8080", "here", "all"]
    );
    assert_eq!(
        words[2],
        [
            "IPv4",
            "node:30080/TCP",
            "10.244.1.2:8080",
            "remote",
            "inside"
        ]
    );
}

fn client_entry() -> (FlowKey<V4>, Flow<V4>) {
    let key = FlowKey {
        source: [198, 51, 100, 7],
        destination: [192, 0, 2, 1],
        source_port: 40000_u16.to_be_bytes(),
        destination_port: 30080_u16.to_be_bytes(),
        protocol: protocol::TCP,
        pad: [0; 3],
    };
    let flow = Flow {
        packets: 3,
        bytes: 180,
        last_seen: 1,
        endpoint_generation: 1,
        flags: flow_flags::SEEN | flow_flags::REDIRECT,
        tcp: tcp_flags::FIN,
        source_port: 1024_u16.to_be_bytes(),
        destination_port: 8080_u16.to_be_bytes(),
        pad: [0; 2],
        source: [192, 0, 2, 1],
        destination: [10, 244, 2, 5],
        next_hop: NextHop::default(),
    };
    (key, flow)
}

#[test]
fn a_flow_is_one_row_whichever_entries_there_are() {
    let (key, flow) = client_entry();
    let (reply_key, mut reply) = crate::flows::pair::mirror(&key, &flow);
    reply.packets = 2;
    let rows_of = |entries: &[(FlowKey<V4>, Flow<V4>)]| {
        let mut store = MemoryStore::new();
        store.put::<Flows<V4>>(entries).expect("entries");
        flows(&store).expect("rows")
    };
    let whole = rows_of(&[(key, flow), (reply_key, reply)]);
    assert_eq!(whole.len(), 1);
    assert_eq!((whole[0].packets, whole[0].reply_packets), (3, 2));
    assert_eq!(whole[0].state, ["answered", "client_fin"]);
    assert_eq!(whole[0].missing, None);
    for (entry, missing) in [((key, flow), "reply"), ((reply_key, reply), "forward")] {
        let rows = rows_of(&[entry]);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].missing, Some(missing));
        let ends = [
            rows[0].client,
            rows[0].frontend,
            rows[0].source,
            rows[0].backend,
        ];
        assert_eq!(
            ends.map(|end| end.to_string()),
            [
                "198.51.100.7:40000",
                "192.0.2.1:30080",
                "192.0.2.1:1024",
                "10.244.2.5:8080"
            ]
        );
    }
}
