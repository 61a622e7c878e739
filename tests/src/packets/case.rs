//! A case: a sentence, a packet in, an action, a packet out, and the reasons that were counted.
use sluice_ebpf::{Reason, program};

use super::{Lab, drop_reasons};

/// Which program gets the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `sluice_xdp` on `up0`.
    Xdp,
    /// `sluice_ingress` on `up0`.
    Ingress,
    /// `sluice_egress` on `up0`.
    Egress,
    /// `sluice_side_in` on `up1`.
    SideIn,
    /// `sluice_side_out` on `up1`.
    SideOut,
    /// `sluice_mesh_in` on `up1`.
    MeshIn,
    /// `sluice_mesh_out` on `up1`.
    MeshOut,
}

/// What the program says shall happen to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// On to the next program and the stack.
    Pass,
    /// Gone; its bytes do not matter.
    Drop,
    /// Out of the interface it came from.
    Bounce,
    /// Out of an interface that the program names.
    Redirect,
}

impl Hook {
    /// The kernel's code for it.
    fn code(self, does: Does) -> i32 {
        match (self, does) {
            (Self::Xdp, Does::Drop) => 1,
            (Self::Xdp, Does::Pass) => 2,
            (Self::Xdp, Does::Bounce) => 3,
            (Self::Xdp, Does::Redirect) => 4,
            (_, Does::Pass) => -1,
            (_, Does::Drop) => 2,
            (_, Does::Bounce | Does::Redirect) => 7,
        }
    }
}

/// One packet and what must become of it.
pub struct Case<'a> {
    /// The behaviour, as a sentence.
    pub says: &'a str,
    /// The program.
    pub hook: Hook,
    /// The packet in.
    pub packet: Vec<u8>,
    /// What the program decides.
    pub does: Does,
    /// The packet out; `None`: every byte as it came in.
    pub out: Option<Vec<u8>>,
    /// What is counted.
    pub reasons: &'a [Reason],
}

impl Lab {
    /// Runs a program on a packet.
    pub fn run(&mut self, hook: Hook, packet: &[u8]) -> super::Output {
        match hook {
            Hook::Xdp => self.xdp(packet),
            Hook::Ingress => self.ingress(packet),
            Hook::Egress => self.egress(packet),
            Hook::SideIn => self.side_in(packet),
            Hook::SideOut => self.side_out(packet),
            Hook::MeshIn => self.classify(program::MESH_IN, self.up1, packet),
            Hook::MeshOut => self.classify(program::MESH_OUT, self.up1, packet),
        }
    }

    /// Runs a case.
    ///
    /// # Panics
    /// It does not come out as it says.
    pub fn check(&mut self, case: &Case<'_>) {
        self.forget_reasons();
        let output = self.run(case.hook, &case.packet);
        let (says, hook) = (case.says, case.hook);
        let reasons = self.reasons();
        assert_eq!(output.code, hook.code(case.does), "{says}: the action of {hook:?}; counted {reasons:?}");
        if case.does != Does::Drop {
            let want = case.out.as_ref().unwrap_or(&case.packet);
            assert!(output.packet == *want, "{says}: the packet of {hook:?}\n{}", differences(&output.packet, want));
        }
        assert_eq!(reasons, drop_reasons(case.reasons), "{says}: the reasons");
    }
}

/// Two packets as hex, with the offsets at which they differ.
fn differences(got: &[u8], want: &[u8]) -> String {
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    let at: Vec<_> = (0..got.len().max(want.len())).filter(|i| got.get(*i) != want.get(*i)).collect();
    format!("got  {}\nwant {}\ndiffer at {at:?}", hex(got), hex(want))
}
