//! What only the kernel knows: maps, contexts, routing. The only code of this crate with `unsafe`.

pub(crate) mod binds;
mod context;
mod devices;
pub(crate) mod family;
mod lines;
pub(crate) mod log;
pub(crate) mod maps;
mod noted;
pub(crate) mod outcomes;
mod repeat;
pub(crate) mod sockets;
pub(crate) mod tables;
pub(crate) mod tc;
mod window;
pub(crate) mod xdp;
