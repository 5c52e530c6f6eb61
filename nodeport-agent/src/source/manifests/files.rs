//! The files that the given paths stand for, and what each of them said when it last could be read.
//!
//! Owns last good states. It refuses to know when to look again ([`super`]).
//! Invariant: an object goes only if its file is gone or if the whole file, understood to the end, has it no more.
//!
//! A path is a file, or a directory of which the files named `*.yaml`, `*.yml` and `*.json` are read, as with
//! `kubectl apply -f`: one level, not the directories in it, so that the `..data` directory of a ConfigMap's volume is not
//! read twice. Names that begin with a dot are an editor's and are left out. An object that is given more than once counts
//! as last given, in the order of the paths, then of file names, then of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{Known, Reading, Syntax};
use super::merged::{Merged, Place, given_again};
use crate::model::objects::{Object, ObjectRef, Objects};
use crate::model::report::{Reason, Report};

/// Larger files are refused: nothing that an API server holds is as large.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The given paths and all that is known of them.
#[derive(Debug, Default)]
pub struct Files {
    paths: Vec<PathBuf>,
    states: BTreeMap<Place, FileState>,
    /// What they say together.
    merged: Merged,
    /// By index of the given path: why it cannot be looked at.
    unreachable: BTreeMap<usize, String>,
}

/// A file as it was last seen.
#[derive(Debug, Default)]
struct FileState {
    /// `None` if it could not be looked at.
    fingerprint: Option<Fingerprint>,
    objects: BTreeMap<ObjectRef, Object>,
    reports: Vec<Report>,
    /// Documents that need not be read again.
    known: Known,
}

/// Objects that a file has now in the place of others, or no more.
type Changes = Vec<(ObjectRef, Option<Object>)>;

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Of the given paths; nothing is read yet.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            ..Self::default()
        }
    }

    /// Looks at every file, reads those that changed, and says whether anything did.
    pub fn refresh(&mut self) -> bool {
        let mut changed = false;
        for index in 0..self.paths.len() {
            match files_of(&self.paths[index]) {
                Ok(files) => {
                    changed |= self.unreachable.remove(&index).is_some();
                    changed |= self.refresh_path(index, files);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    changed |= self.refresh_path(index, Vec::new());
                    changed |= self.set_unreachable(index, &error);
                }
                Err(error) => changed |= self.set_unreachable(index, &error),
            }
        }
        changed
    }

    /// The given paths that are not there or cannot be looked at, with the reason.
    pub fn unreachable(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.unreachable
            .iter()
            .map(|(index, error)| (self.paths[*index].as_path(), error.as_str()))
    }

    /// The given paths.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The files that are known now.
    pub fn known(&self) -> impl Iterator<Item = &Path> {
        self.states.keys().map(|(_, file)| &**file)
    }

    /// All objects, and all that is wrong with the files.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let mut objects = self.merged.objects();
        for (path, error) in self.unreachable() {
            let reason = Reason::Unreadable(error.to_owned());
            objects.reports.push(about(path, reason));
        }
        for state in self.states.values() {
            objects.reports.extend(state.reports.iter().cloned());
        }
        objects.reports.extend(self.merged.reports());
        objects.reports.sort();
        objects
    }

    fn set_unreachable(&mut self, index: usize, error: &io::Error) -> bool {
        let error = error.to_string();
        self.unreachable.insert(index, error.clone()) != Some(error)
    }

    fn refresh_path(&mut self, index: usize, files: Vec<PathBuf>) -> bool {
        let files: BTreeSet<PathBuf> = files.into_iter().collect();
        let gone = self
            .states
            .keys()
            .filter(|(of, file)| *of == index && !files.contains(&**file));
        let gone: Vec<Place> = gone.cloned().collect();
        let mut changed = !gone.is_empty();
        for place in gone {
            let objects = self.states.remove(&place).map(|state| state.objects);
            for reference in objects.unwrap_or_default().keys() {
                self.merged.set(&place, reference, None);
            }
        }
        for file in files {
            let place = (index, Arc::from(file));
            let state = self.states.entry(place.clone()).or_default();
            let (told, changes) = state.refresh(&place.1);
            changed |= told || !changes.is_empty();
            for (reference, object) in &changes {
                self.merged.set(&place, reference, object.as_ref());
            }
        }
        changed
    }
}

impl FileState {
    /// Reads the file if it is another one than before. Says whether there is something else to tell, and what changed.
    fn refresh(&mut self, file: &Path) -> (bool, Changes) {
        let seen = fs::metadata(file).map(|metadata| Fingerprint::of(&metadata));
        if seen.as_ref().ok() == self.fingerprint.as_ref() && self.fingerprint.is_some() {
            return (false, Changes::new());
        }
        let before = std::mem::take(&mut self.reports);
        let mut changes = Changes::new();
        // Taken before reading: a change while it is read shows at the next look.
        self.fingerprint = seen.ok();
        match read_text(file) {
            Ok(text) => {
                let reading = self.known.read(&name(file), &text, syntax(file));
                changes = self.take(file, reading);
            }
            Err(error) => {
                self.fingerprint = None;
                self.reports
                    .push(about(file, Reason::Unreadable(error.to_string())));
                let kept = self.objects.len();
                self.report_kept(file, kept);
            }
        }
        (self.reports != before, changes)
    }

    /// Puts a reading in the place of the last one, except for what could not be read.
    fn take(&mut self, file: &Path, reading: Reading) -> Changes {
        let last = std::mem::take(&mut self.objects);
        let empty = reading.documents == 0 && !last.is_empty();
        let keep_all = reading.has_unknown() || empty;
        let refused: Vec<&ObjectRef> = reading
            .refused
            .iter()
            .filter_map(|one| one.object.as_ref())
            .collect();
        let mut now = BTreeMap::new();
        for object in reading.objects {
            let reference = object.reference();
            let object = match last.get(&reference) {
                Some(same) if *same == object => same.clone(),
                _ => object,
            };
            if let Some(earlier) = now.get(&reference) {
                self.reports.push(given_again(earlier, &object));
            }
            now.insert(reference, object);
        }
        let mut kept = 0;
        for (reference, object) in &last {
            if (keep_all || refused.contains(&reference)) && !now.contains_key(reference) {
                now.insert(reference.clone(), object.clone());
                kept += 1;
            }
        }
        let changes = changes(&last, &now);
        self.objects = now;
        if empty {
            let what =
                "there is no document in it (an empty List would say that there are no objects)";
            self.reports
                .push(about(file, Reason::Unparsable(what.to_owned())));
        }
        self.reports.extend(reading.refused);
        self.report_kept(file, kept);
        changes
    }

    fn report_kept(&mut self, file: &Path, kept: usize) {
        if kept > 0 {
            let what = if kept == 1 {
                "1 object".to_owned()
            } else {
                format!("{kept} objects")
            };
            self.reports.push(about(file, Reason::Kept(what)));
        }
    }
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The files that a path stands for, in the order of their names.
fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = name_of(&file).starts_with('.');
        let known = ["yaml", "yml", "json"]
            .iter()
            .any(|one| has_extension(&file, one));
        // A dangling link is reported as a file that cannot be read.
        if known && !hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(file: &Path) -> io::Result<String> {
    // A pipe would never end, and opening it might never return.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 256 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

fn syntax(file: &Path) -> Syntax {
    if has_extension(file, "json") {
        Syntax::Json
    } else {
        Syntax::Yaml
    }
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn name(file: &Path) -> String {
    file.display().to_string()
}

/// What is another after a reading.
fn changes(before: &BTreeMap<ObjectRef, Object>, now: &BTreeMap<ObjectRef, Object>) -> Changes {
    let same = |reference: &ObjectRef, object: &Object| {
        before.get(reference).is_some_and(|old| old.is_same(object))
    };
    let come = now
        .iter()
        .filter(|(reference, object)| !same(reference, object));
    let come = come.map(|(reference, object)| (reference.clone(), Some(object.clone())));
    let gone = before
        .keys()
        .filter(|reference| !now.contains_key(reference));
    come.chain(gone.map(|reference| (reference.clone(), None)))
        .collect()
}

fn about(file: &Path, reason: Reason) -> Report {
    Report {
        origin: Some(name(file)),
        object: None,
        field: String::new(),
        reason,
    }
}
