//! NodePorts, and the source ports of translated flows, kept from connections of the host itself (behaviours 18.3):
//! `net.ipv4.ip_local_reserved_ports`.
//!
//! Owns that list's syntax. Invariant: what others reserved stays reserved. (Our source ports are outside `ip_local_port_range` to begin
//! with; on the list they stay ours when somebody widens that range while the agent runs.)

use super::Proc;
use crate::datapath::PortRange;

const FILE: &str = "sys/net/ipv4/ip_local_reserved_ports";

/// Adds a range to the list, unless it is in it.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn reserve(proc: &Proc, range: PortRange) -> Result<(), String> {
    let listed = proc.read(FILE).unwrap_or_default();
    let ranges: Vec<PortRange> = listed
        .split(',')
        .filter_map(|part| part.trim().parse().ok())
        .collect();
    if ranges
        .iter()
        .any(|one| one.first <= range.first && range.last <= one.last)
    {
        return Ok(());
    }
    let list = if listed.is_empty() {
        range.to_string()
    } else {
        format!("{listed},{range}")
    };
    proc.write(FILE, &list)
        .map_err(|error| format!("--reserve-ports: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RANGE: PortRange = PortRange {
        first: 30000,
        last: 32767,
    };

    fn after(before: &str) -> String {
        let place = tempfile::tempdir().expect("a temporary directory");
        let file = place.path().join(FILE);
        fs::create_dir_all(file.parent().expect("a directory")).expect("made");
        fs::write(&file, format!("{before}\n")).expect("written");
        reserve(&Proc::at(place.path()), RANGE).expect("reserved");
        fs::read_to_string(file).expect("read").trim().to_owned()
    }

    #[test]
    fn the_range_is_added_to_what_others_reserved_once() {
        assert_eq!(after(""), "30000-32767");
        assert_eq!(after("8080,9148-9150"), "8080,9148-9150,30000-32767");
        assert_eq!(after("1-40000"), "1-40000");
        assert_eq!(after("8080,30000-32767"), "8080,30000-32767");
        assert_eq!(
            after("30000-30100"),
            "30000-30100,30000-32767",
            "the kernel joins them"
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let error = reserve(&Proc::at(place.path()), RANGE).expect_err("there is no such file");
        assert!(
            error.contains("--reserve-ports") && error.contains("ip_local_reserved_ports"),
            "{error}"
        );
    }
}
