package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// maxConfig bounds what is read of a configuration file of the docker command.
const maxConfig = 1 << 20

// engineHost returns the address of the engine, or nothing where the client's
// own default holds. Without DOCKER_HOST the current context of the docker
// command counts, as Docker Desktop and rootless engines listen elsewhere than
// the default.
func engineHost(option string) (string, error) {
	host := option
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" {
		host = contextHost()
	}
	if strings.HasPrefix(host, "ssh://") {
		return "", fmt.Errorf("use the Docker engine at %s: %w: ssh is not spoken here; forward its socket with `ssh -L ./docker.sock:/var/run/docker.sock HOST` and set DOCKER_HOST to it", host, runtime.ErrUnavailable)
	}
	return host, nil
}

// contextHost returns the address in the current context of the docker command,
// or nothing. A context that cannot be read is none: the default is tried then,
// and its error names the address.
func contextHost() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".docker")
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		var config struct{ CurrentContext string }
		if !readJSON(filepath.Join(dir, "config.json"), &config) {
			return ""
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return ""
	}
	sum := sha256.Sum256([]byte(name))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if !readJSON(filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json"), &meta) {
		return ""
	}
	return meta.Endpoints["docker"].Host
}

// readJSON reads a small JSON file; false if it is not there or not one.
func readJSON(path string, into any) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxConfig {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(data, into) == nil
}
