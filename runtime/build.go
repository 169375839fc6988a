package runtime

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"
)

// RoleImage is the value of LabelRole on an image that a driver built for runs.
const RoleImage = "image"

// LabelRecipe is the label of a built image that holds the tag under which it was
// built. An image that lost its tag to another is told from it by this label.
const LabelRecipe = "drawbridge.recipe"

// DefaultBuildTimeout bounds a build whose spec does not: a toolchain and a few
// packages over a slow line.
const DefaultBuildTimeout = 30 * time.Minute

// Builder is what a recipe is written for, so it is asked for first. It may use
// --mount=type=cache.
type Builder struct {
	Arch string // of the images, as Go names it
	// RunFlags are what each RUN begins with that is to reach the gate of the build,
	// and Shell is what its commands are run by. Nothing of either stays in the image.
	RunFlags string
	Shell    []string
}

// BuildGate is the way out of one build. Its methods are called by Build: Open once,
// when an image is really built, and Close once after that. Dial may be called by
// several goroutines between the two.
type BuildGate interface {
	// Open begins the service of the build.
	Open(ctx context.Context) error
	// Dial connects a step of the build.
	Dial(ctx context.Context) (net.Conn, error)
	// Close ends the service, also where ctx has ended. It returns failed, the end of
	// the build, with what the gate knows about it.
	Close(ctx context.Context, failed error) error
}

// BuildFile is one file of the context of a build.
type BuildFile struct {
	Name string // path in the context, with slashes; one of them is "Dockerfile"
	Mode fs.FileMode
	Data []byte
}

// BuildSpec is everything that is needed to build one image. Builds with equal tags
// are taken for equal: the tag must be made from all that an image depends on.
type BuildSpec struct {
	Tag    string // NAME:TAG of the image
	Home   string // HomeHash of the Drawbridge home that builds it, for LabelHome
	Files  []BuildFile
	Base   string // the image that the Dockerfile begins from
	BaseID string // its ID, as Image told it; the build fails if it has another one by then
	// Gate is the only way out of the build's steps; without one they reach nothing.
	Gate BuildGate
	// Rebuild builds also where the backend has the image, and takes no step from an
	// earlier build. Directories that are kept between builds stay.
	Rebuild bool
	Timeout time.Duration // zero is DefaultBuildTimeout
}

// BuiltImage is an image that was built for runs.
type BuiltImage struct {
	Image
	Labels   map[string]string
	LastUsed time.Time // when Build last returned it
}

// BuildError says that a step of a build failed: not the backend, but what it was
// told to do.
type BuildError struct {
	Tag   string
	Step  string   // as the Dockerfile has it
	Lines []string // the last lines that the step printed, oldest first
	Why   string   // what the builder said
}

func (e *BuildError) Error() string {
	text := fmt.Sprintf("build the image %s: %s", e.Tag, e.Why)
	if e.Step != "" {
		text += fmt.Sprintf("; the step that failed is %q", e.Step)
	}
	if len(e.Lines) > 0 {
		text += "; its last lines:\n  " + strings.Join(e.Lines, "\n  ")
	}
	return text
}

// ImageBuilder is implemented by drivers that can build images.
type ImageBuilder interface {
	// Builder tells what images are built with.
	Builder(ctx context.Context) (Builder, error)
	// Build returns the image spec.Tag, and builds it if the backend does not
	// have it or it is to be built again. Calls for the same tag at the same time build once; the build
	// ends when none of their contexts is left. On an error, the end of ctx
	// among them, nothing half-made is left behind. A step that fails is a
	// *BuildError. progress may be nil; it is called from the goroutine of the
	// caller, with a line each, and not with all of them if it is slow.
	Build(ctx context.Context, spec BuildSpec, progress func(line string)) (BuiltImage, error)
	// BuiltImages returns the images that were built and carry all of labels.
	BuiltImages(ctx context.Context, labels map[string]string) ([]BuiltImage, error)
	// PruneImages removes those among them that were last used before a time
	// and that no sandbox is made of, and returns what it removed.
	PruneImages(ctx context.Context, labels map[string]string, before time.Time) ([]BuiltImage, error)
}
