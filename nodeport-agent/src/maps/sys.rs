//! The bpf(2) system call for map elements, one at a time and in batches. aya 0.14 has no batches.
//!
//! Owns the only `unsafe` of the maps. It refuses to know types of keys and values: they are bytes here. Invariant: every
//! pointer that the kernel gets is to a slice whose length was compared with what the kernel copies.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{MapData, MapError, MapInfo};
use aya::util::nr_cpus;

use super::kind::Kind;

// Commands of bpf(2), from the kernel's include/uapi/linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;

/// Update or create.
pub(super) const ANY: u64 = 0;
/// Only create.
pub(super) const NO_EXIST: u64 = 1;

/// Room for the kernel's position in a map: a bucket number, or a key.
const TOKEN: usize = 64;

/// The operands of commands on one element.
#[derive(Default)]
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The operands of batch commands.
#[derive(Default)]
#[repr(C)]
struct Batch {
    start: u64,
    next_start: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

trait Operands {}
impl Operands for Element {}
impl Operands for Batch {}

/// An open map, and how many bytes the kernel copies for a key and for a value.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    key_size: usize,
    value_size: usize,
    pub(super) max_entries: u32,
}

/// Where a walk through a map stands.
#[derive(Default)]
pub(super) struct Position(Option<[u8; TOKEN]>);

impl RawMap {
    /// Takes a map whose kind, sizes and number of entries the caller has looked at.
    pub(super) fn new(data: MapData, kind: Kind, info: &MapInfo) -> io::Result<Self> {
        let value_size = info.value_size() as usize;
        let per_cpu = kind == Kind::PerCpuArray;
        let cpus = if per_cpu {
            nr_cpus().map_err(|(_, error)| error)?
        } else {
            1
        };
        let stride = if per_cpu {
            value_size.next_multiple_of(8)
        } else {
            value_size
        };
        let key_size = info.key_size() as usize;
        if key_size > TOKEN {
            return Err(io::Error::other("the key is too long"));
        }
        Ok(Self {
            data,
            key_size,
            value_size: stride * cpus,
            max_entries: info.max_entries(),
        })
    }

    /// One value; for per-CPU maps those of all CPUs, each on its own multiple of 8 bytes. `None` if there is no such key.
    pub(super) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let mut element = self.element(key)?;
        element.value = value.as_mut_ptr() as u64;
        found(bpf(MAP_LOOKUP_ELEM, &mut element)).map(|found| found.then_some(value))
    }

    /// Writes one value. `false` if `flags` is [`NO_EXIST`] and the key exists.
    pub(super) fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<bool> {
        check(value.len(), self.value_size)?;
        let mut element = self.element(key)?;
        element.value = value.as_ptr() as u64;
        element.flags = flags;
        match bpf(MAP_UPDATE_ELEM, &mut element) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Removes one entry. `false` if there is no such key.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        found(bpf(MAP_DELETE_ELEM, &mut self.element(key)?))
    }

    /// Reads the entries after `position`, as many as fit into `keys` and `values`, and moves it. Returns how many there were,
    /// and whether these are the last. `None` if there is not enough room for those that the kernel reads at once.
    pub(super) fn lookup_batch(
        &self,
        position: &mut Position,
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<Option<(usize, bool)>> {
        let mut batch = self.batch(keys, Some(values))?;
        batch.keys = keys.as_mut_ptr() as u64;
        batch.values = values.as_mut_ptr() as u64;
        let mut next = [0; TOKEN];
        batch.start = position.0.as_ref().map_or(0, |token| token.as_ptr() as u64);
        batch.next_start = next.as_mut_ptr() as u64;
        let result = bpf(MAP_LOOKUP_BATCH, &mut batch);
        let count = batch.count as usize;
        match result {
            Ok(()) => {
                position.0 = Some(next);
                Ok(Some((count, false)))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(Some((count, true))),
                Some(libc::ENOSPC) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Writes entries. On an error, says how many were written before.
    pub(super) fn update_batch(
        &self,
        keys: &[u8],
        values: &[u8],
    ) -> Result<(), (usize, io::Error)> {
        let batch = self.batch(keys, Some(values)).map_err(|error| (0, error))?;
        partly(MAP_UPDATE_BATCH, batch)
    }

    /// Removes entries. On an error, for example because a key does not exist, says how many were removed before.
    pub(super) fn delete_batch(&self, keys: &[u8]) -> Result<(), (usize, io::Error)> {
        let batch = self.batch(keys, None).map_err(|error| (0, error))?;
        partly(MAP_DELETE_BATCH, batch)
    }

    fn element(&self, key: &[u8]) -> io::Result<Element> {
        check(key.len(), self.key_size)?;
        Ok(Element {
            map_fd: self.fd(),
            key: key.as_ptr() as u64,
            ..Element::default()
        })
    }

    /// A batch of as many entries as `keys` holds; `values` must hold as many.
    fn batch(&self, keys: &[u8], values: Option<&[u8]>) -> io::Result<Batch> {
        let count = keys.len() / self.key_size;
        check(keys.len(), count * self.key_size)?;
        if let Some(values) = values {
            check(values.len(), count * self.value_size)?;
        }
        Ok(Batch {
            keys: keys.as_ptr() as u64,
            values: values.map_or(0, |values| values.as_ptr() as u64),
            count: u32::try_from(count).map_err(io::Error::other)?,
            map_fd: self.fd(),
            ..Batch::default()
        })
    }

    fn fd(&self) -> u32 {
        self.data.fd().as_fd().as_raw_fd().cast_unsigned()
    }
}

/// The operating system's error behind one of aya's.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn check(found: usize, wanted: usize) -> io::Result<()> {
    if found == wanted {
        return Ok(());
    }
    let message = format!("{found} bytes instead of {wanted}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

fn partly(command: libc::c_long, mut batch: Batch) -> Result<(), (usize, io::Error)> {
    let wanted = batch.count;
    bpf(command, &mut batch).map_err(|error| {
        // An error before the first entry leaves the count as it was.
        let done = if batch.count >= wanted {
            0
        } else {
            batch.count
        };
        (done as usize, error)
    })
}

fn bpf<T: Operands>(command: libc::c_long, operands: &mut T) -> io::Result<()> {
    // SAFETY: the operands are one of the two structs above, laid out as `union bpf_attr` has them for these commands, and the
    // kernel reads no more than the size given. The addresses in them are null or those of slices that are alive in the caller
    // and that hold what the kernel reads or writes there: `element` and `batch` compared their lengths with the sizes of key
    // and value that the kernel gave for this very map, and a token has room for a key and for a bucket number. Slices that
    // the kernel writes to were borrowed mutably by `lookup` and `lookup_batch`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(operands),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
