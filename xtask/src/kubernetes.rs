//! Builds what a test cluster is made of from Go modules, into the cache of tools: `tests/kubernetes/`.
//!
//! Parts, because most tests need the first alone: [`control_plane`] is one program with etcd, the API server and
//! `kubectl` in it; [`nodes`] is containerd, runc, the CNI plugins and the images that the tests run. [`gateway_crds`]
//! is what Gateway API publishes, [`conformance`] its test suite with the images that it wants.
//!
//! # Design
//! A directory of the cache carries a hash over go.mod, go.sum and the sources in its name. What is there is complete:
//! it is built beside and renamed. So a second run costs a few reads, and a new version never meets an old binary.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf::tools_dir,
    image::{self, Program},
    install,
    progress::{self, Progress},
    root,
    run::{output, run},
};

/// The module with everything but Gateway API.
const MODULE: &str = "tests/kubernetes";
/// The module that pins Gateway API.
const GATEWAY_MODULE: &str = "tests/kubernetes/gateway";

/// The directory with `kube`, and with each part of it under its own name. Quick when nothing has changed.
///
/// # Errors
/// Go is missing or the build fails.
pub fn control_plane() -> Result<PathBuf> {
    cached(MODULE, "kube", &["cmd/kube"], "about five minutes on two cores", |dir| {
        let version = required(MODULE, "k8s.io/kubernetes")?;
        let minor = version.split('.').nth(1).unwrap_or_default();
        let mut flags = String::from("-s -w");
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            for (key, value) in [("gitVersion", &*version), ("gitMajor", "1"), ("gitMinor", minor)] {
                flags.push_str(&format!(" -X {package}.{key}={value}"));
            }
            flags.push_str(" -X ");
            flags.push_str(package);
            flags.push_str(".gitTreeState=clean");
        }
        go_build(MODULE, "build", &["-ldflags", &flags, "./cmd/kube"], dir, false)?;
        for part in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"] {
            std::os::unix::fs::symlink("kube", dir.join(part)).with_context(|| format!("link {part}"))?;
        }
        Ok(())
    })
}

/// The images that the tests run: name, program, user.
const IMAGES: [(&str, &str); 2] = [("pause", "65534:65534"), ("echo", "0:0")];
/// What the names of these images begin with; nobody serves them.
pub const IMAGE_PREFIX: &str = "sluice.test/";

/// The directory with containerd, its shim, `ctr`, runc, `xdpprep`, `cni/` and `images/*.tar`.
///
/// # Errors
/// Go or libseccomp is missing, or the build fails.
pub fn nodes() -> Result<PathBuf> {
    let sources = ["cmd/echo", "cmd/pause", "cmd/xdpprep", "../../xtask/src/image"];
    cached(MODULE, "nodes", &sources, "about a minute", |dir| {
        install::seccomp()?;
        let containerd = "github.com/containerd/containerd/v2";
        let version = required(MODULE, containerd)?;
        let flags = format!("-s -w -X {containerd}/version.Version={version}");
        let programs = ["containerd", "containerd-shim-runc-v2", "ctr"].map(|p| format!("{containerd}/cmd/{p}"));
        let mut arguments = vec!["-tags", "no_btrfs,no_zfs,no_devmapper,static_build", "-ldflags", &flags];
        arguments.extend(programs.iter().map(String::as_str));
        go_build(MODULE, "build", &arguments, dir, false)?;
        let cni = dir.join("cni");
        fs::create_dir_all(&cni).with_context(|| format!("create {}", cni.display()))?;
        let plugins = ["main/bridge", "main/loopback", "ipam/host-local"]
            .map(|p| format!("github.com/containernetworking/plugins/plugins/{p}"));
        let mut arguments = vec!["-ldflags", "-s -w"];
        arguments.extend(plugins.iter().map(String::as_str));
        go_build(MODULE, "build", &arguments, &cni, false)?;
        let runc = "github.com/opencontainers/runc";
        let version = required(MODULE, runc)?;
        let flags = format!("-s -w -extldflags=-static -X main.version={}", version.trim_start_matches('v'));
        go_build(MODULE, "build", &["-tags", "seccomp,netgo,osusergo", "-ldflags", &flags, runc], dir, true)?;
        let own = ["-ldflags", "-s -w", "./cmd/echo", "./cmd/pause", "./cmd/xdpprep"];
        go_build(MODULE, "build", &own, dir, false)?;
        for (name, user) in IMAGES {
            let program = Program { name, version: "1", user, environment: &[] };
            let names = [format!("{IMAGE_PREFIX}{name}:1")];
            image::write_program(program, &dir.join(name), &names, &dir.join(format!("images/{name}.tar")))?;
        }
        Ok(())
    })
}

/// The directory of Gateway API's `config/crd`, a kustomization of the standard channel.
///
/// # Errors
/// Go is missing, or the module cannot be had.
pub fn gateway_crds() -> Result<PathBuf> {
    let dir = cached(GATEWAY_MODULE, "gateway-api", &[], "seconds", |dir| {
        let version = required(GATEWAY_MODULE, "sigs.k8s.io/gateway-api")?;
        let module = format!("sigs.k8s.io/gateway-api@{version}");
        let mut download = go(GATEWAY_MODULE)?;
        download.args(["mod", "download", "-json", &module]).stderr(Stdio::inherit());
        let out = download.output().context("start go")?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let source = said.lines().find_map(|l| l.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","));
        let source = source.with_context(|| format!("go mod download {module} named no directory: {said}"))?;
        // The module cache is read-only; the copy must be removable.
        run(Command::new("cp").args(["-r", "--no-preserve=mode"]).arg(Path::new(source).join("config")).arg(dir))
    })?;
    Ok(dir.join("config/crd"))
}

/// The program of the suite, in the directory that [`conformance`] returns.
pub const SUITE: &str = "gateway.test";
/// What the suite's pods run: all but those of the mesh.
const ECHO: &str = "echo-basic";
/// What those of the mesh run: a program of ours stands for it.
const MESH_ECHO: &str = "echo-advanced";

/// The directory with Gateway API's conformance suite, [`SUITE`], and `images/*.tar`, which its pods run.
///
/// # Errors
/// Go is missing, or the build fails.
pub fn conformance() -> Result<PathBuf> {
    cached(GATEWAY_MODULE, "conformance", &["."], "about two minutes", |dir| {
        go_build(GATEWAY_MODULE, "test", &["-c", "-ldflags", "-s -w", "."], &dir.join(SUITE), false)?;
        let images = "sigs.k8s.io/gateway-api-conformance-images";
        go_build(GATEWAY_MODULE, "build", &["-ldflags", "-s -w", &format!("{images}/{ECHO}")], dir, false)?;
        let names = images_of_suite(ECHO)?;
        let program = Program { name: ECHO, version: "1", user: "65532:65532", environment: &[] };
        image::write_program(program, &dir.join(ECHO), &names, &dir.join(format!("images/{ECHO}.tar")))?;
        Ok(())
    })
}

/// The archive of the image that the suite's pods of the mesh run.
///
/// # Errors
/// Go is missing, or the build fails.
pub fn mesh_echo() -> Result<PathBuf> {
    let sources = ["cmd/meshecho", "../../xtask/src/image"];
    let dir = cached(MODULE, "meshecho", &sources, "seconds", |dir| {
        go_build(MODULE, "build", &["-ldflags", "-s -w", "./cmd/meshecho"], &dir.join("meshecho"), false)?;
        // The suite runs `client` in it, by the search path that a container has where its image names none.
        let program = Program { name: "bin/client", version: "1", user: "65532:65532", environment: &[] };
        let archive = dir.join(format!("{MESH_ECHO}.tar"));
        image::write_program(program, &dir.join("meshecho"), &images_of_suite(MESH_ECHO)?, &archive).map(drop)
    })?;
    Ok(dir.join(format!("{MESH_ECHO}.tar")))
}

/// The names under which the suite's manifests want an image: whoever serves them, the nodes have them already.
fn images_of_suite(image: &str) -> Result<Vec<String>> {
    let suite = "sigs.k8s.io/gateway-api/conformance";
    let mut list = go(GATEWAY_MODULE)?;
    let dir = output(list.args(["list", "-m", "-f", "{{.Dir}}", suite])).context("ask Go where the suite is")?;
    let mut names = BTreeSet::new();
    let mut dirs = vec![PathBuf::from(&dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let images =
                    text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "));
                names.extend(images.filter(|name| name.contains(&format!("/{image}:"))).map(str::to_owned));
            }
        }
    }
    if names.is_empty() {
        bail!("no manifest below {dir} runs {image}");
    }
    Ok(names.into_iter().collect())
}

/// The directory `name-<hash>` of the cache; `build` fills a new one when there is none.
pub(crate) fn cached(
    module: &str,
    name: &str,
    sources: &[&str],
    time: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let module = root().join(module);
    let mut hash = Fnv::default();
    hash.file(&module.join("go.mod"))?;
    hash.file(&module.join("go.sum"))?;
    for source in sources {
        hash.dir(&module.join(source))?;
    }
    let dir = tools_dir().join(format!("{name}-{:016x}", hash.0));
    if dir.exists() {
        return Ok(dir);
    }
    eprintln!("      building {name} into {} ({time}, once)", dir.display());
    let new = dir.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).with_context(|| format!("create {}", new.display()))?;
    let built = build(&new).and_then(|()| match fs::rename(&new, &dir) {
        // Somebody else was quicker with the same.
        Err(_) if dir.exists() => Ok(()),
        other => other.with_context(|| format!("rename to {}", dir.display())),
    });
    let _ = fs::remove_dir_all(&new);
    built.map(|()| dir)
}

/// The version of a module that a go.mod of ours requires.
fn required(module: &str, dependency: &str) -> Result<String> {
    let path = root().join(module).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(|l| l.trim().trim_start_matches("require "));
    let mut versions = lines.filter_map(|l| l.strip_prefix(dependency)?.strip_prefix(' ')?.split(' ').next());
    let version = versions.find(|v| v.starts_with('v'));
    Ok(version.with_context(|| format!("{} does not require {dependency}", path.display()))?.to_owned())
}

/// `go` in a module of ours.
fn go(module: &str) -> Result<Command> {
    let mut go = Command::new(install::go()?);
    // The toolchain that go.mod asks for is a Go module like any other. Nothing of a surrounding build is meant.
    go.current_dir(root().join(module)).env("GOTOOLCHAIN", "auto").env_remove("GOFLAGS").stdin(Stdio::null());
    Ok(go)
}

/// `go build` or `go test` in a module of ours, with a line now and then that says how far it is. `into` is a directory, which
/// may be given several programs, or the file of one.
pub(crate) fn go_build(module: &str, verb: &str, arguments: &[&str], into: &Path, cgo: bool) -> Result<()> {
    let mut command = go(module)?;
    // With a slash at its end it is a directory.
    let into = if into.is_dir() { into.join("") } else { into.to_owned() };
    command.args([verb, "-v", "-trimpath", "-o"]).arg(into).args(arguments);
    command.env("CGO_ENABLED", if cgo { "1" } else { "0" });
    // What is in Go's own cache is not compiled, and not counted: then it is quicker than it says.
    let mut progress = Progress::new("packages", packages(module, verb, arguments)?);
    let child = command.stderr(Stdio::piped()).spawn().context("start go")?;
    let mut said = Vec::new();
    let status = progress::follow(child, |line| {
        match line {
            Some(line) if line.contains([' ', ':']) => said.push(line.to_owned()),
            Some(_) => progress.begin(1),
            None => {}
        }
        progress.tick();
    })?;
    if !status.success() {
        bail!("go {verb} {} ended with {status}:\n{}", arguments.join(" "), said.join("\n"));
    }
    Ok(())
}

/// The packages that a `go build` with these arguments compiles on a machine that has none. The modules are downloaded for it.
fn packages(module: &str, verb: &str, arguments: &[&str]) -> Result<usize> {
    let mut list = go(module)?;
    list.args(["list", "-deps"]);
    if verb == "test" {
        list.arg("-test");
    }
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            // What the linker is told concerns no package.
            "-ldflags" => drop(words.next()),
            "-c" => {}
            word => drop(list.arg(word)),
        }
    }
    eprintln!("      downloading what it is built from");
    Ok(progress::count_lines(&mut list))
}

/// FNV-1a, 64 bits: a name for content, the same on every machine; it withstands chance, not malice.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        // Its length parts one file from the next.
        self.bytes(&content.len().to_le_bytes());
        self.bytes(&content);
        Ok(())
    }

    /// The files of a directory that has no other directories.
    fn dir(&mut self, path: &Path) -> Result<()> {
        let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
        let mut files = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            self.bytes(file.file_name().unwrap_or_default().as_encoded_bytes());
            self.file(&file)?;
        }
        Ok(())
    }
}
