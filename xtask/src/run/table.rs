//! The table of what was tried.

use comfy_table::{ContentArrangement, Table, presets};
use nodeport_tests::Family;
use nodeport_tests::clients::Verdict;
use nodeport_tests::expect::Asked;
use nodeport_tests::objects::Protocol;
use nodeport_tests::trial::Row;

/// A row for each trial.
pub(crate) fn full(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "client",
        "family",
        "protocol",
        "service",
        "front end",
        "asked",
        "node",
        "backend",
        "it saw the client as",
        "carried by",
        "right",
    ]);
    for row in rows {
        table.add_row(cells(row));
    }
    table
}

fn cells(row: &Row) -> Vec<String> {
    let trial = &row.trial;
    let (backend, seen) = match &row.verdict {
        Verdict::Answered(answer) => (
            match (answer.name.as_str(), answer.server) {
                ("standin", Some(server)) => server.to_string(),
                (name, Some(server)) => format!("{name} {}", server.ip()),
                (name, None) => name.to_owned(),
            },
            answer
                .client
                .map(|client| client.ip().to_string())
                .unwrap_or_default(),
        ),
        Verdict::Refused => ("refused".to_owned(), String::new()),
        Verdict::Silent => ("silent".to_owned(), String::new()),
        Verdict::Failed(why) => (format!("failed: {why}"), String::new()),
    };
    vec![
        trial.client.clone(),
        match Family::of(trial.to.ip()) {
            Family::V4 => "IPv4".to_owned(),
            Family::V6 => "IPv6".to_owned(),
        },
        match trial.protocol {
            Protocol::Tcp => "TCP".to_owned(),
            Protocol::Udp => "UDP".to_owned(),
            Protocol::Sctp => "SCTP".to_owned(),
        },
        trial.service.clone(),
        match trial.asked {
            Asked::Cluster => "ClusterIP".to_owned(),
            Asked::NodePort => "NodePort".to_owned(),
        },
        trial.to.to_string(),
        row.node.clone(),
        backend,
        seen,
        row.hook.clone(),
        row.wrong
            .as_ref()
            .map_or_else(|| "yes".to_owned(), |why| format!("NO: {why}")),
    ]
}

/// How many of which kind, in a few lines.
pub(crate) fn summary(rows: &[Row]) -> String {
    let count = |matches: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| matches(row)).count();
    let wrong = count(&|row| row.wrong.is_some());
    format!(
        "{} tried: {} answered, {} refused, {} silent; carried by XDP alone {}, by TC {}, by sockets {}; {}",
        rows.len(),
        count(&|row| matches!(row.verdict, Verdict::Answered(_))),
        count(&|row| row.verdict == Verdict::Refused),
        count(&|row| row.verdict == Verdict::Silent),
        count(&|row| row.hook == "xdp"),
        count(&|row| row.hook.contains("tc")),
        count(&|row| row.hook == "socket"),
        if wrong == 0 {
            "every row is right".to_owned()
        } else {
            format!("{wrong} rows are WRONG")
        },
    )
}
