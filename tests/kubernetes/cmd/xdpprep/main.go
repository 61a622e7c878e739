// Command xdpprep makes an end of a veth pair fit for XDP on the other end: `xdpprep IFACE [pass]`.
//
// Checksums must be complete before a frame comes to the peer's XDP program, so their offload is switched off. And what
// the peer sends by XDP_TX or XDP_REDIRECT arrives here only if this end polls: GRO on does that, and where another
// driver or kernel wants it, `pass` attaches a program that passes everything. It stays until the interface goes.
package main

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// xdpPass is XDP_PASS of the kernel's enum xdp_action.
const xdpPass = 2

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 || len(os.Args) == 3 && os.Args[2] != "pass" {
		fmt.Fprintln(os.Stderr, "usage: xdpprep IFACE [pass]")
		os.Exit(2)
	}
	if err := prepare(os.Args[1], len(os.Args) == 3); err != nil {
		fmt.Fprintf(os.Stderr, "xdpprep: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func prepare(iface string, pass bool) error {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer tool.Close()
	if err := tool.Change(iface, map[string]bool{"tx-checksum-ip-generic": false, "rx-gro": true}); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	if !pass {
		return nil
	}
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		License:      "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load the program: %w", err)
	}
	defer program.Close()
	return netlink.LinkSetXdpFd(link, program.FD())
}
