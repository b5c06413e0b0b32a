//! Generates Rust code from the files in `proto`, without `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

const PROTOCOLS: [&str; 2] = [
    "tollgate/v1/tollgate.proto",
    "envoy/service/ratelimit/v3/rls.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        // Comments become the documentation of the generated code.
        .include_source_info(true)
        .open_files(PROTOCOLS)?;
    // The reflection service returns the descriptors.
    let output = env::var("OUT_DIR")?;
    let descriptors = Path::new(&output).join("protocols.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
