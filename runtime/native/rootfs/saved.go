//go:build linux

package rootfs

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	goruntime "runtime"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Files by which a saved image is known.
const (
	layoutName = "oci-layout"    // of an OCI layout
	savedName  = "manifest.json" // of what `docker save` writes
)

const (
	// maxDocument bounds an index, a manifest or a configuration, in bytes:
	// what registries accept.
	maxDocument = 4 << 20
	// maxIndexes is how deep indexes may be in each other. Layouts of one
	// image for several machines have two.
	maxIndexes = 3
)

// saved is an image as files in a directory. Whoever wrote them is not trusted:
// they are read inside of the directory only, in bounded pieces, and what is
// named by its digest is checked against it.
type saved struct {
	root   *os.Root
	digest v1.Hash // of the manifest, or of the configuration where there is none
	config *v1.ConfigFile
	layers []string // paths
}

// openSaved opens the image in dir that is for this machine. The caller closes it.
func openSaved(dir string) (*saved, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &saved{root: root}
	if _, err = root.Lstat(layoutName); err == nil {
		err = s.readLayout()
	} else {
		err = s.readArchive()
	}
	if err == nil && len(s.layers) != len(s.config.RootFS.DiffIDs) {
		err = fmt.Errorf("it has %d layers, and its configuration names %d", len(s.layers), len(s.config.RootFS.DiffIDs))
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
	}
	return s, nil
}

func (s *saved) close() { s.root.Close() }

// readLayout reads an OCI layout.
func (s *saved) readLayout() error {
	data, err := s.document("index.json")
	if err != nil {
		return err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read index.json: %w", err)
	}
	if s.digest, err = s.choose(index, maxIndexes); err != nil {
		return err
	}
	if data, err = s.blob(s.digest); err != nil {
		return err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read the manifest %s: %w", s.digest, err)
	}
	for _, layer := range manifest.Layers {
		s.layers = append(s.layers, blobPath(layer.Digest))
	}
	if data, err = s.blob(manifest.Config.Digest); err != nil {
		return err
	}
	return s.readConfig(data)
}

// choose returns the manifest of the one image in an index that is for this
// machine, and is at most depth indexes further down.
func (s *saved) choose(index *v1.IndexManifest, depth int) (v1.Hash, error) {
	var found []v1.Hash
	for _, m := range index.Manifests {
		if p := m.Platform; p != nil && (p.OS != "linux" || p.Architecture != goruntime.GOARCH) {
			continue
		}
		switch {
		case m.MediaType.IsImage():
			found = append(found, m.Digest)
		case m.MediaType.IsIndex() && depth > 0:
			data, err := s.blob(m.Digest)
			if err != nil {
				return v1.Hash{}, err
			}
			nested, err := v1.ParseIndexManifest(bytes.NewReader(data))
			if err != nil {
				return v1.Hash{}, fmt.Errorf("read the index %s: %w", m.Digest, err)
			}
			digest, err := s.choose(nested, depth-1)
			if errors.Is(err, errNotForUs) {
				continue
			}
			if err != nil {
				return v1.Hash{}, err
			}
			found = append(found, digest)
		}
	}
	for _, digest := range found {
		if digest != found[0] {
			return v1.Hash{}, fmt.Errorf("it has %d images for linux/%s, and nothing says which is meant; save the one alone", len(found), goruntime.GOARCH)
		}
	}
	if len(found) == 0 {
		return v1.Hash{}, fmt.Errorf("%w linux/%s", errNotForUs, goruntime.GOARCH)
	}
	return found[0], nil
}

var errNotForUs = errors.New("it has no image for")

// readArchive reads what `docker save` writes.
func (s *saved) readArchive() error {
	data, err := s.document(savedName)
	if err != nil {
		return err
	}
	var images []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(data, &images); err != nil {
		return fmt.Errorf("read %s: %w", savedName, err)
	}
	if len(images) != 1 {
		return fmt.Errorf("it has %d images, and nothing says which is meant; save the one alone", len(images))
	}
	if data, err = s.document(images[0].Config); err != nil {
		return err
	}
	s.layers = images[0].Layers
	if s.digest, _, err = v1.SHA256(bytes.NewReader(data)); err != nil {
		return err
	}
	return s.readConfig(data)
}

func (s *saved) readConfig(data []byte) (err error) {
	if s.config, err = v1.ParseConfigFile(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("read the image's configuration: %w", err)
	}
	return nil
}

func blobPath(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

// blob returns a document that is named by its digest.
func (s *saved) blob(digest v1.Hash) ([]byte, error) {
	data, err := s.document(blobPath(digest))
	if err != nil {
		return nil, err
	}
	hash, err := v1.Hasher(digest.Algorithm)
	if err != nil {
		return nil, err
	}
	hash.Write(data)
	if got := hex.EncodeToString(hash.Sum(nil)); got != digest.Hex {
		return nil, fmt.Errorf("%s has the digest %s, so that it is not whole or not what it says", blobPath(digest), got)
	}
	return data, nil
}

// document returns the content of a small file.
func (s *saved) document(name string) ([]byte, error) {
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, maxDocument)
	}
	return data, nil
}

// open opens a regular file, and waits for nobody who might write a pipe.
func (s *saved) open(name string) (*os.File, error) {
	f, err := s.root.OpenFile(strings.TrimPrefix(name, "./"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("read %s: it is not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unpack unpacks the layers into dir, the lowest first.
func (s *saved) unpack(ctx context.Context, dir string) error {
	u, err := newUnpacker(dir)
	if err != nil {
		return err
	}
	defer u.close()
	for i, name := range s.layers {
		u.nextLayer()
		if err := s.layer(ctx, u, name, s.config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("unpack the layer %s: %w", name, err)
		}
	}
	return u.finish()
}

// layer unpacks one layer, and checks that it is what the configuration says.
func (s *saved) layer(ctx context.Context, u *unpacker, name string, want v1.Hash) error {
	l, err := partial.CompressedToLayer(layerFile{s, name})
	if err != nil {
		return err
	}
	from, err := l.Uncompressed()
	if err != nil {
		return unreadable(err)
	}
	defer from.Close()
	hash, err := v1.Hasher(want.Algorithm)
	if err != nil {
		return err
	}
	all := io.TeeReader(from, hash)
	if err := u.archive(ctx, all); err != nil {
		return err
	}
	// What follows the end of the archive counts, too.
	if _, err := io.Copy(io.Discard, io.LimitReader(bounded(ctx, all), maxBytes)); err != nil && ctx.Err() == nil {
		return unreadable(err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want.Hex {
		return fmt.Errorf("%w: its content has the digest %s and not %s, so that it is not whole or not what it says", runtime.ErrImageMissing, got, want.Hex)
	}
	return nil
}

// layerFile is a layer in a file, which may be compressed: what partial needs to
// find that out and to read it.
type layerFile struct {
	saved *saved
	name  string
}

var errNotKept = errors.New("a layer in a file does not say")

func (l layerFile) Compressed() (io.ReadCloser, error)  { return l.saved.open(l.name) }
func (l layerFile) Digest() (v1.Hash, error)            { return v1.Hash{}, errNotKept }
func (l layerFile) Size() (int64, error)                { return 0, errNotKept }
func (l layerFile) MediaType() (types.MediaType, error) { return "", errNotKept }
