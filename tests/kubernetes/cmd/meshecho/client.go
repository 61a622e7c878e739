package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// limit is how long a request may take.
const limit = 5 * time.Second

// account is where a pod finds what it needs to speak to the API server.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// asked is what the command line says.
type asked struct {
	url, method string
	isCall      bool
	headers     http.Header
	count       int
}

// client sends as many requests as it is told to and prints what came of each, a blank line between two.
func client(url string, flags []string) error {
	asked, err := parse(url, flags)
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!asked.isCall)
	protocols.SetUnencryptedHTTP2(asked.isCall)
	dialer := net.Dialer{Timeout: limit}
	known := map[string]string{}
	transport := http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if known[host] == "" {
			if known[host], err = resolve(ctx, host); err != nil {
				return nil, err
			}
		}
		return dialer.DialContext(ctx, network, net.JoinHostPort(known[host], port))
	}}
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	sender := http.Client{Transport: &transport, Timeout: limit, CheckRedirect: follow}
	for n := range asked.count {
		if n > 0 {
			fmt.Println()
		}
		said, err := asked.send(&sender, n)
		if err != nil {
			return err
		}
		fmt.Print(said)
	}
	return nil
}

func parse(url string, flags []string) (asked, error) {
	out := asked{url: url, method: http.MethodGet, headers: http.Header{}, count: 1}
	if rest, is := strings.CutPrefix(url, "grpc://"); is {
		host, _, _ := strings.Cut(rest, "/")
		out.isCall, out.method, out.url = true, http.MethodPost, "http://"+host+"/proto.EchoTestService/Echo"
		out.headers.Set("Content-Type", "application/grpc")
		out.headers.Set("Te", "trailers")
	}
	for n := 0; n < len(flags); n++ {
		name, value, _ := strings.Cut(flags[n], "=")
		switch {
		case name == "--method":
			out.method = value
		case name == "--count":
			count, err := strconv.Atoi(value)
			if err != nil || count < 1 {
				return out, fmt.Errorf("--count is %q, want a number from 1", value)
			}
			out.count = count
		case name == "-H" && n+1 < len(flags):
			n++
			key, value, _ := strings.Cut(flags[n], ":")
			out.headers.Add(key, value)
		default:
			return out, fmt.Errorf("%q is not known, want --method=, --count= or -H NAME:VALUE", flags[n])
		}
	}
	return out, nil
}

// send sends the n-th request; a status that is no success is an answer as well.
func (a asked) send(sender *http.Client, n int) (string, error) {
	var body io.Reader
	if a.isCall {
		body = bytes.NewReader(message(""))
	}
	request, err := http.NewRequest(a.method, a.url, body)
	if err != nil {
		return "", err
	}
	request.Header = a.headers.Clone()
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := sender.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "[%d] Url=%s\n[%d] StatusCode=%d\n", n, a.url, n, response.StatusCode)
	for name, values := range response.Header {
		for _, value := range values {
			fmt.Fprintf(&out, "[%d] ResponseHeader=%s:%s\n", n, name, value)
		}
	}
	if a.isCall {
		status := response.Trailer.Get("Grpc-Status") + response.Header.Get("Grpc-Status")
		if status != "0" {
			return "", fmt.Errorf("the call ended with grpc-status %q", status)
		}
		text = text[min(5, len(text)):]
	}
	for line := range strings.Lines(string(text)) {
		fmt.Fprintf(&out, "[%d body] %s\n", n, strings.TrimSpace(line))
	}
	return out.String(), nil
}

// resolve returns the address of a Service: NAME, of the pod's own namespace, or NAME.NAMESPACE and what may follow.
func resolve(ctx context.Context, host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	own, err := os.ReadFile(account + "namespace")
	if err != nil {
		return "", err
	}
	name, namespace, _ := strings.Cut(host, ".")
	namespace, _, _ = strings.Cut(namespace, ".")
	if namespace == "" {
		namespace = strings.TrimSpace(string(own))
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return "", err
	}
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return "", err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	server := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	url := fmt.Sprintf("https://%s/api/v1/namespaces/%s/services/%s", server, namespace, name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	api := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}, Timeout: limit}
	response, err := api.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var service struct {
		Spec struct {
			ClusterIPs []string `json:"clusterIPs"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(response.Body).Decode(&service); err != nil {
		return "", fmt.Errorf("%s: status %d: %w", url, response.StatusCode, err)
	}
	if response.StatusCode != http.StatusOK || !slices.ContainsFunc(service.Spec.ClusterIPs, isAddress) {
		return "", fmt.Errorf("%s: status %d, ClusterIPs %q", url, response.StatusCode, service.Spec.ClusterIPs)
	}
	return service.Spec.ClusterIPs[0], nil
}

func isAddress(text string) bool { return net.ParseIP(text) != nil }
