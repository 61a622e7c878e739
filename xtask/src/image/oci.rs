//! An image as one archive: an OCI image layout with one uncompressed layer, and `manifest.json` for `docker load`.
//!
//! Source: OCI image specification 1.1, `image-layout.md`; `io.containerd.image.name` is what `ctr images import` names
//! the image by, `manifest.json` is the form of `docker save`.
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use object::{
    Endianness,
    elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::Tree;

const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// An image that is ready to be written.
pub struct Image {
    /// The archive.
    pub archive: Vec<u8>,
    /// The digest of its manifest: what a container runtime calls the image.
    pub digest: String,
}

/// What an image runs: one program, at its root.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its name, and the image's title.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Who it runs as: `UID:GID`.
    pub user: &'a str,
    /// Its environment: `NAME=VALUE`.
    pub environment: &'a [&'a str],
}

/// Packs one static binary; `names` are full references with a tag.
///
/// # Errors
/// The binary needs a dynamic linker, which the image does not have, or is of an unknown architecture; a name has no tag.
pub fn pack(program: Program<'_>, binary: &[u8], names: &[String]) -> Result<Image> {
    let Program { name, version, user, environment } = program;
    let architecture = architecture(binary)?;
    let mut root = Tree::default();
    root.directory("tmp", 0o1777);
    root.file("etc/passwd", 0o644, PASSWD);
    root.file("etc/group", 0o644, GROUP);
    root.file(name, 0o755, binary);

    let mut layout = Tree::default();
    let layer = blob(&mut layout, "application/vnd.oci.image.layer.v1.tar", root.archive()?);
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": user,
            "Entrypoint": [format!("/{name}")],
            "WorkingDir": "/",
            "Env": environment,
            "Labels": {
                "org.opencontainers.image.title": name,
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob(&mut layout, "application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config)?);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
    let manifest = blob(&mut layout, media_type, serde_json::to_vec(&manifest)?);

    let entries = names.iter().map(|name| named(&manifest, name, architecture)).collect::<Result<Vec<_>>>()?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let docker = json!([{ "Config": path(&config), "RepoTags": names, "Layers": [path(&layer)] }]);
    layout.file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#);
    layout.file("index.json", 0o644, serde_json::to_vec(&index)?);
    layout.file("manifest.json", 0o644, serde_json::to_vec(&docker)?);
    Ok(Image { archive: layout.archive()?, digest: text(&manifest["digest"]).to_owned() })
}

/// The manifest's entry in the index, under one name.
fn named(manifest: &Value, name: &str, architecture: &str) -> Result<Value> {
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.is_empty() && !tag.contains('/') => tag,
        _ => bail!("image name {name:?}: want NAME:TAG"),
    };
    let mut entry = manifest.clone();
    entry["platform"] = json!({ "os": "linux", "architecture": architecture });
    entry["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    Ok(entry)
}

/// Adds a blob and returns its descriptor.
fn blob(layout: &mut Tree, media_type: &str, bytes: Vec<u8>) -> Value {
    let mut hex = String::new();
    for byte in Sha256::digest(&bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    let descriptor = json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() });
    layout.file(&format!("blobs/sha256/{hex}"), 0o644, bytes);
    descriptor
}

fn path(descriptor: &Value) -> String {
    format!("blobs/{}", text(&descriptor["digest"]).replace(':', "/"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The architecture as images name it.
fn architecture(binary: &[u8]) -> Result<&'static str> {
    let header = FileHeader64::<Endianness>::parse(binary).context("the binary is no 64-bit ELF file")?;
    let endian = header.endian().context("the binary's byte order")?;
    let segments = header.program_headers(endian, binary).context("the binary's program headers")?;
    if segments.iter().any(|s| s.p_type(endian) == PT_INTERP) {
        bail!("the binary asks for a dynamic linker, which the image does not have: want a static one");
    }
    match header.e_machine(endian) {
        EM_X86_64 => Ok("amd64"),
        EM_AARCH64 => Ok("arm64"),
        other => bail!("the binary is for machine {other}: want x86-64 or AArch64"),
    }
}
