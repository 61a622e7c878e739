// Package gateway is the official conformance suite of Gateway API, as a program that needs nothing but a kubeconfig.
package gateway

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs it: the flags are the suite's own.
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
