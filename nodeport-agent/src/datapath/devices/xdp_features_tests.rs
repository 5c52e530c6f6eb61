//! Messages of the kernel, written out.

use super::*;
use crate::datapath::devices::HookState;

/// An attribute as it stands in a message, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short value");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn received(payload: &[u8]) -> Result<Message, DecodeError> {
    let mut header = NetlinkHeader::default();
    header.message_type = 0x1c;
    Message::deserialize(&header, payload)
}

/// What the kernel says of device 7 in a message with this command; `features` as it comes.
fn about_device_7(command: u8, features: &[u8]) -> Message {
    let payload = [
        vec![command, 1, 0, 0],
        attribute(1, &7u32.to_ne_bytes()),
        attribute(3, features),
        // XDP_ZC_MAX_SEGS, RX_METADATA_FEATURES: of no interest.
        attribute(4, &1u32.to_ne_bytes()),
        attribute(5, &0u64.to_ne_bytes()),
    ]
    .concat();
    received(&payload).expect("whole")
}

fn inner(message: Message) -> NetlinkPayload<Message> {
    NetlinkPayload::InnerMessage(message)
}

#[test]
fn a_veth_takes_frames_when_its_peer_has_gro_f5() {
    // BASIC, REDIRECT, NDO_XMIT, RX_SG, NDO_XMIT_SG: with GRO at the other end. Without: BASIC, REDIRECT, RX_SG.
    assert_eq!(
        about_device_7(1, &0x67u64.to_ne_bytes()).device(),
        Some((7, true))
    );
    assert_eq!(
        about_device_7(1, &0x23u64.to_ne_bytes()).device(),
        Some((7, false))
    );
    assert_eq!(
        about_device_7(1, &0u64.to_ne_bytes()).device(),
        Some((7, false))
    );
}

#[test]
fn only_changes_are_news() {
    let yes = 4u64.to_ne_bytes();
    assert_eq!(
        change(&inner(about_device_7(4, &yes))),
        Some(Change::Device {
            index: 7,
            takes: true
        })
    );
    // Added and removed: rtnetlink tells of these.
    assert_eq!(change(&inner(about_device_7(2, &yes))), None);
    assert_eq!(change(&inner(about_device_7(3, &yes))), None);
    assert_eq!(
        change(&NetlinkPayload::Overrun(Vec::new())),
        Some(Change::Missed)
    );
    assert_eq!(change(&NetlinkPayload::Noop), None);
}

#[test]
fn what_is_half_there_says_nothing() {
    assert_eq!(about_device_7(1, &4u32.to_ne_bytes()).device(), None);
    let without_features = [vec![1, 1, 0, 0], attribute(1, &7u32.to_ne_bytes())].concat();
    assert_eq!(received(&without_features).expect("whole").device(), None);
    assert!(received(&[1, 1, 0]).is_err());
    // An attribute that claims twelve bytes and has six.
    let cut = [&[1, 1, 0, 0][..], &attribute(3, &4u64.to_ne_bytes())[..6]].concat();
    assert!(received(&cut).is_err());
}

#[test]
fn the_family_and_its_group_are_found_by_name() {
    let group =
        |name: &[u8], id: u32| [attribute(1, name), attribute(2, &id.to_ne_bytes())].concat();
    let answer = |groups: &[Vec<u8>]| {
        let numbered = groups.iter().zip(1..).map(|(group, n)| attribute(n, group));
        // The kernel marks some attributes as nested.
        let groups = attribute(7 | 0x8000, &numbered.collect::<Vec<_>>().concat());
        let payload = [
            vec![1, 2, 0, 0],
            attribute(2, b"netdev\0"),
            attribute(1, &0x1cu16.to_ne_bytes()),
            groups,
            // One that nobody knows today.
            attribute(60, &[1]),
        ];
        received(&payload.concat()).expect("whole").netdev_family()
    };
    let page_pool = group(b"page-pool\0", 12);
    assert_eq!(
        answer(&[page_pool.clone(), group(b"mgmt\0", 11)]),
        Some((0x1c, 11))
    );
    assert_eq!(answer(&[page_pool]), None);
}

#[test]
fn the_question_for_the_family_has_the_name_with_its_zero() {
    let question = Message {
        family: control::FAMILY,
        command: control::GET_FAMILY,
        attributes: vec![(control::FAMILY_NAME, netdev::NAME.to_vec())],
    };
    let mut bytes = vec![0xff; question.buffer_len()];
    question.serialize(&mut bytes);
    let expected = [vec![3, 1, 0, 0], attribute(2, b"netdev\0")].concat();
    assert_eq!(bytes, expected);
    assert_eq!(question.message_type(), 16);
}

#[test]
fn every_device_counts_where_the_kernel_cannot_say_it_and_none_before_it_was_asked() {
    assert!(RedirectTargets::Unsaid.contains(7));
    assert!(!RedirectTargets::default().contains(7));
    let mut said = RedirectTargets::Said(BTreeMap::from([(7, true), (8, false)]));
    assert!(said.contains(7) && !said.contains(8) && !said.contains(9));
    said.forget(7);
    assert!(!said.contains(7));
}

#[test]
fn only_another_answer_about_a_device_of_interest_is_news() {
    let said = RedirectTargets::Said(BTreeMap::from([(7, true), (8, false)]));
    assert!(said.is_news(7, false) && said.is_news(8, true));
    assert!(!said.is_news(7, true) && !said.is_news(8, false));
    // The veths of Pods come and go all the time.
    assert!(!said.is_news(9, true) && !said.is_news(9, false));
    assert!(!RedirectTargets::Unsaid.is_news(7, false));
}

#[test]
fn an_uplink_with_native_xdp_that_takes_no_frames_is_told_with_the_remedy() {
    let hook = |mode| HookState {
        mode,
        since: None,
        error: None,
    };
    let device = |index, name: &str, role, mode| DeviceState {
        index,
        name: name.to_owned(),
        role,
        xdp: Some(hook(mode)),
        tc_ingress: hook(Some(Mode::Tcx)),
        tc_egress: hook(Some(Mode::Tcx)),
    };
    let devices = [
        device(2, "eth0", Role::Uplink, Some(Mode::Native)),
        device(3, "eth1", Role::Uplink, Some(Mode::Native)),
        // What generic XDP redirects is sent like any other packet.
        device(4, "eth2", Role::Uplink, Some(Mode::Generic)),
        device(5, "eth3", Role::Uplink, None),
    ];
    let said = notes(
        &devices,
        &RedirectTargets::Said(BTreeMap::from([(2, true), (3, false)])),
    );
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("eth1 has native XDP"), "{said:?}");
    assert!(
        said[0].contains("take TC") && said[0].contains("gro on"),
        "{said:?}"
    );
    assert!(notes(&devices, &RedirectTargets::Unsaid).is_empty());
}
