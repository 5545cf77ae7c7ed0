//! The xDS server: sessions decide, fan-outs share frames, the service moves bytes, the intake admits.

pub mod fanout;
pub mod session;
