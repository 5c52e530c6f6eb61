//! Log lines: on standard error, as text or JSON.
//!
//! Owns the set-up of `tracing`. Refuses to know what is logged. Invariants: standard output is for what a verb prints; log lines that
//! nobody reads stop nothing.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Starts logging, one JSON object a line or text for people. A second call does nothing.
pub fn init(level: LevelFilter, json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        // It would tell of a standard error that is closed by `eprintln!` to standard error, which panics.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // Fails only if a subscriber is set already, which then goes on.
    let _set = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false)
            .try_init()
    };
}

/// Our level for our own lines and those of the programs; other crates tell of what goes wrong, and of more only in a trace.
fn filter(level: LevelFilter) -> EnvFilter {
    let others = if level >= LevelFilter::TRACE {
        LevelFilter::DEBUG
    } else {
        level.min(LevelFilter::WARN)
    };
    EnvFilter::new(format!("{others},nodeport_agent={level},nodeport={level}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_do_not_drown_our_lines() {
        let text = filter(LevelFilter::DEBUG).to_string();
        assert!(text.contains("nodeport_agent=debug"), "{text}");
        assert!(text.contains("warn"), "{text}");
        let text = filter(LevelFilter::ERROR).to_string();
        assert!(!text.contains("warn"), "{text}");
    }
}
