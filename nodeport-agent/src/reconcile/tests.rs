//! Stories and properties of passes over a store in memory.

mod audit;
mod build;
mod limits;
mod properties;
mod stories;
mod view;
mod views;
