//! Objects → xDS, pure: `resolve` decides what the objects mean for an audience, `emit` writes it in Envoy's words.
//! No I/O, no clocks; the same input gives the same bytes on every replica.

pub mod names;
pub mod emit;
pub mod plan;
pub mod reader;
pub mod resolve;
