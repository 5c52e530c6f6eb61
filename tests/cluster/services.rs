//! What anyone does with a cluster, by kubectl: deployments, exposed on node ports, scaled, restarted, deleted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{bail, ensure};
use nodeport_tests::Family;
use nodeport_tests::clients::{Options, Verdict, http};
use nodeport_tests::k8s::eventually;
use nodeport_tests::stream::Stream;

use crate::world::World;

#[test]
fn a_deployment_is_reached_on_its_node_port_scaled_and_deleted() {
    let world = World::nodes(3);
    let to = world.exposed("web", 3);
    let three = world.answered(&to, "web");
    assert_eq!(three.len(), 3);

    world.kubectl("scale deployment web --replicas=5");
    world.rolled_out("web");
    let five = world.answered(&to, "web");
    assert!(five.len() == 5 && five.is_superset(&three), "{five:?}");

    world.kubectl("scale deployment web --replicas=0");
    world.cluster.await_refusals(&to).expect("no endpoint");

    world.kubectl("scale deployment web --replicas=1");
    world.rolled_out("web");
    world.answered(&to, "web");
    world.kubectl("delete service web");
    world.cluster.await_refusals(&to).expect("no Service");
}

#[test]
fn a_rolling_update_under_load_fails_no_request() {
    let world = World::nodes(3);
    let to = world.exposed("web", 4);
    let before = world.answered(&to, "web");
    let client = &world.cluster.lab.client;
    let stream = Stream::start(client, &to, Duration::from_millis(2)).expect("it starts");
    world.kubectl("rollout restart deployment/web");
    world.rolled_out("web");
    eventually("the former Pods are gone", || {
        let left: BTreeSet<_> = world.pods("web").intersection(&before).cloned().collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .expect("they end");
    let report = stream.finish().expect("it ran");
    assert!(report.answered > 100, "{report:?}");
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(world.answered(&to, "web").is_disjoint(&before));
}

#[test]
fn both_families_and_cluster_addresses_answer() {
    let world = World::nodes(2);
    world.kubectl("create deployment web --image=lab/web --port=8080 --replicas=2");
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";
    world.cluster.kubectl.apply(service).expect("applied");
    world.rolled_out("web");
    let port = world.cluster.node_port("web").expect("a node port");
    let to: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| world.cluster.on_nodes(*family, port))
        .collect();
    assert_eq!(to.len(), 4);
    let pods = world.answered(&to, "web");
    // A cluster address from a Pod that is none of the Service's.
    let ips = world.kubectl("get service web --output=jsonpath={.spec.clusterIPs[*]}");
    let asker = &world.cluster.lab.pod("n1-p4").netns;
    assert_eq!(ips.split(' ').count(), 2, "{ips}");
    for ip in ips.split(' ') {
        let to = SocketAddr::new(ip.parse().expect("an address"), 80);
        eventually("a Pod is answered", || {
            match http(asker, to, Options::default())? {
                Verdict::Answered(answer) if pods.contains(&answer.name) => Ok(()),
                other => bail!("{other:?}"),
            }
        })
        .expect("it answers");
    }
}

#[test]
fn what_is_not_honoured_is_told_in_an_event() {
    let world = World::nodes(2);
    let service = "
apiVersion: v1
kind: Service
metadata: {name: telephone}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: sctp, protocol: SCTP, port: 80}, {name: tcp, protocol: TCP, port: 80}]
";
    world.cluster.kubectl.apply(service).expect("applied");
    eventually("kubectl describe shows why", || {
        let text = world.cluster.kubectl.run("describe service telephone")?;
        ensure!(text.contains("ProtocolNotSupported"), "{text}");
        Ok(())
    })
    .expect("an Event");
    // Two nodes say the same thing once.
    let events =
        world.kubectl("get events --field-selector=reason=ProtocolNotSupported --output=name");
    assert_eq!(events.lines().count(), 1, "{events}");
}
