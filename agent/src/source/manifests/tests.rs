//! On real files: what is written below the directory reaches the receiver, and nothing else does.
use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;
use crate::api::{ObjectName, Service};

/// Longer than any of it takes, shorter than [`RESCAN`]: what arrives in time was told by inotify.
const SOON: Duration = Duration::from_secs(3);

struct Source {
    rx: sync::watch::Receiver<Option<Arc<Snapshot>>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), SourceError>>,
}

impl Source {
    fn start(dir: &Path) -> Self {
        let (tx, rx) = sync::watch::channel(None);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(watch(dir.to_owned(), tx, cancel.clone()));
        Self { rx, cancel, task }
    }

    /// The first snapshot for which something holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let wait = self.rx.wait_for(|s| s.as_ref().is_some_and(|s| holds(s)));
        let found = tokio::time::timeout(SOON, wait).await.map(|s| s.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("{what}: have {:?}", self.rx.borrow()))
    }

    async fn until_names(&mut self, names: &[&str]) -> Arc<Snapshot> {
        self.until(&format!("Services {names:?}"), |s| have(s) == names).await
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn have(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.services.keys().map(|n| n.name.as_str()).collect()
}

fn manifest(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
}

fn service<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Service> {
    &snapshot.services[&ObjectName::new("default", name)]
}

fn port(snapshot: &Snapshot, name: &str) -> i64 {
    service(snapshot, name).spec.ports[0].port
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("tmp");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_appear_change_and_go_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), manifest("a", 80)).unwrap();
    fs::write(at("notes.txt"), "not: [a manifest").unwrap();
    fs::write(at(".b.yaml.swp.yaml"), "not: [a manifest").unwrap();
    let mut source = Source::start(dir.path());
    source.until_names(&["a"]).await;

    replace(&at("b.yml"), &manifest("b", 80));
    source.until_names(&["a", "b"]).await;
    fs::write(at("c.json"), r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"}}"#).unwrap();
    source.until_names(&["a", "b", "c"]).await;
    fs::write(at("a.yaml"), manifest("a", 81)).unwrap();
    source.until("written in place", |s| port(s, "a") == 81).await;
    fs::rename(at("b.yml"), at("renamed.yml")).unwrap();
    fs::remove_file(at("c.json")).unwrap();
    source.until_names(&["a", "b"]).await;
    fs::rename(at("renamed.yml"), at("renamed.txt")).unwrap();
    let last = source.until_names(&["a"]).await;
    assert_eq!(last.faults, []);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_objects_keep_their_identity() {
    let dir = tempfile::tempdir().unwrap();
    let many = dir.path().join("many.yaml");
    fs::write(&many, manifest("a", 80) + &manifest("b", 80)).unwrap();
    fs::write(dir.path().join("other.yaml"), manifest("c", 80)).unwrap();
    let mut source = Source::start(dir.path());
    let before = source.until_names(&["a", "b", "c"]).await;

    // Another layout of the same object is the same object.
    replace(&many, &(manifest("a", 80).replace("{name: a}", "{ name: \"a\" } # same") + &manifest("b", 81)));
    let after = source.until("b changed", |s| port(s, "b") == 81).await;
    assert!(Arc::ptr_eq(service(&before, "a"), service(&after, "a")), "equal object of a changed file");
    assert!(Arc::ptr_eq(service(&before, "c"), service(&after, "c")), "object of an unchanged file");

    // Moved to another file, too.
    replace(&dir.path().join("a2.yaml"), &manifest("a", 80));
    replace(&many, &manifest("b", 82));
    let moved = source.until("a moved", |s| s.faults.is_empty() && have(s).len() == 3 && port(s, "b") == 82).await;
    assert!(Arc::ptr_eq(service(&before, "a"), service(&moved, "a")), "object that moved");
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_its_last_good_objects_and_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, manifest("a", 80) + &manifest("b", 80)).unwrap();
    fs::write(dir.path().join("never-good.yaml"), manifest("c", 80) + "kind: [\n").unwrap();
    let mut source = Source::start(dir.path());
    let first = source.until_names(&["a", "b", "c"]).await;
    assert_eq!(first.faults.len(), 1, "{:?}", first.faults);

    replace(&file, &(manifest("a", 81) + "apiVersion: v1\nkind: Service\nmetadata:\n\tname: b\n"));
    let broken = source.until("the fault", |s| s.faults.len() == 2).await;
    assert_eq!((port(&broken, "a"), port(&broken, "b")), (80, 80));
    let fault = &broken.faults[0];
    assert_eq!(fault.origin, file.display().to_string());
    assert!(matches!(fault.line, Some(8..=9)), "{fault:?}");
    replace(&dir.path().join("d.yaml"), &manifest("d", 80));
    source.until_names(&["a", "b", "c", "d"]).await;

    replace(&file, &manifest("a", 82));
    let healed = source.until_names(&["a", "c", "d"]).await;
    assert_eq!((healed.faults.len(), port(&healed, "a")), (1, 82));
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_a_fault_keeps_its_last_good_form_and_its_file_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let misspelt = manifest("b", 90).replace("ports:", "loadBalancerSourceRange: [192.0.2.0/24], ports:");
    fs::write(&file, manifest("a", 80) + &misspelt).unwrap();
    let mut source = Source::start(dir.path());
    let first = source.until_names(&["a"]).await;
    let [fault] = &first.faults[..] else { panic!("{:?}", first.faults) };
    assert_eq!((fault.object.as_deref(), fault.line), (Some("Service default/b"), Some(9)));

    replace(&file, &(manifest("a", 80) + &manifest("b", 80)));
    let good = source.until("both", |s| s.faults.is_empty() && have(s) == ["a", "b"]).await;
    let misspelt = misspelt.replace("loadBalancerSourceRange: [192.0.2.0/24]", "sesionAffinity: ClientIP");
    replace(&file, &(manifest("a", 81) + &misspelt));
    let kept = source.until("the fault", |s| s.faults.len() == 1).await;
    assert_eq!((port(&kept, "a"), port(&kept, "b")), (81, 80));
    assert!(Arc::ptr_eq(service(&good, "b"), service(&kept, "b")));
    // Of whatever kind the fault is, and again.
    replace(&file, &(manifest("a", 82) + &manifest("b", 80).replace("80", "eighty")));
    let kept = source.until("another fault", |s| port(s, "a") == 82).await;
    assert_eq!((kept.faults.len(), port(&kept, "b")), (1, 80));
    // What is not in the file any more is gone.
    replace(&file, &manifest("a", 83));
    let gone = source.until_names(&["a"]).await;
    assert_eq!(gone.faults, []);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_what_says_who_gets_in_closes_the_last_good_form_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let of_b = |ranges: &str| manifest("a", 80) + &manifest("b", 80).replace("ports:", &format!("{ranges} ports:"));
    let unread = |s: &Snapshot, name: &str| service(s, name).spec.unread_sources.clone();
    fs::write(&file, of_b("")).unwrap();
    let mut source = Source::start(dir.path());
    let good = source.until_names(&["a", "b"]).await;
    assert_eq!((unread(&good, "a"), unread(&good, "b")), (None, None));
    let told = "spec.loadBalancerSourceRange: unknown field, did you mean loadBalancerSourceRanges?";
    replace(&file, &of_b("loadBalancerSourceRange: [192.0.2.0/24],"));
    let closed = source.until("the fault", |s| unread(s, "b").is_some()).await;
    assert_eq!((unread(&closed, "b").as_deref(), unread(&closed, "a")), (Some(told), None));
    assert_eq!((port(&closed, "b"), closed.faults.len()), (80, 1));
    // A fault elsewhere opens it as little.
    replace(&file, &of_b("sesionAffinity: ClientIP,"));
    let closed = source.until("another fault", |s| s.faults[0].reason.contains("sesionAffinity")).await;
    assert_eq!(unread(&closed, "b").as_deref(), Some(told));
    replace(&file, &of_b("loadBalancerSourceRanges: [192.0.2.0/24],"));
    let mended = source.until("it is mended", |s| s.faults.is_empty()).await;
    assert_eq!((unread(&mended, "b"), service(&mended, "b").spec.load_balancer_source_ranges.len()), (None, 1));
    // A value of the wrong type is one, in a list too, where all else of the file stays as it was.
    let list = |ranges: &str| {
        let all = of_b(ranges);
        let items = all.split("---").map(str::trim).filter(|item| !item.is_empty());
        let items = items.map(|item| format!("- {}", item.replace('\n', "\n  "))).collect::<Vec<_>>();
        format!("apiVersion: v1\nkind: List\nitems:\n{}\n", items.join("\n"))
    };
    replace(&file, &list(""));
    source
        .until("it is open", |s| s.faults.is_empty() && service(s, "b").spec.load_balancer_source_ranges.is_empty())
        .await;
    replace(&file, &list("loadBalancerSourceRanges: {cidr: 192.0.2.0/24},"));
    let closed = source.until("a wrong type", |s| unread(s, "b").is_some()).await;
    assert_eq!((have(&closed), unread(&closed, "a"), port(&closed, "b")), (vec!["a", "b"], None, 80));
    replace(&file, &list(""));
    source.until("it is open again", |s| s.faults.is_empty() && unread(s, "b").is_none()).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_when_its_writer_closes_it() {
    // A writer that takes too long is read all the same, and a busy machine makes any writer slow.
    for _ in 0..100 {
        let (least, took) = least_seen_while_written().await;
        if least == 3 {
            return;
        }
        assert!(took > SETTLE / 2, "half a file was read after {took:?}");
    }
    panic!("no write was quick");
}

/// The fewest Services that a snapshot had while a file of two became one of three, and how long writing it took.
async fn least_seen_while_written() -> (usize, Duration) {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, manifest("a", 80) + &manifest("b", 80)).unwrap();
    let mut source = Source::start(dir.path());
    source.until_names(&["a", "b"]).await;
    let mut seen = source.rx.clone();
    let watcher = tokio::spawn(async move {
        let mut least = usize::MAX;
        while seen.changed().await.is_ok() {
            let services = have(seen.borrow_and_update().as_ref().unwrap()).len();
            least = least.min(services);
            if services == 3 {
                break;
            }
        }
        least
    });
    let began = std::time::Instant::now();
    let mut file = fs::File::create(&path).unwrap();
    for (name, part) in [("a", 80), ("b", 81), ("c", 82)] {
        tokio::time::sleep(SETTLE / 10).await;
        file.write_all(manifest(name, part).as_bytes()).unwrap();
    }
    drop(file);
    let took = began.elapsed();
    source.until_names(&["a", "b", "c"]).await;
    let least = watcher.await.unwrap();
    source.stop().await;
    (least, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_never_closes_is_read_all_the_same() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::start(dir.path());
    source.until_names(&[]).await;
    let mut file = fs::File::create(dir.path().join("a.yaml")).unwrap();
    file.write_all(manifest("a", 80).as_bytes()).unwrap();
    source.until_names(&["a"]).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configmap_volume_is_followed_through_its_symlinks() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, port| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("web.yaml"), manifest("web", port)).unwrap();
        symlink(name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    version("..2026_11_21", 80);
    symlink("..data/web.yaml", at("web.yaml")).unwrap();
    let mut source = Source::start(dir.path());
    let first = source.until_names(&["web"]).await;
    assert_eq!(first.faults, [], "the directories behind the links are not read apart");
    version("..2026_11_22", 81);
    fs::remove_dir_all(at("..2026_11_21")).unwrap();
    let second = source.until("the new version", |s| port(s, "web") == 81).await;
    assert_eq!(second.faults, []);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_itself_may_be_a_symlink_that_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, port) in [("v1", 80), ("v2", 81)] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("web.yaml"), manifest("web", port)).unwrap();
    }
    symlink("v1", at("current")).unwrap();
    let mut source = Source::start(&at("current"));
    source.until_names(&["web"]).await;
    symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    source.until("the other directory", |s| port(s, "web") == 81).await;
    replace(&at("v2/web.yaml"), &manifest("web", 82));
    source.until("a change in the other directory", |s| port(s, "web") == 82).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_subdirectories_are_watched_moved_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut source = Source::start(dir.path());
    source.until_names(&[]).await;
    fs::create_dir_all(at("x/y/z")).unwrap();
    fs::write(at("x/y/z/a.yaml"), manifest("a", 80)).unwrap();
    source.until_names(&["a"]).await;
    replace(&at("x/y/z/a.yaml"), &manifest("a", 81));
    source.until("a change deep down", |s| port(s, "a") == 81).await;
    fs::rename(at("x/y"), at("w")).unwrap();
    source.until("the move", |s| have(s) == ["a"]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    replace(&at("w/z/a.yaml"), &manifest("a", 82));
    source.until("a change after the move", |s| port(s, "a") == 82).await;
    fs::remove_dir_all(at("w")).unwrap();
    source.until_names(&[]).await;
    fs::create_dir(at("w")).unwrap();
    fs::write(at("w/b.yaml"), manifest("b", 80)).unwrap();
    source.until_names(&["b"]).await;
    replace(&at("w/b.yaml"), &manifest("b", 81));
    source.until("a change in a directory that was made anew", |s| port(s, "b") == 81).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s39_nothing_is_sent_before_the_directory_exists_and_nothing_is_lost_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/yet");
    let mut source = Source::start(&root);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(source.rx.borrow().is_none());
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("a.yaml"), manifest("a", 80)).unwrap();
    source.until_names(&["a"]).await;
    fs::rename(&root, dir.path().join("away")).unwrap();
    let gone = source.until("the fault", |s| !s.faults.is_empty()).await;
    assert_eq!((have(&gone), gone.faults[0].origin.as_str()), (vec!["a"], root.to_str().unwrap()));
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("b.yaml"), manifest("b", 80)).unwrap();
    let back = source.until_names(&["b"]).await;
    assert_eq!(back.faults, []);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_two_files_counts_once_and_the_fault_names_both() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("b.yaml"), manifest("web", 81)).unwrap();
    fs::write(at("a.yaml"), manifest("web", 80)).unwrap();
    symlink("a.yaml", at("z.yaml")).unwrap();
    let mut source = Source::start(dir.path());
    let both = source.until_names(&["web"]).await;
    assert_eq!(port(&both, "web"), 80);
    let [fault] = &both.faults[..] else { panic!("{:?}", both.faults) };
    assert_eq!((fault.origin.as_str(), fault.line), (at("b.yaml").to_str().unwrap(), Some(1)));
    assert!(fault.reason.contains("Service default/web") && fault.reason.contains(at("a.yaml").to_str().unwrap()));
    fs::remove_file(at("a.yaml")).unwrap();
    let one = source.until("the other one", |s| port(s, "web") == 81).await;
    assert_eq!(one.faults, []);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s41_a_burst_of_changes_is_few_snapshots_and_the_last_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::start(dir.path());
    source.until_names(&[]).await;
    let mut seen = source.rx.clone();
    let counter = tokio::spawn(async move {
        let mut count = 0;
        while tokio::time::timeout(SOON, seen.changed()).await.is_ok_and(|c| c.is_ok()) {
            count += 1;
            if have(seen.borrow_and_update().as_ref().unwrap()).len() == 500 {
                break;
            }
        }
        count
    });
    for n in 0..500 {
        replace(&dir.path().join(format!("{n:03}.yaml")), &manifest(&format!("s{n:03}"), 80));
    }
    let last = source.until("all of them", |s| s.services.len() == 500).await;
    assert_eq!(last.faults, []);
    let snapshots = counter.await.unwrap();
    assert!(snapshots <= 250, "{snapshots} snapshots for 500 changes");
    source.stop().await;
}

#[test]
fn what_is_no_regular_text_file_is_a_fault_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("nowhere", at("dangling.yaml")).unwrap();
    symlink(".", at("loop")).unwrap();
    fs::File::create(at("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
    fs::write(at("good.yaml"), manifest("good", 80)).unwrap();
    let mut tree = Tree::new(dir.path().to_owned());
    let none = BTreeSet::new();
    let snapshot = tree.scan(Scan { touched: &none, writing: &none, enter: &mut |_| {} }).unwrap();
    assert_eq!(have(&snapshot), ["good"]);
    let reasons = snapshot.faults.iter().map(|f| f.reason.as_str()).collect::<Vec<_>>();
    assert_eq!(reasons, ["is not text, want UTF-8", "has 1099511627776 bytes, want 67108864 at most"]);
    assert!(tree.scan(Scan { touched: &none, writing: &none, enter: &mut |_| {} }).is_none(), "nothing has changed");
}
