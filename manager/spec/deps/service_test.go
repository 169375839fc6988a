package deps

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryServiceIsKnownInFull(t *testing.T) {
	t.Parallel()
	entries := ofKind(TypeService)
	if len(entries) != len(services) {
		t.Errorf("%d names of services, and %d services", len(entries), len(services))
	}
	for _, e := range entries {
		s, is := LookupService(e.name)
		if !is || s.Port == 0 || len(s.Ready) == 0 || s.ReadyWithin < usualReady || s.MemoryBytes == 0 || s.kind.prefix == "" || s.kind.scheme == "" || s.Image == "" {
			t.Errorf("%s is %+v", e.name, s)
		}
	}
	if s, is := LookupService(NameDocker); !is || !s.Engine || s.Port == 0 || s.Image == "" || s.ReadyWithin < usualReady {
		t.Errorf("the engine of docker:dind is %+v", s)
	} else if d := cmp.Diff([]string{"DOCKER_HOST=tcp://docker:2375"}, s.RunEnv(s.ContainerEnv(nil, "generated"))); d != "" {
		t.Errorf("it is found by (-want +got):\n%s", d)
	}
	if s, is := LookupService("node"); is {
		t.Errorf("node is the service %+v", s)
	}
}

func TestVariablesOfServices(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		service string
		stated  map[string]string
		want    []string
	}{
		"as it comes": {"postgres", nil, []string{
			"MOAT_POSTGRES_DB=postgres", "MOAT_POSTGRES_HOST=postgres", "MOAT_POSTGRES_PASSWORD=generated", "MOAT_POSTGRES_PORT=5432",
			"MOAT_POSTGRES_URL=postgresql://postgres:generated@postgres:5432/postgres", "MOAT_POSTGRES_USER=postgres",
		}},
		"as stated, percent-encoded": {"postgres", map[string]string{"POSTGRES_USER": "a b", "POSTGRES_DB": "c/d?", "POSTGRES_PASSWORD": "p@:/w#"}, []string{
			"MOAT_POSTGRES_DB=c/d?", "MOAT_POSTGRES_HOST=postgres", "MOAT_POSTGRES_PASSWORD=p@:/w#", "MOAT_POSTGRES_PORT=5432",
			"MOAT_POSTGRES_URL=postgresql://a%20b:p%40%3A%2Fw%23@postgres:5432/c%2Fd%3F", "MOAT_POSTGRES_USER=a b",
		}},
		"a fixed user": {"mysql", map[string]string{"MYSQL_USER": "other"}, []string{
			"MOAT_MYSQL_DB=moat", "MOAT_MYSQL_HOST=mysql", "MOAT_MYSQL_PASSWORD=generated", "MOAT_MYSQL_PORT=3306",
			"MOAT_MYSQL_URL=mysql://root:generated@mysql:3306/moat", "MOAT_MYSQL_USER=root",
		}},
		"a password alone": {"redis", nil, []string{
			"MOAT_REDIS_HOST=redis", "MOAT_REDIS_PASSWORD=generated", "MOAT_REDIS_PORT=6379", "MOAT_REDIS_URL=redis://:generated@redis:6379",
		}},
		"nothing": {"ministack", nil, []string{"MOAT_MINISTACK_HOST=ministack", "MOAT_MINISTACK_PORT=4566", "MOAT_MINISTACK_URL=http://ministack:4566"}},
	} {
		s, _ := LookupService(test.service)
		env := s.ContainerEnv(test.stated, "generated")
		for key, value := range test.stated {
			if env[key] != value {
				t.Errorf("%s: the container has %s=%q", name, key, env[key])
			}
		}
		if d := cmp.Diff(test.want, s.RunEnv(env)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestRedisIsReadyWhenItSaysSo(t *testing.T) {
	t.Parallel()
	redis, _ := LookupService("redis")
	postgres, _ := LookupService("postgres")
	for _, test := range []struct {
		service Service
		code    int
		output  string
		want    bool
	}{
		{redis, 0, "PONG\n", true}, {redis, 0, "LOADING Redis is loading the dataset in memory\n", false}, {redis, 1, "", false},
		{postgres, 0, "127.0.0.1:5432 - accepting connections\n", true}, {postgres, 1, "127.0.0.1:5432 - rejecting connections\n", false},
	} {
		if got := test.service.IsReady(test.code, test.output); got != test.want {
			t.Errorf("%s, %d, %q: %v", test.service.Name, test.code, test.output, got)
		}
	}
}
