//! The contract over etcd.
