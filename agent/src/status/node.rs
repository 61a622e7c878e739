//! What keeps this node from forwarding, where people look first: an Event on its Node, and the pod's termination message.
//!
//! In: what became of the interfaces, and whether a flood fills the map of flows without an answer, which is an Event alone.
//! Out: one Event for each new text, and the text in the file that the kubelet shows once the container ends, however it ends.
//! Neither is needed for forwarding.
use std::{
    path::Path,
    time::{Duration, Instant},
};

use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::watch, time::sleep};

use super::{allowance::Allowance, told, unheard::Unheard};
use crate::arrows::Applied;

/// Where the kubelet looks for a container's last words. Source: `Container.terminationMessagePath`.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// An interface may come a moment after the agent.
const SETTLE: Duration = Duration::from_secs(3);
/// Bytes of a termination message at most. Source: the same.
const MAX_MESSAGE: usize = 4096;

/// The interfaces that are not attached and why; `None` where all are.
fn missing(applied: &Applied) -> Option<String> {
    let bad = applied.uplinks.iter().filter(|uplink| !uplink.tc);
    let bad =
        bad.map(|uplink| format!("--interface {}: {}", uplink.name, uplink.note.as_deref().unwrap_or("not attached")));
    Some(bad.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
}

/// Tells of interfaces and floods until it is dropped. Without a client, as with manifests, there is no Node.
pub async fn run(client: Option<Client>, node: String, mut applied: watch::Receiver<Applied>, file: &Path) {
    let recorder = client.map(|client| {
        let reporter = Reporter { controller: super::CONTROLLER.to_owned(), instance: Some(node.clone()) };
        Recorder::new(client, reporter)
    });
    let (mut told, mut crowded, unheard) = (None, None, Unheard::default());
    let mut allowance = Allowance::new(Instant::now());
    loop {
        let (now, crowd) = {
            let applied = applied.borrow_and_update();
            (missing(&applied), applied.census.pressure())
        };
        if crowd != crowded {
            if let (Some(recorder), Some(text)) = (&recorder, &crowd)
                && allowance.take(Instant::now())
            {
                publish(recorder, &unheard, &node, ("SluiceFlowsUnanswered", "Track"), text).await;
            }
            crowded = crowd;
        }
        if now != told {
            sleep(SETTLE).await;
            if missing(&applied.borrow_and_update()) == now {
                leave(file, now.as_deref().unwrap_or_default());
                if let (Some(recorder), Some(text)) = (&recorder, &now) {
                    publish(recorder, &unheard, &node, ("SluiceInterfaceMissing", "Attach"), text).await;
                }
                told = now;
            }
            continue;
        }
        if applied.changed().await.is_err() {
            // The stage that has ended is told of by its own end.
            return std::future::pending().await;
        }
    }
}

/// Leaves a message for the kubelet, where it wants one.
pub fn leave(file: &Path, text: &str) {
    let message = &text[..text.floor_char_boundary(MAX_MESSAGE)];
    if file.exists()
        && let Err(error) = std::fs::write(file, message)
    {
        tracing::debug!(path = %file.display(), %error, "termination message");
    }
}

/// Publishes a warning: its reason, and what was being done.
async fn publish(recorder: &Recorder, unheard: &Unheard, node: &str, (reason, action): (&str, &str), text: &str) {
    let about = told::node(node);
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(text.chars().take(1000).collect()),
        action: action.to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        unheard.log("Node", &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrows::UplinkStatus;

    fn uplink(name: &str, tc: bool, note: Option<&str>) -> UplinkStatus {
        UplinkStatus { name: name.into(), xdp: None, tc, v4: None, v6: None, note: note.map(str::to_owned) }
    }

    #[test]
    fn what_is_missing_is_left_for_the_kubelet_and_taken_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = || std::fs::read_to_string(file.path()).unwrap();
        let uplinks = vec![uplink("eth0", true, None), uplink("eht1", false, Some("there is no such interface"))];
        let mut applied = Applied { uplinks, ..Applied::default() };
        let text = missing(&applied).unwrap();
        assert_eq!(text, "--interface eht1: there is no such interface");
        leave(file.path(), &text);
        assert_eq!(said(), text);
        applied.uplinks.truncate(1);
        assert_eq!(missing(&applied), None);
        leave(file.path(), "");
        assert_eq!(said(), "");
        leave(file.path(), &"é".repeat(MAX_MESSAGE));
        assert_eq!(said().len(), MAX_MESSAGE);
        let absent = file.path().with_extension("absent");
        leave(&absent, &text);
        assert!(!absent.exists(), "nobody asked for it");
    }
}
