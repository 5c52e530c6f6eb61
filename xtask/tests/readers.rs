//! Readers that go away (`| head`) end no verb with a panic.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The writing end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    Stdio::from(File::from(OwnedFd::from(writer)))
}

#[test]
fn a_verb_whose_output_nobody_reads_ends_as_it_would_have() {
    let doctor = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("doctor").stdin(Stdio::null());
        command
    };
    let wanted = doctor().output().expect("xtask runs").status.code();
    let output = doctor().stdout(unread()).output().expect("xtask runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(output.status.code(), wanted, "{said}");
    let status = doctor().stdout(unread()).stderr(unread()).status();
    assert_eq!(status.expect("xtask runs").code(), wanted);
}
