//! `println!` and `eprintln!` for readers that may go away: `cargo xtask doctor | head` ends quietly.
//!
//! Owns nothing but these two macros, which stand in the place of std's in this crate. Invariant: output that nobody reads stops nothing.
//! SIGPIPE stays ignored on purpose: a verb that it killed would leave its lab behind.

use std::fmt::Arguments;
use std::io::{ErrorKind, Result, Write};

/// Writes a line; a reader that went away is no error.
pub(crate) fn line(to: &mut impl Write, text: Arguments<'_>) -> Result<()> {
    match writeln!(to, "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

macro_rules! println {
    () => { println!("") };
    ($($text:tt)*) => {
        $crate::say::line(&mut std::io::stdout().lock(), format_args!($($text)*))
            .expect("standard output can be written")
    };
}

macro_rules! eprintln {
    ($($text:tt)*) => {
        // Whatever is wrong with standard error, there is no other place to tell of it.
        { let _written = $crate::say::line(&mut std::io::stderr().lock(), format_args!($($text)*)); }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> Result<usize> {
            Err(Error::from(self.0))
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_reader_that_went_away_is_no_error() {
        assert!(line(&mut Failing(ErrorKind::BrokenPipe), format_args!("x")).is_ok());
        assert!(line(&mut Failing(ErrorKind::StorageFull), format_args!("x")).is_err());
        let mut text = Vec::new();
        line(&mut text, format_args!("a{}", 1)).expect("memory can be written");
        assert_eq!(text, b"a1\n");
    }
}
