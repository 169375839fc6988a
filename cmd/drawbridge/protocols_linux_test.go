package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// protocolService is an HTTPS server of this test's own that serves only who has the
// real credential: a Git repository, registries of packages, a WebSocket, and events.
type protocolService struct {
	secretService
	acknowledged chan string // events, by those who got them
}

func newProtocolService(t *testing.T) *protocolService {
	t.Helper()
	s := &protocolService{acknowledged: make(chan string, 16)}
	mux := http.NewServeMux()
	mux.Handle("/git/", gitServer(t))
	mux.HandleFunc("/npm/", s.npm)
	mux.HandleFunc("/pip/", s.pip)
	mux.HandleFunc("/socket", s.socket)
	mux.HandleFunc("/events", s.events)
	mux.HandleFunc("/acknowledge", func(_ http.ResponseWriter, req *http.Request) { s.acknowledged <- req.URL.Query().Get("event") })
	mux.HandleFunc("/protocol", func(w http.ResponseWriter, req *http.Request) { fmt.Fprintln(w, "served by", req.Proto) })
	s.start(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+serviceSecret {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, req)
	}))
	return s
}

func (s *protocolService) base() string { return "https://" + net.JoinHostPort(s.host, s.port) }

// gitServer serves a bare repository with one commit as repo.git.
func gitServer(t *testing.T) http.Handler {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		runtimetest.Missing(t, "this machine has no git: %v", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(path)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		runtimetest.Missing(t, "this machine's git serves no HTTP: %v", err)
	}
	root := t.TempDir()
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", "repo.git"}, {"-C", "repo.git", "config", "http.receivepack", "true"}, {"clone", "-q", "repo.git", "first"},
		{"-C", "first", "-c", "user.name=a", "-c", "user.email=a@a.test", "commit", "-q", "--allow-empty", "-m", "the first"}, {"-C", "first", "push", "-q", "origin", "HEAD:main"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	handler := &cgi.Handler{Path: backend, Root: "/git", Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=a"}, InheritEnv: []string{"PATH"}, Stderr: io.Discard}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// CGI takes content by its length only.
		content, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		req.Body, req.ContentLength, req.TransferEncoding = io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
		handler.ServeHTTP(w, req)
	})
}

// npm is a registry with one package, tiny.
func (s *protocolService) npm(w http.ResponseWriter, req *http.Request) {
	var archive bytes.Buffer
	packed := gzip.NewWriter(&archive)
	files := tar.NewWriter(packed)
	for _, f := range [][2]string{
		{"package/package.json", `{"name":"tiny","version":"1.0.0","main":"index.js"}`}, {"package/index.js", `module.exports = "tiny is installed"`},
	} {
		_ = files.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))})
		_, _ = io.WriteString(files, f[1])
	}
	_, _ = files.Close(), packed.Close()
	switch req.URL.Path {
	case "/npm/tiny/-/tiny-1.0.0.tgz":
		_, _ = w.Write(archive.Bytes())
	case "/npm/tiny":
		sum := sha512.Sum512(archive.Bytes())
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": "tiny", "dist-tags": map[string]string{"latest": "1.0.0"},
			"versions": map[string]any{"1.0.0": map[string]any{
				"name": "tiny", "version": "1.0.0", "main": "index.js",
				"dist": map[string]string{"tarball": s.base() + "/npm/tiny/-/tiny-1.0.0.tgz", "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])},
			}},
		})
	default:
		http.NotFound(w, req)
	}
}

// pip is a simple index with one wheel, tiny.
func (s *protocolService) pip(w http.ResponseWriter, req *http.Request) {
	const name = "tiny-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	files := zip.NewWriter(&wheel)
	for _, f := range [][2]string{
		{"tiny.py", "installed = True\n"},
		{"tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"},
		{"tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"tiny-1.0.dist-info/RECORD", ""},
	} {
		if part, err := files.Create(f[0]); err == nil {
			_, _ = io.WriteString(part, f[1])
		}
	}
	_ = files.Close()
	switch req.URL.Path {
	case "/pip/files/" + name:
		_, _ = w.Write(wheel.Bytes())
	case "/pip/simple/tiny/":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!DOCTYPE html><html><body><a href=\"../../files/%s#sha256=%x\">%s</a></body></html>", name, sha256.Sum256(wheel.Bytes()), name)
	default:
		http.NotFound(w, req)
	}
}

// socket is a WebSocket that says the credential it was opened with, and then what it
// is told, until it is told to end.
func (s *protocolService) socket(w http.ResponseWriter, req *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusHTTPVersionNotSupported)
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	say := func(text string) bool {
		_, _ = buffered.Write(append([]byte{0x81, byte(len(text))}, text...)) // short ones only
		return buffered.Flush() == nil
	}
	for text := req.Header.Get("Authorization"); text != "end" && say(text); {
		if text, err = readFrame(buffered.Reader); err != nil {
			return
		}
	}
}

// readFrame reads a short, masked frame of a WebSocket.
func readFrame(r *bufio.Reader) (string, error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	data := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(r, data); err != nil {
		return "", err
	}
	for i := range data {
		data[i] ^= head[2+i%4]
	}
	return string(data), nil
}

// events sends three events, each only after the one before has been acknowledged.
func (s *protocolService) events(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for n := range 3 {
		fmt.Fprintf(w, "data: event %d\n\n", n)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case got := <-s.acknowledged:
			if got != strconv.Itoa(n) {
				return
			}
		case <-req.Context().Done():
			return
		}
	}
	fmt.Fprint(w, "data: all\n\n")
}

const socketClient = `
import os, socket, ssl, base64, sys
host, port = sys.argv[1], int(sys.argv[2])
plain = socket.create_connection(("127.0.0.1", 3128), 30)
plain.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
def head(s):
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        text += s.recv(1)
    return text
assert b" 200 " in head(plain)
s = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
s.sendall(f"GET /socket HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
answer = head(s)
assert b" 101 " in answer and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, answer
def read(n):
    data = b""
    while len(data) < n:
        data += s.recv(n - len(data))
    return data
def frame():
    return read(read(2)[1] & 0x7f).decode()
def say(text):
    mask = os.urandom(4)
    s.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text.encode())))
print("it begins with", frame())
for text in "one", "two":
    say(text)
    print("echo", frame())
say("end")
`

const eventsClient = `
import sys, urllib.request
base = sys.argv[1]
for line in urllib.request.urlopen(base + "/events", timeout=30):
    text = line.decode().strip()
    if text:
        print(text, flush=True)
    if text.startswith("data: event "):
        urllib.request.urlopen(base + "/acknowledge?event=" + text.split()[-1], timeout=30).read()
`

const pipClient = `
import hashlib, re, subprocess, sys, urllib.parse, urllib.request
base = sys.argv[1]
if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--disable-pip-version-check", "--retries", "0", "--index-url", base + "/pip/simple/", "-d", "wheels", "tiny==1.0"], check=True)
    data = open("wheels/tiny-1.0-py3-none-any.whl", "rb").read()
else:
    index = base + "/pip/simple/tiny/"
    link, want = re.search('href="(.*?)#sha256=(.*?)"', urllib.request.urlopen(index, timeout=30).read().decode()).groups()
    data = urllib.request.urlopen(urllib.parse.urljoin(index, link), timeout=30).read()
    assert hashlib.sha256(data).hexdigest() == want
print("downloaded", len(data) > 200)
`

// What people do inside, with a server that demands the credential that is not inside.
func TestProtocolsWorkThroughTheGate(t *testing.T) {
	t.Parallel()
	s := newProtocolService(t)
	c := grantedCLI(t, &s.secretService)
	base := s.base()
	for name, test := range map[string]struct {
		program, script string
		want            []string
	}{
		"git clone and push": {"git", `set -e
			export GIT_CONFIG_GLOBAL=/tmp/gitconfig
			git config --global user.name a; git config --global user.email a@a.test
			git clone -q ` + base + `/git/repo.git one; cd one
			head -c 3000000 /dev/urandom >large; git add large; git commit -q -m 'from inside'; git push -q origin HEAD:main
			git clone -q ` + base + `/git/repo.git ../two; cmp large ../two/large; git -C ../two log --format=%s`,
			[]string{"from inside\nthe first\n"}},
		"npm install": {"npm", `npm install --no-audit --no-fund --fetch-retries=0 --loglevel=error --registry ` + base + `/npm/ tiny && node -e 'console.log(require("tiny"))'`, []string{"tiny is installed\n"}},
		"pip":         {"python3", "python3 index_client.py " + base, []string{"downloaded True\n"}},
		"WebSocket":   {"python3", "python3 socket_client.py " + s.host + " " + s.port, []string{"it begins with Bearer *", "echo one\necho two\n"}},
		"events":      {"python3", "python3 events_client.py " + base, []string{"data: event 0\ndata: event 1\ndata: event 2\ndata: all\n"}},
		"HTTP/2":      {"curl", `curl -sS --http2 --max-time 30 -w 'by %{http_version}\n' ` + base + `/protocol`, []string{"served by HTTP/2.0\nby 2\n"}},
		"HTTP/1.1":    {"curl", `curl -sS --http1.1 --max-time 30 -w 'by %{http_version}\n' ` + base + `/protocol`, []string{"served by HTTP/1.1\nby 1.1\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(test.program); err != nil {
				runtimetest.Missing(t, "this machine has no %s: %v", test.program, err)
			}
			workspace := t.TempDir()
			if err := os.Chmod(workspace, 0o755); err != nil { // the command's user has to get in
				t.Fatal(err)
			}
			for file, text := range map[string]string{"index_client.py": pipClient, "socket_client.py": socketClient, "events_client.py": eventsClient} {
				if err := os.WriteFile(filepath.Join(workspace, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := c.run("run", "--rm", "--grant", "service", "--workspace", workspace, "--", "bash", "-c", test.script)
			if got.code != 0 {
				t.Errorf("exit code %d:\n%s%s", got.code, got.out, got.err)
			}
			for _, want := range test.want {
				if !strings.Contains(got.out, want) {
					t.Errorf("it printed\n%s%s\nwithout %q", got.out, got.err, want)
				}
			}
			for _, form := range formsOf(serviceSecret) {
				if strings.Contains(got.out+got.err, form) {
					t.Errorf("the run has seen the credential:\n%s%s", got.out, got.err)
				}
			}
		})
	}
}

// A credential goes to the host of its grant by verified TLS, and nowhere else, also
// where that host sends the client away.
func TestCredentialStaysWithItsHost(t *testing.T) {
	t.Parallel()
	elsewhere := newSecretService(t)
	elsewhereBase := "https://" + net.JoinHostPort(elsewhere.host, elsewhere.port)
	s := &secretService{seen: map[string]string{}}
	s.start(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if target, ok := strings.CutPrefix(req.URL.Path, "/away/"); ok {
			s.serve(&discarded{header: http.Header{}}, req)
			http.Redirect(w, req, elsewhereBase+"/"+target, http.StatusTemporaryRedirect)
			return
		}
		s.serve(w, req)
	}))
	roots, err := os.ReadFile(elsewhere.roots)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(s.roots, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			_, err = f.Write(roots)
			_ = f.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := grantedCLI(t, s)
	target := net.JoinHostPort(s.host, s.port)
	script := `auth="Authorization: Bearer $SERVICE_TOKEN"
		curl -sS --max-time 30 -L --location-trusted -H "$auth" https://` + target + `/away/followed
		curl -sS --max-time 30 -H "$auth" ` + elsewhereBase + `/direct
		curl -sS --max-time 30 -H "$auth" http://` + target + `/plain
		curl -sS --max-time 30 --proxytunnel -H "$auth" http://` + target + `/plain-in-tunnel
		curl -sS --max-time 30 -H "$auth" -H 'Host: evil.test' https://` + target + `/fronted`
	got := c.run("run", "--name", "stray", "--grant", "service", "--allow", elsewhere.host+":"+elsewhere.port, "--", "bash", "-c", script)
	t.Cleanup(func() { c.run("destroy", "stray") })
	if auth := s.authorization("/away/followed"); auth != "Bearer "+serviceSecret {
		t.Errorf("the host of the grant got %q; the run printed\n%s%s", auth, got.out, got.err)
	}
	for _, path := range []string{"/followed", "/direct"} {
		if auth := elsewhere.authorization(path); auth != "Bearer placeholder-000000000000000000000" {
			t.Errorf("%s elsewhere got %q", path, auth)
		}
	}
	for _, path := range []string{"/plain", "/fronted"} {
		if auth := s.authorization(path); auth != "nothing came" {
			t.Errorf("%s came, with %q", path, auth)
		}
	}
	if n := strings.Count(got.out, `"code":"policy_denied"`); n != 2 || strings.Count(got.out, `"code":"misdirected_request"`) != 1 {
		t.Errorf("the run printed\n%s%s", got.out, got.err)
	}
	if refused := c.run("trace", "--decision", "refused", "--output", "json", "stray"); strings.Count(refused.out, "\n") != 3 {
		t.Errorf("recorded as refused:\n%s", refused.out)
	}
}

// discarded is an answer that nobody gets.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(int)             {}
