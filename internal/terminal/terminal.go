// Package terminal lends the user's terminal to a program that runs elsewhere:
// raw mode, its size and changes of it, input that can be given up, the keys
// that detach, and everything put back afterwards.
//
// Guarantees. Restore brings back the line discipline as it was, any number of
// times, from any goroutine. Modes undoes the modes that the remote program set
// in the terminal itself (alternate screen, hidden cursor, mouse, bracketed
// paste, keyboard protocols), and only those. Input never takes a byte that
// nobody will read: after Close, what the user types belongs to the shell.
//
// It does not emulate a terminal, and does not interpret what is displayed
// beyond what Modes and Filter need.
package terminal

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// Size is the size of a terminal in characters.
type Size struct{ Rows, Cols uint16 }

// Is reports whether f is a terminal.
func Is(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// SizeOf returns the size of the terminal f.
func SizeOf(f *os.File) (Size, error) {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return Size{}, fmt.Errorf("read the size of the terminal %s: %w", f.Name(), err)
	}
	return Size{Rows: clamp(rows), Cols: clamp(cols)}, nil
}

func clamp(n int) uint16 { return uint16(max(0, min(n, 1<<16-1))) }

// Raw is a terminal in raw mode.
type Raw struct {
	fd  int
	old *term.State

	once sync.Once
	err  error
}

// MakeRaw puts the terminal f into raw mode. The caller calls Restore on every
// way out; a deferred call covers panics.
func MakeRaw(f *os.File) (*Raw, error) {
	fd := int(f.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("put the terminal %s into raw mode: %w", f.Name(), err)
	}
	return &Raw{fd: fd, old: old}, nil
}

// Restore brings the terminal back to the mode that it was in before MakeRaw.
// Only the first call does something.
func (r *Raw) Restore() error {
	r.once.Do(func() {
		if err := term.Restore(r.fd, r.old); err != nil {
			r.err = fmt.Errorf("restore the terminal: %w; type `reset` if it misbehaves", err)
		}
	})
	return r.err
}

// WatchSize yields the size of the terminal f each time that it changes, the
// newest one only when several changes are waiting. The returned function ends
// the watch and waits for it.
func WatchSize(f *os.File) (<-chan Size, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	sizes := make(chan Size, 1)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-signals:
			}
			size, err := SizeOf(f)
			if err != nil || size.Rows == 0 || size.Cols == 0 {
				continue // the terminal is going away; there is nothing to tell
			}
			select {
			case <-sizes: // an older size that nobody took
			default:
			}
			sizes <- size
		}
	})
	var once sync.Once
	return sizes, func() {
		once.Do(func() {
			signal.Stop(signals)
			close(done)
			watcher.Wait()
		})
	}
}
