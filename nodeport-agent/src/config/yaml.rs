//! A configuration as YAML, in the form in which kube-proxy writes its own: sorted, one field a line.
//!
//! Owns the spelling. Refuses to know fields. Invariant: what is written reads back as the same value.

use std::fmt::Write as _;

use serde_json::Value;

/// Writes a value as a document.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            for name in names {
                let _ = write!(text, "{:indent$}{name}:", "");
                entry(text, &fields[name], indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(text, "{:indent$}-", "");
                entry(text, item, indent);
            }
        }
        scalar => {
            let _ = writeln!(text, "{:indent$}{}", "", plain(scalar));
        }
    }
}

/// What stands behind a name or a dash.
fn entry(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            block(text, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(text, value, indent);
        }
        scalar => {
            let _ = writeln!(text, " {}", plain(scalar));
        }
    }
}

/// A scalar: text without quotes where it cannot be taken for anything else. JSON is YAML, so quoted text is JSON's.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let safe = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let inner = |c: char| safe(c) || c == ':';
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && text.chars().all(inner)
        && text.parse::<f64>().is_err()
        && !words.contains(&text.to_ascii_lowercase().as_str())
        // Some readers take `190:20:30` for a number of base 60, and `0x1` for one of base 16.
        && !text.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '_')
        && !(text.starts_with('0') && text.contains(['x', 'o', 'b']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_lists_and_scalars_are_spelled_as_kube_proxy_does() {
        let value = json!({"b": {"text": "15m0s", "empty": "", "number": "0", "none": null}, "a": ["primary", "10.0.0.0/8", {"x": 1, "y": true}]});
        let wanted = "a:\n- primary\n- 10.0.0.0/8\n-\n  x: 1\n  y: true\nb:\n  empty: \"\"\n  none: null\n  number: \"0\"\n  text: 15m0s\n";
        assert_eq!(write(&value), wanted);
    }

    #[test]
    fn whatever_the_text_it_reads_back() {
        for text in [
            "no",
            "1e3",
            "0x10",
            "1:30",
            "a: b",
            "- x",
            "#",
            "::",
            "[::]:10256",
            "a\nb",
            "\"",
            "ü",
            " x",
            "0.0.0.0:1",
            "fd00::/8",
            "1_0",
        ] {
            let written = write(&json!({"a": text}));
            let read: Value = serde_saphyr::from_str(&written).expect(&written);
            assert_eq!(read, json!({"a": text}), "{written}");
        }
    }
}
