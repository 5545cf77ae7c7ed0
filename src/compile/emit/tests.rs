//! Claims about what Envoy is told.
