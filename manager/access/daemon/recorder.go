package daemon

import (
	"encoding/json"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// recorder writes a run's requests down.
type recorder struct {
	log *zap.Logger

	mu     sync.Mutex
	writer *logring.Writer // guarded by mu; nil when closed
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
	line, err := json.Marshal(e)
	if err != nil {
		r.log.Error("a request cannot be written down", zap.Error(err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return
	}
	if _, err := r.writer.Append(logring.Stdout, e.Time, false, append(line, '\n')); err != nil {
		r.log.Error("writing down a request failed", zap.String("host", e.Host), zap.Error(err))
	}
}

func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil {
		r.writer.Close()
		r.writer = nil
	}
}
