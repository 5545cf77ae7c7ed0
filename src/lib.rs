//! Tidegate: the control plane of a global edge.
//!
//! Manifests come in, by the API or as keys of the store; xDS goes out to Envoys; what they say about it comes back.
//!
//! ```text
//! store ──▶ catalog ──▶ compile ──▶ snapshot ──▶ serve ──▶ Envoy
//!   ▲       objects     objects     what each    streams     │
//!   │                   → xDS       audience sees            │
//!  api ◀── status ◀───────────────── feedback ◀── ACK, NACK ─┘
//! ```
//!
//! [`pipeline`] drives the line from `store` to `snapshot`; [`app`] builds all parts and starts them.
//!
//! # Invariants
//!
//! - **One way.** Data flows along the line. The one arrow against it is interest: a stream opens its audience's view,
//!   and the pipeline compiles it ([`snapshot::Views::interest`]).
//! - **A function of the store.** [`compile`] is pure; equal content gives equal bytes on every replica, and a version
//!   is a hash of them.
//! - **Silence, never emptiness.** Before a full listing is compiled, and for a proxy that is refused, nothing is
//!   answered: "removed" is said only of what is known to be gone.
//! - **One bad thing stays one bad thing.** What cannot be read or would be refused by Envoy is left out, it alone, and
//!   named.
//! - **Order on the wire.** A proxy is not told of a route before the cluster that it needs is warm, and a cluster goes
//!   after what used it ([`serve::session`]).
//! - **Nobody unproven gets a secret.** [`identity::resolve`] is the only maker of an audience.
//! - **Bounded.** Every queue has a limit, every wait a deadline; a slow reader costs the newest value of what it has
//!   not read.
//!
//! # Modules
//!
//! In reading order; each names only what stands before it, by the table in `tidy.rs`, which a test holds.
//!
//! | module | its one job |
//! | --- | --- |
//! | [`model`] | the nouns: objects, names, keys of the store, audiences, scopes |
//! | [`manifest`] | YAML or JSON text ↔ objects, all faults at once with line and column |
//! | [`xds`] | types, versions, resources; the walks over Envoy's descriptors |
//! | [`identity`] | certificate and node claim → audience, principal or refusal |
//! | [`rpc`] | generated code of `proto/` |
//! | [`store`] | keys, revisions, watches, transactions, leases: embedded and etcd, one contract |
//! | [`catalog`] | keys → typed objects, live endpoints, problems |
//! | [`compile`] | objects → xDS: `resolve` decides, `emit` writes |
//! | [`snapshot`] | what each audience sees, what changed, who is interested |
//! | [`feedback`] | what proxies acknowledged and refused |
//! | [`serve`] | the ADS server: state machines, shared frames, moved bytes, admission of connections |
//! | [`pipeline`] | a replica's loop: changes and interest in, publishes out |
//! | [`admission`] | is this change good? |
//! | [`status`] | problems and acknowledgements → conditions, counts, laggards |
//! | [`replicas`] | registration, election with fencing, asking the others |
//! | [`leader`] | what the elected replica writes: accepted copies, watermarks, conditions |
//! | [`api`] | the operators' gRPC service; health and metrics pages |
//! | [`bootstrap`] | an Envoy bootstrap |
//! | [`certs`] | a certificate authority for trials |
//! | [`cli`] | the command line |
//! | [`app`] | builds, starts and stops the parts |
//! | [`demo`] | a small edge on this machine |
//! | [`telemetry`] | the log and the metrics registry |

// Words.
pub mod model;
pub mod manifest;
pub mod xds;
pub mod identity;
pub mod rpc;
// Line.
pub mod store;
pub mod catalog;
pub mod compile;
pub mod snapshot;
pub mod feedback;
pub mod serve;
pub mod pipeline;
// Judgement.
pub mod admission;
pub mod status;
pub mod replicas;
pub mod leader;
// Rim.
pub mod api;
pub mod bootstrap;
pub mod certs;
pub mod cli;
pub mod app;
pub mod demo;
pub mod telemetry;
#[cfg(test)]
mod fuzzing;
#[cfg(test)]
mod tidy;
