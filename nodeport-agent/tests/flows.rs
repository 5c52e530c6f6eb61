//! Expiry on the kernel's own tables: what is over goes, what lives stays, and a large table costs little.

mod inside;

use std::cell::Cell;

use nodeport_agent::datapath::{
    Config, DatapathLog, Pins, PortRange, Sizes, SocketArgs, XdpPolicy, kernel, load,
};
use nodeport_agent::flows::pair::mirror;
use nodeport_agent::flows::{FlowTable, Lifetimes, Now, Table, Walked, Walker};
use nodeport_agent::maps::{Flows, KernelMap, KernelStore, Pending, StoreError};
use nodeport_agent::object::OBJECT;
use nodeport_common::{Flow, FlowKey, NextHop, V4, flow_flags, protocol, tcp_flags};

use inside::isolated;

type Entry = (FlowKey<V4>, Flow<V4>);

/// The kernel's table through the library's eyes.
struct Kernel<'a> {
    map: &'a KernelMap<Flows<V4>>,
    /// Entries that were looked up one by one.
    gets: Cell<u64>,
}

impl FlowTable<V4> for Kernel<'_> {
    type Error = StoreError;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&[Entry]) -> std::ops::ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.map.scan(visit)
    }

    fn get(&self, key: &FlowKey<V4>) -> Result<Option<Flow<V4>>, StoreError> {
        self.gets.set(self.gets.get() + 1);
        self.map.get(key)
    }

    fn remove(&self, key: &FlowKey<V4>) -> Result<(), StoreError> {
        self.map.remove(key).map(drop)
    }

    fn add(&self, key: &FlowKey<V4>, flow: &Flow<V4>) -> Result<bool, StoreError> {
        self.map.add(key, flow)
    }
}

/// Both entries of a client's flow, last seen then.
fn flow(client: u32, last_seen: u32, tcp: u8) -> [Entry; 2] {
    let [.., high, low] = client.to_be_bytes();
    let key = FlowKey {
        source: [198, 51, high, low],
        destination: [192, 0, 2, 1],
        source_port: 40000_u16.to_be_bytes(),
        destination_port: 30080_u16.to_be_bytes(),
        protocol: protocol::TCP,
        pad: [0; 3],
    };
    let forward = Flow {
        packets: 9,
        bytes: 540,
        last_seen,
        endpoint_generation: 1,
        flags: flow_flags::SEEN | flow_flags::REDIRECT,
        tcp,
        source_port: (client as u16).to_be_bytes(),
        destination_port: 8080_u16.to_be_bytes(),
        pad: [0; 2],
        source: [192, 0, 2, 1],
        destination: [10, 244, 2, 5],
        next_hop: NextHop::default(),
    };
    [(key, forward), mirror(&key, &forward)]
}

fn config() -> Config {
    Config {
        pin_dir: "/sys/fs/bpf/nodeport".into(),
        xdp: XdpPolicy::Off,
        tc: None,
        sizes: Sizes::default(),
        redirect_local: false,
        sockets: SocketArgs::default(),
        node_ports: PortRange {
            first: 30000,
            last: 32767,
        },
        log: DatapathLog::Off,
    }
}

#[test]
fn twenty_thousand_flows_are_walked_and_only_the_closed_ones_go_i13() {
    isolated(
        "twenty_thousand_flows_are_walked_and_only_the_closed_ones_go_i13",
        || {
            let config = config();
            let pins = Pins::new(&config.pin_dir);
            let mut loaded = load(OBJECT, &pins, &config).expect("loaded");
            let store = KernelStore::open(&pins.maps()).expect("maps");
            let map = store.map::<Flows<V4>>().expect("FLOWS4");
            assert!(store.map::<Pending<V4>>().is_ok());

            let hz = kernel::hz();
            let start = loaded.jiffies().expect("jiffies");
            // Every tenth was closed two minutes ago, the others have been idle for an hour.
            for client in 0..20_000_u32 {
                let (age, tcp) = if client % 10 == 0 {
                    (121 * hz, tcp_flags::CLOSED)
                } else {
                    (3600 * hz, tcp_flags::SYN)
                };
                for (key, entry) in flow(client, start.wrapping_sub(age), tcp) {
                    assert!(map.add(&key, &entry).expect("room"));
                }
            }
            let mut walker = Walker::new(Table::Established);
            let mut walk = || {
                let mut clock = || {
                    Ok::<_, StoreError>(Now {
                        jiffies: loaded.jiffies().expect("jiffies"),
                        hz,
                    })
                };
                let table = Kernel {
                    map: &map,
                    gets: Cell::new(0),
                };
                let walked = walker
                    .walk(&table, &Lifetimes::default(), &mut clock, &mut || ())
                    .expect("walked");
                (walked, table.gets.get())
            };
            // The first walk looks for the other half of every entry.
            let (first, thorough) = walk();
            assert_eq!(first.expired, 2_000);
            // Other halves that went with their flow may not be seen any more.
            assert!((38_000..=40_000).contains(&first.seen), "{first:?}");
            assert_eq!((first.orphans, first.mended), (0, 0));
            let (second, usual) = walk();
            let quiet = Walked {
                seen: 36_000,
                ..Walked::default()
            };
            assert_eq!(second, quiet, "nothing else is over");
            assert!(thorough >= 38_000, "{thorough} entries looked up");
            assert_eq!(usual, 0, "entries are not looked up one by one");
        },
    );
}
