//! Events on objects that could not be used as they stand, as `kubectl describe` shows them.
//!
//! Owns their form, their rate and what was said already. It refuses to know reports' meaning beyond a word for each. All nodes have the
//! same to say of a Service's fields, so such an Event's name is made of what it says: the first node creates it, the others find it there.
//! Invariants: one Event for an object and a reason until either changes; nothing ever waits for the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::Objects;
use crate::model::objects::{Kind, ObjectKey, ObjectRef};
use crate::model::report::{Reason, Report, Severity};
use crate::source::Trouble;

/// After so many Events at once there is a pause after each.
const BURST: u32 = 20;
/// The pause.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after the API server could not be asked.
const RETRY: Duration = Duration::from_secs(30);
/// The API's limit for a note, in bytes.
const NOTE_MAX: usize = 1024;

/// Something to say of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Notice {
    object: ObjectRef,
    uid: String,
    warning: bool,
    reason: &'static str,
    action: &'static str,
    note: String,
    /// All nodes have the same to say, or only this one, of itself.
    of_node: Option<String>,
}

impl Notice {
    /// What a report says; `None` if it is of no object that an API server knows.
    pub(super) fn new(report: &Report, objects: &Objects) -> Option<Self> {
        let object = report.object.clone()?;
        let uid = match object.kind {
            Kind::Service => objects.services.get(&object.key)?.meta.uid.clone()?,
            Kind::EndpointSlice => objects.endpoint_slices.get(&object.key)?.meta.uid.clone()?,
            // A Node without a zone or an address is no news to anyone.
            Kind::Node => return None,
        };
        let mut note = report.reason.to_string();
        if !report.field.is_empty() {
            note = format!("{}: {note}", report.field);
        }
        note.truncate(note.floor_char_boundary(NOTE_MAX));
        Some(Self {
            action: "Program",
            of_node: None,
            object,
            uid: uid.into(),
            warning: report.severity() != Severity::Note,
            reason: word(&report.reason),
            note,
        })
    }

    /// What is wrong with a part of this agent.
    pub(super) fn of_trouble(trouble: &Trouble, node_name: &str) -> Self {
        let (object, uid) = match &trouble.service {
            Some((key, uid)) => (service(key), uid.as_deref().unwrap_or_default().to_owned()),
            None => node(node_name),
        };
        let mut note = trouble.note.clone();
        note.truncate(note.floor_char_boundary(NOTE_MAX));
        Self {
            object,
            uid,
            warning: true,
            reason: trouble.reason,
            action: trouble.action,
            note,
            of_node: Some(node_name.to_owned()),
        }
    }

    /// This agent starts, as kube-proxy says it of itself (behaviours 23.3). Each start is an Event of its own.
    pub(super) fn starting(node_name: &str, now: Timestamp) -> Self {
        let (object, uid) = node(node_name);
        Self {
            object,
            uid,
            warning: false,
            reason: "Starting",
            action: "StartKubeProxy",
            note: String::new(),
            of_node: Some(format!("{node_name} {now}")),
        }
    }

    /// Where the Event belongs: those of objects without a namespace are in `default`.
    fn namespace(&self) -> &str {
        match &*self.object.key.namespace {
            "" => "default",
            namespace => namespace,
        }
    }

    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let name: &str = &self.object.key.name;
        // Names have 253 characters at most; those of Services 63.
        let end = name.floor_char_boundary(230);
        format!(
            "{}.{:016x}",
            name[..end].trim_end_matches(['.', '-']),
            hasher.finish()
        )
    }

    pub(super) fn event(&self, node_name: &str) -> Event {
        let ObjectRef { kind, key } = &self.object;
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            action: Some(self.action.to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(self.note.clone()),
            reason: Some(self.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(kind.api_version().to_owned()),
                kind: Some(kind.name().to_owned()),
                namespace: Some((*key.namespace).to_owned()).filter(|one| !one.is_empty()),
                name: Some((*key.name).to_owned()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("nodeport-agent".to_owned()),
            // The API's limit is 128 characters.
            reporting_instance: Some(node_name.chars().take(128).collect()),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

fn service(key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: Kind::Service,
        key: key.clone(),
    }
}

/// The own Node. Its Events have its name for a UID, as those of kubelet and kube-proxy have: `kubectl describe node` looks for that.
fn node(node_name: &str) -> (ObjectRef, String) {
    let key = ObjectKey {
        namespace: "".into(),
        name: node_name.into(),
    };
    let kind = Kind::Node;
    (ObjectRef { kind, key }, node_name.to_owned())
}

/// The reason of an Event: one word.
const fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::Taken { .. } => "FrontendTaken",
        Reason::ProtocolNotSupported(_) => "ProtocolNotSupported",
        Reason::NoSourceRange => "NoSourceRange",
        Reason::NotHonoured(_) => "NotHonoured",
        Reason::FamilyNotServed(_) => "FamilyNotServed",
        Reason::NoClusterIp => "NoClusterIP",
        Reason::Repeats(_) => "Repeated",
        Reason::NotAnAddress(_) | Reason::SpecialAddress { .. } | Reason::OtherFamily { .. } => {
            "InvalidAddress"
        }
        Reason::NotAPort(_) => "InvalidPort",
        Reason::NoNodePortAddress(_) => "NoNodePortAddress",
        _ => "InvalidField",
    }
}

/// What there is to say, by where it comes from.
type Said = BTreeMap<Topic, BTreeSet<Notice>>;

/// Where a notice comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// This agent's start.
    Start,
    /// Objects that cannot be used as they stand.
    Objects,
    /// Parts of this agent.
    Agent,
}

/// The end that gives notices.
#[derive(Clone, Debug)]
pub(super) struct Events(Arc<watch::Sender<Said>>);

impl Events {
    /// Everything that there is to say of a topic now.
    pub(super) fn publish(&self, topic: Topic, notices: BTreeSet<Notice>) {
        self.0.send_if_modified(|current| {
            let changed = current.get(&topic) != Some(&notices);
            current.insert(topic, notices);
            changed
        });
    }
}

/// The task that says it.
pub(super) struct Publisher {
    client: Client,
    node_name: String,
    notices: watch::Receiver<Said>,
    /// What was said of what still is.
    said: BTreeSet<Notice>,
}

/// Both ends.
pub(super) fn publisher(client: Client, node_name: &str) -> (Events, Publisher) {
    let (sender, notices) = watch::channel(Said::new());
    let publisher = Publisher {
        client,
        node_name: node_name.to_owned(),
        notices,
        said: BTreeSet::new(),
    };
    (Events(Arc::new(sender)), publisher)
}

impl Publisher {
    /// Says each notice once, until nobody gives any.
    pub(super) async fn run(mut self) {
        let mut burst = BURST;
        loop {
            let next = {
                let current = self.notices.borrow_and_update();
                let is_current = |said: &Notice| current.values().any(|of| of.contains(said));
                self.said.retain(is_current);
                let mut all = current.values().flatten();
                all.find(|notice| !self.said.contains(*notice)).cloned()
            };
            let Some(notice) = next else {
                if self.notices.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if self.say(&notice).await {
                self.said.insert(notice);
                burst = burst.saturating_sub(1);
                if burst == 0 {
                    sleep(PAUSE).await;
                    burst = 1;
                }
            } else {
                sleep(RETRY).await;
                burst = BURST;
            }
        }
    }

    /// Whether there is nothing more to do about it.
    async fn say(&self, notice: &Notice) -> bool {
        let api: Api<Event> = Api::namespaced(self.client.clone(), notice.namespace());
        let event = notice.event(&self.node_name);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => true,
            // Another node said it (409), may not (403), the namespace is going (404), or the API server has another opinion of Events.
            Err(kube::Error::Api(status))
                if (400..500).contains(&status.code)
                    && status.code != 401
                    && status.code != 429 =>
            {
                if status.code != 409 {
                    tracing::debug!(object = %notice.object, error = %status.message, "an Event was refused");
                }
                true
            }
            Err(error) => {
                tracing::debug!(object = %notice.object, %error, "an Event has to wait");
                false
            }
        }
    }
}
