//! Listeners that come, move and go with the objects, asked over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;

const RECORDED_GOOD: &str =
    include_str!("../../tests/kube-proxy-1.37/healthCheckNodePort-local.txt");
const RECORDED_NONE: &str =
    include_str!("../../tests/kube-proxy-1.37/healthCheckNodePort-none-local.txt");

/// A free port of the loopback address.
fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    socket.local_addr().expect("an address").port()
}

fn wanted(port: u16, count: usize) -> Wanted {
    let key = ObjectKey {
        namespace: "live".into(),
        name: "lb-local".into(),
    };
    let local_endpoints = BTreeMap::from([(Family::V4, count)]);
    Wanted {
        checks: OrdMap::from_iter([(
            key,
            HealthCheck {
                port,
                uid: Some("u-1".into()),
                local_endpoints,
            },
        )]),
        addresses: BTreeMap::from([(Family::V4, vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])]),
    }
}

fn ask(port: u16, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Asks until the answer has this in it, or there is no answer if it is `None`.
async fn until(port: u16, part: Option<&'static str>) -> Option<String> {
    for _ in 0..400 {
        let answer = tokio::task::spawn_blocking(move || ask(port, "GET", "/healthz"))
            .await
            .expect("no panic");
        let met = match (&answer, part) {
            (Some(answer), Some(part)) => answer.contains(part),
            (answer, part) => answer.is_none() && part.is_none(),
        };
        if met {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("port {port} never answered {part:?}");
}

/// Status line, headers but for the date, and body.
fn parts(text: &str) -> (String, Vec<String>, String) {
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").expect("a body");
    let mut lines = head.lines().map(str::to_ascii_lowercase);
    let status = lines.next().expect("a status");
    let mut headers: Vec<String> = lines
        .filter(|line| !line.starts_with("date") && !line.starts_with("connection"))
        .collect();
    headers.sort();
    (status, headers, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_kube_proxys_and_follows_objects_and_health_15() {
    let health = Arc::new(ProxyHealth::new(Duration::from_mins(1)));
    let service = Arc::new(ServiceHealth::new(Arc::clone(&health)));
    let port = free_port();
    let (tell, told) = watch::channel(wanted(port, 1));
    let run = tokio::spawn(Arc::clone(&service).run(told));
    let good = until(port, Some("200 OK")).await.expect("an answer");
    assert_eq!(parts(&good), parts(RECORDED_GOOD));
    let other = tokio::task::spawn_blocking(move || ask(port, "POST", "/any/path"))
        .await
        .expect("no panic");
    assert_eq!(parts(&other.expect("an answer")), parts(RECORDED_GOOD));
    // No endpoint here any more.
    tell.send(wanted(port, 0)).expect("it listens");
    let none = until(port, Some("503 ")).await.expect("an answer");
    assert_eq!(parts(&none), parts(RECORDED_NONE));
    // Endpoints, but updates that wait too long.
    tell.send(wanted(port, 1)).expect("it listens");
    until(port, Some("200 OK")).await;
    health.queued(
        Instant::now()
            .checked_sub(Duration::from_mins(2))
            .expect("a time"),
    );
    let stale = until(port, Some("503 ")).await.expect("an answer");
    assert!(
        stale.contains("\"localEndpoints\": 1") && stale.contains("\"serviceProxyHealthy\": false"),
        "{stale}"
    );
    // Another port; then none at all.
    let moved = free_port();
    tell.send(wanted(moved, 1)).expect("it listens");
    until(moved, Some("HTTP/1.1")).await;
    until(port, None).await;
    tell.send(Wanted::default()).expect("it listens");
    until(moved, None).await;
    drop(tell);
    run.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_of_and_tried_again_15_9() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let service = Arc::new(ServiceHealth::new(Arc::new(ProxyHealth::new(
        Duration::from_mins(1),
    ))));
    let (tell, told) = watch::channel(wanted(port, 1));
    let run = tokio::spawn(Arc::clone(&service).run(told));
    for _ in 0..400 {
        if !service.problems().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let problems = service.problems();
    assert!(
        problems[0].contains("live/lb-local") && problems[0].contains("healthCheckNodePort"),
        "{problems:?}"
    );
    drop(taken);
    until(port, Some("200 OK")).await;
    assert!(service.problems().is_empty());
    drop(tell);
    run.await.expect("no panic");
}

#[test]
fn without_addresses_of_its_own_a_family_listens_on_all_of_them_15_7() {
    let mut all = wanted(1, 1);
    all.addresses.clear();
    let keys: Vec<_> = all.checks.keys().cloned().collect();
    for key in keys {
        let check = all.checks.get_mut(&key).expect("a check");
        check.local_endpoints.insert(Family::V6, 2);
    }
    let places: Vec<_> = all
        .places()
        .into_iter()
        .map(|(place, count)| (place.address.to_string(), count))
        .collect();
    assert_eq!(
        places,
        [("0.0.0.0:1".to_owned(), 1), ("[::]:1".to_owned(), 2)]
    );
    // None matches: nobody listens.
    all.addresses = BTreeMap::from([(Family::V4, Vec::new()), (Family::V6, Vec::new())]);
    assert!(all.places().is_empty());
}
