package credential

import (
	"strings"
	"testing"
)

// FuzzDecode feeds the decoder of plaintexts, which a file of another origin may
// hold: whatever it accepts is a credential that can be stored again as it is.
func FuzzDecode(f *testing.F) {
	plain, err := encode(github(), "work")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"version":1,"grant":"github","profile":"work","provider":"p","values":{"a":"b"},"created_at":"0001-01-01T00:00:00Z","source":"env"}`))
	f.Add([]byte(`{"version":1e9}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(data, "work", "github")
		if err != nil {
			if strings.Contains(err.Error(), secretText) {
				t.Errorf("%v quotes what it reads", err)
			}
			return
		}
		again, err := encode(c, "work")
		if err != nil {
			if len(data) > MaxPlaintext/8 { // escapes may make it longer than is allowed
				return
			}
			t.Fatal(err)
		}
		back, err := decode(again, "work", "github")
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range c.Values {
			if !back.Values[name].Equal(value) {
				t.Errorf("%q changes", name)
			}
		}
		if !back.CreatedAt.Equal(c.CreatedAt) || !back.ExpiresAt.Equal(c.ExpiresAt) || back.Source != c.Source {
			t.Errorf("%+v became %+v", c, back)
		}
	})
}

// FuzzGrant makes sure that no name leads out of the directory, and that no two
// share a file.
func FuzzGrant(f *testing.F) {
	for _, seed := range []string{"github", "mcp:a/b", "../x", "a%2Fb", "ssh:github.com", "a/./b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		g, err := ParseGrant(name)
		if err != nil {
			return
		}
		file := fileName(g)
		if strings.ContainsAny(file, "/\\:\x00") || strings.HasPrefix(file, ".") || len(file) > maxFileName {
			t.Errorf("%q is in %q", name, file)
		}
		if back, ok := grantOf(file); !ok || back != g {
			t.Errorf("%q is in the file of %q", name, back)
		}
	})
}
