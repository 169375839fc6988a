package manager

import (
	"context"
	"errors"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Images returns the images that were built for runs of this home.
func (m *Manager) Images(ctx context.Context) ([]runtime.BuiltImage, error) {
	var all []runtime.BuiltImage
	err := m.eachBuilder(func(builder runtime.ImageBuilder) error {
		found, err := builder.BuiltImages(ctx, m.imageLabels())
		all = append(all, found...)
		return err
	})
	return all, wrapf(err, "list images")
}

// PruneImages removes those of them that were not used for a time and that no
// sandbox is made of, and returns what it removed. The same dependencies build
// them again.
func (m *Manager) PruneImages(ctx context.Context, unused time.Duration) ([]runtime.BuiltImage, error) {
	before := time.Now().Add(-unused)
	var removed []runtime.BuiltImage
	err := m.eachBuilder(func(builder runtime.ImageBuilder) error {
		gone, err := builder.PruneImages(ctx, m.imageLabels(), before)
		removed = append(removed, gone...)
		return err
	})
	return removed, wrapf(err, "remove images")
}

func (m *Manager) imageLabels() map[string]string {
	return map[string]string{runtime.LabelHome: runtime.HomeHash(m.opts.Home)}
}

// eachBuilder calls f with each runtime that builds images.
func (m *Manager) eachBuilder(f func(builder runtime.ImageBuilder) error) error {
	drivers, err := m.drivers.each()
	errs := []error{err}
	for _, driver := range drivers {
		if builder, is := driver.(runtime.ImageBuilder); is {
			errs = append(errs, f(builder))
		}
	}
	return errors.Join(errs...)
}
