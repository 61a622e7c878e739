// Command meshecho stands for the image that the mesh tests of Gateway API's conformance suite run: a server that says what it was asked,
// and, run in the same pod as `client URL`, a client that prints what it was answered. What is read and written is what the suite
// writes and reads (its package utils/echo), and no more.
//
//	client http://HOST[:PORT]/PATH [--method=METHOD] [-H NAME:VALUE]... [--count=N]
//	client grpc://HOST:PORT        likewise, a call
//
// A server listens at each `--port` (8080) and `--grpc` (7070), HTTP/1.1 and HTTP/2 in clear text, and at `--tcp` (9090), where it says
// what it hears; a `--port` that is a `--tls` too is left out. There is no name server in the test cluster: the client asks the API
// server for the Service that it is to dial, so the pod's ServiceAccount must be let read Services.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	var err error
	if len(os.Args) > 1 && strings.Contains(os.Args[1], "://") {
		err = client(os.Args[1], os.Args[2:])
	} else {
		err = serve(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "meshecho:", err)
		os.Exit(1)
	}
}
