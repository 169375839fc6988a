//go:build linux

package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// item is one entry of an archive: a directory if its name ends in a slash, a link
// if it has a target, a file otherwise.
type item struct {
	name, data string
	soft, hard string // targets of links
	mode       int64  // 0o755 if zero
	kind       byte   // over what the rest says
}

func (i item) header() *tar.Header {
	h := &tar.Header{Name: i.name, Typeflag: tar.TypeReg, Mode: i.mode, Uid: os.Getuid(), Gid: os.Getgid()}
	if h.Mode == 0 {
		h.Mode = 0o755
	}
	switch {
	case i.kind != 0:
		h.Typeflag = i.kind
	case strings.HasSuffix(i.name, "/"):
		h.Typeflag = tar.TypeDir
	case i.soft != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, i.soft
	case i.hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, i.hard
	default:
		h.Size = int64(len(i.data))
	}
	return h
}

func pack(t testing.TB, items ...item) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, i := range items {
		h := i.header()
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(i.data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// content describes what is in dir: for each path the content of a file, the target
// of a link after an arrow, nothing for a directory.
func content(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir():
			all[name+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			all[name] = "-> " + to
			return err
		default:
			data, err := os.ReadFile(path)
			all[name] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unpackLayers unpacks each archive as a layer.
func unpackLayers(t testing.TB, dir string, layers ...[]byte) error {
	t.Helper()
	u, err := newUnpacker(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	for _, layer := range layers {
		u.nextLayer()
		if err := u.archive(t.Context(), bytes.NewReader(layer)); err != nil {
			return err
		}
	}
	return u.finish()
}

func TestLayersAreUnpackedUponEachOther(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		layers [][]item
		want   map[string]string
	}{
		"a file is replaced": {
			[][]item{{{name: "a", data: "old"}}, {{name: "a", data: "new"}}},
			map[string]string{"a": "new"},
		},
		"a link keeps what it was made of": {
			[][]item{{{name: "a", data: "old"}, {name: "b", hard: "a"}}, {{name: "a", data: "new"}}},
			map[string]string{"a": "new", "b": "old"},
		},
		"a link outlives its first name": {
			[][]item{{{name: "a", data: "old"}, {name: "b", hard: "a"}}, {{name: ".wh.a"}}},
			map[string]string{"b": "old"},
		},
		"a link to a file of a lower layer": {
			[][]item{{{name: "a", data: "old"}}, {{name: "b", hard: "/a"}}},
			map[string]string{"a": "old", "b": "old"},
		},
		"a directory is hidden": {
			[][]item{{{name: "d/"}, {name: "d/e/f", data: "x"}, {name: "k", data: "k"}}, {{name: ".wh.d"}}},
			map[string]string{"k": "k"},
		},
		"all of a directory is hidden, but what the layer itself has": {
			[][]item{
				{{name: "d/"}, {name: "d/old", data: "x"}, {name: "d/both/"}, {name: "d/both/old", data: "x"}, {name: "d/same", data: "old"}},
				{{name: "d/both/new", data: "y"}, {name: "d/.wh..wh..opq"}, {name: "d/new", data: "y"}, {name: "d/same", data: "new"}},
			},
			map[string]string{"d/": "", "d/both/": "", "d/both/new": "y", "d/new": "y", "d/same": "new"},
		},
		"what a layer makes is not hidden by itself": {
			[][]item{{{name: "d/old", data: "x"}}, {{name: "d/new", data: "y"}, {name: ".wh.d"}, {name: "f", data: "f"}, {name: ".wh.f"}}},
			map[string]string{"d/": "", "d/new": "y", "f": "f"},
		},
		"hidden, and there again in the next": {
			[][]item{{{name: "a", data: "1"}}, {{name: ".wh.a"}}, {{name: "a", data: "3"}}},
			map[string]string{"a": "3"},
		},
		"a directory takes the place of a link, and a link that of a directory": {
			[][]item{{{name: "lib", soft: "usr/lib"}, {name: "usr/lib/x", data: "x"}, {name: "d/x", data: "x"}}, {{name: "lib/"}, {name: "lib/y", data: "y"}, {name: "d", soft: "usr"}}},
			map[string]string{"lib/": "", "lib/y": "y", "usr/": "", "usr/lib/": "", "usr/lib/x": "x", "d": "-> usr"},
		},
		"through links inside, relative and absolute": {
			[][]item{{{name: "lib", soft: "usr/lib"}, {name: "usr/lib/"}, {name: "run/"}, {name: "var/run", soft: "/run"}}, {{name: "lib/x", data: "x"}, {name: "var/run/y", data: "y"}, {name: "lib/.wh.none"}}},
			map[string]string{"lib": "-> usr/lib", "usr/": "", "usr/lib/": "", "usr/lib/x": "x", "run/": "", "run/y": "y", "var/": "", "var/run": "-> /run"},
		},
		"hiding through a link": {
			[][]item{{{name: "lib", soft: "usr/lib"}, {name: "usr/lib/x", data: "x"}}, {{name: "lib/.wh.x"}}},
			map[string]string{"lib": "-> usr/lib", "usr/": "", "usr/lib/": ""},
		},
		"links are kept as they are": {
			[][]item{{{name: "a/climbs", soft: "../../../etc"}, {name: "a/absolute", soft: "/etc/passwd"}}},
			map[string]string{"a/": "", "a/climbs": "-> ../../../etc", "a/absolute": "-> /etc/passwd"},
		},
		"bookkeeping, and names that hide nothing": {
			[][]item{{{name: "d/x", data: "x"}}, {{name: ".wh..wh.aufs"}, {name: "d/.wh."}, {name: "d/.wh.."}, {name: "d/.wh..."}, {name: "none/.wh..wh..opq"}}},
			map[string]string{"d/": "", "d/x": "x", "none/": ""},
		},
		"a device takes the place of a file, and is left out": {
			[][]item{{{name: "null", data: "x"}}, {{name: "null", kind: tar.TypeChar}, {name: "fifo", kind: tar.TypeFifo}}},
			map[string]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var layers [][]byte
			for _, items := range tt.layers {
				layers = append(layers, pack(t, items...))
			}
			if err := unpackLayers(t, dir, layers...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, content(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestArchivesWithoutLayersHideNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unpack(t.Context(), bytes.NewReader(pack(t, item{name: "a", data: "a"}, item{name: ".wh.a", data: "b"})), dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "a", ".wh.a": "b"}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestHostileLayersStayInside(t *testing.T) {
	t.Parallel()
	for name, items := range map[string][]item{
		"hiding what is outside":             {{name: "../.wh.canary"}, {name: "../../.wh.canary"}, {name: "/.wh.canary"}},
		"hiding through a link":              {{name: "out", soft: "OUTSIDE"}, {name: "out/.wh.canary"}, {name: "out/.wh..wh..opq"}},
		"hiding through a link that climbs":  {{name: "out", soft: "../.."}, {name: "out/.wh..wh..opq"}},
		"hiding a parent":                    {{name: "d/"}, {name: "d/.wh..."}, {name: ".wh..."}},
		"hiding a link":                      {{name: "out", soft: "OUTSIDE"}, {name: ".wh.out"}},
		"writing through a link to a file":   {{name: "x", soft: "OUTSIDE/canary"}, {name: "x", data: "dead"}},
		"writing through a link to its link": {{name: "a", soft: "b"}, {name: "b", soft: "OUTSIDE"}, {name: "a/canary", data: "dead"}},
		"a link to a link outside":           {{name: "x", soft: "OUTSIDE/canary"}, {name: "y", hard: "x"}, {name: "y", data: "dead"}},
		"a hard link through a link":         {{name: "out", soft: "OUTSIDE"}, {name: "y", hard: "out/canary"}},
		"a mode through a link":              {{name: "d/"}, {name: "d", soft: "OUTSIDE"}},
		"a mode through a link in between":   {{name: "a/d/", mode: 0o700}, {name: "a", soft: "OUTSIDE"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outside := t.TempDir()
			canary := filepath.Join(outside, "canary")
			if err := os.WriteFile(canary, []byte("alive"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(outside, "d/in"), 0o750); err != nil {
				t.Fatal(err)
			}
			for i := range items {
				items[i].soft = strings.ReplaceAll(items[i].soft, "OUTSIDE", outside)
			}
			before := content(t, outside)
			err := unpackLayers(t, filepath.Join(outside, "d/in"), pack(t), pack(t, items...))
			after := content(t, outside)
			for path := range after {
				if strings.HasPrefix(path, "d/in/") && path != "d/in/" {
					delete(after, path)
				}
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("outside changed; the unpacking said %v:\n%s", err, diff)
			}
			for path, want := range map[string]fs.FileMode{canary: 0o640, filepath.Join(outside, "d"): fs.ModeDir | 0o750} {
				if info, err := os.Lstat(path); err != nil || info.Mode() != want {
					t.Errorf("%s is %v (%v), want %v", path, info.Mode(), err, want)
				}
			}
		})
	}
}

func TestUnpackingIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(strings.Repeat("n", 100)+"/", 20)
	for name, tt := range map[string]struct {
		items []item
		want  string
	}{
		"bytes":             {[]item{{name: "a", data: "12345678"}, {name: "b", data: "123456789"}}, errTooBig.Error()},
		"entries":           {[]item{{name: "1/"}, {name: "2/"}, {name: "3/"}, {name: "4/"}, {name: "4/"}, {name: "5", kind: tar.TypeFifo}}, errTooBig.Error()},
		"implied entries":   {[]item{{name: "1/2/3/4/5/6/7", data: "x"}}, errTooBig.Error()},
		"hiding entries":    {[]item{{name: ".wh.1"}, {name: ".wh.1"}, {name: ".wh.1"}, {name: ".wh.1"}, {name: ".wh.1"}, {name: ".wh.1"}}, errTooBig.Error()},
		"depth":             {[]item{{name: strings.Repeat("d/", 300) + "x", data: "x"}}, "more than 256 directories"},
		"depth by links":    {[]item{{name: "l", soft: strings.Repeat("d/", 200)}, {name: "l/x", data: "x"}, {name: "l/" + strings.Repeat("d/", 200) + "x", data: "x"}}, "more than 256 directories"},
		"a path":            {[]item{{name: long + long + "x", data: "x"}}, "longer than"},
		"a path by links":   {[]item{{name: "l", soft: long}, {name: "l/x", data: "x"}, {name: "l/" + long + "x", data: "x"}}, "longer than"},
		"a circle of links": {[]item{{name: "a", soft: "b"}, {name: "b", soft: "a"}, {name: "a/x", data: "x"}}, "links on the way"},
		"under a file":      {[]item{{name: "a", data: "x"}, {name: "a/b", data: "x"}}, "no directory"},
		"a link to nothing": {[]item{{name: "a", hard: "none"}}, "which is not there"},
		"a link to a directory": {
			[]item{{name: "d/"}, {name: "a", hard: "d"}}, "is a directory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			u, err := newUnpacker(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer u.close()
			u.nextLayer()
			u.bytes = 16
			if u.entries = 5; strings.Contains(name, "path") || strings.Contains(name, "depth") {
				u.entries = 5000
			}
			if err := u.archive(t.Context(), bytes.NewReader(pack(t, tt.items...))); !errors.Is(err, runtime.ErrImageMissing) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			// However deep it is, it can be removed.
			if err := removeAll(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestZerosTakeNoRoom(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"nothing": "", "zeros": strings.Repeat("\x00", 3*copySize+1), "a hole": "a" + strings.Repeat("\x00", 5*copySize) + "b",
		"a buffer": strings.Repeat("x", copySize), "more": strings.Repeat("x", copySize+1), "zeros at the end": "a" + strings.Repeat("\x00", 2*copySize),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := unpack(t.Context(), bytes.NewReader(pack(t, item{name: "f", data: data})), dir); err != nil {
				t.Fatal(err)
			}
			if got := content(t, dir)["f"]; got != data {
				t.Errorf("it has %d bytes and not the %d that it should have", len(got), len(data))
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Blocks*512 > 3*copySize {
				t.Errorf("it takes %d blocks (%v)", st.Blocks, err)
			}
		})
	}
}

func TestClosedDirectoriesAreUnpacked(t *testing.T) {
	t.Parallel()
	// The order of what is closed is by chance.
	for range 10 {
		dir := t.TempDir()
		err := unpackLayers(t, dir,
			pack(t, item{name: "c/", mode: 0o600}, item{name: "c/d/", mode: 0o100}, item{name: "c/d/e/", mode: 0o755}, item{name: "c/d/e/f", data: "f"}),
			pack(t, item{name: "c/d/e/g", data: "g"}))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "c")); err != nil || info.Mode() != fs.ModeDir|0o600 {
			t.Errorf("it is %v (%v)", info.Mode(), err)
		}
		if err := removeAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImpliedDirectoriesAreOpenToAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unpack(t.Context(), bytes.NewReader(pack(t, item{name: "a/b/c", data: "c"})), dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s is %v (%v)", name, info.Mode(), err)
		}
	}
}

func TestUnpackingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	archive := pack(t, item{name: "big", data: strings.Repeat("x", 1<<20)})
	reads := 0
	from := readerFunc(func(p []byte) (int, error) {
		if reads++; reads == 3 {
			cancel() // in the middle of a file
		}
		n := copy(p, archive)
		archive = archive[n:]
		return n, nil
	})
	if err := unpack(ctx, from, t.TempDir()); !errors.Is(err, context.Canceled) || errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("got %v", err)
	}
}

func FuzzLayers(f *testing.F) {
	f.Add(pack(f, item{name: "bin/"}, item{name: "bin/sh", data: "x"}, item{name: "a", soft: "../b"}, item{name: "c", hard: "bin/sh"}), pack(f, item{name: "bin/.wh.sh"}, item{name: ".wh..wh..opq"}))
	f.Add(pack(f, item{name: "../x", data: "x"}, item{name: "d", soft: "/"}, item{name: "d/y", data: "y"}), pack(f, item{name: "d/.wh..wh..opq"}, item{name: "d/../.wh.x"}))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		outside := t.TempDir()
		if err := os.WriteFile(filepath.Join(outside, "x"), []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(outside, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpackLayers(t, dir, lower, upper) // most are no archives
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(map[string]string{"x": "alive"}, content(t, outside)); diff != "" {
			t.Error(diff)
		}
	})
}
