//! Sockets of this node that listen on ports that Services have as NodePorts: they listen in vain (behaviours 6.14).
//!
//! Owns the reading of the kernel's tables of sockets. Refuses to know front ends: it is given ports. Invariant: what cannot be read is
//! left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::Proc;
use crate::model::desired::Protocol;

/// States of sockets in `/proc/net`: a TCP socket that listens, a UDP socket that is not connected.
const LISTENS: &str = "0A";
const OPEN: &str = "07";

/// What listens on one of `ports`, in words.
#[must_use]
pub fn in_the_way(proc: &Proc, ports: &BTreeSet<(Protocol, u16)>) -> Vec<String> {
    let mut found: BTreeMap<(Protocol, u16), u64> = BTreeMap::new();
    for (protocol, tables, state) in [
        (Protocol::Tcp, ["net/tcp", "net/tcp6"], LISTENS),
        (Protocol::Udp, ["net/udp", "net/udp6"], OPEN),
    ] {
        for table in tables {
            let text = proc.read(table).unwrap_or_default();
            for (port, inode) in sockets(&text, state) {
                if ports.contains(&(protocol, port)) {
                    found.insert((protocol, port), inode);
                }
            }
        }
    }
    found
        .into_iter()
        .map(|((protocol, port), inode)| {
            let who = owner(proc, inode).unwrap_or_else(|| "a process".to_owned());
            format!(
                "{who} listens on {protocol} port {port}, which is a NodePort: what comes for it goes to the Service. \
                 Give the one or the other another port"
            )
        })
        .collect()
}

/// Port and inode of the sockets in one state, from a table of `/proc/net`.
fn sockets<'t>(text: &'t str, state: &'t str) -> impl Iterator<Item = (u16, u64)> + 't {
    text.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        (fields.get(3) == Some(&state)).then_some((port, inode))
    })
}

/// The name and number of the process that has a socket open.
fn owner(proc: &Proc, inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir(proc.path("")).ok()?.flatten();
    processes
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .find(|entry| holds(&entry.path(), &wanted))
        .map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let process = entry.file_name();
            format!("{} (process {})", name.trim(), process.to_string_lossy())
        })
}

/// Whether one of a process's descriptors is this file.
fn holds(process: &Path, wanted: &str) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// As the kernel writes it: 30080 (7580) listens, 30081 (7581) is connected.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:7580 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:7581 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
";

    #[test]
    fn who_listens_on_a_node_port_is_named() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let fd = place.path().join("77/fd");
        fs::create_dir_all(&fd).expect("directories");
        fs::create_dir_all(place.path().join("net")).expect("directories");
        fs::write(place.path().join("77/comm"), "nginx\n").expect("a name");
        symlink("socket:[4711]", fd.join("5")).expect("a descriptor");
        fs::write(place.path().join("net/tcp"), TCP).expect("a table");
        let proc = Proc::at(place.path());
        let ports = |list: &[(Protocol, u16)]| list.iter().copied().collect();
        let found = in_the_way(
            &proc,
            &ports(&[(Protocol::Tcp, 30080), (Protocol::Tcp, 30081)]),
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("nginx (process 77) listens on TCP port 30080"),
            "{found:?}"
        );
        assert!(in_the_way(&proc, &ports(&[(Protocol::Udp, 30080)])).is_empty());
    }
}
