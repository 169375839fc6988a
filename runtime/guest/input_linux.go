package guest

import (
	"os"
	"sync"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// endOfTransmission is what a terminal takes for the end of input.
var endOfTransmission = []byte{4}

// input feeds the standard input of a process from several clients. Each piece
// is written as a whole before the next.
type input struct {
	file *os.File
	tty  bool

	mu     sync.Mutex // guards what follows
	change *sync.Cond
	queue  []piece
	size   int  // bytes in queue and in the piece that is being written
	eof    bool // no more pieces are accepted
	failed bool // the process has closed its end
	done   chan struct{}
}

// piece is what one client sent at once.
type piece struct {
	data  []byte
	taken func(n int) // called after it was written or given up; may be nil
}

// newInput starts feeding file, until finish. A nil file is a process without
// input.
func newInput(file *os.File, tty bool) *input {
	in := &input{file: file, tty: tty, done: make(chan struct{})}
	in.change = sync.NewCond(&in.mu)
	if file == nil {
		close(in.done)
		return in
	}
	go in.run()
	return in
}

func (in *input) run() {
	defer close(in.done)
	for {
		in.mu.Lock()
		for len(in.queue) == 0 && !in.eof {
			in.change.Wait()
		}
		if len(in.queue) == 0 {
			in.mu.Unlock()
			if !in.tty {
				in.file.Close()
			}
			return
		}
		p := in.queue[0]
		in.queue = in.queue[1:]
		failed := in.failed
		in.mu.Unlock()
		if !failed {
			_, err := in.file.Write(p.data)
			failed = err != nil
		}
		if p.taken != nil {
			p.taken(len(p.data))
		}
		in.mu.Lock()
		in.failed = failed
		in.size -= len(p.data)
		in.change.Broadcast()
		in.mu.Unlock()
	}
}

// accepts says why no input can be added, or nil. in.mu is held.
func (in *input) accepts() error {
	switch {
	case in.file == nil:
		return link.ErrNoStdin
	case in.eof, in.failed:
		return link.ErrStdinClosed
	}
	return nil
}

// push adds data, which the input then owns, without waiting.
func (in *input) push(data []byte, taken func(n int)) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.accepts(); err != nil {
		return err
	}
	in.add(data, taken)
	return nil
}

func (in *input) add(data []byte, taken func(n int)) {
	in.queue = append(in.queue, piece{data, taken})
	in.size += len(data)
	in.change.Broadcast()
}

// offer adds data when there is room, and then the end of input where eof is
// set. It gives up when gone is closed, and adds nothing then.
func (in *input) offer(data []byte, eof bool, gone <-chan struct{}) error {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-gone:
			in.mu.Lock()
			in.change.Broadcast()
			in.mu.Unlock()
		case <-stop:
		}
	}()
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		if err := in.accepts(); err != nil {
			return err
		}
		select {
		case <-gone:
			return os.ErrDeadlineExceeded
		default:
		}
		if in.size == 0 || in.size+len(data) <= link.MaxInput {
			break
		}
		in.change.Wait()
	}
	if len(data) > 0 {
		in.add(data, nil)
	}
	if eof {
		in.end()
	}
	return nil
}

// closeInput ends the input after what was pushed. On a terminal it types the
// character for that.
func (in *input) closeInput() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.accepts() == nil {
		in.end()
	}
}

func (in *input) end() {
	if in.tty {
		in.add(endOfTransmission, nil)
		return
	}
	in.eof = true
	in.change.Broadcast()
}

// finish gives up what is left and waits for the goroutine. The process has
// ended.
func (in *input) finish() {
	if in.file == nil {
		return
	}
	in.mu.Lock()
	in.eof, in.failed = true, true
	in.change.Broadcast()
	in.mu.Unlock()
	in.file.Close() // ends a write that waits
	<-in.done
}
