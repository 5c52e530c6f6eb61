//! What became of a frame, and what a story may say about that.

use std::fmt;
use std::marker::PhantomData;

use nodeport_common::Outcome;
use nodeport_ebpf::path::{Action, Verdict};
use nodeport_ebpf::sim::Frame;

use crate::packets::{Seen, Wire};
use crate::sums;

/// What became of a frame.
pub struct Trip<A> {
    pub xdp: Option<Verdict>,
    pub tc: Option<Verdict>,
    pub frame: Frame,
    sent: Frame,
    family: PhantomData<A>,
}

impl<A> fmt::Debug for Trip<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at XDP {:?}, at TC {:?}", self.xdp, self.tc)?;
        writeln!(f, "  before {}", Hex(&self.sent.bytes))?;
        write!(f, "  after  {}", Hex(&self.frame.bytes))
    }
}

impl<A: Wire> Trip<A> {
    pub fn new(xdp: Option<Verdict>, tc: Option<Verdict>, frame: Frame, sent: Frame) -> Self {
        Self {
            xdp,
            tc,
            frame,
            sent,
            family: PhantomData,
        }
    }

    /// What became of the frame: the last hook's verdict, but that of XDP if it translated the frame, which then is none of ours to TC.
    pub fn verdict(&self) -> Verdict {
        let (xdp, tc) = (self.xdp, self.tc);
        let translated = xdp.filter(|verdict| verdict.outcome == Outcome::ToLocalBackend);
        let is_once = tc.is_none_or(|verdict| verdict.outcome == Outcome::Untouched);
        assert!(
            translated.is_none() || is_once,
            "translated twice: {self:?}"
        );
        translated.or(tc).or(xdp).expect("a hook saw the frame")
    }

    /// Asserts the outcome, and that its action fits.
    #[track_caller]
    pub fn is(&self, outcome: Outcome) -> &Self {
        assert_eq!(self.verdict().outcome, outcome, "{self:?}");
        self
    }

    /// Asserts that the frame left by a device with its link-layer header written.
    #[track_caller]
    pub fn left_by(&self, device: u32) -> &Self {
        self.left_as(Action::Transmit, device)
    }

    /// Asserts that the frame got to the other end of a device, with its link-layer header written.
    #[track_caller]
    pub fn arrived_by(&self, device: u32) -> &Self {
        self.left_as(Action::Deliver, device)
    }

    #[track_caller]
    fn left_as(&self, action: Action, device: u32) -> &Self {
        let verdict = self.verdict();
        assert_eq!(
            (verdict.action, verdict.device),
            (action, device),
            "{self:?}"
        );
        self
    }

    /// Asserts that the frame was dropped.
    #[track_caller]
    pub fn was_dropped(&self, outcome: Outcome) {
        self.is(outcome);
        assert_eq!(self.verdict().action, Action::Drop, "{self:?}");
    }

    /// Asserts that the frame went on as it came.
    #[track_caller]
    pub fn passed_untouched(&self, outcome: Outcome) {
        self.is(outcome);
        assert_eq!(self.verdict().action, Action::Pass, "{self:?}");
        assert_eq!(self.frame.bytes, self.sent.bytes, "modified");
    }

    /// The frame, parsed anew; its checksums are right.
    #[track_caller]
    pub fn seen(&self) -> Seen<A> {
        assert_eq!(
            sums::wrong(&self.frame.bytes),
            Vec::<&str>::new(),
            "{self:?}"
        );
        Seen::read(&self.frame.bytes)
    }
}

/// Bytes as tools that decode packets take them.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
