//! Stories of lists and changes.

use super::*;
use crate::model::decode::decode_as;
use serde_json::{Value, json};

fn found(kind: Kind, value: &Value, version: u64) -> Found {
    let name = value["metadata"]["name"].as_str().expect("a name");
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
    Found {
        key: ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        },
        version,
        content: decode_as(value, kind),
    }
}

fn service(name: &str, address: &str, version: u64) -> Found {
    let value = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    found(Kind::Service, &value, version)
}

fn slice(family: &str, version: u64) -> Found {
    let labels = json!({"kubernetes.io/service-name": "a"});
    let value = json!({"metadata": {"name": "s", "namespace": "d", "labels": labels}, "addressType": family});
    found(Kind::EndpointSlice, &value, version)
}

fn node() -> Found {
    found(Kind::Node, &json!({"metadata": {"name": "n1"}}), 1)
}

fn list(cache: &mut Cache, kind: Kind, items: impl IntoIterator<Item = Found>) -> bool {
    assert!(!cache.apply(kind, Change::Begin));
    for item in items {
        assert!(!cache.apply(kind, Change::Listed(item)));
    }
    cache.apply(kind, Change::Complete)
}

/// All kinds listed, with Services a and b.
fn filled() -> Cache {
    let mut cache = Cache::default();
    list(
        &mut cache,
        Kind::Service,
        [service("a", "10.96.0.1", 5), service("b", "10.96.0.2", 6)],
    );
    list(&mut cache, Kind::EndpointSlice, [slice("IPv4", 7)]);
    list(&mut cache, Kind::Node, [node()]);
    cache
}

fn services(cache: &mut Cache) -> Vec<String> {
    let set = cache.complete_set(Instant::now()).expect("complete");
    let line = |(key, service): (&ObjectKey, &std::sync::Arc<crate::model::objects::Service>)| {
        format!("{key} {}", service.cluster_ips[0].value)
    };
    set.services.iter().map(line).collect()
}

#[test]
fn nothing_is_given_before_services_and_slices_are_complete_22_1() {
    let now = Instant::now();
    let mut cache = Cache::default();
    list(&mut cache, Kind::Node, [node()]);
    cache.apply(Kind::EndpointSlice, Change::Begin);
    cache.apply(Kind::EndpointSlice, Change::Listed(slice("IPv4", 7)));
    assert!(list(
        &mut cache,
        Kind::Service,
        [service("a", "10.96.0.1", 5)]
    ));
    assert!(cache.complete_set(now + 10 * NODE_PATIENCE).is_none());
    assert!(cache.apply(Kind::EndpointSlice, Change::Complete));
    assert!(cache.complete_set(now).is_some());
}

#[test]
fn an_empty_cluster_is_a_complete_one() {
    let mut cache = Cache::default();
    assert!(list(&mut cache, Kind::Service, []));
    assert!(list(&mut cache, Kind::EndpointSlice, []));
    assert!(list(&mut cache, Kind::Node, [node()]));
    assert!(cache.complete_set(Instant::now()).is_some());
}

#[test]
fn the_node_is_waited_for_but_not_for_ever_20_3() {
    let now = Instant::now();
    let mut cache = Cache::default();
    list(&mut cache, Kind::Service, []);
    list(&mut cache, Kind::EndpointSlice, []);
    list(&mut cache, Kind::Node, []);
    assert!(
        cache.complete_set(now).is_none(),
        "the node may be registered in a moment"
    );
    let deadline = cache.node_deadline().expect("a deadline");
    assert!(cache.complete_set(deadline).is_some());
    assert!(cache.apply(Kind::Node, Change::Set(node())));
    assert!(cache.complete_set(now).is_some(), "at once when it comes");
}

#[test]
fn while_a_list_is_received_the_former_state_stays() {
    let mut cache = filled();
    cache.apply(Kind::Service, Change::Begin);
    cache.apply(Kind::Service, Change::Listed(service("c", "10.96.0.3", 9)));
    assert_eq!(services(&mut cache), ["d/a 10.96.0.1", "d/b 10.96.0.2"]);
    assert!(list(
        &mut cache,
        Kind::Service,
        [service("b", "10.96.0.2", 6), service("d", "10.96.0.4", 9)]
    ));
    assert_eq!(
        services(&mut cache),
        ["d/b 10.96.0.2", "d/d 10.96.0.4"],
        "an interrupted list is void"
    );
}

#[test]
fn a_list_that_says_nothing_new_changes_nothing() {
    let mut cache = filled();
    let before = cache
        .complete_set(Instant::now())
        .expect("complete")
        .clone();
    let again = [service("a", "10.96.0.1", 50), service("b", "10.96.0.2", 60)];
    assert!(!list(&mut cache, Kind::Service, again));
    let after = cache.complete_set(Instant::now()).expect("complete");
    for (key, service) in &before.services {
        assert!(
            std::sync::Arc::ptr_eq(service, &after.services[key]),
            "{key} is the same one"
        );
    }
}

#[test]
fn repeated_and_late_events_are_passed_over() {
    let mut cache = filled();
    assert!(cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.9", 10))));
    assert!(
        !cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.9", 10))),
        "the same again"
    );
    assert!(
        !cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.1", 5))),
        "an older state"
    );
    assert!(
        !cache.apply(Kind::Service, Change::Gone(service("a", "10.96.0.1", 8))),
        "an older end"
    );
    assert_eq!(services(&mut cache)[0], "d/a 10.96.0.9");
    assert!(cache.apply(Kind::Service, Change::Gone(service("a", "10.96.0.9", 11))));
    assert!(!cache.apply(Kind::Service, Change::Gone(service("a", "10.96.0.9", 11))));
    assert_eq!(services(&mut cache), ["d/b 10.96.0.2"]);
    assert!(
        cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.7", 12))),
        "a new one of that name"
    );
}

#[test]
fn what_is_gone_stays_gone_though_it_is_told_again() {
    let mut cache = filled();
    assert!(cache.apply(Kind::Service, Change::Gone(service("a", "10.96.0.1", 9))));
    for version in [5, 8, 9] {
        let again = Change::Set(service("a", "10.96.0.1", version));
        assert!(!cache.apply(Kind::Service, again), "{version}");
    }
    // Gone before it was ever heard of.
    assert!(!cache.apply(Kind::Service, Change::Gone(service("c", "10.96.0.3", 12))));
    let late = Change::Set(service("c", "10.96.0.3", 11));
    assert!(!cache.apply(Kind::Service, late));
    assert_eq!(services(&mut cache), ["d/b 10.96.0.2"]);
    // Made anew.
    let anew = Change::Set(service("a", "10.96.0.9", 13));
    assert!(cache.apply(Kind::Service, anew));
    // After the data base was put back to an earlier state, versions count from there.
    list(&mut cache, Kind::Service, []);
    let earlier = Change::Set(service("c", "10.96.0.3", 7));
    assert!(cache.apply(Kind::Service, earlier));
    for number in 0..2 * GRAVES as u64 {
        let name = format!("x{number}");
        let gone = Change::Gone(service(&name, "10.96.0.4", 20 + number));
        assert!(!cache.apply(Kind::Service, gone));
    }
    assert_eq!(cache.services.gone.len(), GRAVES);
}

#[test]
fn a_change_of_what_does_not_count_is_none_22_5() {
    let mut cache = filled();
    assert!(!cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.1", 77))));
}

#[test]
fn a_list_of_an_earlier_state_counts_after_the_data_base_was_put_back() {
    let mut cache = filled();
    cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.9", 100)));
    assert!(list(
        &mut cache,
        Kind::Service,
        [service("a", "10.96.0.1", 3)]
    ));
    assert_eq!(services(&mut cache), ["d/a 10.96.0.1"]);
    assert!(cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.2", 4))));
}

#[test]
fn a_refused_object_is_reported_while_it_is_there() {
    let mut cache = filled();
    assert!(cache.apply(Kind::EndpointSlice, Change::Set(slice("IPX", 9))));
    let set = cache
        .complete_set(Instant::now())
        .expect("complete")
        .clone();
    assert!(set.endpoint_slices.is_empty());
    assert_eq!(set.reports.len(), 1);
    assert!(!cache.apply(Kind::EndpointSlice, Change::Set(slice("IPX", 10))));
    assert!(cache.apply(Kind::EndpointSlice, Change::Gone(slice("IPX", 11))));
    assert!(
        cache
            .complete_set(Instant::now())
            .expect("complete")
            .reports
            .is_empty()
    );
}

#[test]
fn what_changed_is_told_once_and_what_is_the_same_is_no_news() {
    let mut cache = filled();
    let first = cache.news();
    assert_eq!((first.services, first.endpoint_slices), (2, 1));
    cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.1", 8)));
    assert_eq!(cache.news(), News::default());
    cache.apply(Kind::Service, Change::Set(service("a", "10.96.0.9", 9)));
    cache.apply(Kind::Service, Change::Gone(service("b", "10.96.0.2", 10)));
    let news = cache.news();
    assert_eq!((news.services, news.endpoint_slices), (2, 0));
}
