//! Tests of what only the embedded store promises.
