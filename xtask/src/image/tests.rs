use std::{collections::BTreeMap, io::Read as _};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::*;

/// The head of a static x86-64 program; what follows it does not matter here.
fn program(segment: Option<u32>) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend([0; 8]);
    elf.extend(u64::to_le_bytes(if segment.is_some() { 64 } else { 0 }));
    elf.extend([0; 8 + 4]);
    elf.extend([64, 0, 56, 0, u8::from(segment.is_some()), 0, 64, 0, 0, 0, 0, 0]);
    assert_eq!(elf.len(), 64);
    if let Some(kind) = segment {
        elf.extend(kind.to_le_bytes());
        elf.extend([0; 52]);
    }
    elf
}

fn names() -> Vec<String> {
    vec!["example.org/lb/sluice:1".to_owned(), "sluice:latest".to_owned()]
}

struct Read {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
}

/// The entries in the order in which they come. The crate checks each header's checksum.
fn read(archive: &[u8]) -> Vec<(String, Read)> {
    let mut tar = tar::Archive::new(archive);
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (path, Read { bytes, mode: header.mode().unwrap(), owner, mtime: header.mtime().unwrap() })
    });
    entries.collect()
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    read(archive).into_iter().map(|(path, entry)| (path, entry.bytes)).collect()
}

/// The blob that a descriptor names, after its size and digest were compared.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(descriptor["size"], bytes.len());
    let found: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest, format!("sha256:{found}"));
    bytes
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn every_descriptor_names_a_blob_of_its_size_and_digest() {
    let image = pack(AGENT, &program(None), &names()).unwrap();
    let files = files(&image.archive);
    assert_eq!(parse(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let index = parse(&files["index.json"]);
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, (name, tag)) in entries.iter().zip([("example.org/lb/sluice:1", "1"), ("sluice:latest", "latest")]) {
        assert_eq!(entry["digest"], image.digest);
        assert_eq!(entry["annotations"]["io.containerd.image.name"], name);
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], tag);
        assert_eq!(entry["platform"]["architecture"], "amd64");
    }
    let manifest = parse(blob(&files, &entries[0]));
    let config = parse(blob(&files, &manifest["config"]));
    let layer = &manifest["layers"][0];
    blob(&files, layer);
    // Not compressed: the layer's digest is the digest of its content.
    assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
    assert_eq!(config["config"]["Entrypoint"][0], "/sluice");
    assert_eq!(config["config"]["Env"], serde_json::json!(ENVIRONMENT));
}

#[test]
fn docker_load_finds_the_same_layer_and_config() {
    let files = files(&pack(AGENT, &program(None), &names()).unwrap().archive);
    let docker = parse(&files["manifest.json"]);
    let manifest = parse(blob(&files, &parse(&files["index.json"])["manifests"][0]));
    let path = |v: &Value| format!("blobs/{}", v["digest"].as_str().unwrap().replace(':', "/"));
    assert_eq!(docker[0]["Config"], path(&manifest["config"]));
    assert_eq!(docker[0]["Layers"][0], path(&manifest["layers"][0]));
    assert_eq!(docker[0]["RepoTags"][1], "sluice:latest");
}

#[test]
fn the_layer_holds_the_binary_and_nothing_of_this_machine() {
    let image = pack(AGENT, &program(None), &names()).unwrap();
    let files = files(&image.archive);
    let manifest = parse(blob(&files, &parse(&files["index.json"])["manifests"][0]));
    let layer = read(blob(&files, &manifest["layers"][0]));
    let listed: Vec<_> = layer.iter().map(|(path, entry)| (path.as_str(), entry.mode)).collect();
    assert_eq!(
        listed,
        [("etc/", 0o755), ("etc/group", 0o644), ("etc/passwd", 0o644), ("sluice", 0o755), ("tmp/", 0o1777)]
    );
    assert_eq!(layer[3].1.bytes, program(None));
    for (path, entry) in layer.iter().chain(&read(&image.archive)) {
        assert_eq!((entry.owner, entry.mtime), ((0, 0), 0), "{path}");
    }
}

#[test]
fn the_same_binary_gives_the_same_bytes_and_another_one_another_digest() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("a/b/two"));
    fs::create_dir_all(two.parent().unwrap()).unwrap();
    for path in [&one, &two] {
        fs::write(path, program(None)).unwrap();
    }
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(&two).unwrap().set_modified(old).unwrap();
    let first = write(&one, &names(), &dir.path().join("one.tar")).unwrap();
    let second = write(&two, &names(), &dir.path().join("out/two.tar")).unwrap();
    assert_eq!(first, second);
    assert!(fs::read(dir.path().join("one.tar")).unwrap() == fs::read(dir.path().join("out/two.tar")).unwrap());
    fs::write(&two, [program(None), vec![0]].concat()).unwrap();
    assert_ne!(write(&two, &names(), &dir.path().join("out/two.tar")).unwrap(), first);
}

#[test]
fn an_archive_that_is_there_already_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (binary, out) = (dir.path().join("sluice"), dir.path().join("sluice.tar"));
    fs::write(&binary, program(None)).unwrap();
    write(&binary, &names(), &out).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&out).unwrap().set_modified(old).unwrap();
    write(&binary, &names(), &out).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().modified().unwrap(), old);
}

#[test]
fn a_binary_that_the_image_could_not_start_is_refused() {
    let refused = |binary: &[u8]| format!("{:#}", pack(AGENT, binary, &names()).map(|_| ()).unwrap_err());
    assert!(refused(&program(Some(3))).contains("want a static one"));
    assert!(pack(AGENT, &program(Some(1)), &names()).is_ok());
    assert!(refused(b"#!/bin/sh\n").contains("no 64-bit ELF file"));
}

#[test]
fn a_name_without_a_tag_is_refused() {
    for wrong in ["sluice", "localhost:5000/sluice", "sluice:"] {
        let error = pack(AGENT, &program(None), &[wrong.to_owned()]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("want NAME:TAG"), "{wrong}: {error}");
    }
}

#[test]
fn flags_that_are_not_known_are_named() {
    let parse = |words: &[&str]| Flags::parse(&words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>());
    let flags = parse(&["--binary", "b", "--name", "a:1", "--name", "b:2"]).unwrap();
    assert_eq!((flags.names.len(), flags.binary), (2, Some("b".into())));
    assert_eq!(parse(&[]).unwrap().names, [format!("{NAME}:{}", env!("CARGO_PKG_VERSION"))]);
    assert!(parse(&["--squash"]).unwrap_err().to_string().contains("--squash"));
    assert!(parse(&["--out"]).unwrap_err().to_string().contains("want a value"));
}
