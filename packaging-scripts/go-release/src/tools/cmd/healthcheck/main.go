// healthcheck checks HTTP and HTTPS endpoints, several at a time.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"tools.example/internal/cli"
	"tools.example/internal/records"
	"tools.example/internal/ttlcache"
)

const usage = `healthcheck check FILE | serve [-cert FILE -key FILE] ADDRESS-FILE`

// The configuration file.
type settings struct {
	Timeout   string     `json:"timeout"`
	CA        string     `json:"ca"`
	Endpoints []endpoint `json:"endpoints"`
}

type endpoint struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	// The name in the server's certificate, if it is not the one in the URL.
	ServerName string `json:"server_name"`
	Status     int    `json:"status"`
	Contains   string `json:"contains"`
}

type health struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"`
}

var errUnhealthy = errors.New("not everything is healthy")

func main() {
	cli.Main("healthcheck", run)
}

func run(arguments []string, out io.Writer) error {
	flags := cli.Flags(usage)
	if len(arguments) == 0 {
		flags.Usage()
		return cli.ErrUsage
	}
	certificate, key := flags.String("cert", "", "serve HTTPS with this certificate"), flags.String("key", "", "and this key")
	words, err := cli.Parse(flags, arguments[1:], 1)
	switch {
	case err != nil:
		return err
	case arguments[0] == "check":
		return check(words[0], out)
	case arguments[0] == "serve":
		return serve(words[0], *certificate, *key)
	}
	flags.Usage()
	return cli.ErrUsage
}

func check(file string, out io.Writer) error {
	wanted := settings{Timeout: "5s"}
	if err := records.ReadFile(file, &wanted); err != nil {
		return err
	}
	timeout, err := time.ParseDuration(wanted.Timeout)
	if err != nil {
		return err
	}
	var trusted *x509.CertPool
	if wanted.CA != "" {
		text, err := os.ReadFile(wanted.CA)
		if err != nil {
			return err
		}
		trusted = x509.NewCertPool()
		if !trusted.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s: no certificate", wanted.CA)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	// Several endpoints may ask for one URL: the answer is fetched once, and again if two ask at the same moment.
	answers := ttlcache.New[string, answer](100, time.Now)
	results := make([]health, len(wanted.Endpoints))
	var group sync.WaitGroup
	for at, one := range wanted.Endpoints {
		group.Go(func() { results[at] = one.check(ctx, trusted, answers) })
	}
	group.Wait()
	if err := cli.PrintJSON(out, results); err != nil {
		return err
	}
	for _, result := range results {
		if !result.Healthy {
			return errUnhealthy
		}
	}
	return nil
}

type answer struct {
	status int
	body   string
}

func (wanted endpoint) check(ctx context.Context, trusted *x509.CertPool, answers *ttlcache.Cache[string, answer]) health {
	key := wanted.URL + " " + wanted.ServerName
	got, known := answers.Get(key)
	if !known {
		var err error
		if got, err = wanted.fetch(ctx, trusted); err != nil {
			return health{Name: wanted.Name, Reason: err.Error()}
		}
		answers.Put(key, got, time.Minute)
	}
	status := wanted.Status
	if status == 0 {
		status = http.StatusOK
	}
	switch {
	case got.status != status:
		return health{Name: wanted.Name, Reason: fmt.Sprintf("status %d instead of %d", got.status, status)}
	case !strings.Contains(got.body, wanted.Contains):
		return health{Name: wanted.Name, Reason: fmt.Sprintf("the answer does not contain %q", wanted.Contains)}
	}
	return health{Name: wanted.Name, Healthy: true}
}

func (wanted endpoint) fetch(ctx context.Context, trusted *x509.CertPool) (answer, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: wanted.ServerName, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, wanted.URL, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return answer{response.StatusCode, string(body)}, err
}

// serve answers on a free port of the loopback until it gets a signal. It writes the address to the file when it listens.
func serve(file, certificate, key string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "all is well") })
	mux.HandleFunc("GET /down", func(out http.ResponseWriter, _ *http.Request) {
		http.Error(out, "not now", http.StatusServiceUnavailable)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { server.Close() })
	if err := os.WriteFile(file+".partial", []byte(listener.Addr().String()), 0o644); err != nil {
		return err
	}
	if err := os.Rename(file+".partial", file); err != nil {
		return err
	}
	if certificate != "" {
		err = server.ServeTLS(listener, certificate, key)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
