//! The same story in the other family: every IPv4 address of a text becomes an IPv6 one.
//!
//! Owns that mapping. Refuses to know what the text says. Invariant: different addresses stay different, and a network keeps containing
//! what it contained: each number of `10.244.2.11/24` becomes a group of `fd00:10:244:2::11/64`, the last one at the end.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

/// The text with its IPv4 addresses mapped, and the names of the family changed. Addresses in YAML are put in quotes.
pub(crate) fn to_v6(text: &str, is_yaml: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let tail = &rest[start..];
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let end = tail.find(|c: char| !(c.is_ascii_digit() || c == '.'));
        let (word, after) = tail.split_at(end.unwrap_or(tail.len()));
        out.push_str(&rest[..start]);
        let joined = rest[..start].ends_with(is_word);
        match mapped(word).filter(|_| !joined) {
            None => out.push_str(word),
            Some(address) if is_yaml => {
                let (length, after) = prefix(after);
                let _ = write!(out, "\"{address}{length}\"");
                rest = after;
                continue;
            }
            Some(address) if after.starts_with(':') => {
                let _ = write!(out, "[{address}]");
            }
            Some(address) => {
                let (length, after) = prefix(after);
                let _ = write!(out, "{address}{length}");
                rest = after;
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out.replace("IPv4", "IPv6").replace("node-v4", "node-v6")
}

/// The prefix length at the beginning of a text, as it is in IPv6, and what follows it.
fn prefix(text: &str) -> (String, &str) {
    let Some(tail) = text.strip_prefix('/') else {
        return (String::new(), text);
    };
    let end = tail.find(|c: char| !c.is_ascii_digit());
    let (bits, after) = tail.split_at(end.unwrap_or(tail.len()));
    let bits: u8 = bits.parse().expect("a prefix length");
    let mapped = match bits {
        0 => 0,
        8 | 16 | 24 => 16 + bits * 2,
        32 => 128,
        _ => panic!("/{bits}: only whole numbers of an address can be mapped"),
    };
    (format!("/{mapped}"), after)
}

fn mapped(word: &str) -> Option<Ipv6Addr> {
    let numbers: Vec<&str> = word.split('.').collect();
    let groups: Vec<u16> = numbers
        .iter()
        .filter_map(|number| number.parse::<u8>().ok())
        .filter_map(|number| u16::from_str_radix(&number.to_string(), 16).ok())
        .collect();
    let [a, b, c, d] = groups[..] else {
        return None;
    };
    (numbers.len() == 4).then(|| match [a, b, c, d] {
        [0, 0, 0, 0] => Ipv6Addr::UNSPECIFIED,
        [0x127, 0, 0, 1] => Ipv6Addr::LOCALHOST,
        _ => Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d),
    })
}

#[test]
fn addresses_of_a_text_are_mapped() {
    assert_eq!(
        to_v6(
            "in eth0 tcp 203.0.113.10:40000 > 192.168.88.11:30080 ttl=1 via 10.244.2.11 10.244.2.0/24 127.0.0.1",
            false
        ),
        "in eth0 tcp [fd00:203:0:113::10]:40000 > [fd00:192:168:88::11]:30080 ttl=1 via fd00:10:244:2::11 fd00:10:244:2::/64 ::1"
    );
    assert_eq!(
        to_v6(
            "{addresses: [10.244.2.11], addressType: IPv4, port: 80}",
            true
        ),
        "{addresses: [\"fd00:10:244:2::11\"], addressType: IPv6, port: 80}"
    );
    assert_eq!(to_v6("v1.2.3.4 1.2.3", false), "v1.2.3.4 1.2.3");
}
