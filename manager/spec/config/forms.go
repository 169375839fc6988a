package config

import (
	"fmt"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// either is a value that is written as a text or as a mapping.
func either[T any](rule textRule, fromText func(string) T, mapping shape[T]) shape[T] {
	asText := text(rule)
	return shape[T]{
		kind:   "text or mapping",
		schema: schema{"anyOf": []schema{asText.schema, mapping.schema}},
		below:  mapping.below,
		read: func(r *reader, n *yaml.Node, at string, into *T) {
			if n.Kind != yaml.ScalarNode {
				mapping.read(r, n, at, into)
				return
			}
			var s string
			asText.read(r, n, at, &s)
			if s != "" {
				*into = fromText(s)
			}
		},
	}
}

// mounts is the list of mounts. A source replaces what another one mounts at the
// same place.
func mounts() shape[[]Mount] {
	object := object(func(_ *reader, _ *yaml.Node, _ string, m *Mount) {
		m.Target = path.Clean(m.Target)
		for i := range m.Exclude {
			m.Exclude[i] = path.Clean(m.Exclude[i])
		}
	},
		key("source", func(m *Mount) *string { return &m.Source }, text(hostPath), about{required: true, does: "directory of this machine, absolute or relative to the workspace", example: "./data"}),
		key("target", func(m *Mount) *string { return &m.Target }, text(absolutePath), about{required: true, does: "where it is in the sandbox", example: "/data"}),
		key("mode", func(m *Mount) *bool { return &m.ReadOnly }, mountMode(), about{does: "whether the run may write there", fallback: "rw", example: "ro"}),
		key("exclude", func(m *Mount) *[]string { return &m.Exclude }, listOf(text(excludePath), path.Clean), about{
			does: "paths below the target that the run sees empty", rule: "none lies below another; no patterns", example: "[node_modules]"}),
	)
	one := either(mountText, mountOf, object)
	target := func(m Mount) string { return m.Target }
	return added(listOf(one, target), target, after)
}

// mountOf reads "SOURCE:TARGET[:MODE]", which has been checked.
func mountOf(s string) Mount {
	parts := strings.Split(s, ":")
	return Mount{Source: parts[0], Target: path.Clean(parts[1]), ReadOnly: len(parts) == 3 && parts[2] == "ro"}
}

func mountMode() shape[bool] {
	words := oneOf("ro", "rw")
	return shape[bool]{kind: words.kind, schema: words.schema, read: func(r *reader, n *yaml.Node, at string, into *bool) {
		var mode string
		words.read(r, n, at, &mode)
		*into = mode == "ro"
	}}
}

// volumes is the list of volumes.
func volumes() shape[[]Volume] {
	return listOf(object(func(_ *reader, _ *yaml.Node, _ string, v *Volume) { v.Target = path.Clean(v.Target) },
		key("name", func(v *Volume) *string { return &v.Name }, text(volumeName), about{required: true, does: "name of the volume, which runs of the same name in the same workspace share", example: "cache"}),
		key("target", func(v *Volume) *string { return &v.Target }, text(absolutePath), about{required: true, does: "where it is in the sandbox", example: "/var/cache/app"}),
		key("readonly", func(v *Volume) *bool { return &v.ReadOnly }, boolean(), about{does: "whether the run may only read it", fallback: "false", example: "true"}),
		key("type", func(v *Volume) *string { return &v.Type }, oneOf("bind", "volume"), about{does: "a directory of the home, or a volume of the Docker engine", fallback: "bind", example: "volume"}),
	), func(v Volume) string { return v.Name })
}

// networkRules is the list of rules. Rules of a higher source are tried first.
func networkRules() shape[[]Rule] {
	asText, requests := text(ruleText), listOf(text(requestRule), nil)
	one := shape[Rule]{
		kind: "text or mapping",
		schema: schema{"anyOf": []schema{asText.schema, {
			"type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": hostPattern.nameSchema(),
			"additionalProperties": nullable(requests.schema),
		}}},
		read: func(r *reader, n *yaml.Node, at string, into *Rule) {
			if n.Kind == yaml.ScalarNode {
				var s string
				asText.read(r, n, at, &s)
				*into = ruleOf(s)
				return
			}
			readHostRule(r, n, at, requests, into)
		},
	}
	return added(listOf(one, nil), nil, before)
}

// ParseRule reads a rule on one line: HOST, HOST:PORT, or "HOST allow|deny METHOD
// /path". It checks the form only.
func ParseRule(s string) (Rule, error) {
	if problem := ruleText.problem(s); problem != "" {
		return Rule{}, fmt.Errorf("network rule %.60q: %s", s, problem)
	}
	return ruleOf(s), nil
}

// ruleOf reads a rule on one line, which has been checked.
func ruleOf(s string) Rule {
	fields := strings.Fields(s)
	switch len(fields) {
	case 0:
		return Rule{}
	case 1:
		return Rule{Host: fields[0]}
	}
	return Rule{Host: fields[0], Requests: []string{strings.Join(fields[1:], " ")}}
}

// readHostRule reads a host with a list of requests.
func readHostRule(r *reader, n *yaml.Node, at string, requests shape[[]string], into *Rule) {
	if !r.mapping(n, at, `a host, or a mapping of a host to rules such as "allow GET /repos/**"`) {
		return
	}
	all := r.pairs(n, at)
	if len(all) != 1 {
		if len(n.Content) != 2 {
			r.fail(n, at, "make an item of the list of each host", "a rule is about one host, and here are %d", len(n.Content)/2)
		}
		return
	}
	host := all[0]
	if problem := hostPattern.problem(host.key.Value); problem != "" {
		r.fail(host.key, at, "", "%.60q: %s", host.key.Value, problem)
		return
	}
	into.Host = host.key.Value
	if isNull(host.value) {
		return
	}
	at = below(at, host.key.Value)
	value, leave := r.enter(host.value, at)
	defer leave()
	if value == nil {
		return
	}
	requests.read(r, value, at, &into.Requests)
	for i, request := range into.Requests {
		into.Requests[i] = strings.Join(strings.Fields(request), " ")
	}
}

// keepPolicy is the name of a policy, a file, or operations to deny.
func keepPolicy() shape[*KeepPolicy] {
	object := object(nil,
		key("deny", func(k *KeepPolicy) *[]string { return &k.Deny }, nonEmpty(listOf(text(oneLine), nil)), about{required: true, does: "operations that are denied", example: "[delete_issue]"}),
		key("mode", func(k *KeepPolicy) *string { return &k.Mode }, oneOf("enforce", "audit"), about{does: "whether they are refused or only recorded", fallback: "enforce", example: "audit"}),
	)
	return pointer(either(policyName, func(s string) KeepPolicy {
		if isPolicyFile(s) {
			return KeepPolicy{File: s}
		}
		return KeepPolicy{Pack: s}
	}, object))
}

// nonEmpty is a list with an item at least.
func nonEmpty[T any](s shape[[]T]) shape[[]T] {
	some := nullable(s.schema) // a copy
	some["type"], some["minItems"] = "array", 1
	read := s.read
	s.schema, s.read = some, func(r *reader, n *yaml.Node, at string, into *[]T) {
		read(r, n, at, into)
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			r.fail(n, at, "", "the list is empty")
		}
	}
	return s
}

// pointer is a value that may be absent as a whole.
func pointer[T any](s shape[T]) shape[*T] {
	return shape[*T]{kind: s.kind, schema: s.schema, below: s.below, read: func(r *reader, n *yaml.Node, at string, into **T) {
		var v T
		s.read(r, n, at, &v)
		*into = &v
	}}
}
