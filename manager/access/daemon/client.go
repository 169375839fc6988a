package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

const (
	startTimeout = 15 * time.Second // from the start of a daemon to its first answer
	callTimeout  = 15 * time.Second
	leaveTimeout = 15 * time.Second     // from a daemon's refusal, because it leaves, to its end
	startPause   = 5 * time.Millisecond // between two looks whether it answers
	againPause   = time.Second          // between two daemons that are started
	maxAnswer    = 1 << 20
)

// ErrNotRunning says that no daemon serves the home.
var ErrNotRunning = errors.New("no daemon serves this home")

// RefusedError says that the daemon is well and does not do what it was asked for. Its
// message says why, and what mends it.
type RefusedError struct {
	Message string
	cause   error // nil where only the message tells
}

// Error returns the message.
func (e *RefusedError) Error() string { return e.Message }

// Unwrap returns syscall.ENOSPC where there is no room on the disk.
func (e *RefusedError) Unwrap() error { return e.cause }

// Client speaks with the daemon of a home, and starts it where that is needed. It
// is safe for concurrent use.
type Client struct {
	home    string
	command []string
	http    *http.Client
}

// NewClient returns a client for a home, an absolute path. Command starts a daemon
// of it, in the background, as Serve.
func NewClient(home string, command []string) *Client {
	c := &Client{home: home, command: command}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, socketPath(home)) },
		IdleConnTimeout: time.Minute,
	}}
	return c
}

// Close releases the client's connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Health asks the daemon how it is. The error matches ErrNotRunning if there is
// none.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.call(ctx, http.MethodGet, "/v1/health", nil, &h)
	return h, err
}

// Grants returns what is stored of grants, and starts the daemon if none answers.
func (c *Client) Grants(ctx context.Context, profile string) ([]Grant, error) {
	var list []Grant
	err := c.callStarted(ctx, http.MethodGet, "/v1/grants?profile="+url.QueryEscape(profile), nil, &list)
	if err != nil {
		return nil, fmt.Errorf("list the grants: %w", err)
	}
	return list, nil
}

// Register has the gate serve a run, and starts the daemon if none answers. It may
// be repeated: the run keeps its token and socket, and gets the policy of the last
// request.
func (c *Client) Register(ctx context.Context, request RegisterRequest) (Registration, error) {
	var got Registration
	err := c.callStarted(ctx, http.MethodPost, "/v1/runs", request, &got)
	if err != nil {
		return Registration{}, fmt.Errorf("register %s with the gate: %w", request.RunID, err)
	}
	return got, nil
}

// Unregister ends the service of a run. Where no daemon answers, none will serve
// the run later.
func (c *Client) Unregister(ctx context.Context, runID string) error {
	err := c.call(ctx, http.MethodDelete, "/v1/runs/"+runID, nil, nil)
	if errors.Is(err, ErrNotRunning) {
		if err = os.Remove(runFile(c.home, runID)); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("unregister %s from the gate: %w", runID, err)
	}
	return nil
}

// Dial connects to the gate of a registered run or build, of which gateDir is
// RegisterRequest.GateDir, as its guest does.
func Dial(ctx context.Context, gateDir, token string) (net.Conn, error) {
	conn, err := dial(ctx, filepath.Join(gateDir, SocketFile))
	if err != nil {
		return nil, fmt.Errorf("connect to the gate: %w", err)
	}
	if _, err := io.WriteString(conn, proxy.Preamble(token)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to the gate: %w", err)
	}
	return conn, nil
}

// Stop ends the daemon, unless it serves a run, and returns when it has ended. It is
// nil where none answers.
func (c *Client) Stop(ctx context.Context) error {
	err := c.call(ctx, http.MethodDelete, "/v1/daemon", nil, nil)
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(startPause):
			_, err = c.Health(ctx)
		}
	}
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	return fmt.Errorf("stop the daemon: %w", err)
}

// Watch starts the daemon if none answers, and returns when it has ended or ctx
// has.
func (c *Client) Watch(ctx context.Context) error {
	if err := c.ensure(ctx); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/v1/watch", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return notRunning(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // until the end
	return ctx.Err()
}

// callStarted performs a request that may be repeated, and starts the daemon if none
// answers. One that is leaving answers until it has left, and takes no more runs: the
// request is for the next one then.
func (c *Client) callStarted(ctx context.Context, method, path string, content, result any) error {
	for end := time.Now().Add(leaveTimeout); ; {
		err := c.ensure(ctx)
		if err == nil {
			err = c.call(ctx, method, path, content, result)
		}
		if !errors.Is(err, ErrNotRunning) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPause):
		}
	}
}

// Ensure starts the daemon if none answers.
func (c *Client) Ensure(ctx context.Context) error { return c.ensure(ctx) }

// ensure starts the daemon if none answers.
func (c *Client) ensure(ctx context.Context) error {
	if _, err := c.Health(ctx); !errors.Is(err, ErrNotRunning) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ended, from, err := c.spawn()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	var again <-chan time.Time
	for {
		if _, err := c.Health(ctx); !errors.Is(err, ErrNotRunning) {
			return err
		}
		select {
		case err, running := <-ended:
			if running && err != nil {
				return fmt.Errorf("start the daemon: %w: %s", err, c.wordsFrom(from))
			}
			// Another one was faster, and will answer; or one that is ending still
			// stores a credential, and has the lock until then.
			ended, again = nil, time.After(againPause)
		case <-again:
			if ended, from, err = c.spawn(); err != nil {
				return fmt.Errorf("start the daemon: %w", err)
			}
			again = nil
		case <-ctx.Done():
			return fmt.Errorf("start the daemon: it does not answer: %w: %s", ctx.Err(), c.wordsFrom(from))
		case <-time.After(startPause):
		}
	}
}

// spawn starts a daemon in a session of its own and returns what tells its end, and
// where in the log its words begin.
func (c *Client) spawn() (<-chan error, int64, error) {
	if len(c.command) == 0 {
		return nil, 0, errors.New("there is no command for it")
	}
	if err := makeOwnDir(c.home); err != nil {
		return nil, 0, err
	}
	words, err := os.OpenFile(c.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer words.Close()
	var from int64
	if info, err := words.Stat(); err == nil {
		from = info.Size()
	}
	if from > maxAnswer {
		_ = words.Truncate(0)
		from = 0
	}
	// Where it cannot say a word, nobody would know why it ends.
	if _, err := fmt.Fprintf(words, "%s starting the daemon\n", time.Now().UTC().Format(time.RFC3339)); err != nil {
		return nil, 0, fmt.Errorf("write its log: %w; make room there", err)
	}
	cmd := exec.Command(c.command[0], c.command[1:]...) // it outlives everybody's context
	cmd.Stdout, cmd.Stderr = words, words
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait() // for as long as this process lives: it leaves no zombie
		close(ended)
	}()
	return ended, from, nil
}

func (c *Client) logFile() string { return filepath.Join(daemonDir(c.home), "daemon.log") }

// wordsFrom returns the end of what daemons printed, from an offset in the log.
func (c *Client) wordsFrom(from int64) string {
	data, err := os.ReadFile(c.logFile())
	if err != nil || int64(len(data)) <= from {
		return "it left no log"
	}
	const most = 1 << 10
	return strings.TrimSpace(string(data[max(int(from), len(data)-most):]))
}

// call performs one request.
func (c *Client) call(ctx context.Context, method, path string, content, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if content != nil {
		data, err := json.Marshal(content)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, body)
	if err != nil {
		return err
	}
	if err := checkOwn(c.home); err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return notRunning(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return notRunning(err)
	}
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable:
		return ErrNotRunning
	case resp.StatusCode >= 300:
		var why failure
		if json.Unmarshal(data, &why) != nil || why.Message == "" {
			why.Message = resp.Status
		}
		refused := &RefusedError{Message: why.Message}
		if resp.StatusCode == http.StatusInsufficientStorage {
			refused.cause = syscall.ENOSPC
		}
		return refused
	case result == nil:
		return nil
	}
	return json.Unmarshal(data, result)
}

// notRunning tells errors of a daemon that is not there from others.
func notRunning(err error) error {
	for _, gone := range []error{syscall.ECONNREFUSED, os.ErrNotExist, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			return ErrNotRunning
		}
	}
	return err
}
