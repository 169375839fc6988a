//go:build unix

package runtimetest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func (s *suite) testLogs(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"both streams in order":       s.testStreamsInOrder,
		"every byte":                  s.testEveryByte,
		"a line of ten megabytes":     s.testLongLine,
		"following from the start":    s.testFollow,
		"going on after a record":     s.testLogsAfter,
		"before the start":            s.testLogsBeforeStart,
		"in place where it says that": s.testLogsInPlace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// sameTime is how far apart the clocks of two streams may be: each is read when its
// stream is, before they are put in order.
const sameTime = 100 * time.Millisecond

func (s *suite) testStreamsInOrder(t *testing.T) {
	before := time.Now().Add(-2 * time.Second)
	b := s.start(t, s.spec(t, programPath, "count", "500"))
	b.wait()
	text := map[logring.Stream]string{}
	var last logring.Record
	for _, r := range b.records(runtime.LogOptions{}) {
		if r.Seq <= last.Seq || r.Time.Before(last.Time.Add(-sameTime)) || r.Time.Before(before) || r.Time.After(time.Now().Add(2*time.Second)) {
			t.Fatalf("record %d of %v after record %d of %v", r.Seq, r.Time, last.Seq, last.Time)
		}
		text[r.Stream] += string(r.Data)
		last = r
	}
	for stream, first := range map[logring.Stream]int{logring.Stdout: 0, logring.Stderr: 1} {
		word := map[logring.Stream]string{logring.Stdout: "out ", logring.Stderr: "err "}[stream]
		lines := strings.Split(strings.TrimSuffix(text[stream], "\n"), "\n")
		if len(lines) != 250 || lines[0] != word+string(rune('0'+first)) || !strings.HasPrefix(lines[249], word+"49") {
			t.Errorf("%v: %d lines, %.20q to %.20q", stream, len(lines), lines[0], lines[len(lines)-1])
		}
	}
}

func (s *suite) testEveryByte(t *testing.T) {
	want := make([]byte, 256)
	for i := range want {
		want[i] = byte(i)
	}
	if _, got := s.run(t, programPath, "bytes"); got != string(want) {
		t.Errorf("got %q", got)
	}
}

func (s *suite) testLongLine(t *testing.T) {
	const size = 10 << 20
	_, got := s.run(t, programPath, "line", "10485760")
	want := bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), size/26+1)[:size]
	if got != string(want)+"\n" {
		t.Errorf("%d bytes, want %d and the right ones", len(got), size+1)
	}
}

func (s *suite) testFollow(t *testing.T) {
	b := s.start(t, s.spec(t, "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; sleep 0.5; echo two; exit 1"))
	stream, err := b.driver.Logs(b.ctx, b.handle, runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var text string
	for !strings.Contains(text, "one\n") {
		text += next(t, stream)
	}
	if _, err := b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"touch", "go"}}); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text += string(r.Data)
	}
	if !strings.HasSuffix(text, "two\n") {
		t.Errorf("followed %q", text)
	}
}

func next(t *testing.T, stream runtime.LogStream) string {
	t.Helper()
	r, err := stream.Next()
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Data)
}

func (s *suite) testLogsAfter(t *testing.T) {
	b := s.start(t, s.spec(t, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done"))
	b.wait()
	all := b.records(runtime.LogOptions{})
	if len(all) < 3 {
		t.Fatalf("%d records", len(all))
	}
	rest := b.records(runtime.LogOptions{AfterSeq: all[1].Seq})
	if len(rest) != len(all)-2 || rest[0].Seq != all[2].Seq {
		t.Errorf("after record %d of %d: %d records from %d on", all[1].Seq, len(all), len(rest), rest[0].Seq)
	}
	if none := b.records(runtime.LogOptions{AfterSeq: all[len(all)-1].Seq, Follow: true}); len(none) != 0 {
		t.Errorf("after the last: %d records", len(none))
	}
}

func (s *suite) testLogsBeforeStart(t *testing.T) {
	b := s.create(t, s.spec(t, "echo", "late"))
	if got := b.records(runtime.LogOptions{}); len(got) != 0 {
		t.Errorf("%d records before the start", len(got))
	}
	stream, err := b.driver.Logs(b.ctx, b.handle, runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	b.start()
	if text := next(t, stream); text != "late\n" {
		t.Errorf("followed %q", text)
	}
}

func (s *suite) testLogsInPlace(t *testing.T) {
	b := s.start(t, s.spec(t, "echo", "in place"))
	b.wait()
	ring, err := logring.Open(b.spec.LogDir)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	records, _, _, err := ring.ReadFrom(ring.Start(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if inPlace := b.status().LogsInPlace; inPlace != (len(records) == 1) {
		t.Errorf("LogsInPlace is %v, and the directory has %d records", inPlace, len(records))
	}
}
