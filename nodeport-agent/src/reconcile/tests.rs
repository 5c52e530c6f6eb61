//! Stories and properties of passes over a store in memory.

mod audit;
mod build;
mod kernel;
mod limits;
mod notes;
mod properties;
mod scale;
mod stories;
mod view;
mod views;
