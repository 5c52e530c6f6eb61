//! The destinations that programs must look up, as the plan of one family sees them.
//!
//! Owns what is noted and when it is complete. It refuses to know which front ends are wanted: it reads the other changes of the plan.
//! Invariant: every front end and address that the plan puts is noted by it before, or was.

use super::{Differ, Phase};
use crate::plan::family::Ip;
use crate::plan::noted::Noted;
use crate::plan::step::Change;

impl<A: Ip> Differ<'_, A> {
    /// Notes what the other changes put; and all that is installed, unless that is known to be noted.
    pub(super) fn notes(&mut self) {
        let tables = self.tables;
        let puts = [Phase::PutFrontends, Phase::PutAddresses];
        if !tables.notes_due
            && puts.map(|phase| self.out.phases[phase as usize].is_empty()) == [true; 2]
        {
            return;
        }
        let mut noted = tables.noted.clone();
        if tables.notes_due {
            for key in tables.frontends.keys() {
                noted.frontend(key);
            }
            for (&address, &flags) in &tables.addresses {
                noted.address(address, flags);
            }
        }
        for phase in puts {
            for (_, change) in &self.out.phases[phase as usize] {
                note(&mut noted, change);
            }
        }
        for (word, value) in noted.changes(&tables.noted) {
            self.emit(Phase::Note, None, Change::Note { word, value });
        }
        if !tables.noted.is_trusted() {
            self.emit(Phase::Note, None, Change::TrustNotes);
        }
    }
}

fn note<A: Ip>(noted: &mut Noted, change: &Change<A>) {
    match change {
        Change::PutFrontend { key, .. } => noted.frontend(key),
        Change::PutAddress { address, flags } => noted.address(*address, *flags),
        _ => {}
    }
}
