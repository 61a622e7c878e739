package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// No case takes longer, on any machine.
const limit = 60 * time.Second

const mebibyte = 1 << 20

// A case of gRPC's own; it ends the process where it fails.
type official func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)

// Source: interop-test-descriptions.md of gRPC.
var officials = map[string]official{
	"empty_unary":                 interop.DoEmptyUnaryCall,
	"large_unary":                 interop.DoLargeUnaryCall,
	"client_streaming":            interop.DoClientStreaming,
	"server_streaming":            interop.DoServerStreaming,
	"ping_pong":                   interop.DoPingPong,
	"empty_stream":                interop.DoEmptyStream,
	"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
	"cancel_after_begin":          interop.DoCancelAfterBegin,
	"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
	"custom_metadata":             interop.DoCustomMetadata,
	"status_code_and_message":     interop.DoStatusCodeAndMessage,
	"special_status_message":      interop.DoSpecialStatusMessage,
}

type own func(context.Context, testgrpc.TestServiceClient) error

var owns = map[string]own{
	"mebibytes":          mebibytes,
	"deadline":           deadline,
	"error_with_trailer": errorWithTrailer,
	"cancel_is_seen":     cancelIsSeen,
	"rollout":            rollout,
	"by_metadata":        byMetadata,
	"pod":                pod,
}

func run(connection *grpc.ClientConn, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	service := testgrpc.NewTestServiceClient(connection)
	if name == "unimplemented_method" {
		interop.DoUnimplementedMethod(ctx, connection)
		return nil
	}
	if name == "unimplemented_service" {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection))
		return nil
	}
	if name == "no_backend" {
		return noBackend(ctx, connection)
	}
	if do, ok := officials[name]; ok {
		do(ctx, service)
		return nil
	}
	if do, ok := owns[name]; ok {
		return do(ctx, service)
	}
	return errors.New("there is no such case")
}

func payload(size int) *testpb.Payload {
	// Not the same byte again and again: a part that is lost or comes twice must show.
	body := make([]byte, size)
	state := uint32(size)
	for i := range body {
		state = state*1664525 + 1013904223
		body[i] = byte(state >> 24)
	}
	return &testpb.Payload{Body: body}
}

func sized(size int32) []*testpb.ResponseParameters {
	return []*testpb.ResponseParameters{{Size: size}}
}

// Messages of 1 MiB in all four kinds of calls.
func mebibytes(ctx context.Context, service testgrpc.TestServiceClient) error {
	const count = 8
	reply, err := service.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: mebibyte, Payload: payload(mebibyte)})
	if err != nil || len(reply.GetPayload().GetBody()) != mebibyte {
		return fmt.Errorf("unary: %d bytes, %w", len(reply.GetPayload().GetBody()), err)
	}

	up, err := service.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for range count {
		if err := up.Send(&testpb.StreamingInputCallRequest{Payload: payload(mebibyte)}); err != nil {
			return fmt.Errorf("client stream: %w", err)
		}
	}
	sum, err := up.CloseAndRecv()
	if err != nil || sum.GetAggregatedPayloadSize() != count*mebibyte {
		return fmt.Errorf("client stream: %v, %w", sum, err)
	}

	var parameters []*testpb.ResponseParameters
	for range count {
		parameters = append(parameters, sized(mebibyte)...)
	}
	down, err := service.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: parameters})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		reply, err := down.Recv()
		if errors.Is(err, io.EOF) && i == count {
			break
		}
		if err != nil || len(reply.GetPayload().GetBody()) != mebibyte {
			return fmt.Errorf("server stream, message %d: %d bytes, %w", i, len(reply.GetPayload().GetBody()), err)
		}
	}

	both, err := service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for i := range count {
		if err := echo(both, mebibyte); err != nil {
			return fmt.Errorf("both ways, message %d: %w", i, err)
		}
	}
	return closed(both)
}

// One message there and one back.
func echo(stream testgrpc.TestService_FullDuplexCallClient, size int32) error {
	request := &testpb.StreamingOutputCallRequest{ResponseParameters: sized(size), Payload: payload(int(size))}
	if err := stream.Send(request); err != nil {
		return err
	}
	reply, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(reply.GetPayload().GetBody()) != int(size) {
		return fmt.Errorf("%d bytes, want %d", len(reply.GetPayload().GetBody()), size)
	}
	return nil
}

// Ends our side; the server's must end too, well.
func closed(stream testgrpc.TestService_FullDuplexCallClient) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if reply, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end: %v, %w", reply, err)
	}
	return nil
}

// The server knows how long we have; who waits longer is told so.
func deadline(ctx context.Context, service testgrpc.TestServiceClient) error {
	const given = 30 * time.Second
	var header metadata.MD
	timed, cancel := context.WithTimeout(ctx, given)
	defer cancel()
	if _, err := service.EmptyCall(timed, &testpb.Empty{}, grpc.Header(&header)); err != nil {
		return err
	}
	if seen, err := number(header, deadlineHeader); err != nil || seen <= 0 || seen > given.Milliseconds() {
		return fmt.Errorf("the server has %d ms, want at most %d: %w", seen, given.Milliseconds(), err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	stream, err := service.FullDuplexCall(short)
	if err != nil {
		return err
	}
	if err := echo(stream, 10); err != nil {
		return fmt.Errorf("before the deadline: %w", err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("%w, want DEADLINE_EXCEEDED", err)
	}
	return nil
}

// Status, message, and trailers of an error, before and after messages.
func errorWithTrailer(ctx context.Context, service testgrpc.TestServiceClient) error {
	const key, value = "x-grpc-test-echo-trailing-bin", "\x00\x01\xfe\xff"
	const message = "not now: 100 % ünfit,\tagain"
	ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	refused := &testpb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: message}
	check := func(what string, err error, trailer metadata.MD) error {
		said := status.Convert(err)
		if said.Code() != codes.FailedPrecondition || said.Message() != message {
			return fmt.Errorf("%s: %w, want FAILED_PRECONDITION %q", what, err, message)
		}
		if got := trailer.Get(key); len(got) != 1 || got[0] != value {
			return fmt.Errorf("%s: trailer %q, want %q", what, got, value)
		}
		return nil
	}
	var trailer metadata.MD
	_, err := service.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: refused}, grpc.Trailer(&trailer))
	if err := check("unary", err, trailer); err != nil {
		return err
	}
	stream, err := service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := echo(stream, 1000); err != nil {
		return err
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{ResponseStatus: refused}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return check("stream", err, stream.Trailer())
}

// The server learns that we are gone.
func cancelIsSeen(ctx context.Context, service testgrpc.TestServiceClient) error {
	count := func() (int64, error) {
		var header metadata.MD
		if _, err := service.EmptyCall(ctx, &testpb.Empty{}, grpc.Header(&header)); err != nil {
			return 0, err
		}
		return number(header, cancelledHeader)
	}
	before, err := count()
	if err != nil {
		return err
	}
	gone, cancel := context.WithCancel(ctx)
	stream, err := service.FullDuplexCall(gone)
	if err == nil {
		err = echo(stream, 10)
	}
	cancel()
	if err != nil {
		return err
	}
	for {
		after, err := count()
		if err != nil {
			return err
		}
		if after == before+1 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A stream and many calls, while backends come and go; ends when standard input does.
func rollout(ctx context.Context, service testgrpc.TestServiceClient) error {
	ended := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		close(ended)
	}()
	stream, err := service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := echo(stream, 100); err != nil {
		return err
	}
	header, err := stream.Header()
	if err != nil {
		return err
	}
	fmt.Println("stream", strings.Join(header.Get(podHeader), " "))
	seen := map[string]bool{}
	for {
		select {
		case <-ended:
			return closed(stream)
		default:
		}
		pod, err := who(ctx, service)
		if err != nil {
			return fmt.Errorf("a call: %w", err)
		}
		if !seen[pod] {
			seen[pod] = true
			fmt.Println("call", pod)
		}
		if err := echo(stream, 1000); err != nil {
			return fmt.Errorf("the stream: %w", err)
		}
	}
}

// The proxy's own errors are gRPC's: this service has no endpoint.
func noBackend(ctx context.Context, connection *grpc.ClientConn) error {
	err := connection.Invoke(ctx, "/shop.Orders/Place", &testpb.Empty{}, &testpb.Empty{})
	if status.Code(err) != codes.Unavailable {
		return fmt.Errorf("%w, want UNAVAILABLE", err)
	}
	return nil
}

// A rule for metadata leads elsewhere.
func byMetadata(ctx context.Context, service testgrpc.TestServiceClient) error {
	next, err := who(metadata.AppendToOutgoingContext(ctx, "x-version", "next"), service)
	if err != nil {
		return err
	}
	if other, err := who(ctx, service); err != nil || other == next {
		return fmt.Errorf("%q with the metadata and %q without: %w", next, other, err)
	}
	return nil
}

func pod(ctx context.Context, service testgrpc.TestServiceClient) error {
	name, err := who(ctx, service)
	fmt.Println("pod", name)
	return err
}

// The pod that answers.
func who(ctx context.Context, service testgrpc.TestServiceClient) (string, error) {
	var header metadata.MD
	if _, err := service.EmptyCall(ctx, &testpb.Empty{}, grpc.Header(&header)); err != nil {
		return "", err
	}
	return strings.Join(header.Get(podHeader), " "), nil
}

func number(header metadata.MD, name string) (int64, error) {
	values := header.Get(name)
	if len(values) != 1 {
		return 0, fmt.Errorf("%s: %q, want one number", name, values)
	}
	return strconv.ParseInt(values[0], 10, 64)
}
