package guest

import (
	"bytes"
	"errors"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// firstMessage is how long a connection may take to say what it wants.
const firstMessage = 10 * time.Second

// maxWaiting bounds the connections that wait for their turn: all that one run may
// carry to its servers can come at once, beside those of others.
const maxWaiting = 4 * link.MaxConnections

// serveControl answers connections on the control socket as long as the guest
// runs.
func (r *run) serveControl(listener *os.File) {
	slots := newSlots()
	for {
		slots.take()
		conn, err := link.Accept(listener)
		if err != nil {
			slots.give()
			// No descriptor or no memory is left: others may end soon.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go r.serveOne(slots, conn)
	}
}

// serveKept answers connections that come over the meeting. Its end is that of
// the host's process that kept this sandbox.
func (r *run) serveKept(meeting *link.Meeting) {
	slots, waiting := newSlots(), make(slots, maxWaiting)
	for {
		conn, err := meeting.Accept()
		switch {
		case errors.Is(err, link.ErrProtocol):
			continue // there was no descriptor left for it
		case err != nil:
			close(r.lost)
			return
		}
		// Never waits for a slot itself: the end of the meeting must be seen.
		select {
		case waiting <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		go func() {
			slots.take()
			waiting.give()
			r.serveOne(slots, conn)
		}()
	}
}

func (r *run) serveOne(slots slots, conn *link.Conn) {
	defer conn.Close()
	port := r.serve(conn)
	// A connection to a server lasts, and must not keep others from the guest.
	slots.give()
	if port != 0 {
		r.carry(conn, port)
	}
}

// slots bound the connections that are served at the same time.
type slots chan struct{}

func newSlots() slots { return make(slots, link.MaxConnections) }
func (s slots) take() { s <- struct{}{} }
func (s slots) give() { <-s }

// serve performs the one operation of a connection, but for the connection to a
// server: its port is returned.
func (r *run) serve(conn *link.Conn) (port uint16) {
	_ = conn.SetDeadline(time.Now().Add(firstMessage))
	kind, data, err := conn.Receive(link.MaxStart)
	if err != nil {
		return 0 // nobody is there to be told
	}
	_ = conn.SetDeadline(time.Time{})
	switch kind {
	case link.KindAttach:
		var o link.AttachOptions
		if o, err = link.DecodeAttach(data); err == nil {
			r.attach(conn, o)
			return 0
		}
	case link.KindExec:
		var req link.ExecRequest
		if req, err = link.DecodeExec(data); err == nil {
			r.exec(conn, req)
			return 0
		}
	case link.KindInput:
		err = r.takeInput(conn, data)
	case link.KindSignal:
		var n uint64
		if n, err = link.DecodeNumber(data, 64); err == nil {
			err = r.signal(syscall.Signal(n))
		}
	case link.KindResize:
		var size link.Size
		if size, err = link.DecodeSize(data); err == nil {
			err = r.resize(size)
		}
	case link.KindConnect:
		var n uint64
		if n, err = link.DecodeNumber(data, math.MaxUint16); err == nil && n > 0 {
			return uint16(n)
		}
		err = link.ErrProtocol
	default:
		err = link.ErrProtocol
	}
	// A client that is gone does not need the answer.
	if err != nil {
		_ = conn.Send(link.KindError, link.EncodeError(err))
	} else {
		_ = conn.Send(link.KindOK)
	}
	return 0
}

// signal sends sig to the command's process group, once it runs.
func (r *run) signal(sig syscall.Signal) error {
	<-r.started
	if r.child == nil {
		return link.ErrEnded
	}
	return r.procs.signalGroup(r.child, sig)
}

func (r *run) resize(size link.Size) error {
	if !r.stdio.tty {
		return link.ErrNoTerminal
	}
	return resize(r.stdio.stdout, size)
}

func (r *run) takeInput(conn *link.Conn, data []byte) error {
	if len(data) < 1 || data[0] > 1 || len(data)-1 > link.MaxInput {
		return link.ErrProtocol
	}
	eof, data := data[0] == 1, bytes.Clone(data[1:])
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// There is nothing more to come: this returns when the client goes
		// away, or when the connection is closed here.
		_, _, _ = conn.Receive(0)
	}()
	return r.input.offer(data, eof, gone)
}

// attach serves a client until it leaves or the command ends.
func (r *run) attach(conn *link.Conn, o link.AttachOptions) {
	if o.Stdin && r.input.file == nil {
		_ = conn.Send(link.KindError, link.EncodeError(link.ErrNoStdin))
		return
	}
	if o.Rows > 0 && o.Cols > 0 && r.stdio.tty {
		_ = r.resize(link.Size{Rows: o.Rows, Cols: o.Cols}) // the terminal may be gone; the exit follows
	}
	c := newClient(conn, o.Output)
	if !r.join(c) {
		_ = conn.Send(link.KindError, link.EncodeError(link.ErrEnded))
		return
	}
	defer r.leave(c)
	if conn.Send(link.KindOK) != nil {
		return
	}
	r.attachOnce.Do(func() { close(r.attached) })
	var sender sync.WaitGroup
	sender.Go(func() {
		c.send()
		_ = conn.SetDeadline(time.Unix(1, 0)) // ends the reader below
	})
	receiveInput(conn, r.input, func(size link.Size) { _ = r.resize(size) }, func() {})
	c.abandon()
	_ = conn.SetDeadline(time.Unix(1, 0)) // ends a send that waits
	sender.Wait()
}

// join adds a client; false after the end of the command.
func (r *run) join(c *client) bool {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	if r.out.clients == nil {
		return false
	}
	r.out.clients[c] = struct{}{}
	r.busy.Add(1)
	return true
}

func (r *run) leave(c *client) {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	delete(r.out.clients, c)
	r.busy.Done()
}

// receiveInput takes what a client sends to a process, until the client leaves
// or breaks the rules. It never waits for the process, so that a client that
// leaves is noticed: the window bounds what is queued.
func receiveInput(conn *link.Conn, in *input, resize func(link.Size), cancel func()) {
	var mu sync.Mutex
	open := link.StdinWindow
	taken := func(n int) {
		mu.Lock()
		open += n
		mu.Unlock()
		_ = conn.Send(link.KindWindow, link.EncodeNumber(uint64(n))) // or the client has left
	}
	refused := false
	for {
		kind, data, err := conn.Receive(link.MaxChunk)
		if err != nil {
			return
		}
		switch kind {
		case link.KindStdin:
			mu.Lock()
			open -= len(data)
			excess := open < 0
			mu.Unlock()
			if excess {
				return
			}
			if err := in.push(bytes.Clone(data), taken); err != nil && !refused {
				refused = true
				_ = conn.Send(link.KindError, link.EncodeError(err))
			}
		case link.KindEOF:
			in.closeInput()
		case link.KindResize:
			if size, err := link.DecodeSize(data); err == nil {
				resize(size)
			}
		case link.KindCancel:
			cancel()
		default:
			return
		}
	}
}

// exec runs a further command for a client.
func (r *run) exec(conn *link.Conn, req link.ExecRequest) {
	refuse := func(err error) { _ = conn.Send(link.KindError, link.EncodeError(hide(r.secrets, err))) }
	<-r.started
	r.out.mu.Lock()
	ended := r.out.clients == nil
	if !ended {
		r.busy.Add(1)
	}
	r.out.mu.Unlock()
	if ended {
		refuse(link.ErrEnded)
		return
	}
	defer r.busy.Done()
	if req.Dir == "" {
		req.Dir = r.start.Dir
	}
	prog, err := lookup(req.Command, mergeEnv(r.start.Env, req.Env), req.Dir)
	if err != nil {
		refuse(err)
		return
	}
	io, err := newStdio(req.TTY, link.Size{Rows: req.Rows, Cols: req.Cols}, true)
	if err != nil {
		refuse(err)
		return
	}
	defer io.close()
	child, err := r.procs.start(prog, io.fds(), req.TTY)
	io.closeChild()
	if err != nil {
		refuse(err)
		return
	}
	e := &execution{procs: r.procs, child: child, conn: conn, io: io, input: newInput(io.stdin, req.TTY), secrets: r.secrets}
	e.run(req.Timeout)
}

// timeoutOf returns a duration that a timer takes, where zero means none.
func timeoutOf(d time.Duration) time.Duration {
	if d <= 0 {
		return math.MaxInt64
	}
	return d
}
