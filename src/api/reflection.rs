//! gRPC reflection: the services of this port that are for operators, with their messages.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

use crate::{rpc, xds::descriptor};

/// The services that reflection names; that by which replicas ask one another is not for people.
const SERVICES: [&str; 4] = [
    "tidegate.v1.Operator",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
];

/// Adds reflection to the operators' port.
///
/// # Errors
/// When the descriptors, which are part of the binary, do not fit together; a test holds that they do.
pub fn with_reflection(routes: Routes) -> Result<Routes, Error> {
    let sets = [rpc::DESCRIPTORS, descriptor::BYTES, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let builder = sets.into_iter().fold(Builder::configure(), Builder::register_encoded_file_descriptor_set);
    let reflection = SERVICES.into_iter().fold(builder, Builder::with_service_name).build_v1()?;
    Ok(routes.add_service(reflection))
}
