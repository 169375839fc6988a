package storage

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

func TestBuildsAreKeptSweptAndForgotten(t *testing.T) {
	t.Parallel()
	home := t.TempDir() + "/home"
	s, err := Open(t.Context(), home, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	holder, err := OpenHolder(home)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	begin := time.Now().UTC().Truncate(time.Second)
	build := func(n int, holder string, ended time.Time) Build {
		b := Build{ID: fmt.Sprintf("build_%012x", n), Image: "drawbridge/run:x", Holder: holder, Started: begin.Add(time.Duration(n) * time.Second), Ended: ended}
		if err := s.BuildStore(b.ID).Create(b, logring.MinLimit); err != nil {
			t.Fatal(err)
		}
		return b
	}
	live := build(1, holder.ID(), time.Time{})
	dead := build(2, "00000000-0000-4000-8000-000000000000", time.Time{})
	for n := range keptBuilds {
		build(3+n, holder.ID(), begin)
	}
	oldest := build(0, holder.ID(), begin)
	now := begin.Add(time.Hour)
	touched, err := s.SweepBuilds(now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{dead.ID, oldest.ID}, touched); diff != "" {
		t.Error(diff)
	}
	builds, err := s.Builds()
	if err != nil || len(builds) != keptBuilds+2 {
		t.Fatalf("%d builds are kept, %v", len(builds), err)
	}
	dead.Ended, dead.Failed = now, builds[keptBuilds].Failed
	if diff := cmp.Diff([]Build{dead, live}, builds[keptBuilds:]); diff != "" || dead.Failed == "" {
		t.Error(diff)
	}
	for id, want := range map[string]bool{live.ID: true, dead.ID: false} {
		if _, err := os.Stat(s.BuildStore(id).GateDir()); (err == nil) != want {
			t.Errorf("the gate of %s: %v", id, err)
		}
	}
	if reader, err := s.BuildStore(dead.ID).OpenNetworkLog(); err != nil {
		t.Error(err)
	} else if err := reader.Close(); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", "..", "a/b"} {
		if err := s.BuildStore(id).Create(Build{}, logring.MinLimit); err == nil {
			t.Errorf("%q was taken for an ID", id)
		}
		if err := s.BuildStore(id).Remove(); err == nil {
			t.Errorf("%q was removed", id)
		}
	}
}
