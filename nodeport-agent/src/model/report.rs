//! What the model could not use, or uses otherwise than its author may think: one line for each field.
//!
//! Owns the words in which a rejection is told (log, `status`, events). It refuses to know what happens to an object afterwards.
//! Invariant: a report names the object and the field; nothing is left out of the desired state without one, except
//! what Kubernetes itself says is not for a service proxy (headless Services, other proxies' Services, FQDN slices).

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::desired::{Family, Protocol};
use super::objects::{ObjectKey, ObjectRef};

/// One thing that is not as its author wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// Which object; `None` if it could not be told (a document that cannot be parsed).
    pub object: Option<ObjectRef>,
    /// The field, as a path from the object's root (`spec.ports[0].port`); empty if it is the whole object.
    pub field: String,
    /// Where the object was read, for example `services.yaml, document 3`; `None` if it came from an API server.
    pub origin: Option<String>,
    /// Why.
    pub reason: Reason,
}

/// A field of an object and what is wrong with it: a [`Report`] that does not yet say of which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// As [`Report::field`].
    pub field: String,
    /// As [`Report::reason`].
    pub reason: Reason,
}

/// How much a report matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is in order; this agent does something else, or less, than the field asks.
    Note,
    /// In effect in part: another object has what this one asks for, or an old state was kept.
    Warning,
    /// The field (or the whole object, if no field is named) is invalid and was left out.
    Error,
}

/// Why a field or an object is not used as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// A value of another JSON type than the API's.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the API has there, with its article.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A field without which the object means nothing.
    #[error("is required")]
    Missing,
    /// Not an IP address.
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
    /// An address to which no Service traffic can go.
    #[error("{address} is {what}, which cannot be used here")]
    SpecialAddress {
        /// The address as written.
        address: String,
        /// What it is, with its article.
        what: &'static str,
    },
    /// An address of the family that its neighbours say it is not.
    #[error("{address} is not an {expected} address")]
    OtherFamily {
        /// The address as written.
        address: String,
        /// The family that was announced.
        expected: Family,
    },
    /// An address of a family in which the Service has no ClusterIP (behaviours 19.4).
    #[error("is {0}, and the Service has no {0} ClusterIP")]
    FamilyNotServed(Family),
    /// Not a network.
    #[error("{0:?} is not a CIDR such as 192.0.2.0/24")]
    NotACidr(String),
    /// A number beyond its bounds.
    #[error("{found} is not in the range from {low} to {high}")]
    OutOfRange {
        /// The number.
        found: i128,
        /// The least one.
        low: u32,
        /// The largest one.
        high: u32,
    },
    /// Not a port number.
    #[error("{0} is not a port number (1-65535)")]
    NotAPort(i128),
    /// A word that the API does not define there.
    #[error("{value:?} is not one of {expected}")]
    UnknownValue {
        /// What is there.
        value: String,
        /// What the API knows.
        expected: &'static str,
    },
    /// Not an RFC 3339 time.
    #[error("{0:?} is not a time")]
    NotATime(String),
    /// A second entry with the name and protocol, or number and protocol, of an earlier one.
    #[error("repeats {0}")]
    Repeats(String),
    /// Another Service has this address and port (behaviours 2.8).
    #[error("{frontend} belongs to Service {winner}")]
    Taken {
        /// The front end in words.
        frontend: String,
        /// Who has it.
        winner: ObjectKey,
    },
    /// The Service has no ClusterIP, so it is not proxied (behaviours 1.1). An API server would have allocated one.
    #[error("is empty: the Service is not proxied (an API server would give it an address)")]
    NoClusterIp,
    /// A protocol that is not programmed.
    #[error("{0} is not supported yet: this port is not proxied")]
    ProtocolNotSupported(Protocol),
    /// `loadBalancerSourceRanges` of which none is a CIDR: whoever wrote them relies on them.
    #[error(
        "has no CIDR: the load balancer's addresses are not proxied, rather than open to everyone"
    )]
    NoSourceRange,
    /// A feature that is not honoured.
    #[error("{0}")]
    NotHonoured(&'static str),
    /// This node's own Node object is not there (behaviours 20.3).
    #[error("is not known (yet): no topology hints are followed, `primary` means no address")]
    NodeUnknown,
    /// A node port option that matches no address (behaviours 12.5, 12.8).
    #[error("no address of this node is accepted for {0} NodePorts")]
    NoNodePortAddress(Family),
    /// A document that the parser refuses.
    #[error("cannot be parsed: {0}")]
    Unparsable(String),
    /// A file that cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The last good state of a file or object is still in effect.
    #[error("{0} of an earlier reading still in effect")]
    Kept(String),
    /// The same object was read again later; the later one counts, as with `kubectl apply`.
    #[error("is given again by {0}, which counts")]
    GivenAgain(String),
    /// A version of a kind that this agent does not read.
    #[error("{found} is not read, only {expected}")]
    OtherVersion {
        /// The `apiVersion` that is there.
        found: String,
        /// The one that is read.
        expected: &'static str,
    },
}

impl Reason {
    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::FamilyNotServed(_)
            | Self::NoClusterIp
            | Self::ProtocolNotSupported(_)
            | Self::NotHonoured(_)
            | Self::NodeUnknown
            | Self::OtherVersion { .. } => Severity::Note,
            Self::Taken { .. }
            | Self::NoSourceRange
            | Self::NoNodePortAddress(_)
            | Self::Kept(_)
            | Self::GivenAgain(_) => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl Report {
    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.reason.severity()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.reason)
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Report", 5)?;
        out.serialize_field("severity", &self.severity())?;
        out.serialize_field("origin", &self.origin)?;
        out.serialize_field("object", &self.object)?;
        out.serialize_field("field", &self.field)?;
        out.serialize_field("reason", &self.reason.to_string())?;
        out.end()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}
