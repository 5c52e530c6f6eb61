//! One agent per pin directory.
//!
//! Owns the lock. Refuses to know what is in the directory. Invariant: the kernel frees the lock when its holder ends, however
//! it ends; there is no file to be left behind. A BPF file system refuses to open its files, but its directories can be
//! opened and locked, and that ties the lock to the directory itself rather than to one of its names.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::DatapathError;

/// The right to change what is pinned under a directory, for as long as the value lives.
#[derive(Debug)]
pub struct Lock {
    _directory: OwnedFd,
}

impl Lock {
    /// Takes the lock of `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`DatapathError::Locked`] if another process holds it, [`DatapathError::File`] if the directory cannot be used.
    pub fn take(directory: &Path) -> Result<Self, DatapathError> {
        fs::create_dir_all(directory)
            .map_err(DatapathError::file("create directory", directory))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| DatapathError::file("open directory", directory)(errno.into()))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _directory: fd }),
            Err(Errno::WOULDBLOCK) => Err(DatapathError::Locked {
                path: directory.to_owned(),
            }),
            Err(errno) => Err(DatapathError::file("lock directory", directory)(
                errno.into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pins = place.path().join("nodeport");
        let first = Lock::take(&pins).expect("the first holder");
        let second = Lock::take(&pins);
        assert!(matches!(second, Err(DatapathError::Locked { .. })));
        let message = second.expect_err("refused").to_string();
        assert!(message.contains("another nodeport-agent uses"), "{message}");
        drop(first);
        assert!(Lock::take(&pins).is_ok());
    }
}
