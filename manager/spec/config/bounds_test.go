package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// mistakes parses what has mistakes and returns them.
func mistakes(t *testing.T, data string) *Error {
	t.Helper()
	_, err := Parse("moat.yaml", []byte(data))
	var wrong *Error
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want mistakes", err)
	}
	return wrong
}

// bomb is aliases of aliases: 9 to the power of levels values.
func bomb(levels int) string {
	var b strings.Builder
	b.WriteString("command: &l0 [a]\n")
	b.WriteString("network:\n  rules:\n")
	for i := range levels {
		fmt.Fprintf(&b, "    - &l%d {x%d: [%s]}\n", i+1, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d,", i), 9), ","))
	}
	return b.String()
}

func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	services := "dependencies: [redis]\nclaude:\n  mcp:\n    a0: &a {command: x, args: &args [" + strings.TrimSuffix(strings.Repeat("x,", 900), ",") + "]}\n"
	for i := range 100 {
		services += fmt.Sprintf("    b%d: *a\n", i)
	}
	for _, tt := range []struct{ name, data, want string }{
		{"size", "name: a\n" + strings.Repeat("#", maxFile), "the file has more than 131072 bytes"},
		{"items", "grants: [" + strings.Repeat("a,", maxItems+1) + "]", "more than 1000 items"},
		{"entries", "env:\n" + manyKeys(maxItems+1), "more than 1000 entries"},
		{"text", "hooks: {pre_run: " + strings.Repeat("a", maxText+1) + "}", "it has more than 16384 bytes"},
		{"key", "env: {" + strings.Repeat("a", maxKey+1) + ": x}", "a key has more than 200 bytes"},
		{"uses of one alias", services, "the file holds more than 20000 values"},
		{"aliases of aliases", bomb(9), "stands here"},
		{"an alias of itself", "claude:\n  mcp: &a\n    x: *a\n", "unknown key"},
		{"nested lists", "name: " + strings.Repeat("[", 60_000), "this is no YAML"},
		{"nested mappings", "name: " + strings.Repeat("{a: ", 30_000), "this is no YAML"},
		{"nested indentation", "name:\n" + strings.Repeat("- ", 60_000), "this is no YAML"},
		{"NUL", "name: a\x00b", "control characters are not allowed"},
		{"no UTF-8", "name: \xff\xfe", "this is no YAML"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wrong := mistakes(t, tt.data)
			if text := wrong.Error(); !strings.Contains(text, tt.want) || len(text) > 4096*maxMistakes {
				t.Errorf("want %q in %.500s", tt.want, text)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  K%d: x\n", i)
	}
	return b.String()
}

func TestMistakesAreCountedBeyondTheirBound(t *testing.T) {
	t.Parallel()
	wrong := mistakes(t, "grants: ["+strings.TrimSuffix(strings.Repeat("A,", 75), ",")+"]")
	if len(wrong.Mistakes) != maxMistakes || wrong.Omitted != 25 {
		t.Errorf("got %d mistakes and %d more, want %d and 25", len(wrong.Mistakes), wrong.Omitted, maxMistakes)
	}
	if !strings.HasSuffix(wrong.Error(), "\nand 25 more") {
		t.Errorf("the error does not say that there are more: %.200s", wrong)
	}
	if few := mistakes(t, "grants: [A, A]"); len(few.Mistakes) != 2 || few.Omitted != 0 {
		t.Errorf("got %v", few)
	}
}

func TestMessagesKeepSecretsAndControlCharactersOut(t *testing.T) {
	t.Parallel()
	const secret = "sk-live-0123456789"
	for _, data := range []string{
		"secrets: {A: " + secret + "}", "secrets: " + secret, "secrets: [" + secret + "]", "env: {A: \"" + secret + "\\0\"}", "env: " + secret,
		"mcp: [{name: a, url: \"https://user:" + secret + "@example.com\"}]", "claude: {base_url: \"https://user:" + secret + "@example.com\"}",
	} {
		if text := mistakes(t, data).Error(); strings.Contains(text, secret) {
			t.Errorf("the secret is in the message: %s", text)
		}
	}
	if text := mistakes(t, `{"a\x1b[31m\nb": 1}`).Error(); strings.ContainsAny(text, "\x1b\n") {
		t.Errorf("control characters are in the message: %q", text)
	}
}

func FuzzParse(f *testing.F) {
	for _, dir := range []string{"valid", "invalid", "home"} {
		for _, data := range corpus(f, dir) {
			f.Add(data)
		}
	}
	f.Add([]byte(bomb(5)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func(string, []byte) (*Config, error){Parse, ParseHome} {
			c, err := parse("moat.yaml", data)
			if err != nil {
				checkMistakes(t, err)
				continue
			}
			resolved := Resolve(Defaults(), Layer{Source: SourceProject, Config: c})
			for _, w := range c.Wishes() {
				if w.Origin.Line < 1 || w.Origin.Column < 1 {
					t.Errorf("%s has no position", w.Key)
				}
			}
			for _, ask := range Asks(resolved.Config) {
				if ask.Origin.Source != SourceProject && ask.Origin.Source != SourceHome {
					t.Errorf("%s of an ask has no origin: %+v", ask.Key, ask.Origin)
				}
			}
			again := Resolve(Layer{Source: SourceProject, Config: c}, Layer{Source: SourceProject, Config: &Config{}})
			if one, two := listing(Resolve(Layer{Source: SourceProject, Config: c}).Config), listing(again.Config); one != two {
				t.Errorf("nothing over a file changes it:\n%s\n%s", one, two)
			}
		}
	})
}

// checkMistakes checks that an error is bounded and has positions.
func checkMistakes(t *testing.T, err error) {
	t.Helper()
	var wrong *Error
	if !errors.As(err, &wrong) || len(wrong.Mistakes) == 0 || len(wrong.Mistakes) > maxMistakes {
		t.Fatalf("no bounded list of mistakes: %T", err)
	}
	for _, m := range wrong.Mistakes {
		if m.Line < 1 || m.Column < 1 || m.Message == "" || len(m.String()) > 4096 || strings.ContainsAny(m.String(), "\n\x00\x1b") {
			t.Errorf("a bad mistake: %+q", m)
		}
	}
}
