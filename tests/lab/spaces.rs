//! A few network namespaces without a lab around them: made by name, recorded, removed when dropped.
//!
//! For those who wire up namespaces themselves (the benchmark). Invariant: as with a lab, what is made is recorded before it is made.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::interrupt;
use crate::lab::{Node, remove};
use crate::machine::mount_bpffs;
use crate::netns::{Netns, ip_batch};
use crate::record::Record;
use crate::topology::netns_name;

/// Namespaces with a record.
#[derive(Debug)]
pub struct Spaces {
    id: String,
    record: Record,
    made: Vec<(String, Netns)>,
}

impl Spaces {
    /// Makes one namespace for each of these names.
    ///
    /// # Errors
    /// If one cannot be made (not root); what was made until then is removed.
    pub fn make(parts: &[&str]) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        mount_bpffs()?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}s{number}", std::process::id());
        let record = Record::create(&id)?;
        interrupt::watch(record.dir())?;
        // From here on the drop removes what was made.
        let mut all = Self {
            id,
            record,
            made: Vec::new(),
        };
        let names: Vec<_> = parts.iter().map(|part| netns_name(&all.id, part)).collect();
        all.record.netns(&names)?;
        let lines: Vec<_> = names
            .iter()
            .map(|name| format!("netns add {name}"))
            .collect();
        ip_batch(&lines)?;
        for (part, name) in parts.iter().zip(&names) {
            all.made.push(((*part).to_owned(), Netns::open(name)?));
        }
        Ok(all)
    }

    /// The namespace of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn get(&self, part: &str) -> &Netns {
        let found = self.made.iter().find(|(name, _)| name == part);
        &found.unwrap_or_else(|| panic!("no namespace {part}")).1
    }

    /// The record, to start processes.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// A namespace as a node on which an agent can be started; it knows no addresses and no Pods.
    ///
    /// # Errors
    /// If its directory cannot be made.
    ///
    /// # Panics
    /// If there is no such namespace.
    pub fn node(&self, part: &str) -> Result<Node> {
        let run_dir = self.record.dir().join(part);
        fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/nodeport-lab-{}-{part}", self.id));
        self.record.pins(&pin_dir)?;
        Ok(Node {
            name: part.to_owned(),
            netns: self.get(part).clone(),
            addresses: [None, None],
            second_addresses: [None, None],
            overlay_addresses: Vec::new(),
            pods: Vec::new(),
            run_dir,
            pin_dir,
            cgroup: None,
        })
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        remove(&self.record);
    }
}
