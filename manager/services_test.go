package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// The images of services stand for the official ones, see runtimetest: the servers in
// them are the real ones.

// serviceWorldOf is a world whose runs can have services.
func serviceWorldOf(t *testing.T) *world {
	t.Helper()
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("services are beside Docker sandboxes")
	}
	return newWorld(t)
}

// patient gives services on a busy machine their time.
func patient(o *ManagerOptions) { o.serviceWait = 2 * time.Minute }

func postgresAt(t *testing.T, settings config.Service) map[string]config.Service {
	settings.Image = runtimetest.PostgresImage(t)
	return map[string]config.Service{"postgres": settings}
}

func redisAt(t *testing.T, settings config.Service) map[string]config.Service {
	settings.Image = runtimetest.RedisImage(t)
	return map[string]config.Service{"redis": settings}
}

func TestRunUsesPostgres(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	named := service(t)
	run := w.started(m, Options{
		// The clients are in the image of the server.
		Image: runtimetest.PostgresImage(t), Dependencies: []string{"postgres@15"}, NetworkRules: []string{named},
		Services: postgresAt(t, config.Service{Env: map[string]string{"POSTGRES_DB": "ap p"}, Memory: 256}),
		Cmd: shell(`psql -At "$MOAT_POSTGRES_URL" -c "select current_database() || ' of ' || current_user" &&
			! PGPASSWORD=wrong psql -h $MOAT_POSTGRES_HOST -U postgres -w postgres -c "select 1" 2>&1 &&
			! psql -h postgres -U postgres -w postgres -c "select 1" 2>&1 &&
			wget -q -O - http://` + named + `/yes && env | sort`),
	})
	ended := w.ended(m, run.ID)
	text := output(t, m, run.ID)
	if ended.State != StateStopped || !strings.Contains(text, "ap p of postgres\n") || !strings.Contains(text, "password authentication failed") || !strings.Contains(text, "no password supplied") || !strings.Contains(text, "served /yes") {
		t.Fatalf("it ended as %s, %s, and printed %s", ended.State, ended.Error, text)
	}
	password := regexp.MustCompile(`MOAT_POSTGRES_PASSWORD=([A-Za-z0-9]{32})\n`).FindStringSubmatch(text)
	if password == nil {
		t.Fatalf("no password in %s", text)
	}
	for _, want := range []string{"HOST=postgres", "PORT=5432", "USER=postgres", "DB=ap p", "URL=postgresql://postgres:" + password[1] + "@postgres:5432/ap%20p"} {
		if !strings.Contains(text, "MOAT_POSTGRES_"+want+"\n") {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if !strings.Contains(text, "\nNO_PROXY=localhost,127.0.0.1,::1,postgres\n") {
		t.Errorf("clients are sent to the gate for the service: %s", text)
	}
	if ended.Requested == nil || ended.Requested.Requests != 1 {
		t.Errorf("recorded %+v", ended.Requested)
	}
	before := Service{Name: "postgres", Image: runtimetest.PostgresImage(t), Address: "postgres:5432", State: ServiceReady}
	after := before
	after.State = ServiceStopped
	if d := cmp.Diff([]Service{after}, ended.Services); d != "" {
		t.Errorf("after its end: %s", d)
	}
	if run.GetState() == StateRunning { // it may have ended by then
		if d := cmp.Diff([]Service{before}, run.Services); d != "" || run.ServiceContainers["postgres"] == "" || run.NetworkID == "" {
			t.Errorf("while it runs: %s, containers %v on %q", d, run.ServiceContainers, run.NetworkID)
		}
	}
	if len(ended.ServiceContainers) > 0 || ended.NetworkID != "" {
		eventually(t, "the sandbox is removed with its services", func() bool {
			run := w.get(m, run.ID)
			return len(run.ServiceContainers) == 0 && run.NetworkID == ""
		})
	}
	w.holdsNot(password[1], ended)
}

// holdsNot looks for a secret in what the home keeps of a run, but for its log, where
// the command has put it.
func (w *world) holdsNot(secret string, run *Run) {
	w.t.Helper()
	logs := run.Store.LogsDir()
	for _, file := range filesBelow(w.t, w.home) {
		if strings.HasPrefix(file, logs) {
			continue
		}
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), secret) {
			w.t.Errorf("%s has the password", file)
		}
	}
}

// A service of the project's own is of any image. It is ready when it listens, or when a
// command says so.
func TestRunUsesServicesOfItsProject(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	c := parseConfig(t, `services:
  echo: {image: "`+runtimetest.ServerImage(t)+`", port: 5000}
  who-am-i:
    image: `+runtimetest.ServerImage(t)+`
    port: 5001
    user: "1234:4321"
    command: [sh, -c, 'sleep 1; touch /dev/shm/up; exec nc -ll -p 5001 -e sh -c "id; echo $COLOUR"']
    ready: [test, -e, /dev/shm/up]
    env: {COLOUR: green}
`)
	run := w.started(m, Options{Config: c, Image: w.image, Cmd: shell(`echo hello | nc -w 5 $MOAT_ECHO_HOST $MOAT_ECHO_PORT; nc -w 5 who-am-i $MOAT_WHO_AM_I_PORT </dev/null; env | grep ^MOAT_ | sort; env | grep ^NO_PROXY`)})
	ended := w.ended(m, run.ID)
	text := output(t, m, run.ID)
	want := "hello\nuid=1234 gid=4321 groups=4321\ngreen\nMOAT_ECHO_HOST=echo\nMOAT_ECHO_PORT=5000\nMOAT_WHO_AM_I_HOST=who-am-i\nMOAT_WHO_AM_I_PORT=5001\nNO_PROXY=localhost,127.0.0.1,::1,echo,who-am-i\n"
	if ended.State != StateStopped || text != want {
		t.Errorf("it ended as %s, %s, and printed %q, want %q", ended.State, ended.Error, text, want)
	}
	if len(ended.Services) != 2 || ended.Services[1].Address != "who-am-i:5001" || ended.Services[0].State != ServiceStopped {
		t.Errorf("its services are %+v", ended.Services)
	}
	run = w.create(m, Options{Image: w.image, Cmd: shell("true"), Services: map[string]config.Service{"queue": {Image: runtimetest.ServerImage(t), Port: 1, Command: []string{"sh", "-c", "echo out of luck; exit 3"}}}})
	err := m.Start(t.Context(), run.ID, StartOptions{})
	if err == nil || !strings.Contains(err.Error(), "the service queue") || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("one that ends: %v", err)
	}
}

// Two runs with the same services have each their own.
func TestRunsHaveServicesOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	start := func(script string) *Run {
		return w.started(m, Options{Image: runtimetest.RedisImage(t), Dependencies: []string{"redis"}, Services: redisAt(t, config.Service{}), Cmd: shell(script), Network: NetworkStrict})
	}
	const login = `export REDISCLI_AUTH=$MOAT_REDIS_PASSWORD; `
	first := start(login + `redis-cli -h redis SET key first && sleep 600`)
	eventually(t, "the first one has stored its value", func() bool { return strings.Contains(output(t, m, first.ID), "OK") })
	if run := w.get(m, first.ID); run.Services[0].State != ServiceReady || run.ServiceContainers["redis"] == "" || run.NetworkID == "" {
		t.Errorf("the services of a run that is up: %+v, %v on %q", run.Services, run.ServiceContainers, run.NetworkID)
	}
	second := start(login + `echo "$MOAT_REDIS_URL"; redis-cli -h $MOAT_REDIS_HOST -p $MOAT_REDIS_PORT DBSIZE; REDISCLI_AUTH=wrong redis-cli -h redis PING 2>&1; unset REDISCLI_AUTH; redis-cli -h redis PING; grep -c redis /etc/hosts`)
	w.ended(m, second.ID)
	if text := output(t, m, second.ID); !strings.HasPrefix(text, "redis://:") || !strings.Contains(text, "@redis:6379\n0\n") || !strings.Contains(text, "WRONGPASS") || !strings.Contains(text, "NOAUTH") || strings.Contains(text, "PONG") {
		t.Errorf("the second one printed %q", text)
	}
	// Arguments are seen by whoever looks at processes.
	runner := w.serviceRunner(m)
	row, err := m.anyRow(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, arguments, err := runner.ExecService(t.Context(), row.Handle, "redis", []string{"sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; echo; echo $REDISCLI_AUTH; id -u"})
	if lines := strings.Split(arguments, "\n"); err != nil || len(lines) < 3 || !strings.HasPrefix(lines[0], "redis-server") || len(lines[1]) != passwordLength || strings.Contains(lines[0], lines[1]) || lines[2] != "999" {
		t.Errorf("the server is run as %q, %v", arguments, err)
	}
	// What ends before the run is told.
	if _, _, err := runner.ExecService(t.Context(), row.Handle, "redis", []string{"sh", "-c", "redis-cli SHUTDOWN NOSAVE"}); err != nil && !errors.Is(err, runtime.ErrUnavailable) {
		t.Logf("the server ended with the command: %v", err)
	}
	eventually(t, "the end of the service is noted", func() bool {
		s := w.get(m, first.ID).Services[0]
		return s.State == ServiceExited && strings.Contains(s.Note, "exited with code 0")
	})
	if err := m.StopWith(t.Context(), first.ID, StopOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if s := w.get(m, first.ID).Services[0]; s.State != ServiceExited {
		t.Errorf("after the end of the run: %+v", s)
	}
}

func (w *world) serviceRunner(m *Manager) runtime.ServiceRunner {
	w.t.Helper()
	driver, err := m.drivers.get(runtime.TypeDocker)
	if err != nil {
		w.t.Fatal(err)
	}
	return driver.(runtime.ServiceRunner)
}

func TestServiceThatDoesNotGetReadyFailsTheStart(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t)
	m := w.manager()
	noPassword := config.Service{Env: map[string]string{"POSTGRES_PASSWORD": ""}}
	run := w.create(m, Options{Dependencies: []string{"postgres"}, Services: postgresAt(t, noPassword), Cmd: shell("echo ran")})
	err := m.Start(t.Context(), run.ID, StartOptions{})
	if err == nil || !strings.Contains(err.Error(), "the service postgres") || !strings.Contains(err.Error(), "ended before it was ready") || !strings.Contains(err.Error(), "superuser password is not specified") {
		t.Errorf("got %v", err)
	}
	run = w.get(m, run.ID)
	if run.State != StateFailed || run.EndReason != EndSetupFailed || !strings.Contains(run.Error, "superuser password is not specified") || run.Services[0].State != ServiceStopped {
		t.Errorf("the run is %+v", run)
	}
	if text := output(t, m, run.ID); strings.Contains(text, "ran") {
		t.Errorf("its command ran: %q", text)
	}
	// Nobody waits where that is not wanted.
	no := false
	noPassword.Wait = &no
	run = w.started(m, Options{Dependencies: []string{"postgres"}, Services: postgresAt(t, noPassword), Cmd: shell("echo ran")})
	if got := w.ended(m, run.ID); got.State != StateStopped {
		t.Errorf("without waiting: %+v", got)
	}
}

// A stop does not wait for services.
func TestStopWhileServicesGetReady(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t)
	m := w.manager(patient)
	silent := map[string]config.Service{"redis": {Image: runtimetest.ServerImage(t)}} // it says nothing that redis would
	run := w.create(m, Options{Dependencies: []string{"ministack"}, Services: map[string]config.Service{"ministack": silent["redis"]}, Cmd: shell("echo ran")})
	started := make(chan error, 1)
	go func() { started <- m.Start(t.Context(), run.ID, StartOptions{}) }()
	eventually(t, "it starts", func() bool { return w.get(m, run.ID).State == StateStarting })
	if err := m.StopWith(t.Context(), run.ID, StopOptions{}); err != nil {
		t.Error(err)
	}
	if err := <-started; !errors.Is(err, errStopRequested) {
		t.Errorf("the start says %v", err)
	}
	if got := w.ended(m, run.ID); got.State != StateStopped || got.EndReason != EndStopRequested {
		t.Errorf("the run is %+v", got)
	}
}

func TestServicesAreRefusedWhereTheyCannotBeOrMayNotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	agents := func(o *ManagerOptions) { o.ForAgents = true }
	allowed := func(o *ManagerOptions) { o.ForAgents, o.Allow = true, []config.Permission{config.AllowServices} }
	settings := map[string]config.Service{"redis": {Image: "localhost:1/none:1"}}
	project := &config.Config{Dependencies: []string{"redis"}, Services: settings}
	for name, test := range map[string]struct {
		manager func(*ManagerOptions)
		opts    Options
		code    Code
		says    string
	}{
		"agents":              {agents, Options{Dependencies: []string{"redis@7"}}, CodePolicyDenied, "`drawbridge serve --allow services`"},
		"agents, their own":   {agents, Options{Services: map[string]config.Service{"queue": {Image: "localhost:1/none:1", Port: 1}}}, CodePolicyDenied, "`drawbridge serve --allow services`"},
		"settings of nothing": {agents, Options{Services: settings}, CodeInvalidArgument, "add redis to the dependencies"},
	} {
		test.opts.Cmd = shell("true")
		_, err := w.manager(test.manager).Create(t.Context(), test.opts)
		if e := AsError(err); err == nil || e.Code != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %s with %q", name, err, test.code, test.says)
		}
	}
	_, err := w.manager(allowed).Create(t.Context(), Options{Config: project, Cmd: shell("true")})
	want, says := CodeUnsupported, "`--runtime docker`"
	if w.kind == runtime.TypeDocker {
		// There is no such registry.
		want, says = CodeRuntimeUnavailable, "get the image of the service redis: pull the image localhost:1/none:1"
	}
	if e := AsError(err); err == nil || e.Code != want || !strings.Contains(err.Error(), says) {
		t.Errorf("with permission: %v; want %s with %q", err, want, says)
	}
}

// Whatever step ends it, nothing of services is left.
func TestServicesLeaveNothingAfterACrash(t *testing.T) {
	t.Parallel()
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("services are beside Docker sandboxes")
	}
	for _, step := range []string{"create: publish the run", "start: start the sandbox", "start: record that it runs", "finish: release the sandbox"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t).withGate()
			victim := w.victim(step, "true")
			victim.Env = append(victim.Env, crashService+"="+runtimetest.RedisImage(t))
			_ = victim.Run()
			w.leavesNothing()
		})
	}
}

// A sandbox that is kept has its services to the end of its run, and no longer.
func TestServicesOfAKeptSandboxEndWithItsRun(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t)
	m := w.manager(patient)
	run := w.started(m, Options{Dependencies: []string{"redis"}, Services: redisAt(t, config.Service{}), KeepContainer: true, Cmd: shell("true")})
	run = w.ended(m, run.ID)
	row, err := m.anyRow(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if run.Services[0].State != ServiceStopped || run.ServiceContainers["redis"] == "" || run.NetworkID == "" {
		t.Errorf("the run has %+v, %v on %q", run.Services, run.ServiceContainers, run.NetworkID)
	}
	if _, _, err := w.serviceRunner(m).ExecService(t.Context(), row.Handle, "redis", []string{"true"}); !errors.Is(err, runtime.ErrConflict) {
		t.Errorf("the service still runs: %v", err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestPasswordsAreRandom(t *testing.T) {
	t.Parallel()
	seen, signs := map[string]bool{}, map[rune]bool{}
	for range 200 {
		password := newPassword()
		if len(password) != passwordLength || strings.Trim(password, passwordSigns) != "" || seen[password] {
			t.Fatalf("the password %q", password)
		}
		seen[password] = true
		for _, sign := range password {
			signs[sign] = true
		}
	}
	if len(signs) != len(passwordSigns) {
		t.Errorf("of %d signs there are %d", len(passwordSigns), len(signs))
	}
}

// What package config takes for a service is one.
func TestServicesOfTheConfigAreKnown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"postgres", "mysql", "redis", "ministack", "ollama"} {
		text := fmt.Sprintf("dependencies: [%s]\nservices: {%[1]s: {memory: 512}}\n", name)
		c, err := config.Parse("moat.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, is := deps.LookupService(name); !is || !slices.ContainsFunc(config.Asks(c), func(a config.Ask) bool { return a.Permission == config.AllowServices }) {
			t.Errorf("%s is no service", name)
		}
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return nil // it may be gone by now
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Models are fetched once for all runs, which cannot change them.
func TestModelsAreFetchedForServices(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t)
	m := w.manager(patient)
	wanted := func(models ...string) Options {
		return Options{
			Dependencies: []string{"ollama"}, Cmd: shell("echo hello | nc -w 30 ollama 11434; echo $MOAT_OLLAMA_URL"), KeepContainer: true,
			Services: map[string]config.Service{"ollama": {Image: runtimetest.OllamaImage(t), Models: models}},
		}
	}
	runs := make([]*Run, 2)
	var both sync.WaitGroup
	for i := range runs {
		both.Go(func() {
			var err error
			if runs[i], err = m.Create(t.Context(), wanted("small", "tiny:1b")); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if t.Failed() {
		return
	}
	store := m.storeOf("ollama")
	pulled, err := os.ReadFile(filepath.Join(store, "pulled"))
	if err != nil || string(pulled) != "small\ntiny:1b\n" {
		t.Errorf("fetched %q, %v", pulled, err)
	}
	run := runs[0]
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	if text := output(t, m, run.ID); text != "hello\nhttp://ollama:11434\n" {
		t.Errorf("it printed %q", text)
	}
	// The other one's is up, and looked at from inside.
	row, err := m.anyRow(t.Context(), runs[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	runner := w.serviceRunner(m)
	if err := runner.StartServices(t.Context(), row.Handle); err != nil {
		t.Fatal(err)
	}
	_, inside, err := runner.ExecService(t.Context(), row.Handle, "ollama", []string{"sh", "-c", "ls /models; touch /models/mine 2>&1; rm -r /models/small 2>&1; id -u"})
	if err != nil || !strings.HasPrefix(inside, "pulled\nsmall\ntiny:1b\n") || strings.Count(inside, "Read-only file system") != 2 || !strings.HasSuffix(inside, fmt.Sprintf("\n%d\n", os.Geteuid())) {
		t.Errorf("inside: %q, %v", inside, err)
	}

	bad := wanted("absent")
	if _, err := m.Create(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "ollama pull absent: code 1") || !strings.Contains(err.Error(), "file does not exist") {
		t.Errorf("of a model that there is not: %v", err)
	}
	bad = wanted("small")
	settings := bad.Services["ollama"]
	settings.Env = map[string]string{"OLLAMA_MODELS": "/elsewhere"}
	bad.Services["ollama"] = settings
	if _, err := m.Create(t.Context(), bad); AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), "leave OLLAMA_MODELS out") {
		t.Errorf("with a variable of its own: %v", err)
	}
	for _, run := range runs {
		if err := m.Destroy(t.Context(), run.ID); err != nil {
			t.Error(err)
		}
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}
