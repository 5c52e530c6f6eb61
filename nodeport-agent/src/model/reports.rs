//! All reports of a state, in order, and what is new among them.
//!
//! Owns how often each is given, as several parts of the model may say the same. It refuses to know who says what. Invariant: a copy
//! costs nothing, and what differs between two states is found without a look at the rest.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::ser::{Serialize, SerializeSeq as _, Serializer};

use super::report::Report;

/// Reports in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports(OrdMap<Arc<Report>, usize>);

impl Reports {
    /// Gives one more.
    pub fn add(&mut self, report: Report) {
        *self.0.entry(Arc::new(report)).or_default() += 1;
    }

    /// Takes one back.
    pub fn retract(&mut self, report: &Report) {
        match self.0.get_mut(report) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(self.0.remove(report)),
            None => {}
        }
    }

    /// Each report as often as it is given.
    pub fn iter(&self) -> impl Iterator<Item = &Report> {
        let each = self.0.iter();
        each.flat_map(|(report, count)| std::iter::repeat_n(&**report, *count))
    }

    /// Those that were not given before.
    pub fn new_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Report> {
        before.0.diff(&self.0).filter_map(|item| match item {
            DiffItem::Add(report, _) => Some(&**report),
            DiffItem::Update { .. } | DiffItem::Remove(..) => None,
        })
    }

    /// Whether both are the same without a doubt; `false` may be wrong.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0) || (self.0.is_empty() && other.0.is_empty())
    }
}

impl Extend<Report> for Reports {
    fn extend<T: IntoIterator<Item = Report>>(&mut self, reports: T) {
        for report in reports {
            self.add(report);
        }
    }
}

impl FromIterator<Report> for Reports {
    fn from_iter<T: IntoIterator<Item = Report>>(reports: T) -> Self {
        let mut all = Self::default();
        all.extend(reports);
        all
    }
}

impl Serialize for Reports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for report in self.iter() {
            list.serialize_element(report)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::Reason;

    fn report(field: &str) -> Report {
        Report {
            object: None,
            field: field.to_owned(),
            origin: None,
            reason: Reason::Missing,
        }
    }

    #[test]
    fn a_report_stays_until_all_who_gave_it_take_it_back() {
        let mut reports: Reports = [report("b"), report("a"), report("b")]
            .into_iter()
            .collect();
        let fields = |reports: &Reports| -> Vec<String> {
            reports.iter().map(|one| one.field.clone()).collect()
        };
        assert_eq!(fields(&reports), ["a", "b", "b"]);
        let before = reports.clone();
        reports.retract(&report("b"));
        reports.retract(&report("a"));
        reports.retract(&report("never given"));
        reports.add(report("c"));
        assert_eq!(fields(&reports), ["b", "c"]);
        let new: Vec<_> = reports.new_since(&before).collect();
        assert_eq!(new, [&report("c")]);
        assert!(before.is_same(&before.clone()) && !before.is_same(&reports));
    }
}
