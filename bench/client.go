package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// closeWait bounds how long a server may take to end after its input has.
const closeWait = 10 * time.Second

// client is an MCP client on the standard input and output of a server that is a
// child of this process. It does as little as possible, so that what is measured
// is the server: an answer is decoded by who wants to know what is in it. Calls may
// be concurrent.
type client struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *os.File
	done   chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards the fields below, and writes to stdin
	lastID  int64
	waiting map[string]chan []byte // each gets the line of its answer
	err     error                  // why the reader ended
}

type reply struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// spawn starts a server. Its standard error goes to a file in dir that close
// reads when something went wrong.
func spawn(dir, program string, args, env []string) (*client, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = dir
	stderr, err := os.CreateTemp(dir, "stderr-")
	if err != nil {
		return nil, fmt.Errorf("make a file for what %s says: %w", program, err)
	}
	cmd.Stderr = stderr
	c := &client{cmd: cmd, stderr: stderr, done: make(chan struct{}), waiting: make(map[string]chan []byte)}
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), stderr.Close())
	}
	go c.read(stdout)
	return c, nil
}

func (c *client) pid() int { return c.cmd.Process.Pid }

func (c *client) read(stdout io.Reader) {
	defer close(c.done)
	in := bufio.NewReaderSize(stdout, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("the server has ended: %w", err)
			c.mu.Unlock()
			return
		}
		id := idOf(line)
		c.mu.Lock()
		waiter := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if waiter != nil {
			waiter <- line
		}
	}
}

// idOf returns the id of an answer, or nothing for a notification.
func idOf(line []byte) string {
	if rest, usual := bytes.CutPrefix(line, []byte(`{"jsonrpc":"2.0","id":`)); usual {
		id, _, _ := bytes.Cut(rest, []byte(","))
		return string(id)
	}
	var r reply
	if json.Unmarshal(line, &r) != nil {
		return ""
	}
	return string(r.ID)
}

// hasResult tells that an answer is no error, without decoding it. False means that
// it has to be decoded.
func hasResult(line []byte, id string) bool {
	return bytes.HasPrefix(line, []byte(`{"jsonrpc":"2.0","id":`+id+`,"result":{`))
}

// request sends a request and returns its result.
func (c *client) request(ctx context.Context, method string, params any) (json.RawMessage, error) {
	line, err := c.exchange(ctx, method, params)
	if err != nil {
		return nil, err
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", method, err)
	}
	return r.Result, nil
}

// exchange sends a request and returns the line of its answer, which is no error.
func (c *client) exchange(ctx context.Context, method string, params any) ([]byte, error) {
	body, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("encode the parameters of %s: %w", method, err)
	}
	answer := make(chan []byte, 1)
	c.mu.Lock()
	c.lastID++
	id := strconv.FormatInt(c.lastID, 10)
	c.waiting[id] = answer
	line := append([]byte(`{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`), body...)
	_, err = c.stdin.Write(append(line, "}\n"...))
	c.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("send %s: %w; the server said: %s", method, err, c.said())
	}
	select {
	case answer := <-answer:
		if hasResult(answer, id) {
			return answer, nil
		}
		var r reply
		if err := json.Unmarshal(answer, &r); err != nil {
			return nil, fmt.Errorf("read the answer of %s: %w", method, err)
		}
		if r.Error != nil {
			return nil, fmt.Errorf("%s: error %d: %s", method, r.Error.Code, r.Error.Message)
		}
		return answer, nil
	case <-c.done:
		return nil, fmt.Errorf("%s: %w; it said: %s", method, c.err, c.said())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Parameters of the first request, in the older era of the protocol and in the
// newer.
var (
	hello = map[string]any{
		"protocolVersion": "2025-11-25",
		"capabilities":    map[string]any{},
		"clientInfo":      map[string]any{"name": "bench", "version": "1"},
	}
	discover = map[string]any{"_meta": map[string]any{
		"io.modelcontextprotocol/protocolVersion":    "2026-07-28",
		"io.modelcontextprotocol/clientCapabilities": map[string]any{},
		"io.modelcontextprotocol/clientInfo":         map[string]any{"name": "bench", "version": "1"},
	}}
)

// connect shakes hands in the older era, as most clients do.
func (c *client) connect(ctx context.Context) error {
	if _, err := c.request(ctx, "initialize", hello); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := io.WriteString(c.stdin, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	return err
}

// tool calls a tool and decodes its structured content into result, unless that
// is nil.
func (c *client) tool(ctx context.Context, name string, args, result any) error {
	params := map[string]any{"name": name, "arguments": args}
	if result == nil {
		_, err := c.exchange(ctx, "tools/call", params)
		return err
	}
	raw, err := c.request(ctx, "tools/call", params)
	if err != nil {
		return err
	}
	var answer struct {
		IsError           bool            `json:"isError"`
		StructuredContent json.RawMessage `json:"structuredContent"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("read the answer of %s: %w", name, err)
	}
	if answer.IsError {
		return fmt.Errorf("%s: %s", name, raw)
	}
	return json.Unmarshal(answer.StructuredContent, result)
}

// said returns what the server has written to its standard error.
func (c *client) said() string {
	text, err := os.ReadFile(c.stderr.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[:min(len(text), 2000)])
}

// close ends the server by ending its input, and kills it if that does not help.
func (c *client) close() error {
	defer c.stderr.Close()
	_ = c.stdin.Close()
	timer := time.AfterFunc(closeWait, func() { _ = c.cmd.Process.Kill() })
	<-c.done
	err := c.cmd.Wait()
	if !timer.Stop() {
		return fmt.Errorf("the server did not end within %v after its input", closeWait)
	}
	if err != nil {
		return fmt.Errorf("the server ended with %w: %s", err, c.said())
	}
	return nil
}

// quit ends the server at once, with a trace of its goroutines, and returns that.
func (c *client) quit() (string, error) {
	defer c.stderr.Close()
	if err := c.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return "", err
	}
	<-c.done
	_ = c.cmd.Wait() // it says that it was killed
	_ = c.stdin.Close()
	text, err := os.ReadFile(c.stderr.Name())
	return string(text), err
}
