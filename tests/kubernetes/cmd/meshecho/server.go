package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
)

// serve listens where the arguments say, and does not return while all goes well.
func serve(arguments []string) error {
	ports := map[string][]string{}
	for _, argument := range arguments {
		if name, value, is := strings.Cut(strings.TrimPrefix(argument, "--"), "="); is {
			ports[name] = append(ports[name], value)
		}
	}
	or := func(name, port string) []string {
		if len(ports[name]) == 0 {
			return []string{port}
		}
		return ports[name]
	}
	ended := make(chan error)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	for _, port := range append(or("port", "8080"), or("grpc", "7070")...) {
		if slices.Contains(ports["tls"], port) {
			continue
		}
		server := http.Server{Addr: ":" + port, Handler: http.HandlerFunc(answer), Protocols: protocols}
		go func() { ended <- server.ListenAndServe() }()
	}
	for _, port := range or("tcp", "9090") {
		go func() { ended <- echo(port) }()
	}
	return <-ended
}

// answer says what was asked, a line for each thing; to a call as its one message.
func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	said := told(r)
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, said)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(message(said))
	w.Header().Set("Grpc-Status", "0")
}

func told(r *http.Request) string {
	host, _ := os.Hostname()
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	lines := []string{
		"Method=" + r.Method, "Proto=" + r.Proto, "Host=" + r.Host, "URL=" + r.URL.RequestURI(), "IP=" + ip, "Hostname=" + host,
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, value := range r.Header[name] {
			lines = append(lines, fmt.Sprintf("RequestHeader=%s:%s", name, value))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// message is a message of gRPC as it is sent: not compressed, its length, its bytes.
func message(text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

func echo(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_, _ = io.Copy(connection, connection)
		}()
	}
}
