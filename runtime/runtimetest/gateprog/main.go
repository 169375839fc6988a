// gateprog tries to get out of a sandbox, through the gate and around it. It reads a
// plan from the file of its first argument and prints what came of each step, one
// line of JSON each.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

const stepTimeout = 15 * time.Second

// held keeps connections for as long as the program lives.
var held []net.Conn

func main() {
	data, err := os.ReadFile(os.Args[1])
	var steps []plan.Step
	if err == nil {
		err = json.Unmarshal(data, &steps)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	for i := range steps {
		result := plan.Result{Name: steps[i].Name}
		if err := do(&steps[i], &result); err != nil {
			result.Error = err.Error()
		}
		line, err := json.Marshal(result)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		fmt.Println(string(line))
	}
	if len(held) > 0 {
		select {}
	}
}

func do(s *plan.Step, r *plan.Result) error {
	switch s.Do {
	case "":
		return talk(s, r)
	case "dial":
		conn, err := dial(s.Address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	case "query":
		return query(s.Address)
	case "resolve":
		ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
		defer cancel()
		_, err := net.DefaultResolver.LookupHost(ctx, s.Address)
		return err
	case "scan":
		return scan(s, r)
	case "shout":
		return shout(s)
	case "ask":
		return ask(s, r)
	case "socket":
		fd, err := syscall.Socket(s.Numbers[0], s.Numbers[1], s.Numbers[2])
		if err == nil {
			_ = syscall.Close(fd)
		}
		return err
	case "sockets":
		return sockets(r)
	case "change":
		return change(s.Address)
	case "hold", "close":
		return many(s)
	}
	return fmt.Errorf("unknown step %q", s.Do)
}

func dial(address string) (net.Conn, error) {
	network, address, _ := strings.Cut(address, ":")
	return net.DialTimeout(network, address, stepTimeout)
}

func open(s *plan.Step) (net.Conn, error) {
	address := s.Address
	if address == "" {
		address = "tcp:" + runtime.GateAddress
	}
	return dial(address)
}

// talk sends something and reads what is answered.
func talk(s *plan.Step, r *plan.Result) error {
	conn, err := open(s)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(stepTimeout))
	reader := bufio.NewReader(conn)
	if s.Connect != "" {
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.Connect, s.Connect)
		answer, err := read(reader, http.MethodConnect)
		if err != nil || answer.Status != http.StatusOK {
			r.Answers = append(r.Answers, answer)
			return err
		}
	}
	if s.TLS != nil {
		secure := tls.Client(&buffered{conn, reader}, &tls.Config{ServerName: *s.TLS, InsecureSkipVerify: true, NextProtos: protocols(s)})
		if err := secure.Handshake(); err != nil {
			return err
		}
		conn, reader = secure, bufio.NewReader(secure)
	}
	if s.Headers != nil {
		return talkHTTP2(conn, s, r)
	}
	go func() { _, _ = io.WriteString(conn, s.Send) }() // an answer may come before its end
	for range max(1, s.Answers) {
		answer, err := read(reader, http.MethodGet)
		if err != nil {
			return err
		}
		r.Answers = append(r.Answers, answer)
	}
	return nil
}

func protocols(s *plan.Step) []string {
	if s.Headers != nil {
		return []string{"h2"}
	}
	return []string{"http/1.1"}
}

// buffered is a connection of which a part may have been read.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func read(r *bufio.Reader, method string) (plan.Answer, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return plan.Answer{}, err
	}
	defer resp.Body.Close()
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return plan.Answer{Status: resp.StatusCode}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return plan.Answer{Status: resp.StatusCode, Body: string(body)}, err
}

// talkHTTP2 sends one request by HTTP/2, of which nothing is checked here.
func talkHTTP2(conn net.Conn, s *plan.Step, r *plan.Result) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range s.Headers {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(conn, http2.ClientPreface)
	err = errors.Join(err, framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: s.Send == "", EndHeaders: true}))
	if s.Send != "" {
		err = errors.Join(err, framer.WriteData(1, true, []byte(s.Send)))
	}
	var answer plan.Answer
	for err == nil {
		var frame http2.Frame
		if frame, err = framer.ReadFrame(); err != nil {
			break
		}
		ended := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "" {
				answer.Status, _ = strconv.Atoi(status)
			}
			for _, field := range f.RegularFields() {
				answer.Header = append(answer.Header, [2]string{field.Name, field.Value})
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			answer.Body += string(f.Data())
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			return fmt.Errorf("reset: %s", f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Errorf("go away: %s", f.ErrCode)
		}
		if ended {
			r.Answers = append(r.Answers, answer)
			return nil
		}
	}
	return err
}

// query asks a name server for the address of a name, and waits for any answer.
func query(address string) error {
	conn, err := net.DialTimeout("udp", address, stepTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(stepTimeout))
	question := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x04test\x00\x00\x01\x00\x01"
	if _, err := io.WriteString(conn, question); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 512))
	return err
}

// sockets lists Unix sockets by their paths, and mounts that name one.
func sockets(r *plan.Result) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, ".sock") {
			r.Found = append(r.Found, strings.TrimSpace(line))
		}
	}
	return filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // what cannot be looked at cannot be connected to either
		case path == "/proc", path == "/sys":
			return filepath.SkipDir
		case entry.Type()&fs.ModeSocket != 0:
			r.Found = append(r.Found, path)
		}
		return nil
	})
}

// change tries all that would replace what is in a directory. It returns an error
// only if everything fails.
func change(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		fmt.Fprintln(os.Stderr, what+" succeeded")
		errs = append(errs, nil)
	}
	try("make", os.WriteFile(filepath.Join(dir, "fresh"), nil, 0o600))
	try("make a directory", os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	l, err := net.Listen("unix", filepath.Join(dir, "other.sock"))
	if err == nil {
		_ = l.Close()
	}
	try("listen", err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		try("remove "+path, os.Remove(path))
		try("rename "+path, os.Rename(path, path+".old"))
		try("chmod "+path, os.Chmod(path, 0o600))
		try("link to "+path, os.Symlink("/dev/null", path))
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_ = f.Close()
		}
		try("open "+path, err)
	}
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

// many opens connections. Those that are refused count too.
func many(s *plan.Step) error {
	for range s.Numbers[0] {
		conn, err := open(s)
		if err != nil {
			return err
		}
		if s.Do == "hold" {
			held = append(held, conn)
		}
		if _, err := io.WriteString(conn, s.Send); err != nil && s.Do == "hold" {
			continue // it was one too many
		}
		if s.Do == "close" {
			_ = conn.Close()
		}
	}
	return nil
}
