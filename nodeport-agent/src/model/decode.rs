//! JSON into objects: what every kind has, and which kind it is.
//!
//! Owns the reading of `apiVersion`, `kind` and `metadata`. It refuses to know files and API servers.
//! Invariant: an object is refused as a whole only if its name or its shape is unknown; anything less costs one field.

mod endpoint_slice;
mod node;
mod service;

use std::cell::RefCell;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::desired::Protocol;
use super::field::Field;
use super::objects::{EndpointSlice, Kind, Meta, Node, Object, ObjectKey, ObjectRef, Service};
use super::report::{Problem, Reason, Report};

/// What a JSON value is to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An object of a kind that is read.
    Object(Object),
    /// An object of a kind that is not read; nothing is wrong with it.
    OtherKind,
    /// An object that is refused as a whole. The reports name it as far as it can be named.
    Refused(Vec<Report>),
}

/// Decodes one object. `origin` says where it was read, for reports.
#[must_use]
pub fn decode(value: &Value, origin: Option<&Arc<str>>) -> Decoded {
    let problems = RefCell::new(Vec::new());
    let root = Field::root(value, &problems);
    let outcome = kind(&root).map(|kind| kind.map(|kind| (kind, object(&root, kind, origin))));
    let (kind, object) = match outcome {
        Ok(None) => return Decoded::OtherKind,
        Ok(Some((kind, object))) => (Some(kind), object),
        Err(()) => (None, None),
    };
    let name = || key(&Field::root(value, &RefCell::default()), kind?);
    match object {
        Some(object) => Decoded::Object(object.with_problems(problems.take())),
        None => Decoded::Refused(refusals(
            origin,
            name()
                .zip(kind)
                .map(|(key, kind)| ObjectRef { kind, key })
                .as_ref(),
            problems.take(),
        )),
    }
}

/// Decodes an object of which the kind is known, as of what an API server lists: such items have neither `kind` nor `apiVersion`.
///
/// # Errors
/// What is wrong with an object that is refused as a whole.
pub fn decode_as(value: &Value, kind: Kind) -> Result<Object, Vec<Report>> {
    let problems = RefCell::new(Vec::new());
    let root = Field::root(value, &problems);
    if let Some(raw) = object(&root, kind, None) {
        return Ok(raw.with_problems(problems.take()));
    }
    let key = key(&Field::root(value, &RefCell::default()), kind);
    let object = key.map(|key| ObjectRef { kind, key });
    Err(refusals(None, object.as_ref(), problems.take()))
}

fn refusals(
    origin: Option<&Arc<str>>,
    object: Option<&ObjectRef>,
    problems: Vec<Problem>,
) -> Vec<Report> {
    problems
        .into_iter()
        .map(|problem| Report {
            origin: origin.map(ToString::to_string),
            object: object.cloned(),
            field: problem.field,
            reason: problem.reason,
        })
        .collect()
}

/// The kind; `Ok(None)` if it is one that is not read.
fn kind(root: &Field<'_, '_>) -> Result<Option<Kind>, ()> {
    let root = root.object().ok_or(())?;
    let kind_field = root.key("kind");
    let Some(name) = kind_field.text() else {
        if !kind_field.present() {
            kind_field.problem(Reason::Missing);
        }
        return Err(());
    };
    let Some(kind) = [Kind::Service, Kind::EndpointSlice, Kind::Node]
        .into_iter()
        .find(|kind| kind.name() == name)
    else {
        return Ok(None);
    };
    let version_field = root.key("apiVersion");
    let Some(version) = version_field.text() else {
        if !version_field.present() {
            version_field.problem(Reason::Missing);
        }
        return Err(());
    };
    if version == kind.api_version() {
        return Ok(Some(kind));
    }
    let group = |version: &'_ str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    if group(version) == group(kind.api_version()) {
        version_field.problem(Reason::OtherVersion {
            found: version.to_owned(),
            expected: kind.api_version(),
        });
        return Err(());
    }
    // The same word in another API group (a Knative Service) is another kind.
    Ok(None)
}

/// An object of which it is not yet known what its fields left behind.
enum Raw {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Node(Node),
}

impl Raw {
    fn with_problems(mut self, problems: Vec<Problem>) -> Object {
        let meta = match &mut self {
            Self::Service(service) => &mut service.meta,
            Self::EndpointSlice(slice) => &mut slice.meta,
            Self::Node(node) => &mut node.meta,
        };
        meta.problems = problems;
        match self {
            Self::Service(mut service) => {
                // Tens of thousands of these are kept: what lists were given ahead would be a third of them.
                service.cluster_ips.shrink_to_fit();
                service.external_ips.shrink_to_fit();
                service.load_balancer_ips.shrink_to_fit();
                service.ports.shrink_to_fit();
                Object::Service(Arc::new(service))
            }
            Self::EndpointSlice(mut slice) => {
                slice.endpoints.shrink_to_fit();
                slice.ports.shrink_to_fit();
                Object::EndpointSlice(Arc::new(slice))
            }
            Self::Node(node) => Object::Node(Arc::new(node)),
        }
    }
}

fn object(root: &Field<'_, '_>, kind: Kind, origin: Option<&Arc<str>>) -> Option<Raw> {
    let metadata = root.key("metadata");
    let key = key(root, kind)?;
    let meta = Meta {
        key,
        created: created(&metadata),
        uid: metadata.key("uid").text().map(Box::from),
        origin: origin.cloned(),
        problems: Vec::new(),
    };
    Some(match kind {
        Kind::Service => Raw::Service(service::read(root, meta)?),
        Kind::EndpointSlice => Raw::EndpointSlice(endpoint_slice::read(root, meta)?),
        Kind::Node => Raw::Node(node::read(root, meta)?),
    })
}

/// Namespace and name. An absent namespace is `default`, as for `kubectl apply`.
fn key(root: &Field<'_, '_>, kind: Kind) -> Option<ObjectKey> {
    let metadata = root.key("metadata");
    let metadata = metadata.object()?;
    let name_field = metadata.key("name");
    let Some(name) = name_field.text() else {
        name_field.problem(Reason::Missing);
        return None;
    };
    let namespace = match kind {
        Kind::Node => "",
        Kind::Service | Kind::EndpointSlice => {
            let field = metadata.key("namespace");
            match field.text() {
                Some(namespace) => namespace,
                None if field.present() && !field.is_empty_text() => return None,
                None => "default",
            }
        }
    };
    Some(ObjectKey {
        namespace: namespace.into(),
        name: name.into(),
    })
}

fn created(metadata: &Field<'_, '_>) -> Option<Timestamp> {
    let field = metadata.key("creationTimestamp");
    let text = field.text()?;
    let time = text.parse().ok();
    if time.is_none() {
        field.problem(Reason::NotATime(text.to_owned()));
    }
    time
}

/// A label's value; `None` if it is absent. An empty value counts as present here.
fn label<'v>(root: &Field<'v, '_>, name: &str) -> Option<&'v str> {
    let metadata = root.key("metadata");
    let labels = metadata.key("labels");
    let label = labels.key(name);
    label.text().or_else(|| label.raw_text())
}

/// `protocol`, TCP by default; `None` if it is invalid.
fn protocol(port: &Field<'_, '_>) -> Option<Protocol> {
    const WORDS: &[(&str, Protocol)] = &[
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("SCTP", Protocol::Sctp),
    ];
    let word = port.key("protocol").word("TCP, UDP, SCTP", WORDS).ok()?;
    Some(word.unwrap_or(Protocol::Tcp))
}
