//go:build unix

package runtimetest

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// testDial reaches servers in sandboxes, which have no network.
func (s *suite) testDial(t *testing.T) {
	if !s.can.Dial {
		t.Run("is refused with a mend", s.dialIsRefused)
		return
	}
	t.Run("reaches a server", s.dialReachesAServer)
	t.Run("says why it does not", s.dialSaysWhyNot)
}

func (s *suite) dialIsRefused(t *testing.T) {
	t.Parallel()
	if s.can.DialMend == "" {
		t.Error("nothing says what a person can do")
	}
	b := s.start(t, s.spec(t, programPath, "serve", "8000"))
	if dialer, is := b.driver.(runtime.Dialer); is {
		_, err := dialer.Dial(b.ctx, b.handle, 8000)
		WantError(t, "dial", err, runtime.ErrUnsupported)
	}
}

// ask connects, says words, ends its half and returns the answer.
func (b *sandbox) ask(port uint16, words string) string {
	b.t.Helper()
	conn, err := b.driver.(runtime.Dialer).Dial(b.ctx, b.handle, port)
	if err != nil {
		b.t.Error(err)
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, words); err != nil {
		b.t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		b.t.Error(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		b.t.Error(err)
	}
	return string(answer)
}

func (s *suite) dialReachesAServer(t *testing.T) {
	t.Parallel()
	b := s.start(t, s.spec(t, programPath, "serve", "8000"))
	b.awaitOutput("serving")
	words := strings.Repeat("0123456789abcdef", 1<<16)
	if got := b.ask(8000, words); got != "you said "+words {
		t.Errorf("%d bytes came back", len(got))
	}
	var all sync.WaitGroup
	for range runtime.MaxConnections {
		all.Go(func() {
			if got := b.ask(8000, "x"); got != "you said x" {
				t.Errorf("one of many says %q", got)
			}
		})
	}
	all.Wait()
}

func (s *suite) dialSaysWhyNot(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, programPath, "serve", "8000")
	b := s.create(t, spec)
	dialer := b.driver.(runtime.Dialer)
	_, err := dialer.Dial(b.ctx, b.handle, 8000)
	WantError(t, "before the start", err, runtime.ErrConflict)
	b.start()
	b.awaitOutput("serving")
	_, err = dialer.Dial(b.ctx, b.handle, 8001)
	WantError(t, "a port where nobody listens", err, runtime.ErrRefused)
	if err := b.driver.Stop(b.ctx, b.handle, 0); err != nil {
		t.Fatal(err)
	}
	_, err = dialer.Dial(b.ctx, b.handle, 8000)
	WantError(t, "after the end", err, runtime.ErrConflict)
}
