package deps

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Item is a dependency with what has been decided about it.
type Item struct {
	Dependency
	// Asked tells that a project asked for it, by its name or by that of
	// several; others are there because something needs them.
	Asked bool
	// Wanted is the version that was asked for; empty is any.
	Wanted string
	entry  *entry
}

// Plan is what a list of dependencies amounts to.
type Plan struct {
	// Items go into the image, each after all that it needs.
	Items    []Item
	Services []Service
	Docker   DockerMode // empty is none
}

// Hosts returns, sorted, where the plan's items come from: what a build of them has to
// reach. The packages of the system come from Debian or Ubuntu themselves; a base image
// that has them from elsewhere needs that host too.
func (p *Plan) Hosts() []string {
	hosts := slices.Clone(debianHosts) // for hooks, and for what downloads the rest
	for i := range p.Items {
		hosts = append(hosts, p.Items[i].entry.how.hosts()...)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Resolve decides what a list of dependencies amounts to. The same wishes in any
// order give the same plan.
func Resolve(list []Dependency) (*Plan, error) { return builtIn.resolve(list) }

func (t table) resolve(list []Dependency) (*Plan, error) {
	r := resolution{table: t, wanted: make(map[string]*Item)}
	sorted := slices.Clone(list)
	// Those with a version first, so that others of the same name find it.
	slices.SortStableFunc(sorted, func(a, b Dependency) int {
		return cmp.Or(cmp.Compare(b.Version, a.Version), cmp.Compare(a.Name, b.Name), cmp.Compare(a.DockerMode, b.DockerMode))
	})
	for _, d := range sorted {
		if err := r.add(d, true, nil); err != nil {
			return nil, fmt.Errorf("resolve the dependencies: %w", err)
		}
	}
	return r.plan(), nil
}

// resolution is the work on one list.
type resolution struct {
	table  table
	wanted map[string]*Item // by what they install, see entry.key
	docker DockerMode
}

// add adds a dependency and what it needs. path is what led to it, to find cycles.
func (r *resolution) add(d Dependency, asked bool, path []string) error {
	if slices.Contains(path, d.Name) {
		return fmt.Errorf("%s needs itself: %s", d.Name, strings.Join(append(path, d.Name), " needs "))
	}
	path = append(slices.Clone(path), d.Name)
	if d.Name == NameDocker {
		if _, err := parseDocker(string(d.DockerMode)); err != nil {
			return err
		}
		if r.docker != "" && r.docker != d.DockerMode {
			return fmt.Errorf("docker:%s and docker:%s exclude each other; keep one of them", min(r.docker, d.DockerMode), max(r.docker, d.DockerMode))
		}
		r.docker = d.DockerMode
		return r.add(Dependency{Name: dockerClient, Type: TypePackage}, false, path)
	}
	e, err := r.table.find(d)
	if err != nil {
		return err
	}
	if e.kind != TypeMeta {
		if err := r.put(e, d, asked); err != nil {
			return err
		}
	}
	for _, name := range e.requires {
		if err := r.add(Dependency{Name: name}, asked && e.kind == TypeMeta, path); err != nil {
			return err
		}
	}
	return nil
}

// put notes an item, or compares it with the one that is there.
func (r *resolution) put(e *entry, d Dependency, asked bool) error {
	if d.Version != "" && !versionForm.MatchString(d.Version) {
		return fmt.Errorf("%s: %q is no version", d.Name, d.Version)
	}
	version, err := e.choose(d.Version)
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	there := r.wanted[e.key()]
	if there == nil {
		r.wanted[e.key()] = &Item{Dependency: Dependency{Name: d.Name, Version: version, Type: e.kind}, Asked: asked, Wanted: d.Version, entry: e}
		return nil
	}
	if d.Version != "" && version != there.Version {
		other := there.Dependency
		if other.Version == "" {
			other.Version = "of its own choice"
		}
		return fmt.Errorf("%s and %s are the same thing in two versions; keep one of them", Dependency{Name: d.Name, Version: version}, other)
	}
	there.Asked = there.Asked || asked
	// Of two names for one thing the plan has the same one, whichever came first.
	if d.Name < there.Name {
		there.Name, there.entry = d.Name, e
	}
	return nil
}

// plan puts the items in order: each after what it needs, then by kind and name.
func (r *resolution) plan() *Plan {
	p := &Plan{Docker: r.docker}
	if r.docker == DockerModeDind {
		p.Services = append(p.Services, engineService)
	}
	var sorted []*Item
	for _, item := range r.wanted {
		if item.entry.kind == TypeService {
			s := services[item.Name]
			s.Name, s.Image = item.Name, item.entry.image+":"+item.Version
			p.Services = append(p.Services, s)
			continue
		}
		sorted = append(sorted, item)
	}
	slices.SortFunc(p.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(sorted, func(a, b *Item) int {
		return cmp.Or(cmp.Compare(a.entry.rank(), b.entry.rank()), cmp.Compare(a.Name, b.Name))
	})
	placed := make(map[*Item]bool)
	var place func(item *Item)
	place = func(item *Item) {
		if placed[item] {
			return
		}
		placed[item] = true
		for _, name := range item.entry.requires {
			place(r.wanted[r.table[name].key()])
		}
		p.Items = append(p.Items, *item)
	}
	for _, item := range sorted {
		place(item)
	}
	return p
}
