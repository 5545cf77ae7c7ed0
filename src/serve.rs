//! The xDS server: sessions decide, fan-outs share frames, the service moves bytes, the intake admits.
