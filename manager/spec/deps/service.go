package deps

import (
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Service is a server that a run needs beside its sandbox: a container of an image
// that is made like the official one.
type Service struct {
	Name  string // its host name, too
	Image string
	// Port is TCP.
	Port uint16
	// User is the user of the image under which the service runs; empty leaves
	// that to the image. As this user the official images need no rights of root.
	User string
	// Command replaces that of the image; nil leaves it.
	Command []string
	// Ready is a command in the container that succeeds once the service serves
	// the network, and prints ReadySays where that is not empty. It needs no
	// secret but the container's own variables.
	Ready     []string
	ReadySays string
	// ReadyWithin is how long that may take from the start of the container.
	ReadyWithin time.Duration
	MemoryBytes int64 // limit, where a project states none
	// Store is where in the container there is what was fetched for it, such as
	// models; empty for a service that has no use for that.
	Store string
	// Engine says that it is the engine of docker:dind, whose command, user and Ready are
	// not those of an image.
	Engine bool

	kind *serviceKind
}

// serviceKind is what is known of a service, beside what is the same in Service.
type serviceKind struct {
	prefix string // of the variables of runs, after MOAT_
	scheme string // of its URL
	// login and database are what a container's variables say, or what they are
	// where these are not set.
	login, database fixture
	generated       string // variable of the container's with the password; empty where there is none
	env             map[string]string
	// fetch is a command that fetches what is appended to it into the store, which
	// storeEnv has the service use without writing to it.
	fetch    []string
	storeEnv map[string]string
}

// fixture is a value that a variable of the container may change.
type fixture struct{ value, variable string }

func (f fixture) of(env map[string]string) string {
	if changed, is := env[f.variable]; is && f.variable != "" {
		return changed
	}
	return f.value
}

const (
	usualReady = 30 * time.Second
	// slowReady is for services that make a database first, with much work.
	slowReady = 2 * time.Minute
)

// redisScript gives a server its password by a pipe: arguments are seen by others.
const redisScript = `exec redis-server - <<END
requirepass "$REDISCLI_AUTH"
END
`

// services are those that can be asked for, by the name of their entry.
var services = map[string]Service{
	"postgres": {
		Port: 5432, User: "postgres", MemoryBytes: 1 << 30,
		// A server that still makes its database listens on no address.
		Ready: []string{"pg_isready", "-h", "127.0.0.1"}, ReadyWithin: usualReady,
		kind: &serviceKind{
			prefix: "POSTGRES", scheme: "postgresql", generated: "POSTGRES_PASSWORD",
			login: fixture{"postgres", "POSTGRES_USER"}, database: fixture{"postgres", "POSTGRES_DB"},
		},
	},
	"mysql": {
		Port: 3306, User: "mysql", MemoryBytes: 2 << 30,
		// It succeeds also where the server only asks for a password.
		Ready: []string{"mysqladmin", "ping", "-h", "127.0.0.1"}, ReadyWithin: slowReady,
		kind: &serviceKind{
			prefix: "MYSQL", scheme: "mysql", generated: "MYSQL_ROOT_PASSWORD",
			login: fixture{value: "root"}, database: fixture{"moat", "MYSQL_DATABASE"},
			env: map[string]string{"MYSQL_DATABASE": "moat"},
		},
	},
	"redis": {
		Port: 6379, User: "redis", MemoryBytes: 512 << 20,
		Command: []string{"sh", "-c", redisScript},
		Ready:   []string{"redis-cli", "PING"}, ReadySays: "PONG", ReadyWithin: usualReady,
		kind: &serviceKind{prefix: "REDIS", scheme: "redis", generated: "REDISCLI_AUTH"},
	},
	"ministack": {
		Port: 4566, MemoryBytes: 2 << 30,
		Ready:       []string{"python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4566/_ministack/health', timeout=5)"},
		ReadyWithin: usualReady,
		kind:        &serviceKind{prefix: "MINISTACK", scheme: "http"},
	},
	"ollama": {
		Port: 11434, MemoryBytes: 8 << 30,
		Ready: []string{"ollama", "list"}, ReadyWithin: usualReady,
		Store: "/models",
		kind: &serviceKind{
			prefix: "OLLAMA", scheme: "http", env: map[string]string{"OLLAMA_HOST": "0.0.0.0:11434"},
			// It keeps a key in the home of its user.
			fetch: []string{"ollama", "pull"}, storeEnv: map[string]string{"OLLAMA_MODELS": "/models", "OLLAMA_NOPRUNE": "1", "HOME": "/tmp"},
		},
	},
}

// engineService is what docker:dind puts beside a run.
var engineService = Service{
	Name: NameDocker, Image: "docker:27-dind", Port: 2375, ReadyWithin: slowReady, MemoryBytes: 4 << 30, Engine: true,
	kind: &serviceKind{},
}

// LookupService returns a service by its name, in its default version.
func LookupService(name string) (Service, bool) {
	if name == NameDocker {
		return engineService, true
	}
	s, is := services[name]
	if !is {
		return Service{}, false
	}
	e := builtIn[name]
	s.Name, s.Image = name, e.image+":"+e.versions.fallback
	return s, true
}

// OwnService is a service of a project's own, of any image, at a port of TCP. It is ready
// when ready succeeds in its container, or, where that is empty, when it listens.
func OwnService(name, image string, port uint16, ready []string) Service {
	return Service{
		Name: name, Image: image, Port: port, Ready: ready, ReadyWithin: slowReady, MemoryBytes: 1 << 30,
		kind: &serviceKind{prefix: strings.ToUpper(strings.ReplaceAll(name, "-", "_"))},
	}
}

// HasPassword tells whether the service asks its clients for a password.
func (s Service) HasPassword() bool { return s.kind.generated != "" }

// ContainerEnv returns the variables of the service's container: those that a project
// states go before its own and before a generated password.
func (s Service) ContainerEnv(stated map[string]string, password string) map[string]string {
	env := maps.Clone(s.kind.env)
	if env == nil {
		env = map[string]string{}
	}
	if s.HasPassword() {
		env[s.kind.generated] = password
	}
	maps.Copy(env, stated)
	return env
}

// Fetch returns the command that fetches something into the store.
func (s Service) Fetch(what string) []string { return append(slices.Clone(s.kind.fetch), what) }

// StoreEnv returns the variables by which the service's container uses the store, at
// which nothing that a project states can change anything.
func (s Service) StoreEnv() map[string]string { return maps.Clone(s.kind.storeEnv) }

// RunEnv returns the variables, sorted, by which a run finds the service and logs in.
// env is that of the service's container.
func (s Service) RunEnv(env map[string]string) []string {
	k := s.kind
	port := strconv.Itoa(int(s.Port))
	if s.Engine {
		return []string{"DOCKER_HOST=tcp://" + net.JoinHostPort(s.Name, port)}
	}
	values := map[string]string{"HOST": s.Name, "PORT": port}
	u := url.URL{Scheme: k.scheme, Host: net.JoinHostPort(s.Name, port)}
	login, database := k.login.of(env), k.database.of(env)
	if login != "" {
		values["USER"] = login
		u.User = url.User(login)
	}
	if database != "" {
		values["DB"] = database
		u = *u.JoinPath(url.PathEscape(database))
	}
	if s.HasPassword() {
		values["PASSWORD"] = env[k.generated]
		u.User = url.UserPassword(login, env[k.generated])
	}
	if k.scheme != "" {
		values["URL"] = u.String()
	}
	all := make([]string, 0, len(values))
	for name, value := range values {
		all = append(all, s.Prefix()+name+"="+value)
	}
	slices.Sort(all)
	return all
}

// Prefix is how the names of the variables of RunEnv begin.
func (s Service) Prefix() string { return "MOAT_" + s.kind.prefix + "_" }

// IsReady tells from the exit code and output of Ready whether the service serves.
func (s Service) IsReady(code int, output string) bool {
	return code == 0 && strings.Contains(output, s.ReadySays)
}
