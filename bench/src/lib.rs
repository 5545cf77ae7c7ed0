//! What the load generator, the reference servers and the scenarios share. Depends on nothing of Tidegate, so that any
//! xDS server can be measured.

pub mod clock;
pub mod h2;
pub mod load;
pub mod proto;
pub mod reference;
pub mod resources;
pub mod scenario;
pub mod stamp;
