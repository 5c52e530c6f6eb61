//! kube-proxy's rules for the same Services, written as kube-proxy 1.31 and later write them: where there is no real one to write them
//! (`real.rs`), or too many Services.
//!
//! Pure. What has no part in a packet's way (comments, health checks, chains of Services without endpoints) is left out. Invariant: what a
//! packet meets here it meets in kube-proxy's own rules, in the same order.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::objects::Service;

/// Pods of the cluster: who else asks a cluster address is masqueraded.
const POD_NETWORKS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// Addresses on which `NodePorts` answer.
const NODE_ADDRESSES: [&str; 2] = ["192.168.88.11, 192.168.99.11", "fd00:88::11, fd00:99::11"];
/// kube-proxy's mark for what is to be masqueraded.
const MARK: &str = "0x4000";

/// Input for `nft -f -`.
pub(crate) fn nftables(services: &[Service]) -> String {
    let v6 = services
        .first()
        .is_some_and(|service| service.cluster.is_ipv6());
    let (family, kind) = if v6 {
        ("ip6", "ipv6_addr")
    } else {
        ("ip", "ipv4_addr")
    };
    let mut chains = String::new();
    let (mut cluster_ips, mut service_ips, mut node_ports) = (Vec::new(), Vec::new(), Vec::new());
    for service in services {
        nft_service(&mut chains, family, service);
        let protocol = service.protocol.to_lowercase();
        let (address, port) = (service.cluster.ip(), service.cluster.port());
        cluster_ips.push(address.to_string());
        service_ips.push(format!(
            "{address} . {protocol} . {port} : goto service-{}",
            service.name
        ));
        if let Some(port) = service.node_port {
            node_ports.push(format!(
                "{protocol} . {port} : goto external-{}",
                service.name
            ));
        }
    }
    let elements = |all: &[String]| {
        if all.is_empty() {
            return String::new();
        }
        format!("elements = {{ {} }}", all.join(", "))
    };
    format!(
        "table {family} kube-proxy {{
set cluster-ips {{ type {kind}; {cluster_ips}; }}
set nodeport-ips {{ type {kind}; elements = {{ {addresses} }}; }}
map no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict; }}
map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
map firewall-ips {{ type {kind} . inet_proto . inet_service : verdict; }}
{chains}map service-ips {{ type {kind} . inet_proto . inet_service : verdict; {service_ips}; }}
map service-nodeports {{ type inet_proto . inet_service : verdict; {node_ports}; }}
{fixed}}}
",
        cluster_ips = elements(&cluster_ips),
        addresses = NODE_ADDRESSES[usize::from(v6)],
        service_ips = elements(&service_ips),
        node_ports = elements(&node_ports),
        fixed = nft_fixed(family),
    )
}

/// The chains that are there whatever the Services, with the hooks.
fn nft_fixed(family: &str) -> String {
    format!(
        "chain mark-for-masquerade {{ mark set mark or {MARK}; }}
chain masquerading {{ mark and {MARK} == 0 return; mark set mark xor {MARK}; masquerade fully-random; }}
chain services {{
 {family} daddr . meta l4proto . th dport vmap @service-ips
 {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}}
chain firewall-check {{ {family} daddr . meta l4proto . th dport vmap @firewall-ips; }}
chain service-endpoints-check {{ {family} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
chain nodeport-endpoints-check {{ {family} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
chain cluster-ips-check {{ {family} daddr @cluster-ips reject; }}
chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
chain filter-input {{ type filter hook input priority -110; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}
chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
"
    )
}

/// A Service's chains, those of its endpoints first: what is jumped to has to be there.
fn nft_service(text: &mut String, family: &str, service: &Service) {
    let name = &service.name;
    let protocol = service.protocol.to_lowercase();
    let mut verdicts = Vec::new();
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        let address = endpoint.ip();
        let _ = writeln!(
            text,
            "chain endpoint-{name}-{index} {{ {family} saddr {address} jump mark-for-masquerade; meta l4proto {protocol} dnat to {endpoint}; }}",
        );
        verdicts.push(format!("{index} : goto endpoint-{name}-{index}"));
    }
    let (address, port) = (service.cluster.ip(), service.cluster.port());
    let pods = POD_NETWORKS[usize::from(address.is_ipv6())];
    let _ = writeln!(
        text,
        "chain service-{name} {{ {family} daddr {address} {protocol} dport {port} {family} saddr != {pods} jump mark-for-masquerade; \
         numgen random mod {} vmap {{ {} }}; }}",
        service.endpoints.len(),
        verdicts.join(", "),
    );
    if service.node_port.is_some() {
        let _ = writeln!(
            text,
            "chain external-{name} {{ jump mark-for-masquerade; goto service-{name}; }}"
        );
    }
}

/// Input for `iptables-restore` or `ip6tables-restore`.
pub(crate) fn iptables(services: &[Service]) -> String {
    let v6 = services
        .first()
        .is_some_and(|service| service.cluster.is_ipv6());
    let mut chains = String::new();
    let (mut top, mut node_ports, mut rules) = (String::new(), String::new(), String::new());
    for service in services {
        ipt_service(&mut chains, &mut top, &mut node_ports, &mut rules, service);
    }
    format!(
        "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{top}-A KUBE-SERVICES {loopback} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
{node_ports}{rules}COMMIT
",
        loopback = if v6 {
            "! -d ::1/128"
        } else {
            "! -d 127.0.0.0/8"
        },
    )
}

fn ipt_service(
    chains: &mut String,
    top: &mut String,
    node_ports: &mut String,
    rules: &mut String,
    service: &Service,
) {
    let name = &service.name;
    let protocol = service.protocol.to_lowercase();
    let (address, port) = (service.cluster.ip(), service.cluster.port());
    let bits = if address.is_ipv6() { 128 } else { 32 };
    let pods = POD_NETWORKS[usize::from(address.is_ipv6())];
    let _ = writeln!(chains, ":KUBE-SVC-{name} - [0:0]");
    let _ = writeln!(
        top,
        "-A KUBE-SERVICES -d {address}/{bits} -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{name}"
    );
    let _ = writeln!(
        rules,
        "-A KUBE-SVC-{name} ! -s {pods} -d {address}/{bits} -p {protocol} -m {protocol} --dport {port} -j KUBE-MARK-MASQ"
    );
    if let Some(port) = service.node_port {
        let _ = writeln!(chains, ":KUBE-EXT-{name} - [0:0]");
        let _ = writeln!(
            node_ports,
            "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {port} -j KUBE-EXT-{name}"
        );
        let _ = writeln!(
            rules,
            "-A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{name} -j KUBE-SVC-{name}"
        );
    }
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        let left = service.endpoints.len() - index;
        let chance = if left > 1 {
            #[expect(clippy::cast_precision_loss, reason = "few endpoints")]
            let part = 1.0 / left as f64;
            format!("-m statistic --mode random --probability {part:.10} ")
        } else {
            String::new()
        };
        let sep = format!("KUBE-SEP-{name}-{index}");
        let _ = writeln!(chains, ":{sep} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-SVC-{name} {chance}-j {sep}");
        ipt_endpoint(rules, &sep, &protocol, *endpoint);
    }
}

fn ipt_endpoint(rules: &mut String, sep: &str, protocol: &str, endpoint: SocketAddr) {
    let bits = if endpoint.is_ipv6() { 128 } else { 32 };
    let _ = writeln!(
        rules,
        "-A {sep} -s {}/{bits} -j KUBE-MARK-MASQ\n-A {sep} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}",
        endpoint.ip()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Shape;

    fn services(v6: bool) -> Vec<Service> {
        let shape = Shape {
            services: 2,
            endpoints: 2,
            measured: 3,
            local: false,
            v6,
            protocol: "UDP",
        };
        shape.services()
    }

    #[test]
    fn a_node_port_of_nftables_is_one_lookup_and_two_jumps_away() {
        let text = nftables(&services(false));
        assert!(
            text.contains("elements = { udp . 30080 : goto external-s0 }"),
            "{text}"
        );
        assert!(text.contains("chain external-s0 { jump mark-for-masquerade; goto service-s0; }"));
        assert!(text.contains("numgen random mod 3 vmap { 0 : goto endpoint-s0-0, 1 : goto endpoint-s0-1, 2 : goto endpoint-s0-2 }"));
        assert!(text.contains("meta l4proto udp dnat to 10.244.2.10:8080"));
    }

    #[test]
    fn an_endpoint_of_iptables_is_chosen_with_the_chance_that_is_left() {
        let text = iptables(&services(true));
        assert!(text.contains("-A KUBE-SVC-s0 -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-s0-0"), "{text}");
        assert!(text.contains("-A KUBE-SVC-s0 -j KUBE-SEP-s0-2"));
        assert!(text.contains("-j DNAT --to-destination [fd00:10:244:2::12]:8080"));
        let (services, node_ports) = (
            text.find("-d fd00:10:96::102/128"),
            text.find("--dst-type LOCAL"),
        );
        assert!(services < node_ports, "NodePorts come after every Service");
    }
}
