//! Generates the Rust code of Tidegate's own gRPC API, and its descriptors for reflection.

fn main() -> std::io::Result<()> {
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("cargo sets OUT_DIR"))?;
    let descriptors = std::path::Path::new(&out).join("tidegate.binpb");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        .compile_protos(&["proto/tidegate/v1/tidegate.proto"], &["proto"])
}
