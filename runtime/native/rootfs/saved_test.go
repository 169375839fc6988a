//go:build linux

package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// imageOf returns an image of layers, with NAME=name in its environment.
func imageOf(t testing.TB, name string, layers ...[]byte) v1.Image {
	t.Helper()
	image, err := empty.Image, error(nil)
	for _, layer := range layers {
		if image, err = mutate.AppendLayers(image, static.NewLayer(layer, types.DockerUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	if image, err = mutate.Config(image, v1.Config{Env: []string{"NAME=" + name}}); err != nil {
		t.Fatal(err)
	}
	return image
}

// layoutOf writes an OCI layout.
func layoutOf(t testing.TB, add func(layout.Path) error) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := add(path); err != nil {
		t.Fatal(err)
	}
	return dir
}

func layoutWith(t testing.TB, image v1.Image) string {
	t.Helper()
	return layoutOf(t, func(p layout.Path) error { return p.AppendImage(image) })
}

// packed returns the files of a directory as an archive.
func packed(t testing.TB, dir string) []byte {
	t.Helper()
	var items []item
	for name, data := range content(t, dir) {
		if !strings.HasSuffix(name, "/") {
			items = append(items, item{name: name, data: data})
		}
	}
	return pack(t, items...)
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fileWith(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// dockerSave returns what `docker save` writes for the images.
func dockerSave(t testing.TB, images ...v1.Image) []byte {
	t.Helper()
	tags := make(map[name.Tag]v1.Image)
	for i, image := range images {
		tag, err := name.NewTag(fmt.Sprintf("drawbridge.test/image:%d", i))
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = image
	}
	path := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.MultiWriteToFile(path, tags); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSavedImagesAreUnpackedWhole(t *testing.T) {
	t.Parallel()
	// Its second layer replaces a file that has two names.
	image := imageOf(t, "one", pack(t, item{name: "bin/a", data: "old"}, item{name: "bin/b", hard: "bin/a"}), pack(t, item{name: "bin/a", data: "new"}))
	compressed := layoutOf(t, func(p layout.Path) error {
		layer, err := tarball.LayerFromFile(fileWith(t, zipped(t, pack(t, item{name: "bin/a", data: "new"}, item{name: "bin/b", data: "old"}))))
		if err != nil {
			return err
		}
		zipped, err := mutate.AppendLayers(imageOf(t, "one"), layer)
		if err != nil {
			return err
		}
		return p.AppendImage(zipped)
	})
	linked := pack(t,
		item{name: "one/layer.tar", data: string(pack(t, item{name: "bin/b", data: "old"}, item{name: "bin/a", data: "new"}))},
		item{name: "two/layer.tar", soft: "../one/layer.tar"},
		item{name: "config.json", data: configOf(t, imageOf(t, "one", pack(t, item{name: "bin/b", data: "old"}, item{name: "bin/a", data: "new"}), pack(t, item{name: "bin/b", data: "old"}, item{name: "bin/a", data: "new"})))},
		item{name: "manifest.json", data: `[{"Config":"config.json","Layers":["one/layer.tar","two/layer.tar"]}]`})
	for name, ref := range map[string]string{
		"a layout":                          layoutWith(t, image),
		"a layout, layers compressed":       compressed,
		"an archive of a layout":            fileWith(t, packed(t, layoutWith(t, image))),
		"the same, compressed":              fileWith(t, zipped(t, packed(t, layoutWith(t, image)))),
		"docker save":                       fileWith(t, dockerSave(t, image)),
		"the same, compressed, too":         fileWith(t, zipped(t, dockerSave(t, image))),
		"docker save, with one layer twice": fileWith(t, linked),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			s := NewImages(store)
			for range 2 {
				dir, env, err := s.unpacked(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(map[string]string{"bin/": "", "bin/a": "new", "bin/b": "old"}, content(t, dir)); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff([]string{"NAME=one"}, env); diff != "" {
					t.Error(diff)
				}
			}
			if left, err := filepath.Glob(filepath.Join(store, "*", partsName)); err != nil || len(left) > 0 {
				t.Errorf("parts are left: %q (%v)", left, err)
			}
		})
	}
}

func configOf(t testing.TB, image v1.Image) string {
	t.Helper()
	data, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheImageForThisMachineIsChosen(t *testing.T) {
	t.Parallel()
	ours, theirs := goruntime.GOARCH, "s390x"
	image := func(name string) v1.Image { return imageOf(t, name, pack(t, item{name: "bin/" + name, data: name})) }
	for name, tt := range map[string]struct {
		images []mutate.IndexAddendum
		nested bool
		want   string // or what the error says
	}{
		"of two machines":       {[]mutate.IndexAddendum{on(image("theirs"), "linux", theirs), on(image("ours"), "linux", ours)}, false, "NAME=ours"},
		"one index further":     {[]mutate.IndexAddendum{on(image("theirs"), "linux", theirs), on(image("ours"), "linux", ours)}, true, "NAME=ours"},
		"without a machine":     {[]mutate.IndexAddendum{{Add: image("any")}}, false, "NAME=any"},
		"beside an attestation": {[]mutate.IndexAddendum{on(image("ours"), "linux", ours), on(image("proof"), "unknown", "unknown")}, false, "NAME=ours"},
		"another system":        {[]mutate.IndexAddendum{on(image("theirs"), "windows", ours)}, false, "no image for linux/" + ours},
		"another machine":       {[]mutate.IndexAddendum{on(image("theirs"), "linux", theirs)}, true, "no image for linux/" + ours},
		"more than one":         {[]mutate.IndexAddendum{on(image("a"), "linux", ours), on(image("b"), "linux", ours)}, false, "save the one alone"},
		"the same twice":        {[]mutate.IndexAddendum{on(image("a"), "linux", ours), on(image("a"), "linux", ours)}, false, "NAME=a"},
		"none":                  {nil, false, "no image for linux/" + ours},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			index := mutate.AppendManifests(empty.Index, tt.images...)
			if tt.nested {
				index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})
			}
			dir := t.TempDir()
			if _, err := layout.Write(dir, index); err != nil {
				t.Fatal(err)
			}
			_, env, err := NewImages(t.TempDir()).unpacked(t.Context(), dir)
			if strings.HasPrefix(tt.want, "NAME=") {
				if diff := cmp.Diff([]string{tt.want}, env); diff != "" || err != nil {
					t.Errorf("%v\n%s", err, diff)
				}
				return
			}
			if !errors.Is(err, runtime.ErrImageMissing) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "docker save") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func on(image v1.Image, system, machine string) mutate.IndexAddendum {
	return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: machine}}}
}

// An image that is not what its digest says would otherwise be found by who names
// the right one.
func TestWhatIsNotWhatItsDigestSaysIsRefused(t *testing.T) {
	t.Parallel()
	image := imageOf(t, "good", pack(t, item{name: "bin/a", data: "good"}))
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	evil := imageOf(t, "evil", pack(t, item{name: "bin/a", data: "evil"}))
	evilManifest, err := evil.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		blob v1.Hash
		data string
	}{
		"a layer":          {manifest.Layers[0].Digest, string(pack(t, item{name: "bin/a", data: "evil"}))},
		"a cut layer":      {manifest.Layers[0].Digest, string(pack(t, item{name: "bin/a", data: "good"})[:600])},
		"a longer layer":   {manifest.Layers[0].Digest, string(pack(t, item{name: "bin/a", data: "good"})) + "more"},
		"a configuration":  {manifest.Config.Digest, configOf(t, evil)},
		"the manifest":     {digest, string(evilManifest)},
		"an endless blob":  {manifest.Config.Digest, strings.Repeat(" ", maxDocument+1)},
		"no layer":         {manifest.Layers[0].Digest, ""},
		"no configuration": {manifest.Config.Digest, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := layoutWith(t, image)
			if err := os.WriteFile(filepath.Join(dir, blobPath(tt.blob)), []byte(tt.data), 0o644); err != nil {
				t.Fatal(err)
			}
			s := NewImages(t.TempDir())
			if _, _, err := s.unpacked(t.Context(), dir); !errors.Is(err, runtime.ErrImageMissing) {
				t.Errorf("got %v", err)
			}
			tree, _, err := s.unpacked(t.Context(), layoutWith(t, image))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"bin/": "", "bin/a": "good"}, content(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSavedImagesAreReadInsideOfTheirDirectory(t *testing.T) {
	t.Parallel()
	const secret = "SECRET-WORDS"
	outside := fileWith(t, []byte(secret))
	image := imageOf(t, "x", pack(t, item{name: "bin/a", data: "a"}))
	for name, plant := range map[string]func(path string) error{
		"a link outside":    func(path string) error { return os.Symlink(outside, path) },
		"an endless file":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"a pipe":            func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a directory":       func(path string) error { return os.Mkdir(path, 0o755) },
		"a very large file": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40)) },
		"a circle":          func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"nothing":           func(string) error { return nil },
	} {
		for _, file := range []string{"index.json", "the layer"} {
			t.Run(name+" in place of "+file, func(t *testing.T) {
				t.Parallel()
				if name == "a very large file" && file == "the layer" {
					t.Skip("its content would have to be read")
				}
				dir := layoutWith(t, image)
				path := filepath.Join(dir, file)
				if file == "the layer" {
					manifest, err := image.Manifest()
					if err != nil {
						t.Fatal(err)
					}
					path = filepath.Join(dir, blobPath(manifest.Layers[0].Digest))
				}
				if err := errors.Join(os.Remove(path), plant(path)); err != nil {
					t.Fatal(err)
				}
				refused(t, dir, secret)
			})
		}
	}
	for name, items := range map[string][]item{
		"a layout whose index is outside":            {{name: "oci-layout", data: "{}"}, {name: "index.json", soft: outside}},
		"a saved image whose manifest is outside":    {{name: "manifest.json", soft: outside}},
		"a saved image whose configuration is so":    {{name: "manifest.json", data: `[{"Config":"` + outside + `","Layers":[]}]`}},
		"a saved image whose configuration climbs":   {{name: "manifest.json", data: `[{"Config":"../../../../../../..` + outside + `","Layers":[]}]`}},
		"a saved image without a configuration":      {{name: "manifest.json", data: `[{"Layers":[]}]`}},
		"a saved image with more layers than it has": {{name: "c", data: `{"rootfs":{"diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`}, {name: "manifest.json", data: `[{"Config":"c","Layers":[]}]`}},
		"no images":                      {{name: "manifest.json", data: `[]`}},
		"not a manifest":                 {{name: "manifest.json", data: `{}`}},
		"a blob's digest that is a path": {{name: "oci-layout", data: "{}"}, {name: "index.json", data: `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../etc/passwd"}]}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, fileWith(t, pack(t, items...)), secret)
		})
	}
	t.Run("two saved images", func(t *testing.T) {
		t.Parallel()
		err := refused(t, fileWith(t, dockerSave(t, image, imageOf(t, "y", pack(t, item{name: "bin/y", data: "y"})))), secret)
		if !strings.Contains(err.Error(), "save the one alone") {
			t.Errorf("got %v", err)
		}
	})
}

// refused asserts that ref is no image, that finding this out takes no time, that
// nothing of it is left and that the error does not say the secret.
func refused(t *testing.T, ref, secret string) error {
	t.Helper()
	store := t.TempDir()
	result := make(chan error, 1)
	go func() {
		_, _, err := NewImages(store).unpacked(t.Context(), ref)
		result <- err
	}()
	var err error
	select {
	case err = <-result:
	case <-time.After(time.Minute):
		t.Fatal("it takes too long")
	}
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Fatalf("got %v", err)
	}
	if left := content(t, store); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	return err
}

func TestCutArchivesAreRefused(t *testing.T) {
	t.Parallel()
	plain := pack(t, item{name: "bin/a", data: strings.Repeat("random enough? ", 999)})
	whole := zipped(t, plain)
	for name, data := range map[string][]byte{
		"in a file": plain[:len(plain)/2], "compressed, in the middle": whole[:len(whole)/2], "compressed, in its checksum": whole[:len(whole)-3], "compressed, in its head": whole[:5],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := refused(t, fileWith(t, data), "SECRET"); !errors.Is(err, runtime.ErrImageMissing) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzImageFile(f *testing.F) {
	image := imageOf(f, "x", pack(f, item{name: "bin/a", data: "a"}))
	plain := pack(f, item{name: "bin/a", data: "a"})
	f.Add(plain)
	f.Add(zipped(f, plain))
	f.Add(dockerSave(f, image))
	f.Add(packed(f, layoutWith(f, image)))
	f.Add(pack(f, item{name: "oci-layout", data: "{}"}, item{name: "index.json", soft: "/etc/passwd"}))
	f.Add(pack(f, item{name: "oci-layout", kind: tar.TypeFifo}, item{name: "manifest.json/"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		store := t.TempDir()
		dir, _, err := NewImages(store).unpacked(t.Context(), fileWith(t, data))
		if err == nil {
			err = checkTree(dir)
		} else if left := content(t, store); len(left) > 0 {
			t.Errorf("left are %v after %v", left, err)
			return
		}
		if err != nil && !errors.Is(err, runtime.ErrImageMissing) && !strings.Contains(err.Error(), "unpack ") {
			t.Error(err)
		}
		if err := removeAll(store); err != nil {
			t.Error(err)
		}
	})
}
