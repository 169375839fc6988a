//go:build linux

package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// archive makes a tar file of headers; a regular file holds its own name.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}
}

func directory(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostileArchivesStayInside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"a name that climbs":             {file("../../canary")},
		"an absolute name":               {file("/canary")},
		"through a link to a directory":  {symlink("out", "../.."), file("out/canary")},
		"through an absolute link":       {symlink("out", "OUTSIDE"), file("out/canary")},
		"over a link to a file":          {symlink("x", "OUTSIDE/canary"), file("x")},
		"a hard link to what is outside": {hardlink("x", "../../canary")},
		"a directory over a link":        {symlink("out", "OUTSIDE"), directory("out"), file("out/canary")},
		"a link over a directory":        {directory("out"), file("out/a"), symlink("out", "OUTSIDE"), file("out/canary")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outside := t.TempDir()
			canary := filepath.Join(outside, "canary")
			if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(outside, "a", "b")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for i := range headers {
				headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "OUTSIDE", outside)
			}
			err := unpack(t.Context(), bytes.NewReader(archive(t, headers...)), dir)
			if text, read := os.ReadFile(canary); read != nil || string(text) != "alive" {
				t.Errorf("the file outside is %q (%v); the unpacking said %v", text, read, err)
			}
			entries, read := os.ReadDir(outside)
			if read != nil || len(entries) != 2 {
				t.Errorf("outside are %v (%v)", entries, read)
			}
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if info, e := d.Info(); e == nil && d.Type().IsRegular() {
					if same, e := os.Stat(canary); e == nil && os.SameFile(info, same) {
						t.Errorf("%s is the file outside", path)
					}
				}
				return err
			})
		})
	}
}

func TestArchivesAreUnpackedAsTheyAre(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	setuid, closed, sticky := file("bin/su"), directory("closed"), directory("tmp")
	setuid.Mode, closed.Mode, sticky.Mode = 0o6755, 0o500, 0o1777
	err := unpack(t.Context(), bytes.NewReader(archive(t,
		directory("bin/"), setuid, closed, file("closed/in"), sticky,
		file("no/parent"), hardlink("same", "no/parent"), symlink("sh", "bin/su"),
		tar.Header{Name: "dev/disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8}, tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o666},
		file("twice"), file("twice"),
	)), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	for name, want := range map[string]fs.FileMode{
		"bin/su": 0o755, "closed": fs.ModeDir | 0o500, "tmp": fs.ModeDir | fs.ModeSticky | 0o777, "same": 0o755, "sh": fs.ModeSymlink | 0o777, "twice": 0o755,
	} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	for _, name := range []string{"dev/disk", "fifo"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made (%v)", name, err)
		}
	}
}

// layers returns an image of two layers: the second hides what the first has.
func layers(t testing.TB) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image,
		static.NewLayer(archive(t, directory("bin"), file("bin/sh"), directory("etc"), file("etc/old"), directory("gone"), file("gone/x")), types.DockerUncompressedLayer),
		static.NewLayer(archive(t, file("etc/.wh.old"), file("etc/new"), file(".wh.gone")), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Env = []string{"FROM=image"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestEveryFormOfAnImageIsUsed(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "bin", "sh"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	plain := archive(t, directory("bin"), file("bin/sh"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.WriteToFile(saved, nil, layers(t)); err != nil {
		t.Fatal(err)
	}
	oci := t.TempDir()
	path, err := layout.Write(oci, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(layers(t)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		ref     string
		layered bool
	}{
		"a directory": {tree, false}, "a tar file": {write(t, plain), false}, "a zipped tar file": {write(t, zipped.Bytes()), false},
		"docker save": {saved, true}, "an OCI layout": {oci, true}, "an archive of an OCI layout": {write(t, tarOf(t, oci)), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewImages(t.TempDir())
			for range 2 { // the second use finds it unpacked
				dir, env, err := s.unpacked(t.Context(), tt.ref)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(filepath.Join(dir, "bin", "sh")); err != nil {
					t.Error(err)
				}
				if !tt.layered {
					continue
				}
				if len(env) != 1 || env[0] != "FROM=image" {
					t.Errorf("its environment is %q", env)
				}
				for _, gone := range []string{"etc/old", "gone", "etc/.wh.old"} {
					if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("%s is there (%v)", gone, err)
					}
				}
			}
		})
	}
}

// tarOf makes an archive of the files in dir.
func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatIsNoImageIsRefusedWithTheMend(t *testing.T) {
	t.Parallel()
	for name, ref := range map[string]string{
		"the name of an image": "debian:bookworm-slim", "nothing": filepath.Join(t.TempDir(), "none"), "the machine itself": "/",
		"an empty directory": t.TempDir(), "a text": write(t, []byte("hello")), "an archive of something else": write(t, archive(t, file("readme"))),
		"a cut archive": write(t, archive(t, directory("bin"), file("bin/sh"))[:700]), "a device": "/dev/null",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			_, err := NewImages(store).Root(t.Context(), ref, User{})
			if !errors.Is(err, runtime.ErrImageMissing) || !strings.Contains(err.Error(), "docker save") && ref != "/" {
				t.Errorf("got %v", err)
			}
			_ = filepath.WalkDir(store, func(path string, d fs.DirEntry, _ error) error {
				if d.Name() == treeName {
					t.Errorf("%s is left", path)
				}
				return nil
			})
		})
	}
}

func TestAnInterruptedUnpackingIsDoneAnew(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	ref := write(t, archive(t, directory("bin"), file("bin/sh")))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewImages(store).unpacked(cancelled, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	dir, _, err := NewImages(store).unpacked(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	// As a process leaves it that is killed before the end.
	if err := os.Remove(filepath.Join(filepath.Dir(dir), doneName)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if dir, _, err = NewImages(store).unpacked(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half done is still there (%v)", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, directory("bin"), file("bin/sh"), symlink("a", "../b"), hardlink("c", "bin/sh")))
	f.Add(archive(f, file("../x"), symlink("d", "/"), file("d/y")))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpack(t.Context(), bytes.NewReader(data), dir) // most are no archives
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside are %v (%v)", entries, err)
		}
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
	})
}
