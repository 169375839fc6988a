package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
)

// stored is a run that fill has put into a database.
type stored struct {
	id, name string
}

// fill stores runs that have ended, as a home has them after months of use, and
// returns them, oldest first. They have no directory.
func fill(ctx context.Context, home string, count int) (_ []stored, err error) {
	store, err := storage.Open(ctx, home, storage.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	runs := make([]stored, count)
	first := time.Now().Add(-time.Duration(count) * time.Minute)
	for i := range runs {
		runs[i] = stored{fmt.Sprintf("run_%012x", rand.Uint64N(1<<48)), fmt.Sprintf("quiet-lake-%06d", i)}
		if _, err := store.InsertRun(ctx, endedRow(runs[i], first.Add(time.Duration(i)*time.Minute)), storage.Insertion{}); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// endedRow is a run of the usual size that has ended.
func endedRow(run stored, created time.Time) storage.RunRow {
	exit := 0
	return storage.RunRow{
		ID: run.id, Name: run.name, State: "stopped", Ready: true,
		Workspace: "/home/somebody/src/project/of/usual/depth", Image: "debian:bookworm-slim",
		Runtime: "docker", Isolation: "runc",
		IsolationNote: "this engine does not offer gVisor: the sandbox shares the kernel of the engine's host",
		BackendID:     "4f1c5c2f0f0e7a5b1c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b",
		Handle:        []byte(`{"v":1,"id":"4f1c5c2f0f0e7a5b1c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b","mode":"direct"}`),
		Spec:          []byte(`{"command":["sh","-c","make -j4 test && make package"],"network":"none","grace":10000000000,"pids_limit":1024}`),
		Meta:          []byte(`{}`),
		CreatedAt:     created, StartedAt: created.Add(time.Second), StoppedAt: created.Add(30 * time.Second),
		ExitCode: &exit, EndReason: "exited", MemoryBytes: 4 << 30, CPUs: 2,
	}
}
