//! What only the kernel knows: maps, contexts, routing. The only code of this crate with `unsafe`.

mod devices;
pub(crate) mod family;
pub(crate) mod log;
pub(crate) mod maps;
pub(crate) mod outcomes;
pub(crate) mod tables;
pub(crate) mod tc;
mod window;
pub(crate) mod xdp;
