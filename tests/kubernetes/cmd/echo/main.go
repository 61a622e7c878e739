// Command echo says who it is and who asks, over HTTP and UDP on $PORT (8080). It is $POD_NAME, or what its host is called.
//
// `/healthz` answers 200; `/down` makes it answer 503, and `/up` makes it 200 again. On SIGTERM it goes on for $LINGER
// (0s), as a pod does that lets go of its clients first, and then ends. `echo get URL` is a client for `kubectl exec`.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		end(get(os.Args[2]))
	}
	end(serve())
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// get prints the answer to a request, with its head.
func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return answer.Write(os.Stdout)
}

func serve() error {
	linger, err := time.ParseDuration(or(os.Getenv("LINGER"), "0s"))
	if err != nil {
		return err
	}
	address := ":" + or(os.Getenv("PORT"), "8080")
	datagrams, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	self := fmt.Sprintf("pod=%s node=%s", or(os.Getenv("POD_NAME"), host), os.Getenv("NODE_NAME"))
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	failed := make(chan error, 2)
	go func() { failed <- answerDatagrams(datagrams, self) }()
	server := http.Server{Handler: handler(self)}
	go func() { failed <- server.Serve(listener) }()
	fmt.Println("echo", self, "on", address)
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
	}
	time.Sleep(linger)
	// What has been asked is answered.
	limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(limit)
}

func answerDatagrams(socket net.PacketConn, self string) error {
	buffer := make([]byte, 2048)
	for {
		length, peer, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		// A peer that has gone is no reason to end.
		_, _ = socket.WriteTo(fmt.Appendf(nil, "%s peer=%s %s", self, peer, buffer[:length]), peer)
	}
}

func handler(self string) http.Handler {
	var down atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/down", func(http.ResponseWriter, *http.Request) { down.Store(true) })
	mux.HandleFunc("/up", func(http.ResponseWriter, *http.Request) { down.Store(false) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s peer=%s host=%s path=%s\n", self, r.RemoteAddr, r.Host, r.URL.Path)
	})
	return mux
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
