//! What steps of the reflectors make of a snapshot and of the health.
use super::*;

fn world() -> (Snapshot, Health) {
    let routes = KindHealth::new("Route", Need::Optional, "a Route for each Service");
    let services = KindHealth::new("Service", Need::Required, "layer 4");
    let kinds = [("routes".to_owned(), routes), ("services".to_owned(), services)];
    (Snapshot::default(), Health { kinds: kinds.into() })
}

/// Carries out a step; whether the snapshot changed.
fn step((snapshot, health): &mut (Snapshot, Health), resource: &str, what: What<Snapshot>) -> bool {
    let (out, _) = watch::channel(Health::default());
    take(Step { resource: resource.to_owned(), what }, snapshot, health, &out)
}

#[test]
fn a_kind_that_may_not_be_read_is_off_until_it_may() {
    let mut world = world();
    assert!(step(&mut world, "routes", What::Forbidden("no".into())), "those who depend on it must know");
    assert!(!step(&mut world, "routes", What::Forbidden("no".into())), "once");
    assert_eq!(world.0.off.get("routes"), Some(&Off::Forbidden));
    assert!(step(&mut world, "routes", What::Synced(Box::new(|_| ()))));
    assert_eq!((world.0.off.get("routes"), world.1.kinds["routes"].is_off()), (None, false));
    assert!(!step(&mut world, "services", What::Forbidden("no".into())), "what was read stays as it was");
    assert!(world.0.off.is_empty() && !world.1.blockers().is_empty());
}

#[test]
fn a_watch_that_is_accepted_again_ends_the_trouble_of_a_kind_that_was_read() {
    let mut world = world();
    step(&mut world, "services", What::Trouble("cut".into()));
    step(&mut world, "services", What::Watching);
    assert!(world.1.kinds["services"].trouble.is_some(), "it was never read");
    step(&mut world, "services", What::Synced(Box::new(|_| ())));
    step(&mut world, "services", What::Trouble("cut".into()));
    assert_eq!(world.1.stale(), None, "nothing may be decided by it");
    step(&mut world, "services", What::Watching);
    assert!(world.1.stale().is_some_and(|stale| stale.is_empty()));
}
