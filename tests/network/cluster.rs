//! A user's objects as a lab, without any agent: endpoints are where the objects say.

use std::net::SocketAddr;
use std::time::Duration;

use nodeport_tests::clients::Verdict;
use nodeport_tests::cluster::Cluster;
use nodeport_tests::expect::endpoint_sockets;
use nodeport_tests::objects::{Objects, Protocol};
use nodeport_tests::{Lab, simple};

const OBJECTS: &str = r#"
kind: List
items:
- kind: Node
  metadata: {name: node-a.example}
  spec: {podCIDRs: [10.0.1.0/24, "fd00:a::/64"]}
  status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: InternalIP, address: "fc00:f853::2"}]}
- kind: Node
  metadata: {name: node-b.example}
  spec: {podCIDRs: [10.0.2.0/24, "fd00:b::/64"]}
  status: {addresses: [{type: InternalIP, address: 172.18.0.3}, {type: InternalIP, address: "fc00:f853::3"}]}
- kind: EndpointSlice
  metadata: {name: s4, labels: {kubernetes.io/service-name: s}}
  addressType: IPv4
  ports: [{name: tcp, port: 80}, {name: udp, protocol: UDP, port: 53}]
  endpoints:
  - {addresses: [10.0.1.2], nodeName: node-a.example}
  - {addresses: [10.0.2.2], nodeName: node-b.example}
  - {addresses: [172.18.0.2], nodeName: node-a.example}
  - {addresses: [172.18.0.9]}
  - {addresses: [198.51.100.1]}
- kind: EndpointSlice
  metadata: {name: s6, labels: {kubernetes.io/service-name: s}}
  addressType: IPv6
  ports: [{name: tcp, port: 80}, {name: udp, protocol: UDP, port: 53}]
  endpoints:
  - {addresses: ["fd00:b::2"], nodeName: node-b.example}
  - {addresses: ["2001:db8::61"]}
"#;

fn asked_by(lab: &Lab, from: &nodeport_tests::Netns, to: SocketAddr, protocol: Protocol) {
    let verdict = simple::ask(from, protocol, to, Duration::from_secs(1)).expect("a client");
    let Verdict::Answered(answer) = verdict else {
        panic!(
            "lab {}: {} asks {to} ({protocol:?}): {verdict:?}",
            lab.id,
            from.name()
        )
    };
    assert_eq!(answer.server, Some(to));
}

#[test]
fn endpoints_of_all_kinds_answer_everyone() {
    let mut objects = Objects::default();
    objects.parse(OBJECTS).expect("this is YAML");
    let cluster = Cluster::new(&objects, 3).expect("two nodes");
    let lab = cluster.spec.clone().start().expect("the lab starts");
    let (_stand_ins, count) = cluster
        .stand_ins(&lab, &objects)
        .expect("the stand-ins start");
    assert_eq!(count, 14);
    for (socket, protocol) in endpoint_sockets(&objects) {
        asked_by(&lab, &lab.client, socket, protocol);
        asked_by(&lab, &lab.node("node-b.example").netns, socket, protocol);
        asked_by(
            &lab,
            &lab.pod("node-a.example-client").netns,
            socket,
            protocol,
        );
    }
}
