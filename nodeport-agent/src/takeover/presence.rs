//! Whether kube-proxy runs on this node.
//!
//! Owns the signs: another process listens on a port that kube-proxy listens on, and its device in IPVS mode. (An agent in a container cannot see other processes.) Refuses
//! to conclude from that alone: what also counts is whether kube-proxy's rules exist. Invariant: our own listeners are no sign.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Ports of kube-proxy's health and metrics servers.
const PORTS: [u16; 2] = [10256, 10249];

/// State of a listening socket in /proc/net/tcp (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The port on which another process listens as kube-proxy does.
pub(super) fn listener(proc: &Path) -> Option<u16> {
    let own = own_sockets(proc);
    ["net/tcp", "net/tcp6"].into_iter().find_map(|file| {
        let text = fs::read_to_string(proc.join(file)).unwrap_or_default();
        text.lines().skip(1).find_map(|line| foreign(line, &own))
    })
}

/// Whether the device is there to which kube-proxy in IPVS mode assigns all addresses of Services.
pub(super) fn ipvs(proc: &Path) -> bool {
    let devices = fs::read_to_string(proc.join("net/dev")).unwrap_or_default();
    let mut names = devices.lines().filter_map(|line| line.split(':').next());
    names.any(|name| name.trim() == "kube-ipvs0")
}

/// Inode numbers of the sockets that this process has open.
fn own_sockets(proc: &Path) -> HashSet<String> {
    let entries = fs::read_dir(proc.join("self/fd")).into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let name = target.to_str()?.strip_prefix("socket:[")?;
            Some(name.trim_end_matches(']').to_owned())
        })
        .collect()
}

/// The port of a line of /proc/net/tcp, if it is one of [`PORTS`], listens and is not ours.
fn foreign(line: &str, own: &HashSet<String>) -> Option<u16> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?;
    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    let is_foreign = state == LISTEN && PORTS.contains(&port) && !own.contains(inode);
    is_foreign.then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:2810 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 5002 1 0000000000000000 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5003 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn the_device_of_ipvs_is_found_by_its_whole_name() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let proc = place.path();
        fs::create_dir_all(proc.join("net")).expect("a directory");
        assert!(!ipvs(proc));
        let head = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n";
        fs::write(proc.join("net/dev"), format!("{head}kube-ipvs01: 0 0\n")).expect("written");
        assert!(!ipvs(proc));
        fs::write(proc.join("net/dev"), format!("{head}kube-ipvs0: 0 0\n")).expect("written");
        assert!(ipvs(proc));
    }

    #[test]
    fn another_process_that_listens_is_found_and_our_own_listener_is_not() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let proc = place.path();
        fs::create_dir_all(proc.join("net")).expect("a directory");
        fs::create_dir_all(proc.join("self/fd")).expect("a directory");
        assert_eq!(listener(proc), None);
        fs::write(proc.join("net/tcp"), TCP).expect("written");
        assert_eq!(listener(proc), Some(10249));
        symlink("socket:[5001]", proc.join("self/fd/3")).expect("linked");
        // 10256 is a connection, not a listener; 80 is nobody's business.
        assert_eq!(listener(proc), None);
    }
}
