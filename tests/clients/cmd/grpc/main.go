// A gRPC server and a gRPC client of another maker (grpc-go), for tests of a proxy between the two.
//
//	grpc server -listen :50051 -name a1
//	grpc client -to 203.0.113.9:443 -authority grpc.example [-ca ca.pem] CASE...
//
// The server is that of gRPC's own interoperability tests; it says in its headers who it is, how long the caller has still time,
// and how many streams were cancelled. It ends with SIGTERM as a pod in a rollout does: GOAWAY, then the streams that are open.
// The client runs cases, those of gRPC and ours (cases.go), prints `ok CASE` for each, and fails with the first that
// is not as it must be.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// What the server says of itself and of a call.
const (
	podHeader       = "x-pod"
	deadlineHeader  = "x-deadline-ms"
	cancelledHeader = "x-cancelled"
)

// Larger than any message of the cases.
const maxMessage = 8 << 20

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("want server or client"))
	}
	verb, arguments := os.Args[1], os.Args[2:]
	var err error
	switch verb {
	case "server":
		err = server(arguments)
	case "client":
		err = client(arguments)
	default:
		err = fmt.Errorf("%q: want server or client", verb)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "grpc:", err)
	os.Exit(1)
}

func server(arguments []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	listen := flags.String("listen", ":50051", "where to listen")
	name := flags.String("name", "", "who it says it is")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	var cancelled atomic.Int64
	about := func(ctx context.Context) metadata.MD {
		md := metadata.Pairs(podHeader, *name, cancelledHeader, strconv.FormatInt(cancelled.Load(), 10))
		if deadline, ok := ctx.Deadline(); ok {
			md.Set(deadlineHeader, strconv.FormatInt(time.Until(deadline).Milliseconds(), 10))
		}
		return md
	}
	unary := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, about(ctx)); err != nil {
			return nil, err
		}
		return handle(ctx, request)
	}
	stream := func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if err := stream.SetHeader(about(stream.Context())); err != nil {
			return err
		}
		err := handle(service, stream)
		if errors.Is(stream.Context().Err(), context.Canceled) {
			cancelled.Add(1)
		}
		return err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream), grpc.MaxRecvMsgSize(maxMessage))
	testgrpc.RegisterTestServiceServer(srv, interop.NewTestServer())
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() {
		<-told
		srv.GracefulStop()
	}()
	fmt.Println("ready")
	return srv.Serve(listener)
}

func client(arguments []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	to := flags.String("to", "", "address and port")
	authority := flags.String("authority", "grpc.example", "the host that is asked for")
	ca := flags.String("ca", "", "TLS, with a certificate of this authority")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	transport := insecure.NewCredentials()
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("no certificate in %s", *ca)
		}
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: *authority})
	}
	connection, err := grpc.NewClient("passthrough:///"+*to, grpc.WithTransportCredentials(transport),
		grpc.WithAuthority(*authority), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer connection.Close()
	for _, name := range flags.Args() {
		if err := run(connection, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println("ok", name)
	}
	return nil
}
