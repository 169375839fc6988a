package guest

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// lingering is how long an exec whose process has ended waits for more
	// output from processes that it left behind.
	lingering = 100 * time.Millisecond
	// maxLeftover bounds, in bytes, the output that is still passed on after
	// that.
	maxLeftover = 1 << 20
)

// execution is a further command that runs for a connection.
type execution struct {
	procs *processes
	child *process
	conn  *link.Conn
	io    *stdio
	input *input

	secrets *mask.Masker // nil where there are none

	kill sync.Once
}

// cancel kills everything of the execution that can be found.
func (e *execution) cancel() {
	e.kill.Do(func() { e.procs.killTree(e.child) })
}

func (e *execution) run(timeout time.Duration) {
	if e.conn.Send(link.KindOK) != nil {
		e.cancel()
	}
	var copies, reader sync.WaitGroup
	copies.Go(func() { e.copyOutput(link.KindStdout, e.io.stdout) })
	if e.io.stderr != nil {
		copies.Go(func() { e.copyOutput(link.KindStderr, e.io.stderr) })
	}
	reader.Go(func() {
		receiveInput(e.conn, e.input, func(s link.Size) {
			if e.io.tty {
				_ = resize(e.io.stdout, s) // the terminal may be gone; the exit follows
			}
		}, e.cancel)
		e.cancel()
	})
	timedOut := !waitTimeout(e.child.done, timeoutOf(timeout))
	if timedOut {
		e.cancel()
		<-e.child.done
	}
	// From here on nothing may be killed: what the command left behind in
	// the background lives on, and its number may be another's soon.
	e.kill.Do(func() {})
	for _, f := range []*os.File{e.io.stdout, e.io.stderr} {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(lingering)) // a file that cannot have one is at its end
		}
	}
	copies.Wait()
	code, sig := exitOf(e.child.status)
	_ = e.conn.Send(link.KindExit, link.ExecResult{Code: code, Signal: sig, TimedOut: timedOut}.Encode())
	_ = e.conn.SetDeadline(time.Unix(1, 0))
	e.input.finish()
	reader.Wait()
}

// copyOutput passes one stream on. A client that does not read slows the
// command down, as it would a command in the foreground.
func (e *execution) copyOutput(kind link.Kind, f *os.File) {
	to := outlet{send: func(p []byte) error { return e.conn.Send(kind, p) }, secrets: e.secrets}
	defer to.close() //nolint:errcheck // the client is gone, and the command has ended
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if to.write(buf[:n]) != nil {
				e.cancel()
				return
			}
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			copyLeftover(&to, f, buf)
		}
		return
	}
}

// copyLeftover passes on what is in the pipe when its time is over.
func copyLeftover(to *outlet, f *os.File, buf []byte) {
	for total := 0; total < maxLeftover; {
		n := 0
		err := control(f, func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		})
		if err != nil || n <= 0 || to.write(buf[:n]) != nil {
			return
		}
		total += n
	}
}
