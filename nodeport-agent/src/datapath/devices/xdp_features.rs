//! Which devices take the frames that XDP redirects to them (edge-cases F5): the kernel drops those of all others in silence.
//!
//! Owns the messages of the generic netlink family `netdev` (the kernel's `Documentation/netlink/specs/netdev.yaml`); nothing else
//! names them. Refuses to know attachments and maps. Invariant: where the kernel can say it, a device counts only after it did.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, future, stream};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use tokio::task::JoinSet;

use super::classify::{Covered, Role};
use super::cover::DeviceState;
use super::netlink::failed;
use crate::datapath::attach::Mode;
use crate::datapath::error::DatapathError;

/// The family whose messages tell of families, and what we ask it (`linux/genetlink.h`).
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const GROUPS: u16 = 7;
    pub(super) const GROUP_NAME: u16 = 1;
    pub(super) const GROUP_ID: u16 = 2;
}
/// The family that tells of devices (`linux/netdev.h`, Linux 6.3).
mod netdev {
    pub(super) const NAME: &[u8] = b"netdev\0";
    /// The group that hears of changes.
    pub(super) const GROUP: &[u8] = b"mgmt\0";
    pub(super) const DEV_GET: u8 = 1;
    pub(super) const DEV_CHANGE: u8 = 4;
    pub(super) const INDEX: u16 = 1;
    pub(super) const XDP_FEATURES: u16 = 3;
    /// `NETDEV_XDP_ACT_NDO_XMIT`: the device takes redirected frames.
    pub(super) const NDO_XMIT: u64 = 1 << 2;
}
/// Bytes of `struct genlmsghdr`: command, version, two of zero.
const HEADER: usize = 4;

/// The devices that take redirected frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedirectTargets {
    /// The kernel cannot say it (before 6.3). Then a device with native XDP counts, as most drivers that run a program of their own also take
    /// redirected frames; a veth whose peer has neither GRO nor a program loses them.
    Unsaid,
    /// What it said of the devices it was asked about, by index.
    Said(BTreeMap<u32, bool>),
}

/// Nothing, until the kernel was asked.
impl Default for RedirectTargets {
    fn default() -> Self {
        Self::Said(BTreeMap::new())
    }
}

impl RedirectTargets {
    /// Whether frames may be redirected to a device with native XDP.
    #[must_use]
    pub(super) fn contains(&self, index: u32) -> bool {
        match self {
            Self::Unsaid => true,
            Self::Said(devices) => devices.get(&index) == Some(&true),
        }
    }

    /// Whether this differs from what is known of a device that was asked about.
    pub(super) fn is_news(&self, index: u32, takes: bool) -> bool {
        match self {
            Self::Unsaid => false,
            Self::Said(devices) => devices.get(&index).is_some_and(|&known| known != takes),
        }
    }

    /// Forgets a device that was removed: the next one with its index may be another.
    pub(super) fn forget(&mut self, index: u32) {
        if let Self::Said(devices) = self {
            devices.remove(&index);
        }
    }
}

/// What the operator should know of uplinks that run XDP but cannot be redirected to.
#[must_use]
pub(super) fn notes(devices: &[DeviceState], targets: &RedirectTargets) -> Vec<String> {
    let native = devices.iter().filter(|device| {
        let mode = device.xdp.as_ref().and_then(|hook| hook.mode);
        device.role == Role::Uplink && mode == Some(Mode::Native)
    });
    native
        .filter(|device| !targets.contains(device.index))
        .map(|device| {
            format!(
                "{} has native XDP, but packets that leave by it take TC: its driver or its peer does not take redirected frames (for a veth: \
                 switch GRO on at the other end, ethtool -K DEVICE gro on)",
                device.name
            )
        })
        .collect()
}

/// News of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Whether the device takes redirected frames from now on.
    Device { index: u32, takes: bool },
    /// News were lost.
    Missed,
}

/// News, as they come; never any where the kernel cannot say it. Ends if the socket fails.
pub(super) type Changes = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct XdpFeatures {
    netdev: Option<(u16, ConnectionHandle<Message>)>,
}

impl XdpFeatures {
    /// Opens a socket in the caller's network namespace, and listens. What it needs to run on its own goes into `tasks`.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`].
    pub(super) async fn open(tasks: &mut JoinSet<()>) -> Result<(Self, Changes), DatapathError> {
        let Some((family, group)) = resolve(tasks).await? else {
            return Ok((Self { netdev: None }, Box::pin(stream::pending())));
        };
        let (mut connection, handle, news) =
            new_connection::<Message>(NETLINK_GENERIC).map_err(failed("open a generic socket"))?;
        let socket = connection.socket_mut().socket_mut();
        socket.bind_auto().map_err(failed("bind a socket"))?;
        socket
            .add_membership(group)
            .map_err(failed("listen to netdev"))?;
        tasks.spawn(connection);
        let changes = news.filter_map(|(message, _)| future::ready(change(&message.payload)));
        let netdev = Some((family, handle));
        Ok((Self { netdev }, Box::pin(changes)))
    }

    /// Which of the devices that XDP belongs on take redirected frames now. One that is gone does not.
    ///
    /// They are asked about one by one: the kernel does not mark the parts of its list as parts (`NLM_F_MULTI`), and readers of netlink
    /// take the first for all of it.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`].
    pub(super) async fn targets(
        &self,
        covered: &BTreeMap<u32, Covered>,
    ) -> Result<RedirectTargets, DatapathError> {
        let Some((family, handle)) = &self.netdev else {
            return Ok(RedirectTargets::Unsaid);
        };
        let mut said = BTreeMap::new();
        for (&index, _) in covered.iter().filter(|(_, device)| device.xdp) {
            said.insert(index, takes(handle, *family, index).await?);
        }
        Ok(RedirectTargets::Said(said))
    }
}

/// Whether a device takes redirected frames.
async fn takes(
    handle: &ConnectionHandle<Message>,
    family: u16,
    index: u32,
) -> Result<bool, DatapathError> {
    const OPERATION: &str = "read the XDP features of a device";
    let question = Message {
        family,
        command: netdev::DEV_GET,
        attributes: vec![(netdev::INDEX, index.to_ne_bytes().to_vec())],
    };
    match ask(handle, question, OPERATION).await? {
        Ok(answer) => Ok(answer.device() == Some((index, true))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(failed(OPERATION)(error)),
    }
}

/// The one answer to a question, or the kernel's refusal.
async fn ask(
    handle: &ConnectionHandle<Message>,
    question: Message,
    operation: &'static str,
) -> Result<std::io::Result<Message>, DatapathError> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    let mut answers = handle
        .request(request, SocketAddr::new(0, 0))
        .map_err(failed(operation))?;
    match answers.next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(answer)) => Ok(Ok(answer)),
        Some(NetlinkPayload::Error(error)) => Ok(Err(error.to_io())),
        _ => Err(failed(operation)(std::io::Error::from(
            ErrorKind::UnexpectedEof,
        ))),
    }
}

/// Numbers of the family and of the group that hears of changes; `None` if this kernel has no such family.
async fn resolve(tasks: &mut JoinSet<()>) -> Result<Option<(u16, u32)>, DatapathError> {
    const OPERATION: &str = "find the family netdev";
    let (connection, handle, _) =
        new_connection::<Message>(NETLINK_GENERIC).map_err(failed("open a generic socket"))?;
    tasks.spawn(connection);
    let question = Message {
        family: control::FAMILY,
        command: control::GET_FAMILY,
        attributes: vec![(control::FAMILY_NAME, netdev::NAME.to_vec())],
    };
    match ask(&handle, question, OPERATION).await? {
        Ok(answer) => answer
            .netdev_family()
            .map(Some)
            .ok_or_else(|| failed(OPERATION)(std::io::Error::from(ErrorKind::InvalidData))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tracing::debug!("the kernel does not say which devices take redirected frames");
            Ok(None)
        }
        Err(error) => Err(failed(OPERATION)(error)),
    }
}

/// What an unasked message says.
fn change(payload: &NetlinkPayload<Message>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(message) if message.command == netdev::DEV_CHANGE => message
            .device()
            .map(|(index, takes)| Change::Device { index, takes }),
        NetlinkPayload::Overrun(_) => Some(Change::Missed),
        _ => None,
    }
}

/// A message of generic netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<Attribute>,
}

/// Type and value.
type Attribute = (u16, Vec<u8>);

impl Message {
    /// Index of a device, and whether it takes redirected frames.
    fn device(&self) -> Option<(u32, bool)> {
        let index = u32::from_ne_bytes(find(&self.attributes, netdev::INDEX)?);
        let features = u64::from_ne_bytes(find(&self.attributes, netdev::XDP_FEATURES)?);
        Some((index, features & netdev::NDO_XMIT != 0))
    }

    /// Number of a family, and of its group [`netdev::GROUP`].
    fn netdev_family(&self) -> Option<(u16, u32)> {
        let id = u16::from_ne_bytes(find(&self.attributes, control::FAMILY_ID)?);
        let groups = attributes(value(&self.attributes, control::GROUPS)?).ok()?;
        let group = groups.iter().find_map(|(_, group)| {
            let group = attributes(group).ok()?;
            let named = value(&group, control::GROUP_NAME)? == netdev::GROUP;
            let id = u32::from_ne_bytes(find(&group, control::GROUP_ID)?);
            named.then_some(id)
        })?;
        Some((id, group))
    }
}

fn attributes(bytes: &[u8]) -> Result<Vec<Attribute>, DecodeError> {
    NlasIterator::new(bytes)
        .map(|one| one.map(|one| (one.kind(), one.value().to_vec())))
        .collect()
}

fn value(attributes: &[Attribute], kind: u16) -> Option<&[u8]> {
    let found = attributes.iter().find(|(one, _)| *one == kind)?;
    Some(&found.1)
}

/// A value of exactly this length.
fn find<const N: usize>(attributes: &[Attribute], kind: u16) -> Option<[u8; N]> {
    value(attributes, kind)?.try_into().ok()
}

fn encoded(attributes: &[Attribute]) -> Vec<DefaultNla> {
    attributes
        .iter()
        .map(|(kind, value)| DefaultNla::new(*kind, value.clone()))
        .collect()
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + encoded(&self.attributes).as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // The version is 1 for both families' requests, and the kernel does not look at it.
        buffer[..HEADER].copy_from_slice(&[self.command, 1, 0, 0]);
        encoded(&self.attributes)
            .as_slice()
            .emit(&mut buffer[HEADER..]);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (&[command, ..], rest) = payload
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| DecodeError::from("half a generic header"))?;
        Ok(Self {
            family: header.message_type,
            command,
            attributes: attributes(rest)?,
        })
    }
}

#[cfg(test)]
#[path = "xdp_features_tests.rs"]
mod tests;
