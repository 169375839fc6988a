// Package duplex joins two connections into one: what one end sends, the other gets,
// and each direction ends by itself.
//
// It uses no package net, because it is part of a program that starts in every
// sandbox.
package duplex

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Linger bounds how long nothing may move in one direction once the other one has
// ended: half of a connection whose other half is forgotten would be kept for ever.
const Linger = 5 * time.Minute

const bufferSize = 32 << 10 // bytes, for each direction

// Conn is one of the connections.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite tells the other end that nothing more comes.
	CloseWrite() error
	// SetDeadline bounds reads and writes, also those that wait already.
	SetDeadline(t time.Time) error
}

// Join copies until both directions have ended, or one of them failed, and closes
// both connections. Whoever closes one of them earlier ends it.
func Join(a, b Conn) { join(a, b, Linger) }

func join(a, b Conn, linger time.Duration) {
	defer a.Close()
	defer b.Close()
	j := joint{a: a, b: b, linger: linger}
	var both sync.WaitGroup
	both.Go(func() { j.copy(a, b) })
	both.Go(func() { j.copy(b, a) })
	both.Wait()
}

type joint struct {
	a, b   Conn
	linger time.Duration
	half   atomic.Bool // one direction has ended
}

// copy copies one direction and passes its end on. An error ends both.
func (j *joint) copy(to, from Conn) {
	if j.copyBytes(to, from) != nil || to.CloseWrite() != nil {
		_ = j.a.Close()
		_ = j.b.Close()
		return
	}
	j.half.Store(true)
	j.extend()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func (j *joint) copyBytes(to, from Conn) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			if j.half.Load() {
				j.extend()
			}
			if _, err := to.Write((*buffer)[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// extend gives the direction that is left its time. Both connections have a part in
// it. An error says that one is closed, which the copying sees itself.
func (j *joint) extend() {
	end := time.Now().Add(j.linger)
	_ = j.a.SetDeadline(end)
	_ = j.b.SetDeadline(end)
}
