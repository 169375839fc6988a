package link

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// statusSize is the size in bytes of a status file. It never changes, so that
// the exit can be recorded on a disk that became full after the start.
const statusSize = 8 << 10

// appendStatus appends s as one line of JSON. It is written by hand because
// encoding/json is too much for a program that starts in every sandbox.
func appendStatus(b []byte, s Status) []byte {
	b = append(b, '{')
	if !s.StartedAt.IsZero() {
		b = append(b, `"started_at":"`...)
		b = s.StartedAt.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	if x := s.Exit; x != nil {
		if !s.StartedAt.IsZero() {
			b = append(b, ',')
		}
		b = append(b, `"exit":{"code":`...)
		b = strconv.AppendInt(b, int64(x.Code), 10)
		b = append(b, `,"signal":`...)
		b = strconv.AppendInt(b, int64(x.Signal), 10)
		b = append(b, `,"reason":"`...)
		b = append(b, x.Reason...)
		b = append(b, `","message":"`...)
		for _, c := range []byte(cleanMessage(x.Message)) {
			if c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
		}
		b = append(b, `","at":"`...)
		b = x.At.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
		if x.OOMKilled {
			b = append(b, `,"oom_killed":true`...)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// WriteStatus replaces what f reports, with one write.
func WriteStatus(f *os.File, s Status) error {
	b := appendStatus(make([]byte, 0, statusSize), s)
	b = append(b, bytes.Repeat([]byte{' '}, max(statusSize-1-len(b), 0))...)
	if _, err := f.WriteAt(append(b, '\n'), 0); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// ReadStatus reads the status file at path. One that is empty, because the guest
// has not begun, is the zero Status.
func ReadStatus(path string) (Status, error) {
	f, err := os.Open(path)
	if err != nil {
		return Status{}, fmt.Errorf("read status: %w", err)
	}
	defer f.Close()
	for attempt := 0; ; attempt++ {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, statusSize))
		if err != nil {
			return Status{}, fmt.Errorf("read status: %w", err)
		}
		s, err := parseStatus(b)
		if err == nil {
			return s, nil
		}
		// The file may be written at this moment, and a read may see a
		// part of it.
		if attempt == 20 {
			return Status{}, fmt.Errorf("read status %s: %w", path, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func parseStatus(b []byte) (Status, error) {
	if b = bytes.Trim(b, "\x00 \n"); len(b) == 0 {
		return Status{}, nil
	}
	var doc struct {
		StartedAt time.Time `json:"started_at"`
		Exit      *struct {
			Code      int       `json:"code"`
			Signal    int       `json:"signal"`
			Reason    string    `json:"reason"`
			Message   string    `json:"message"`
			At        time.Time `json:"at"`
			OOMKilled bool      `json:"oom_killed"`
		} `json:"exit"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return Status{}, err
	}
	s := Status{StartedAt: doc.StartedAt}
	if doc.Exit != nil {
		x := Exit{Code: doc.Exit.Code, Signal: doc.Exit.Signal, Reason: doc.Exit.Reason, Message: cleanMessage(doc.Exit.Message), At: doc.Exit.At, OOMKilled: doc.Exit.OOMKilled}
		if !x.valid() {
			return Status{}, fmt.Errorf("impossible exit %+v: %w", x, ErrProtocol)
		}
		s.Exit = &x
	}
	return s, nil
}
