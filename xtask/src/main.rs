//! nodeport developer verbs.
fn main() {}
