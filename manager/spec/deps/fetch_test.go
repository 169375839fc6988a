package deps

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFetchChecksWhatItDownloads(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("curl is needed")
		}
		t.Skip("curl is needed")
	}
	const content = "what was published"
	sum := sha256.Sum256([]byte(content))
	right := hex.EncodeToString(sum[:])
	wrong := strings.Repeat("0", 64)
	files := map[string]string{
		"/tool-1.tar.gz": content,
		"/two-spaces":    wrong + "  other.tar.gz\n" + right + "  tool-1.tar.gz\n",
		"/star":          right + " *tool-1.tar.gz\r\n",
		"/directory":     right + "  ./dist/tool-1.tar.gz\n",
		"/alone":         right,
		"/differs":       wrong + "  tool-1.tar.gz\n",
		"/others":        right + "  tool-1.tar.gz.sig\n" + right + "  xtool-1.tar.gz\n",
		"/page":          "<html>not found</html>\n",
		"/empty":         "",
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "http://127.0.0.1:1/tool-1.tar.gz", http.StatusFound)
			return
		}
		text, is := files[r.URL.Path]
		if !is {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	authority, script := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "fetch")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, fetchScript, 0o700); err != nil {
		t.Fatal(err)
	}
	const good = "/tool-1.tar.gz"
	for name, test := range map[string]struct{ url, check, says string }{
		"the right sum":            {server.URL + good, "sha256:" + right, ""},
		"a list":                   {server.URL + good, "list:" + server.URL + "/two-spaces", ""},
		"a list with stars":        {server.URL + good, "list:" + server.URL + "/star", ""},
		"a list with directories":  {server.URL + good, "list:" + server.URL + "/directory", ""},
		"a sum alone":              {server.URL + good, "list:" + server.URL + "/alone", ""},
		"another sum":              {server.URL + good, "sha256:" + wrong, "this is not what was published"},
		"a list with another sum":  {server.URL + good, "list:" + server.URL + "/differs", "this is not what was published"},
		"a list of others":         {server.URL + good, "list:" + server.URL + "/others", "has no checksum of"},
		"a page":                   {server.URL + good, "list:" + server.URL + "/page", "has no checksum of"},
		"an empty list":            {server.URL + good, "list:" + server.URL + "/empty", "has no checksum of"},
		"no list":                  {server.URL + good, "list:" + server.URL + "/none", "404"},
		"no check":                 {server.URL + good, "md5:" + right, "has no checksum of"},
		"an empty check":           {server.URL + good, "sha256:", "has no checksum of"},
		"nothing there":            {server.URL + "/none", "sha256:" + right, "404"},
		"no TLS":                   {strings.Replace(server.URL, "https:", "http:", 1) + good, "sha256:" + right, "http"},
		"a redirection out of TLS": {server.URL + "/moved", "sha256:" + right, "http"},
	} {
		file := filepath.Join(t.TempDir(), "file")
		cmd := exec.CommandContext(t.Context(), "sh", script, test.url, test.check, file)
		cmd.Env = append(os.Environ(), "CURL_CA_BUNDLE="+authority, "NO_PROXY=127.0.0.1", "LC_ALL=C")
		said, err := cmd.CombinedOutput()
		if (err == nil) != (test.says == "") || !strings.Contains(string(said), test.says) {
			t.Errorf("%s: %v: %s", name, err, said)
		}
		got, err := os.ReadFile(file)
		if (test.says == "") != (err == nil && string(got) == content) {
			t.Errorf("%s: the file has %q, %v", name, got, err)
		}
		if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
			t.Errorf("%s: left %q, %v", name, left, err)
		}
	}
}
