//go:build unix

package runtimetest

import (
	"context"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// boundedBy is how long a call may take whose backend has stopped answering: the
// harness's driver has bounds of a second, and a call may consist of several.
const boundedBy = 20 * time.Second

func (s *suite) testBounds(t *testing.T) {
	if s.Hang == nil {
		t.Skip("this harness cannot make its backend hang")
	}
	t.Run("a backend that stops answering", func(t *testing.T) {
		t.Parallel()
		driver, hang := s.Hang(t)
		t.Cleanup(func() { _ = driver.Close() })
		b := s.start(t, s.spec(t, programPath, "sleep"))
		idle := s.create(t, s.spec(t, "true"))
		other := s.spec(t, "true")
		if _, err := driver.Capabilities(b.ctx); err != nil {
			t.Fatal(err)
		}
		hang()
		for name, call := range map[string]func(context.Context) error{
			"ping":    driver.Ping,
			"create":  func(ctx context.Context) error { _, err := driver.Create(ctx, other); return err },
			"start":   func(ctx context.Context) error { return driver.Start(ctx, idle.handle, runtime.StartOptions{}) },
			"recover": func(ctx context.Context) error { _, err := driver.Recover(ctx, b.handle); return err },
			"remove":  func(ctx context.Context) error { return driver.Remove(ctx, idle.handle) },
			"list":    func(ctx context.Context) error { _, err := driver.List(ctx, nil); return err },
			"stats":   func(ctx context.Context) error { _, err := driver.Stats(ctx, b.handle); return err },
			"logs": func(ctx context.Context) error {
				_, err := driver.Logs(ctx, b.handle, runtime.LogOptions{})
				return err
			},
			"attach": func(ctx context.Context) error {
				_, err := driver.Attach(ctx, idle.handle, runtime.AttachOptions{Output: true})
				return err
			},
			"stop": func(ctx context.Context) error { return driver.Stop(ctx, idle.handle, time.Second) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				WantError(t, name, call(s.ctx(t)), runtime.ErrUnavailable)
				if took := time.Since(began); took > boundedBy {
					t.Errorf("it took %v", took)
				}
			})
		}
	})
	t.Run("a wait ends with its context", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, s.spec(t, programPath, "sleep"))
		ctx, cancel := context.WithTimeout(b.ctx, 100*time.Millisecond)
		defer cancel()
		_, err := b.driver.Wait(ctx, b.handle)
		WantError(t, "wait", err, context.DeadlineExceeded)
	})
}

// testExecCancelled checks that a cancelled exec leaves no process behind.
func (s *suite) testExecCancelled(t *testing.T, b *sandbox) {
	ctx, cancel := context.WithCancel(s.ctx(t))
	defer cancel()
	began := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) {
		close(began)
		return len(p), nil
	})
	ended := make(chan error, 1)
	go func() {
		_, err := b.driver.Exec(ctx, b.handle, runtime.ExecSpec{Command: []string{"sh", "-c", "echo began; exec sleep 777"}, Stdout: out})
		ended <- err
	}()
	select {
	case <-began:
	case err := <-ended:
		t.Fatalf("it ended early: %v", err)
	}
	cancel()
	WantError(t, "the cancelled exec", <-ended, context.Canceled)
	s.eventually(t, "the end of its process", func() bool {
		result, err := b.driver.Exec(s.ctx(t), b.handle, runtime.ExecSpec{Command: []string{"sh", "-c", "! ps | grep -q '[s]leep 777'"}})
		return err == nil && result.Code == 0
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
