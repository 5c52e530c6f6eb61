//! What all files say together.
//!
//! Owns which file's object counts where several have one: the last, in the order of the paths, then of file names. It refuses to know
//! how files are read. Invariant: the cost of a change does not depend on how many objects and files there are.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::model::objects::{Object, ObjectRef, Objects};
use crate::model::report::{Reason, Report};

/// A file: index of the given path, and its own path.
pub(super) type Place = (usize, Arc<Path>);

/// The objects of all files.
#[derive(Debug, Default)]
pub(super) struct Merged {
    objects: Objects,
    /// Every file that has an object, in order.
    given: HashMap<ObjectRef, Vec<(Place, Object)>>,
    /// Objects that several files have.
    again: BTreeSet<ObjectRef>,
}

impl Merged {
    /// A file has another object of this name now, or none.
    pub(super) fn set(&mut self, place: &Place, reference: &ObjectRef, object: Option<&Object>) {
        let all = self
            .given
            .entry(reference.clone())
            .or_insert_with(|| Vec::with_capacity(1));
        let at = all.binary_search_by(|(other, _)| other.cmp(place));
        match (at, object) {
            (Ok(at), Some(object)) => all[at].1 = object.clone(),
            (Err(at), Some(object)) => all.insert(at, (place.clone(), object.clone())),
            (Ok(at), None) => drop(all.remove(at)),
            (Err(_), None) => {}
        }
        if all.len() > 1 {
            self.again.insert(reference.clone());
        } else {
            self.again.remove(reference);
        }
        if let Some((_, object)) = all.last() {
            self.objects.insert(object.clone());
        } else {
            self.given.remove(reference);
            self.objects.remove(reference);
        }
    }

    /// The objects that count.
    pub(super) fn objects(&self) -> Objects {
        self.objects.clone()
    }

    /// Which objects do not count because a later file has them, too.
    pub(super) fn reports(&self) -> impl Iterator<Item = Report> {
        let all = self.again.iter().filter_map(|one| self.given.get(one));
        all.flat_map(|all| all.windows(2).map(|two| given_again(&two[0].1, &two[1].1)))
    }
}

/// Where an object was read.
pub(super) fn origin(object: &Object) -> String {
    let origin = object.meta().origin.as_deref();
    origin.unwrap_or_default().to_owned()
}

/// The earlier of two objects of one name does not count.
pub(super) fn given_again(earlier: &Object, later: &Object) -> Report {
    Report {
        origin: Some(origin(earlier)),
        object: Some(earlier.reference()),
        field: String::new(),
        reason: Reason::GivenAgain(origin(later)),
    }
}
