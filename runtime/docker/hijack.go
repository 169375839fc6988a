package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"time"

	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// The client of the engine opens its raw streams without a bound: one that
// accepts a connection and never answers would hold the caller for ever. So the
// driver opens them itself.

// maxRefusal bounds what is read of an engine's refusal in bytes.
const maxRefusal = 16 << 10

// rawStream is a connection of the engine's that carries the streams of a process.
type rawStream struct {
	net.Conn
	reader *bufio.Reader
}

// Read reads what the process prints.
func (s *rawStream) Read(p []byte) (int, error) { return s.reader.Read(p) }

// CloseWrite ends the input of the process.
func (s *rawStream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("close the input: %w by this connection", runtime.ErrUnsupported)
}

// hijack asks the engine to turn a connection into a raw stream. The call is
// bounded; the stream lasts until it is closed.
func (d *Driver) hijack(ctx context.Context, resource string, query url.Values, body any) (_ *rawStream, err error) {
	if _, err := d.facts(ctx); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode a request to the engine: %w", err)
	}
	base, err := client.ParseHostURL(d.cli.DaemonHost())
	if err != nil {
		return nil, err
	}
	target := url.URL{Scheme: "http", Host: client.DummyHost, Path: path.Join("/", base.Path, "v"+d.cli.ClientVersion(), resource), RawQuery: query.Encode()}
	call, cancel := d.bounded(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(call, http.MethodPost, target.String(), bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("make a request to the engine: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")
	conn, err := d.cli.Dialer()(call)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	stop := context.AfterFunc(call, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	stream, err := upgrade(conn, request)
	if !stop() && err == nil {
		err = call.Err()
	}
	return stream, err
}

// upgrade sends the request and reads the answer.
func upgrade(conn net.Conn, request *http.Request) (*rawStream, error) {
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		return &rawStream{Conn: conn, reader: reader}, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err != nil {
		return nil, err
	}
	var refusal struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &refusal) != nil || refusal.Message == "" {
		refusal.Message = string(text)
	}
	switch response.StatusCode {
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", runtime.ErrNotFound, refusal.Message)
	case http.StatusConflict:
		return nil, fmt.Errorf("%w: %s", runtime.ErrConflict, refusal.Message)
	}
	return nil, fmt.Errorf("the engine answers %s: %s", response.Status, refusal.Message)
}
