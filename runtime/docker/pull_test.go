package docker

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestPullFromARegistry(t *testing.T) {
	d := newDriver(t, Options{})
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/drawbridge-test/pulled:1"
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	made, err := random.Image(256<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, made); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := d.cli.ImageRemove(ctx, ref, image.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})

	if _, err := d.Image(t.Context(), ref); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("before the pull Image says %v", err)
	}
	layers := make(map[string]bool)
	for range 2 { // the second pull finds everything there
		if err := d.Pull(t.Context(), ref, func(p runtime.PullProgress) { layers[p.Layer] = true }); err != nil {
			t.Fatal(err)
		}
	}
	if len(layers) < 3 { // two layers, and what is said of the whole
		t.Errorf("progress named only %v", layers)
	}
	found, err := d.Image(t.Context(), ref)
	if err != nil || found.ID == "" || found.Size == 0 {
		t.Errorf("after the pull Image says %+v, %v", found, err)
	}

	if err := d.Pull(t.Context(), ref+"-none", nil); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("pull of an unknown tag says %v", err)
	}
	server.Close()
	if err := d.Pull(t.Context(), ref+"-late", nil); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("pull from a registry that is gone says %v", err)
	}
}
