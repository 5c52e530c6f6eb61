//! The node agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodeport_agent::cli::main()
}
