//! Where cluster objects come from.
//!
//! Every source gives complete sets of [`Objects`](crate::model::Objects), the latest one, and none before its first
//! complete reading (behaviours 22.1). What is made of them is the model's business.

pub mod manifests;
