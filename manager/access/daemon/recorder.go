package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// recorder writes a run's requests down. Where that fails, on a full disk as a rule,
// the entry is lost, and from then on nothing is let through until the record says
// so: requests that nobody can see later are what an attacker would fill a disk for.
type recorder struct {
	log *zap.Logger

	mu     sync.Mutex
	writer *logring.Writer // guarded by mu; nil when closed
	lost   int             // guarded by mu; entries, since the last that was written
	cause  error           // guarded by mu; of the first of them
}

func openRecorder(dir string, limit int64, log *zap.Logger) (*recorder, error) {
	segments, err := logring.OpenSegments(dir)
	if err != nil {
		return nil, fmt.Errorf("open the run's network log: %w", err)
	}
	writer, err := logring.NewWriter(segments, limit)
	if err != nil {
		return nil, fmt.Errorf("open the run's network log: %w", err)
	}
	return &recorder{log: log, writer: writer}, nil
}

func (r *recorder) record(e proxy.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return
	}
	err := r.tellLost()
	if err == nil {
		err = r.append(e)
	}
	if err == nil {
		return
	}
	if r.lost++; r.lost == 1 {
		r.cause = err
		r.log.Error("writing down a request failed; none is let through until that works", zap.String("host", e.Host), zap.Error(err))
	}
}

// canRecord says why nothing can be recorded. It tries where it could not before.
func (r *recorder) canRecord() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return errors.New("the run is over")
	}
	if err := r.tellLost(); err != nil {
		return fmt.Errorf("the gate cannot record requests, and lets none through that it cannot record: %w; there must be room on the disk of DRAWBRIDGE_HOME", cause(err))
	}
	return nil
}

// tellLost writes down that something was lost, if it was.
func (r *recorder) tellLost() error {
	if r.lost == 0 {
		return nil
	}
	err := r.append(proxy.Entry{
		Time: time.Now(), Kind: proxy.KindNone, Decision: proxy.Refused,
		Error: fmt.Sprintf("the entries of %d requests before this are lost: %v", r.lost, cause(r.cause)),
	})
	if err == nil {
		r.lost, r.cause = 0, nil
	}
	return err
}

// cause is an error without the path that it was about, which is not for sandboxes.
func cause(err error) error {
	if on, ok := errors.AsType[*fs.PathError](err); ok {
		return on.Err
	}
	return err
}

func (r *recorder) append(e proxy.Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = r.writer.Append(logring.Stdout, e.Time, false, append(line, '\n'))
	return err
}

func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil {
		r.writer.Close()
		r.writer = nil
	}
}
