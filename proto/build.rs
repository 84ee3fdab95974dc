//! Compiles the .proto files without a protoc binary and writes the descriptor set out for reflection.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    // The services of a fleet. Plugins are servers of other people: nothing of ours reflects their services.
    let own = compile(&root, &["sealane/v1"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor.bin"), own.encode_file_descriptor_set())?;
    let all = compile(&root, &["sealane/v1", "sealane/plugin/v1", "envoy/service/auth/v3"])?;
    tonic_prost_build::configure().compile_fds(all.file_descriptor_set())?;
    Ok(())
}

fn compile(root: &Path, packages: &[&str]) -> Result<protox::Compiler, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for package in packages {
        let folder = root.join(package);
        println!("cargo:rerun-if-changed={}", folder.display());
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    Ok(compiler)
}
