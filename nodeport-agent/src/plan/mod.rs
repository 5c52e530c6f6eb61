//! Desired state and installed state in, ordered steps out. Pure: no clock, file, socket, tokio, kube or aya.
//!
//! Owns the update protocol (behaviours 22.5, 22.6; edge-cases I1-I6): which slots hold which backend set, which number a
//! service port has, and in which order maps are changed. It refuses to know how maps are written. Invariant: after every
//! prefix of every plan each front end names complete sets.
//!
//! Read [`diff`] first, then `differ`, then [`Installed`].

mod contents;
mod diff;
mod differ;
mod family;
mod flags;
mod ids;
mod installed;
mod noted;
mod refusal;
mod sets;
mod slots;
mod step;
mod unit;
mod view;

pub use contents::{Contents, Limits, slots_named};
pub use diff::{Plan, Planned, diff, diff_since};
pub use family::{
    Ip, backend, frontend_key, frontend_text, protocol_name, protocol_number, serving_key,
    socket_address, source_key, source_range,
};
pub use flags::{address_flag_names, frontend_flag_names};
pub use ids::Ids;
pub use installed::{Installed, Tables};
pub use noted::Noted;
pub use refusal::{Reason, Refused};
pub use sets::Sets;
pub use slots::{Resting, Slots};
pub use step::{Action, Change, Step};
pub use view::{
    AddressView, BackendView, FamilyState, FrontendView, ServingView, SetView, SourceView, State,
    StateError, StepView,
};
