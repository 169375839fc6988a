//go:build unix

package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/client"
)

// Images of services for tests. No registry is within reach of these, so they are
// made of this machine's own programs: a real PostgreSQL and a real Redis, in images
// that have the users, the variables, the directories and the entry point by which
// the official ones are run. What the official images do besides is not in them.

// ServerImage returns the reference of an image with busybox whose command answers on
// port 5000 with what it is sent, as the user 7, with a volume at /data. Without an
// engine the test ends as by Missing.
func ServerImage(t testing.TB) string {
	t.Helper()
	return madeImage(t, "server", serverImage)
}

// PostgresImage returns the reference of an image that stands for the official
// postgres, and RedisImage of one that stands for the official redis. Where this
// machine lacks their programs the test ends as by Missing.
func PostgresImage(t testing.TB) string {
	t.Helper()
	return madeImage(t, "postgres", postgresImage)
}

// RedisImage is like PostgresImage.
func RedisImage(t testing.TB) string {
	t.Helper()
	return madeImage(t, "redis", redisImage)
}

var serverImage = sync.OnceValues(func() (string, error) {
	return importService("server", func(i *imageFiles) {
		i.directory("data", 0o755, 7)
	}, "USER 7:7", "WORKDIR /data", "VOLUME /data", `CMD ["nc", "-ll", "-p", "5000", "-e", "cat"]`)
})

// redisImage: the server is the program that also checks its files, by another name,
// and that one is in Debian's redis-tools, which starts nothing when it is installed.
var redisImage = sync.OnceValues(func() (string, error) {
	return importService("redis", func(i *imageFiles) {
		i.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nredis:x:999:999::/data:/bin/sh\n")
		i.program("usr/local/bin/redis-server", "/usr/bin/redis-check-rdb")
		i.program("usr/local/bin/redis-cli", "/usr/bin/redis-cli")
		i.directory("data", 0o755, 999)
	}, "WORKDIR /data", "VOLUME /data", `CMD ["redis-server"]`)
})

// postgresEntry does with the variables what that of the official image does.
const postgresEntry = `#!/bin/sh
set -e
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -z "$POSTGRES_PASSWORD" ]; then
    echo "Error: Database is uninitialized and superuser password is not specified." >&2
    exit 1
  fi
  : "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --no-sync --no-instructions -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=trust >/tmp/initdb.log || { cat /tmp/initdb.log; exit 1; }
  rm /tmp/password
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  if [ "$POSTGRES_DB" != postgres ]; then
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -j postgres >/dev/null
  fi
fi
exec "$@"
`

var postgresImage = sync.OnceValues(func() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL is needed; scripts/test installs it where CI=true, and so does `apt-get install postgresql`")
	}
	bin := slices.Max(found)
	version := filepath.Base(filepath.Dir(bin))
	lib, share := filepath.Join(filepath.Dir(bin), "lib"), filepath.Join("/usr/share/postgresql", version)
	return importService("postgres", func(i *imageFiles) {
		i.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n")
		i.script("usr/local/bin/entry", postgresEntry)
		for _, name := range []string{"postgres", "initdb", "pg_isready", "psql"} {
			i.program(filepath.Join(bin, name), filepath.Join(bin, name))
		}
		for _, name := range []string{"plpgsql.so", "dict_snowball.so"} {
			i.program(filepath.Join(lib, name), filepath.Join(lib, name))
		}
		i.tree(share)
		i.directory("var/lib/postgresql/data", 0o777, 999)
		i.directory("var/run/postgresql", 0o777, 999)
	}, "ENV PATH="+bin+":/usr/local/bin:/bin PGDATA=/var/lib/postgresql/data/pgdata LC_ALL=C", "VOLUME /var/lib/postgresql/data",
		`ENTRYPOINT ["entry"]`, `CMD ["postgres", "-c", "listen_addresses=*", "-c", "unix_socket_directories=/var/run/postgresql", "-c", "fsync=off"]`)
})

// OllamaImage returns the reference of an image that stands for ollama/ollama: a script
// with its commands, whose registry has every model but "absent".
func OllamaImage(t testing.TB) string {
	t.Helper()
	return madeImage(t, "ollama", ollamaImage)
}

const ollamaScript = `#!/bin/sh
case $1 in
serve)
  mkdir -p "$HOME/.ollama" && echo key >"$HOME/.ollama/id" || exit 1
  exec nc -ll -p 11434 -e cat
  ;;
list)
  echo alive | nc -w 5 127.0.0.1 11434 | grep -q alive && ls "$OLLAMA_MODELS"
  ;;
pull)
  echo "pulling manifest"
  [ "$2" != absent ] || { echo "Error: pull model manifest: file does not exist" >&2; exit 1; }
  echo "$2" >>"$OLLAMA_MODELS/pulled"
  mkdir -p "$OLLAMA_MODELS/$2"
  ;;
esac
`

var ollamaImage = sync.OnceValues(func() (string, error) {
	return importService("ollama", func(i *imageFiles) {
		i.script("usr/local/bin/ollama", ollamaScript)
	}, `ENTRYPOINT ["/usr/local/bin/ollama"]`, `CMD ["serve"]`)
})

func madeImage(t testing.TB, what string, build func() (string, error)) string {
	t.Helper()
	ref, err := build()
	if err != nil {
		Missing(t, "make the image %s: %v", what, err)
	}
	return ref
}

// importService puts an image of busybox with further files into the engine of the
// environment.
func importService(name string, fill func(*imageFiles), changes ...string) (string, error) {
	layer, err := imageLayer()
	if err != nil {
		return "", err
	}
	files := &imageFiles{there: map[string]bool{}}
	files.writer = tar.NewWriter(&files.layer)
	files.directory("tmp", 0o1777, 0)
	files.busybox(layer)
	fill(files)
	if err := errors.Join(files.err, files.writer.Close()); err != nil {
		return "", err
	}
	sum := sha256.New()
	sum.Write(files.layer.Bytes())
	fmt.Fprint(sum, changes)
	ref := imageRepo + ":" + name + "-" + hex.EncodeToString(sum.Sum(nil)[:6])
	ctx, cancel := context.WithTimeout(context.Background(), imageTimeout)
	defer cancel()
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return "", fmt.Errorf("configure the Docker client: %w", err)
	}
	defer cli.Close()
	return ref, importLayer(ctx, cli, ref, files.layer.Bytes(), append([]string{"ENV PATH=/usr/local/bin:/bin"}, changes...))
}

// imageFiles is the layer of an image that is being written. The first error stays.
type imageFiles struct {
	layer  bytes.Buffer
	writer *tar.Writer
	there  map[string]bool // names that are in it
	err    error
}

// busybox begins with the layer of the usual image.
func (i *imageFiles) busybox(layer []byte) {
	for reader := tar.NewReader(bytes.NewReader(layer)); i.err == nil; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			i.err = err
			return
		}
		data, err := io.ReadAll(reader)
		i.err = errors.Join(i.err, err)
		if header.Name != "etc/passwd" { // services have users of their own
			i.add(*header, data)
		}
	}
}

func (i *imageFiles) add(h tar.Header, data []byte) {
	h.Name = strings.TrimPrefix(h.Name, "/")
	if i.err != nil || i.there[strings.TrimSuffix(h.Name, "/")] {
		return
	}
	i.there[strings.TrimSuffix(h.Name, "/")] = true
	h.Size = int64(len(data))
	if i.err = i.writer.WriteHeader(&h); i.err == nil {
		_, i.err = i.writer.Write(data)
	}
}

func (i *imageFiles) directory(name string, mode int64, owner int) {
	i.add(tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (i *imageFiles) text(name, text string) {
	i.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(text))
}

func (i *imageFiles) script(name, text string) {
	i.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, []byte(text))
}

func (i *imageFiles) file(name, path string) {
	info, err := os.Stat(path)
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		i.err = errors.Join(i.err, err)
		return
	}
	i.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm())}, data)
}

// tree adds a directory of this machine at its own path.
func (i *imageFiles) tree(dir string) {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.Contains(path, "/man/") {
			i.file(path, path)
		}
		return err
	})
	i.err = errors.Join(i.err, err)
}

// library is how ldd names a file that a program needs.
var library = regexp.MustCompile(`(/[^ ]+) \(0x`)

// program adds a program of this machine, with the libraries that it needs.
func (i *imageFiles) program(name, path string) {
	i.file(name, path)
	if i.err != nil {
		return
	}
	text, err := exec.CommandContext(context.Background(), "ldd", path).CombinedOutput()
	if err != nil && !strings.Contains(string(text), "not a dynamic executable") {
		i.err = fmt.Errorf("ask which libraries %s needs: %w", path, err)
		return
	}
	for _, found := range library.FindAllStringSubmatch(string(text), -1) {
		i.file(found[1], found[1])
	}
}
