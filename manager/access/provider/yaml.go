package provider

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is a provider as a YAML file describes it.
type document struct {
	Name          string            `yaml:"name"`
	Title         string            `yaml:"title"`
	Aliases       []string          `yaml:"aliases"`
	InstanceField string            `yaml:"instance_field"`
	Fields        []docField        `yaml:"fields"`
	Inject        []docInjection    `yaml:"inject"`
	Env           map[string]string `yaml:"env"`
	Files         []docFile         `yaml:"files"`
	RemoveHeaders []string          `yaml:"remove_headers"`
	AddHeaders    map[string]string `yaml:"add_headers"`
	Validate      *docCheck         `yaml:"validate"`
	Refresh       *docRefresh       `yaml:"refresh"`
	Dependencies  []string          `yaml:"dependencies"`
}

type docField struct {
	Name        string   `yaml:"name"`
	Prompt      string   `yaml:"prompt"`
	Env         []string `yaml:"env"`
	Pattern     string   `yaml:"pattern"`
	Hint        string   `yaml:"hint"`
	Secret      *bool    `yaml:"secret"` // true unless it says otherwise
	Optional    bool     `yaml:"optional"`
	Default     string   `yaml:"default"`
	Example     string   `yaml:"example"`
	Placeholder string   `yaml:"placeholder"`
}

type docInjection struct {
	Hosts  []string `yaml:"hosts"`
	Ports  []uint16 `yaml:"ports"`
	Paths  []string `yaml:"paths"`
	Header string   `yaml:"header"`
	Format string   `yaml:"format"`
	Prefix string   `yaml:"prefix"`
	User   string   `yaml:"user"`
	Field  string   `yaml:"field"`
}

type docFile struct {
	Path      string `yaml:"path"`
	Content   string `yaml:"content"`
	Mergeable bool   `yaml:"mergeable"`
}

type docCheck struct {
	Method   string            `yaml:"method"`
	URL      string            `yaml:"url"`
	Headers  map[string]string `yaml:"headers"`
	Body     string            `yaml:"body"`
	Accepted []int             `yaml:"accepted"`
	Rejected []int             `yaml:"rejected"`
}

type docRefresh struct {
	URL          string    `yaml:"url"`
	ClientID     string    `yaml:"client_id"`
	ClientSecret string    `yaml:"client_secret"` // name of a field
	AuthMethod   string    `yaml:"auth_method"`
	Body         string    `yaml:"body"`
	Resource     string    `yaml:"resource"`
	SendScopes   bool      `yaml:"send_scopes"`
	Field        string    `yaml:"field"`
	Answer       docAnswer `yaml:"answer"`
}

type docAnswer struct {
	AccessToken  string `yaml:"access_token"`
	RefreshToken string `yaml:"refresh_token"`
	ExpiresIn    string `yaml:"expires_in"`
}

// Parse returns the provider that a YAML document describes. An error names the
// file, and the line where there is one; an unknown key is an error that says which
// one may have been meant.
func Parse(file string, data []byte) (Provider, error) {
	p, err := parseDocument(data)
	if err != nil {
		return Provider{}, fmt.Errorf("read provider %s: %w", file, err)
	}
	return p, nil
}

func parseDocument(data []byte) (Provider, error) {
	if len(data) > maxYAML {
		return Provider{}, fmt.Errorf("it has more than %d bytes", maxYAML)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return Provider{}, errors.New("it is empty")
		}
		return Provider{}, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Provider{}, errors.New("it holds more than one document")
	}
	if len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return Provider{}, errors.New("want a mapping with name, title, fields and inject")
	}
	if err := checkNode(root.Content[0], reflect.TypeFor[document]()); err != nil {
		return Provider{}, err
	}
	var doc document
	if err := root.Content[0].Decode(&doc); err != nil {
		return Provider{}, err
	}
	p, err := doc.provider()
	if err != nil {
		return Provider{}, err
	}
	return p, p.check()
}

// checkNode reports keys that the type does not have, keys that are there twice,
// and what YAML has beyond plain data.
func checkNode(node *yaml.Node, t reflect.Type) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		return fmt.Errorf("line %d: anchors and aliases are not supported", node.Line)
	}
	switch node.Kind {
	case yaml.MappingNode:
		return checkMapping(node, t)
	case yaml.SequenceNode:
		if t.Kind() != reflect.Slice {
			return fmt.Errorf("line %d: a list stands where none is wanted", node.Line)
		}
		for _, item := range node.Content {
			if err := checkNode(item, t.Elem()); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Struct {
			return fmt.Errorf("line %d: %.80q stands where a list or a mapping is wanted", node.Line, node.Value)
		}
		if node.Tag == "!!null" {
			return fmt.Errorf("line %d: a value is missing", node.Line)
		}
	default:
		return fmt.Errorf("line %d: not plain data", node.Line)
	}
	return nil
}

func checkMapping(node *yaml.Node, t reflect.Type) error {
	if t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
		return fmt.Errorf("line %d: a mapping stands where none is wanted", node.Line)
	}
	types := map[string]reflect.Type{}
	if t.Kind() == reflect.Struct {
		for field := range t.Fields() {
			types[field.Tag.Get("yaml")] = field.Type
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Tag == "!!merge" {
			return fmt.Errorf("line %d: want a plain key", key.Line)
		}
		if seen[key.Value] {
			return fmt.Errorf("line %d: the key %.80q is there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		valueType := types[key.Value]
		if t.Kind() == reflect.Map {
			valueType = t.Elem()
		}
		if valueType == nil {
			return unknownKey(key, slices.Collect(maps.Keys(types)))
		}
		if err := checkNode(value, valueType); err != nil {
			return err
		}
	}
	return nil
}

func unknownKey(key *yaml.Node, known []string) error {
	if near := nearest(key.Value, known); near != "" {
		return fmt.Errorf("line %d: unknown key %.80q; did you mean %s?", key.Line, key.Value, near)
	}
	slices.Sort(known)
	return fmt.Errorf("line %d: unknown key %.80q; the keys here are %s", key.Line, key.Value, strings.Join(known, ", "))
}

// provider returns the provider of a document, which check has yet to accept.
func (d document) provider() (Provider, error) {
	p := Provider{
		Name: d.Name, Title: d.Title, Aliases: d.Aliases, InstanceField: d.InstanceField,
		RemoveHeaders: d.RemoveHeaders, AddHeaders: d.AddHeaders, Dependencies: d.Dependencies,
	}
	for _, f := range d.Fields {
		p.Fields = append(p.Fields, Field{
			Name: f.Name, Prompt: f.Prompt, Env: f.Env, Pattern: f.Pattern, Hint: f.Hint, Secret: f.Secret == nil || *f.Secret,
			Optional: f.Optional, Default: f.Default, Example: f.Example, Placeholder: f.Placeholder,
		})
	}
	for i, in := range d.Inject {
		format, err := in.format()
		if err != nil {
			return Provider{}, fmt.Errorf("inject[%d]: %w", i, err)
		}
		p.Injections = append(p.Injections, Injection{Hosts: in.Hosts, Ports: in.Ports, Paths: in.Paths, Header: in.Header, Format: format, Field: in.Field})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		p.Env = append(p.Env, EnvVar{Name: name, Value: d.Env[name]})
	}
	for _, f := range d.Files {
		p.Files = append(p.Files, File{Path: f.Path, Content: f.Content, IsMergeable: f.Mergeable})
	}
	if v := d.Validate; v != nil {
		p.Validate = &Check{Method: v.Method, URL: v.URL, Headers: v.Headers, Body: v.Body, Accepted: v.Accepted, Rejected: v.Rejected}
	}
	if d.Refresh != nil {
		r, err := d.Refresh.refresh()
		if err != nil {
			return Provider{}, err
		}
		p.Refresh = &r
	}
	return p, nil
}

func (r docRefresh) refresh() (Refresh, error) {
	if r.Body != "" && r.Body != "form" && r.Body != "json" {
		return Refresh{}, fmt.Errorf("refresh.body %.80q: want form or json", r.Body)
	}
	return Refresh{
		URL: r.URL, ClientID: r.ClientID, ClientSecret: r.ClientSecret, AuthMethod: r.AuthMethod, IsJSON: r.Body == "json",
		Resource: r.Resource, SendsScopes: r.SendScopes, Field: r.Field,
		AccessName: r.Answer.AccessToken, RefreshName: r.Answer.RefreshToken, ExpiresName: r.Answer.ExpiresIn,
	}, nil
}

func (i docInjection) format() (Format, error) {
	if (i.Prefix != "") != (i.Format == "prefix") || (i.User != "") != (i.Format == "basic") {
		return Format{}, errors.New("prefix goes with `format: prefix`, and user with `format: basic`")
	}
	switch i.Format {
	case "bearer":
		return Bearer, nil
	case "raw":
		return Raw, nil
	case "prefix":
		return Prefix(i.Prefix), nil
	case "basic":
		return Basic(i.User), nil
	}
	return Format{}, fmt.Errorf("format %.80q: want bearer, raw, prefix or basic", i.Format)
}
