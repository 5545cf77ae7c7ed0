//! Generates the Rust code of Tidegate's own gRPC API.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/tidegate/v1/tidegate.proto"], &["proto"])
}
