//! Objects cut to what is used while they are decoded.
//!
//! Owns the types that `kube::runtime::watcher` decodes, and what is asked for. It refuses to know what fields mean: that is
//! [`decode_as`]'s business, as for manifests. Invariant: nothing of an object outlives its decoding but its lean form; decoding fails
//! only for what is no object at all.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use kube::runtime::watcher;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::model::decode::decode_as;
use crate::model::objects::{Kind, Object, ObjectKey};
use crate::model::report::Report;

/// A kind that is watched.
pub(super) trait Watched: Clone + fmt::Debug + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// The resource.
    const PLURAL: &'static str;
}

/// Services.
#[derive(Clone, Debug)]
pub(super) struct Services;
/// EndpointSlices.
#[derive(Clone, Debug)]
pub(super) struct Slices;
/// The own Node.
#[derive(Clone, Debug)]
pub(super) struct Nodes;

impl Watched for Services {
    const KIND: Kind = Kind::Service;
    const PLURAL: &'static str = "services";
}
impl Watched for Slices {
    const KIND: Kind = Kind::EndpointSlice;
    const PLURAL: &'static str = "endpointslices";
}
impl Watched for Nodes {
    const KIND: Kind = Kind::Node;
    const PLURAL: &'static str = "nodes";
}

/// What is asked for: what is not for a service proxy does not cross the network (behaviours 1.3 to 1.5, 20.7).
pub(super) fn selection(kind: Kind, node_name: &str) -> watcher::Config {
    let config = watcher::Config::default();
    match kind {
        Kind::Service => config
            .fields("spec.clusterIP!=None")
            .labels("!service.kubernetes.io/service-proxy-name"),
        Kind::EndpointSlice => config.labels("!service.kubernetes.io/headless"),
        Kind::Node => config.fields(&format!("metadata.name={node_name}")),
    }
}

/// An object as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name.
    pub(super) key: ObjectKey,
    /// Its version: larger ones are later. 0 if it has none that is a number.
    pub(super) version: u64,
    /// The object, or why it is refused as a whole.
    pub(super) content: Result<Object, Vec<Report>>,
}

/// An object of kind `W` in its lean form.
#[derive(Clone, Debug)]
pub(super) struct Lean<W> {
    /// Only what `kube` needs: name, namespace, version.
    meta: ObjectMeta,
    pub(super) found: Found,
    kind: PhantomData<W>,
}

impl<W: Watched> Resource for Lean<W> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        W::KIND.name().into()
    }
    fn group((): &()) -> Cow<'_, str> {
        let version = W::KIND.api_version();
        version
            .split_once('/')
            .map_or("", |(group, _)| group)
            .into()
    }
    fn version((): &()) -> Cow<'_, str> {
        let version = W::KIND.api_version();
        version
            .split_once('/')
            .map_or(version, |(_, version)| version)
            .into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        W::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// The fields that are looked at. All others, `managedFields` first of all, are passed over without being kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: RawMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    address_type: Value,
    #[serde(default)]
    endpoints: Value,
    #[serde(default)]
    ports: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    #[serde(default)]
    name: Value,
    #[serde(default)]
    namespace: Value,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    uid: Value,
    #[serde(default)]
    creation_timestamp: Value,
    #[serde(default)]
    resource_version: Option<String>,
}

/// Annotations may be a quarter of a megabyte; one counts.
#[derive(Deserialize)]
struct Annotations {
    #[serde(default, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    triggered: Value,
}

impl<'de, W: Watched> Deserialize<'de> for Lean<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&raw.metadata.namespace), text(&raw.metadata.name));
        if name.is_empty() {
            return Err(D::Error::custom("metadata.name is required"));
        }
        let version = raw.metadata.resource_version.clone();
        let number = version.as_deref().and_then(|version| version.parse().ok());
        let content = decode_as(&raw.value(), W::KIND);
        let key = content.as_ref().map_or_else(
            |_| ObjectKey {
                namespace: namespace.as_str().into(),
                name: name.as_str().into(),
            },
            |object| object.meta().key.clone(),
        );
        let meta = ObjectMeta {
            name: Some(name),
            namespace: Some(namespace).filter(|namespace| !namespace.is_empty()),
            resource_version: version,
            ..ObjectMeta::default()
        };
        let found = Found {
            key,
            version: number.unwrap_or(0),
            content,
        };
        Ok(Self {
            meta,
            found,
            kind: PhantomData,
        })
    }
}

impl Raw {
    /// The object with what is left of it.
    fn value(self) -> Value {
        let meta = self.metadata;
        let annotations = meta.annotations.map_or(Value::Null, |annotations| {
            let name = "endpoints.kubernetes.io/last-change-trigger-time";
            object([(name, annotations.triggered)])
        });
        let metadata = object([
            ("name", meta.name),
            ("namespace", meta.namespace),
            ("labels", meta.labels),
            ("annotations", annotations),
            ("uid", meta.uid),
            ("creationTimestamp", meta.creation_timestamp),
        ]);
        object([
            ("metadata", metadata),
            ("spec", self.spec),
            ("status", self.status),
            ("addressType", self.address_type),
            ("endpoints", self.endpoints),
            ("ports", self.ports),
        ])
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use kube::core::WatchEvent;

    const SLICE: &str = r#"{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{
        "name":"web-x","namespace":"d","uid":"6f1c","resourceVersion":"41","creationTimestamp":"2026-01-02T03:04:05Z",
        "labels":{"kubernetes.io/service-name":"web"},"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-02T03:04:06.5Z","x":"y"},
        "managedFields":[{"manager":"m","fieldsV1":{"f:a":{}}}]},
        "addressType":"IPv4","ports":[{"name":"","port":80,"protocol":"TCP"}],"endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true}}]}}"#;

    #[test]
    fn a_watched_slice_is_cut_to_what_is_used() {
        let event: WatchEvent<Lean<Slices>> = serde_json::from_str(SLICE).expect("an event");
        let WatchEvent::Added(lean) = event else {
            panic!("not added");
        };
        assert_eq!(
            (lean.found.version, lean.found.key.to_string()),
            (41, "d/web-x".to_owned())
        );
        let Ok(Object::EndpointSlice(slice)) = lean.found.content else {
            panic!("refused");
        };
        assert_eq!(slice.meta.uid.as_deref(), Some("6f1c"));
        assert_eq!(
            slice.triggered.map(Timestamp::as_millisecond),
            Some(1_767_323_046_500)
        );
        assert_eq!((slice.endpoints.len(), slice.ports.len()), (1, 1));
        assert!(slice.meta.problems.is_empty());
    }

    #[test]
    fn null_lists_are_empty_ones_and_an_item_of_a_list_has_no_kind() {
        let text = r#"{"metadata":{"name":"a","namespace":"d","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv6","endpoints":null,"ports":null}"#;
        let lean: Lean<Slices> = serde_json::from_str(text).expect("a slice");
        let Ok(Object::EndpointSlice(slice)) = lean.found.content else {
            panic!("refused");
        };
        assert!(
            slice.endpoints.is_empty() && slice.ports.is_empty() && slice.meta.problems.is_empty()
        );
    }

    #[test]
    fn an_object_that_is_refused_still_has_its_name() {
        let text = r#"{"metadata":{"name":"a","namespace":"d","resourceVersion":"7"},"addressType":"IPX"}"#;
        let lean: Lean<Slices> = serde_json::from_str(text).expect("decoded all the same");
        assert_eq!(lean.found.key.to_string(), "d/a");
        let reports = lean.found.content.expect_err("refused");
        assert_eq!(
            reports[0].to_string(),
            "EndpointSlice d/a: addressType: \"IPX\" is not one of IPv4, IPv6, FQDN"
        );
    }

    #[test]
    fn the_bookmark_that_ends_an_initial_list_is_no_slice() {
        let text = r#"{"type":"BOOKMARK","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"9","creationTimestamp":null,"annotations":{"k8s.io/initial-events-end":"true"}},"addressType":"","endpoints":null,"ports":null}}"#;
        let event: WatchEvent<Lean<Slices>> = serde_json::from_str(text).expect("an event");
        assert!(
            matches!(event, WatchEvent::Bookmark(bookmark) if bookmark.metadata.resource_version == "9")
        );
    }

    #[test]
    fn resources_and_selections_are_those_of_kube_proxy() {
        assert_eq!(Lean::<Services>::url_path(&(), None), "/api/v1/services");
        assert_eq!(
            Lean::<Slices>::url_path(&(), None),
            "/apis/discovery.k8s.io/v1/endpointslices"
        );
        assert_eq!(Lean::<Nodes>::url_path(&(), None), "/api/v1/nodes");
        let node = selection(Kind::Node, "n1");
        assert_eq!(node.field_selector.as_deref(), Some("metadata.name=n1"));
        let services = selection(Kind::Service, "n1");
        assert_eq!(
            services.field_selector.as_deref(),
            Some("spec.clusterIP!=None")
        );
        assert_eq!(
            services.label_selector.as_deref(),
            Some("!service.kubernetes.io/service-proxy-name")
        );
    }
}
