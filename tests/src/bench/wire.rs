//! EndpointSlices as protobuf, the encoding in which the controllers of Kubernetes write them: a server that need not read
//! JSON has more time for what is measured.
//!
//! Source: `k8s.io/api/discovery/v1/generated.proto`, `k8s.io/apimachinery/pkg/runtime/generated.proto`.
use super::objects::{Endpoint, Slice};

/// What a body in this encoding is called.
pub(super) const CONTENT: &str = "application/vnd.kubernetes.protobuf";
/// What it begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// An entry of a map.
    fn pair(self, field: u64, key: &str, value: &str) -> Self {
        self.message(field, Message::default().text(1, key).text(2, value))
    }
}

/// The body of a write.
pub(super) fn slice(slice: &Slice) -> Vec<u8> {
    let Slice { name, namespace, labels, address_type, port: (port_name, port, protocol), endpoints } = slice;
    let mut metadata = Message::default().text(1, name).text(3, namespace);
    for (key, value) in labels {
        metadata = metadata.pair(11, key, value);
    }
    // One empty entry: who manages which field is not to be kept. The server then does not work it out for each write.
    let metadata = metadata.message(17, Message::default());
    let port = Message::default().text(1, port_name).text(2, protocol).number(3, u64::from(*port));
    let mut object = Message::default().message(1, metadata);
    for each in endpoints {
        object = object.message(2, endpoint(each));
    }
    let object = object.message(3, port).text(4, address_type);
    let kind = Message::default().text(1, "discovery.k8s.io/v1").text(2, "EndpointSlice");
    let whole = Message::default().message(1, kind).message(2, object);
    [MAGIC, &whole.0].concat()
}

fn endpoint(endpoint: &Endpoint) -> Message {
    let Endpoint { address, node, zone, pod, uid, namespace } = endpoint;
    let conditions = Message::default().number(1, 1).number(2, 1).number(3, 0);
    let target = Message::default().text(1, "Pod").text(2, namespace).text(3, pod).text(4, uid);
    let message = Message::default().text(1, &address.to_string()).message(2, conditions).message(4, target);
    message.text(6, node).text(7, zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_its_number_its_kind_its_length_and_its_bytes() {
        let message = Message::default().number(3, 8080).text(1, "ab").pair(11, "k", "v");
        assert_eq!(message.0, [0x18, 0x90, 0x3f, 0x0a, 2, b'a', b'b', 0x5a, 6, 0x0a, 1, b'k', 0x12, 1, b'v']);
        assert_eq!(Message::default().message(17, Message::default()).0, [0x8a, 0x01, 0]);
    }
}
