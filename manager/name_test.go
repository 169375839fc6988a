package manager

import (
	"strings"
	"testing"
)

func TestRunIDsAreValidAndDiffer(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		id := newRunID()
		if !ValidRunID(id) {
			t.Fatalf("newRunID() = %q, which ValidRunID refuses", id)
		}
		if seen[id] {
			t.Fatalf("newRunID() returned %q twice", id)
		}
		seen[id] = true
	}
}

func TestValidRunIDWantsTheExactForm(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"run_0123456789ab":       true,
		"run_ffffffffffff":       true,
		"":                       false,
		"run_":                   false,
		"run_0123456789a":        false,
		"run_0123456789abc":      false,
		"run_0123456789aB":       false,
		"run_0123456789ag":       false,
		"RUN_0123456789ab":       false,
		"run-0123456789ab":       false,
		" run_0123456789ab":      false, //nolint:gocritic // the space is the point
		"run_0123456789ab\n":     false,
		"run_../../../ab":        false,
		"run_\u0660123456789a":   false,
		"brave-otter":            false,
		"run_run_0123456789ab":   false,
		"run_0123456789ab/../..": false,
	} {
		if got := ValidRunID(id); got != want {
			t.Errorf("ValidRunID(%q) = %v, want %v", id, got, want)
		}
	}
}

func TestNamesAreCheckedAndTheMessageSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want string // part of the message; empty if the name is good
	}{
		{"a", ""},
		{"7", ""},
		{"brave-otter", ""},
		{"build_2.1-rc", ""},
		{"run", ""},
		{"run-1", ""},
		{"my.run_1", ""},
		{strings.Repeat("n", 63), ""},
		{"", "empty"},
		{strings.Repeat("n", 64), "64 bytes"},
		{"run_", `begins with "run_"`},
		{"run_1", `begins with "run_"`},
		{"run_0123456789ab", `begins with "run_"`},
		{"-a", "begins with '-'"},
		{"_a", "begins with '_'"},
		{".", "begins with '.'"},
		{"..", "begins with '.'"},
		{"Otter", "contains 'O'"},
		{"a b", "contains ' '"},
		{"a/b", "contains '/'"},
		{"a\x00b", `contains '\x00'`},
		{"a\n", `contains '\n'`},
		{"étoile", "contains 'é'"},
		{"a\xff", "contains '\ufffd'"},
	} {
		err := validateName(c.name)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("validateName(%q) = %v, want it accepted", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("validateName(%q) = %v, want an error that says %q", c.name, err, c.want)
		}
	}
}

func TestGeneratedNamesAreValid(t *testing.T) {
	t.Parallel()
	for _, adjective := range adjectives {
		for _, animal := range animals {
			name := adjective + "-" + animal
			if err := validateName(name); err != nil {
				t.Errorf("%q: %v", name, err)
			}
			if err := validateName(withSuffix(name)); err != nil {
				t.Errorf("withSuffix(%q): %v", name, err)
			}
		}
	}
	if err := validateName(generateName()); err != nil {
		t.Error(err)
	}
	if name := withSuffix(strings.Repeat("n", maxNameLen)); validateName(name) != nil {
		t.Errorf("withSuffix of the longest name is %q", name)
	}
}

func TestWordsOfGeneratedNamesDiffer(t *testing.T) {
	t.Parallel()
	for _, words := range [][64]string{adjectives, animals} {
		seen := make(map[string]bool)
		for _, word := range words {
			if seen[word] {
				t.Errorf("%q is listed twice", word)
			}
			seen[word] = true
		}
	}
}

func FuzzValidateName(f *testing.F) {
	for _, seed := range []string{"", "a", "brave-otter", "run_0123456789ab", "-", "..", "a/b", "é", "\xff", strings.Repeat("a", 64)} {
		f.Add(seed)
	}
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	f.Fuzz(func(t *testing.T, name string) {
		good := len(name) >= 1 && len(name) <= 63 && strings.Trim(name, allowed) == "" &&
			strings.ContainsAny(name[:1], allowed[:36]) && !strings.HasPrefix(name, "run_")
		for _, c := range []byte(name) {
			good = good && strings.IndexByte(allowed, c) >= 0
		}
		if err := validateName(name); (err == nil) != good {
			t.Errorf("validateName(%q) = %v, want good %v", name, err, good)
		}
		if good && ValidRunID(name) {
			t.Errorf("%q is both a name and a run ID", name)
		}
	})
}
