//! The documents that `dump` and `plan` print.

use serde_json::json;

use super::build::{Service, TestClock, desired, service};
use crate::maps::MemoryStore;
use crate::model::Desired;
use crate::plan::{Installed, Limits, State, diff};
use crate::reconcile::Reconciler;

const LIMITS: Limits = Limits {
    frontends: 100,
    backends: 100,
    addresses: 100,
    serving: 100,
    sources: 100,
};

fn services() -> [Service; 2] {
    [
        service("dns")
            .udp()
            .cluster_ip("10.96.0.10")
            .endpoints(&["10.1.0.1:53", "+10.1.0.2:53"]),
        service("web")
            .node_port(30080)
            .local_policy()
            .endpoints(&["10.1.0.1:8080", "+[fd01::2]:8080"]),
    ]
}

fn installed(state: &Desired) -> Installed {
    let mut reconciler =
        Reconciler::adopt(MemoryStore::new(), TestClock::default()).expect("readable");
    assert!(reconciler.apply(state).is_complete());
    reconciler.installed().clone()
}

#[test]
fn a_plan_reads_as_what_will_be_done() {
    let mut state = desired(&services());
    state
        .host_addresses
        .insert("192.0.2.11".parse().expect("an address"));
    let installed = Installed::empty(LIMITS);
    let plan = diff(&state, &installed);
    let views = plan.view(&installed);
    let lines: Vec<_> = views
        .iter()
        .map(|view| {
            let name = view.service_port.as_deref().unwrap_or("-");
            format!("{name}: {}", view.text)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "-: NOTED4: note word 940 = 0x0000000000008000",
            "-: NOTED4: note word 1025 = 0x0000000000010000",
            "-: NOTED4: note word 1494 = 0x0000000000000001",
            "-: NOTED4: all is noted",
            "-: NOTED6: note word 1494 = 0x0000000000000001",
            "-: NOTED6: all is noted",
            "default/dns UDP: BACKENDS4: write slots 0-1: 10.1.0.1:53, 10.1.0.2:53 (local)",
            "default/web TCP: BACKENDS4: write slots 2: 10.1.0.1:8080",
            "default/web TCP: BACKENDS6: write slots 0: [fd01::2]:8080 (local)",
            "default/dns UDP: SERVING4: add 10.1.0.1:53 of service 1",
            "default/dns UDP: SERVING4: add 10.1.0.2:53 of service 1",
            "default/dns UDP: FRONTENDS4: put 10.96.0.10:80/UDP = service 1, slots 0-1, 2 serving, cluster_ip",
            "default/web TCP: FRONTENDS4: put node:30080/TCP = service 2, slots none, for local Pods 2, \
             node_port|drop_if_empty|policy_local",
            "default/web TCP: FRONTENDS6: put node:30080/TCP = service 2, slots 0, node_port|policy_local",
            "default/dns UDP: ADDRESSES4: put 10.96.0.10 = virtual|cluster_ip",
            "-: ADDRESSES4: put 192.0.2.11 = host",
            "-: CONTROL: raise the endpoint generation",
        ]
    );
    let first = serde_json::to_value(&views[6]).expect("serializable");
    assert_eq!(
        first,
        json!({
            "action": "write_set",
            "map": "BACKENDS4",
            "entries": 2,
            "service_port": "default/dns UDP",
            "text": "BACKENDS4: write slots 0-1: 10.1.0.1:53, 10.1.0.2:53 (local)",
        })
    );
}

#[test]
fn a_state_reads_as_addresses_and_backends() {
    let state = State::of(&installed(&desired(&services())));
    let document = serde_json::to_value(&state).expect("serializable");
    assert_eq!(
        document["v4"]["frontends"],
        json!([
            {
                "address": null, "port": 30080, "protocol": "TCP",
                "flags": ["node_port", "drop_if_empty", "policy_local"],
                "service": 2, "service_port": "default/web TCP", "serving": 0,
                "outside": { "base": 0, "backends": [] },
                "inside": { "base": 2, "backends": [{ "address": "10.1.0.1:8080", "local": false }] },
            },
            {
                "address": "10.96.0.10", "port": 80, "protocol": "UDP", "flags": ["cluster_ip"],
                "service": 1, "service_port": "default/dns UDP", "serving": 2,
                "outside": { "base": 0, "backends": [
                    { "address": "10.1.0.1:53", "local": false }, { "address": "10.1.0.2:53", "local": true },
                ] },
                "inside": { "base": 0, "backends": [
                    { "address": "10.1.0.1:53", "local": false }, { "address": "10.1.0.2:53", "local": true },
                ] },
            },
        ])
    );
    assert_eq!(
        document["v4"]["serving"],
        json!([
            { "service": 1, "endpoint": "10.1.0.1:53" }, { "service": 1, "endpoint": "10.1.0.2:53" },
        ])
    );
}

#[test]
fn a_state_that_is_written_and_read_back_gives_the_same_plan() {
    let before = desired(&services());
    let [dns, web] = services();
    let after = desired(&[
        dns.endpoints(&["10.1.0.9:53"]),
        web.endpoints(&["10.1.0.7:8080"]),
    ]);
    let installed = installed(&before);
    let text = serde_json::to_string(&State::of(&installed)).expect("serializable");
    let state: State = serde_json::from_str(&text).expect("its own document");
    let read = state.installed().expect("a state");
    // As after a restart: the slots that rest are not part of the state, and the generation is due.
    let there = diff(&before, &read);
    let texts: Vec<_> = there
        .steps
        .iter()
        .map(|step| step.step.to_string())
        .collect();
    assert_eq!(texts, ["CONTROL: raise the endpoint generation"]);
    assert_eq!(diff(&after, &read).steps, diff(&after, &installed).steps);
}

#[test]
fn a_document_that_is_no_state_says_why() {
    let good = State::of(&installed(&desired(&services())));
    let error = |change: fn(&mut State)| {
        let mut state = good.clone();
        change(&mut state);
        state.installed().expect_err("not a state").to_string()
    };
    assert_eq!(
        error(|state| state.v4.frontends[0].address = "fd00::1".parse().ok()),
        "fd00::1 is in the wrong address family"
    );
    assert_eq!(
        error(|state| state.v6.frontends[0].protocol = "QUIC".to_owned()),
        "`QUIC` is no protocol"
    );
    assert_eq!(
        error(|state| state.v4.addresses[0].flags.push("moon".to_owned())),
        "`moon` is no flag"
    );
    assert_eq!(
        error(|state| state.v4.frontends[1].outside.base = u32::MAX),
        "slot 4294967296 is beyond the end of the array"
    );
}
