package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t testing.TB, home string) *Store {
	t.Helper()
	s, err := Open(t.Context(), home, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB) *Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "home"))
}

func holder(t testing.TB, s *Store) *Holder {
	t.Helper()
	h, err := OpenHolder(s.Home())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// run is the n-th run, one second younger than the one before.
func run(n int, change ...func(*RunRow)) RunRow {
	r := RunRow{
		ID: fmt.Sprintf("run_%012x", n), Name: fmt.Sprintf("name-%d", n), State: stateCreated, Ready: true,
		Workspace: "/w", Image: "debian", Runtime: "docker",
		CreatedAt: epoch.Add(time.Duration(n) * time.Second), MemoryBytes: 1 << 30, CPUs: 2,
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func in(state string) func(*RunRow)   { return func(r *RunRow) { r.State = state } }
func named(name string) func(*RunRow) { return func(r *RunRow) { r.Name = name } }
func notReady(r *RunRow)              { r.Ready = false }

func insert(t testing.TB, s *Store, rows ...RunRow) {
	t.Helper()
	for _, row := range rows {
		if _, err := s.InsertRun(t.Context(), row, Insertion{}); err != nil {
			t.Fatal(err)
		}
	}
}

func ids(rows []RunRow) []string {
	list := []string{}
	for _, row := range rows {
		list = append(list, strings.TrimLeft(strings.TrimPrefix(row.ID, "run_"), "0"))
	}
	return list
}

func TestOpenMakesAHomeForItsUserAlone(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, home)
	insert(t, s, run(1))
	if s.Home() != home {
		t.Errorf("Home() = %s, want %s", s.Home(), home)
	}
	err := filepath.WalkDir(home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may use it", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOpenKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	// The name has what a data source name would take for something else.
	home := filepath.Join(t.TempDir(), "we?ird #%41 &_pragma=query_only(1)")
	first, err := Open(t.Context(), home, Options{})
	if err != nil {
		t.Fatal(err)
	}
	insert(t, first, run(1))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := first.Run(t.Context(), run(1).ID); err == nil {
		t.Error("a closed Store answers")
	}
	if err := first.DeleteRun(t.Context(), run(1).ID); err == nil {
		t.Error("a closed Store writes")
	}
	if _, err := open(t, home).Run(t.Context(), run(1).ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(home, "state.db")); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesAHomeThatOthersControl(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, home string)
		want    string // part of the message; empty if the home is good
	}{
		{"private", func(t *testing.T, home string) { chmod(t, home, 0o700) }, ""},
		{"readable by others", func(t *testing.T, home string) { chmod(t, home, 0o755) }, ""},
		{"writable by the group", func(t *testing.T, home string) { chmod(t, home, 0o770) }, "chmod 700"},
		{"writable by all", func(t *testing.T, home string) { chmod(t, home, 0o702) }, "chmod 700"},
		{"runs writable by all", func(t *testing.T, home string) {
			mkdir(t, filepath.Join(home, "runs"))
			chmod(t, filepath.Join(home, "runs"), 0o777)
		}, "chmod 700"},
		{"runs is a link", func(t *testing.T, home string) {
			if err := os.Symlink(t.TempDir(), filepath.Join(home, "runs")); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
		{"holders is a file", func(t *testing.T, home string) {
			write(t, filepath.Join(home, "holders"), "")
		}, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			c.prepare(t, home)
			s, err := Open(t.Context(), home, Options{})
			if err == nil {
				err = s.Close()
			}
			if (c.want == "") != (err == nil) || (err != nil && (!errors.Is(err, ErrUnsafeHome) || !strings.Contains(err.Error(), c.want))) {
				t.Errorf("Open: %v, want ErrUnsafeHome with %q", err, c.want)
			}
		})
	}
	if os.Geteuid() == 0 {
		home := t.TempDir()
		if err := os.Chown(home, 4242, 4242); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), home, Options{}); !errors.Is(err, ErrUnsafeHome) || !strings.Contains(err.Error(), "4242") {
			t.Errorf("Open of another user's home: %v", err)
		}
	}
	if _, err := Open(t.Context(), "relative", Options{}); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("Open of a relative path: %v", err)
	}
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	s, err := Open(t.Context(), home, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.write.conn.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), home, Options{})
	if !errors.Is(err, ErrSchemaNewer) || !strings.Contains(err.Error(), "99") || !strings.Contains(err.Error(), "DRAWBRIDGE_HOME") {
		t.Errorf("Open: %v, want ErrSchemaNewer with the version and the mend", err)
	}
}

func TestOpenByManyAtOnceMakesOneSchema(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := Open(t.Context(), home, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.InsertRun(t.Context(), run(i+1), Insertion{}); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, err := open(t, home).CountRuns(t.Context(), Filter{}); n != 8 || err != nil {
		t.Errorf("%d runs, %v; want 8", n, err)
	}
}

func TestDamagedDatabasesAreNamed(t *testing.T) {
	t.Parallel()
	filled := func(t *testing.T) string {
		home := filepath.Join(t.TempDir(), "home")
		s, err := Open(t.Context(), home, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			insert(t, s, run(i+1, func(r *RunRow) { r.Spec = make([]byte, 2000) }))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return home
	}
	garbage := strings.Repeat("not a database. ", 256)
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, file string)
	}{
		{"another file", func(t *testing.T, file string) { write(t, file, garbage) }},
		{"the beginning overwritten", func(t *testing.T, file string) { overwrite(t, file, 0, garbage) }},
		{"the schema overwritten", func(t *testing.T, file string) { overwrite(t, file, 100, garbage[:3000]) }},
		{"all pages but the first overwritten", func(t *testing.T, file string) { overwrite(t, file, 4096, strings.Repeat(garbage, 100)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			home := filled(t)
			file := filepath.Join(home, "state.db")
			c.damage(t, file)
			s, err := Open(t.Context(), home, Options{})
			if err == nil {
				_, _, err = s.ListRuns(t.Context(), Filter{})
				t.Cleanup(func() { _ = s.Close() })
			}
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "aside") {
				t.Errorf("got %v, want ErrCorrupt with the file and the mend", err)
			}
		})
	}
}

func TestAReaderCannotWrite(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.read.db.ExecContext(t.Context(), "DELETE FROM runs"); err == nil {
		t.Error("a connection for reading has written")
	}
}

func TestAWriteWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	s, other := open(t, home), open(t, home)
	insert(t, s, run(1))
	err := other.write.transact(t.Context(), func(*tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := s.DeleteRun(ctx, run(1).ID)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) >= busyTimeout {
			t.Errorf("DeleteRun: %v after %v, want the context's error at its end", err, time.Since(began))
		}
		if _, err := s.Run(t.Context(), run(1).ID); err != nil {
			t.Errorf("a read while somebody writes: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.DeleteRun(cancelled, run(1).ID); !errors.Is(err, context.Canceled) {
		t.Errorf("DeleteRun with a cancelled context: %v", err)
	}
	if _, err := s.Run(t.Context(), run(1).ID); err != nil {
		t.Errorf("a write that failed has written: %v", err)
	}
	// The connection is good for the next.
	if err := s.DeleteRun(t.Context(), run(1).ID); err != nil {
		t.Error(err)
	}
}

func TestAFailedOrPanickingTransactionIsUndone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	boom := errors.New("boom")
	err := s.write.transact(t.Context(), func(t *tx) error {
		return errors.Join(insertRow(t, run(1, func(r *RunRow) { r.Version = 1 })), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("transact: %v", err)
	}
	insert(t, s, run(2))
	func() {
		defer func() { _ = recover() }()
		_, _ = s.ChangeRun(t.Context(), run(2).ID, []string{stateCreated}, func(*RunRow) { panic("in change") })
	}()
	rows, _, err := s.ListRuns(t.Context(), Filter{})
	if diff := cmp.Diff([]string{"2"}, ids(rows)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := s.DeleteRun(t.Context(), run(2).ID); err != nil {
		t.Error(err)
	}
}

func TestIntegrityAfterManyWriters(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	stores := []*Store{open(t, home), open(t, home)}
	insert(t, stores[0], run(1))
	const each = 50
	var wg sync.WaitGroup
	for _, s := range stores {
		for range 4 {
			wg.Go(func() {
				for range each {
					_, err := s.ChangeRun(t.Context(), run(1).ID, []string{stateCreated}, func(r *RunRow) { r.Signal++ })
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	row, err := stores[1].Run(t.Context(), run(1).ID)
	if want := each * 4 * len(stores); err != nil || row.Signal != want || row.Version != int64(want)+1 {
		t.Errorf("counted %d in version %d, %v; want %d", row.Signal, row.Version, err, want)
	}
	checkIntegrity(t, stores[0])
}

func checkIntegrity(t *testing.T, s *Store) {
	t.Helper()
	var result string
	if err := s.read.db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&result); err != nil || result != "ok" {
		t.Errorf("integrity check: %q, %v", result, err)
	}
	err := s.read.rows(t.Context(), "PRAGMA foreign_key_check", nil, func(*sql.Rows) error {
		return errors.New("a lease without a run")
	})
	if err != nil {
		t.Errorf("foreign key check: %v", err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, at int64, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(content), at); err != nil {
		t.Fatal(err)
	}
}
