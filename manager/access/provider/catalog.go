package provider

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

//go:embed data/*.yaml
var embedded embed.FS

const (
	// maxFiles is how many files a directory of providers may have.
	maxFiles = 200
	// maxYAML is the greatest size in bytes of one.
	maxYAML = 64 << 10
)

// reserved are names that belong to grants without a Provider.
var reserved = []string{"aws", "ssh"}

// Dir returns the directory of a home that holds a person's own providers, for Load.
func Dir(home string) string { return filepath.Join(home, "providers") }

// Catalog is the providers that there are, by name. It does not change.
type Catalog struct {
	providers map[string]Provider // by name and alias
}

// Builtin returns the catalog of the providers that are built in.
func Builtin() *Catalog { return builtin() }

var builtin = sync.OnceValue(func() *Catalog {
	c := &Catalog{providers: map[string]Provider{}}
	for _, p := range []Provider{github(), anthropic(), claude(), openai(), chatGPT(), gemini(), npm(), mcp(), oauthService()} {
		must(c.add(p))
	}
	files, err := fs.Glob(embedded, "data/*.yaml")
	must(err)
	for _, file := range files {
		data, err := embedded.ReadFile(file)
		must(err)
		p, err := Parse(file, data)
		must(err)
		must(c.add(p))
	}
	return c
})

// must ends the program on an error in what is compiled into it; the tests see it
// first.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Load returns the providers that are built in and those of the files *.yaml in a
// directory, which need not exist. A file with a mistake is left out, and the error
// names it; the catalog can be used even so. No file can take the place of a
// provider that is built in.
func Load(dir string) (*Catalog, error) {
	c := &Catalog{providers: maps.Clone(Builtin().providers)}
	paths, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.yaml"))
	if err != nil {
		return c, fmt.Errorf("list the providers in %s: %w", dir, err)
	}
	if len(paths) > maxFiles {
		return c, fmt.Errorf("load the providers in %s: there are %d files, %d are allowed", dir, len(paths), maxFiles)
	}
	var errs []error
	for _, path := range paths {
		if err := c.addFile(path); err != nil {
			errs = append(errs, err)
		}
	}
	return c, errors.Join(errs...)
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (c *Catalog) addFile(path string) error {
	data, err := readProvider(path)
	if err != nil {
		return fmt.Errorf("load a provider: %w", err)
	}
	p, err := Parse(path, data)
	if err != nil {
		return err
	}
	if err := c.add(p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readProvider reads a file that nobody else may change: it says where credentials
// are sent.
func readProvider(path string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would keep this waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("others may change %s (mode %04o), which says where credentials are sent; run `chmod go-w %s`", path, info.Mode().Perm(), path)
	case info.Size() > maxYAML:
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxYAML)
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if n != len(data) {
		return nil, fmt.Errorf("read %s: %w", path, cmp.Or(err, fs.ErrInvalid))
	}
	return data, nil
}

// add adds a provider whose names are free.
func (c *Catalog) add(p Provider) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("provider %.80q: %w", p.Name, err)
	}
	names := append([]string{p.Name}, p.Aliases...)
	for i, name := range names {
		_, taken := c.providers[name]
		if taken || slices.Contains(reserved, name) || slices.Contains(names[:i], name) {
			return fmt.Errorf("provider %q: the name %q is taken; choose another one", p.Name, name)
		}
	}
	for _, name := range names {
		c.providers[name] = p
	}
	return nil
}

// All returns the providers by name.
func (c *Catalog) All() []Provider {
	var all []Provider
	for _, name := range slices.Sorted(maps.Keys(c.providers)) {
		if p := c.providers[name]; p.Name == name {
			all = append(all, p)
		}
	}
	return all
}

// Lookup returns the provider of a grant, by its name or an alias. For a grant
// with an instance, such as "npm:npm.example.com", the field of the instance has it
// as its default. The error matches ErrUnknown, or ErrField for an instance that is
// missing, wrong, or more than the provider takes.
func (c *Catalog) Lookup(grant string) (Provider, error) {
	name, instance, hasInstance := strings.Cut(grant, ":")
	p, ok := c.providers[name]
	if !ok {
		return Provider{}, c.unknown(name)
	}
	if p.InstanceField == "" {
		if hasInstance {
			return Provider{}, fmt.Errorf("use grant %.80q: %w: %s has one grant only; leave out what is behind the colon", grant, ErrField, p.Name)
		}
		return p, nil
	}
	p.Fields = slices.Clone(p.Fields)
	i := slices.IndexFunc(p.Fields, func(f Field) bool { return f.Name == p.InstanceField })
	if hasInstance {
		p.Fields[i].Default = instance
	}
	if hasInstance || p.Fields[i].Default == "" {
		if err := p.Fields[i].Check(instance); err != nil {
			return Provider{}, fmt.Errorf("use grant %.80q: %w; name it %s:%s", grant, err, p.Name, strings.ToUpper(p.InstanceField))
		}
	}
	return p, nil
}

// Of returns the provider of a stored credential, whose grant may have a name of
// its own.
func (c *Catalog) Of(cred credential.Credential) (Provider, error) {
	if instance := cred.Grant.Instance(); instance != "" {
		return c.Lookup(cred.Provider + ":" + instance)
	}
	return c.Lookup(cred.Provider)
}

func (c *Catalog) unknown(name string) error {
	next := "see `drawbridge grant providers`"
	if near := nearest(name, slices.Collect(maps.Keys(c.providers))); near != "" {
		next = fmt.Sprintf("did you mean %s? %s", near, next)
	}
	return fmt.Errorf("find provider %.80q: %w; %s", name, ErrUnknown, next)
}
