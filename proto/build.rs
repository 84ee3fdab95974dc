//! Compiles the .proto files without a protoc binary and writes the descriptor set out for reflection. What is spoken to
//! collectors of traces and to plugins is compiled apart: no server of ours reflects it.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let folder = root.join("sealane/v1");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    // Shared by all who fetch it.
    let shared = ".sealane.v1.GetChunkResponse";
    tonic_prost_build::configure()
        .bytes(shared)
        .codec_path("crate::codec::SmallCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    println!("cargo:rerun-if-changed={}", root.join("opentelemetry").display());
    let traces = "opentelemetry/proto/collector/trace/v1/trace_service.proto";
    let compiled = protox::Compiler::new([&root])?.include_imports(true).open_file(traces)?.file_descriptor_set();
    tonic_prost_build::configure().compile_fds(compiled)?;
    for plugin in ["sealane/plugin/v1/filter.proto", "envoy/service/auth/v3/external_auth.proto"] {
        println!("cargo:rerun-if-changed={}", root.join(plugin).display());
        let compiled = protox::Compiler::new([&root])?.include_imports(true).open_file(plugin)?.file_descriptor_set();
        tonic_prost_build::configure().compile_fds(compiled)?;
    }
    Ok(())
}
