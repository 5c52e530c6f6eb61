//! The kernel's jiffies, as the programs write them into flows.
//!
//! Owns the reading. Invariant: it is the same counter that the programs read, hence ages are differences of like numbers.

use aya::programs::{TestRun as _, TestRunOptions};
use nodeport_common::programs;

use super::error::DatapathError;
use super::load::{Loaded, xdp};

/// The smallest frame that a test run takes.
const FRAME: [u8; 64] = [0; 64];

impl Loaded {
    /// The low 32 bits of the kernel's jiffies, now.
    ///
    /// # Errors
    /// [`DatapathError::Program`] if the kernel refuses the test run.
    pub fn jiffies(&mut self) -> Result<u32, DatapathError> {
        let name = programs::CLOCK;
        let options = TestRunOptions {
            data_in: Some(&FRAME),
            ..TestRunOptions::default()
        };
        match xdp(&mut self.programs, name)?.test_run(options) {
            Ok(result) => Ok(result.return_value),
            Err(error) => Err(DatapathError::Program {
                name: name.to_owned(),
                source: Box::new(error),
            }),
        }
    }
}
