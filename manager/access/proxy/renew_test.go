package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

const (
	oldSecret = "old-credential-0123456789"
	newSecret = "new-credential-0123456789"
)

// testKeeper is a keeper of which the test says what it does.
type testKeeper struct {
	mu       sync.Mutex
	ready    func() error // guarded by mu
	rejected []string     // guarded by mu
}

func (k *testKeeper) Ready(context.Context, string) error {
	k.mu.Lock()
	ready := k.ready
	k.mu.Unlock()
	if ready == nil {
		return nil
	}
	return ready()
}

func (k *testKeeper) Rejected(grant string, value credential.Secret) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rejected = append(k.rejected, grant+" "+value.Reveal())
}

func (k *testKeeper) set(ready func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = ready
}

// renewing is a gate with a run whose grant changes, and a server that gives back
// what it was sent, and all secrets there are.
func renewing(t *testing.T, http2 bool) (w *world, k *testKeeper, host string, seen func() []string) {
	t.Helper()
	w = newWorld(t, policy.Strict)
	var mu sync.Mutex
	var got []string
	var protocols []string
	if http2 {
		protocols = []string{"h2"}
	}
	host = w.server("api.test.example", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got = append(got, r.Header.Get("Authorization"))
		mu.Unlock()
		if r.URL.Path == "/401" {
			rw.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprintf(rw, "%s and %s", oldSecret, newSecret)
	}), protocols...)
	k = &testKeeper{}
	w.run.Policy = policyOf(t, policy.Strict, host)
	w.run.Grants, w.run.Keeper = []Grant{grantOf("tracker", testRule("api.test.example", portOfHost(t, host), "Authorization", "Bearer "+oldSecret))}, k
	return w, k, host, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), got...)
	}
}

func (w *world) renew(host string) {
	w.run.Renew(grantOf("tracker", testRule("api.test.example", portOfHost(w.t, host), "Authorization", "Bearer "+newSecret)))
}

func bothProtocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Parallel()
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, http2)
		})
	}
}

func TestARenewedCredentialIsUsedOnConnectionsThatAreOpen(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		w, _, host, seen := renewing(t, http2)
		client := w.client(http2)
		stars := strings.Repeat("*", len(oldSecret))
		if _, body := get(t, client, "https://"+host+"/"); body != stars+" and "+newSecret {
			t.Errorf("before, it gets %q", body)
		}
		w.renew(host)
		// What it had before stays masked, and what it has is.
		if _, body := get(t, client, "https://"+host+"/"); body != stars+" and "+stars {
			t.Errorf("after, it gets %q", body)
		}
		if diff := cmp.Diff([]string{"Bearer " + oldSecret, "Bearer " + newSecret}, seen()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

// An answer that is on its way when the credential is renewed is masked with the new
// one too.
func TestAnAnswerThatIsOnItsWayIsMaskedWithTheNewCredentialToo(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		w, _, host, _ := renewing(t, http2)
		goOn := make(chan struct{})
		slow := w.server("slow.test.example", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(rw, "begin\n")
			_ = http.NewResponseController(rw).Flush()
			<-goOn
			fmt.Fprint(rw, newSecret)
		}))
		rule := testRule("slow.test.example", portOfHost(t, slow), "Authorization", "Bearer "+oldSecret)
		w.run.Policy = policyOf(t, policy.Strict, host, slow)
		w.run.Grants = []Grant{grantOf("tracker", rule)}
		resp, err := w.client(http2).Get("https://" + slow + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make([]byte, len("begin\n"))
		if _, err := io.ReadFull(resp.Body, first); err != nil {
			t.Fatal(err)
		}
		rule.Value = credential.NewSecret("Bearer " + newSecret)
		w.run.Renew(grantOf("tracker", rule))
		close(goOn)
		rest, err := io.ReadAll(resp.Body)
		if err != nil || string(rest) != strings.Repeat("*", len(newSecret)) {
			t.Errorf("the rest is %q, %v", rest, err)
		}
	})
}

func TestACredentialThatCannotBeSentIsAClearRefusal(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		w, k, host, seen := renewing(t, http2)
		client := w.client(http2)
		for status, isFinal := range map[int]bool{http.StatusForbidden: true, http.StatusServiceUnavailable: false} {
			k.set(func() error {
				return &NotReadyError{Grant: "tracker", Message: "the credential of the grant tracker expired", Next: "run `drawbridge grant tracker`", IsFinal: isFinal}
			})
			resp, err := client.Get("https://" + host + "/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			for _, want := range []string{`"code":"grant_unusable"`, "expired", "run `drawbridge grant tracker`"} {
				if err != nil || resp.StatusCode != status || resp.Header.Get("X-Drawbridge-Refused") != codeUnusable || !strings.Contains(string(body), want) {
					t.Errorf("it is told %s %s, %v", resp.Status, body, err)
				}
			}
		}
		if len(seen()) != 0 {
			t.Errorf("the server got %q", seen())
		}
		if e := w.entry(0); e.Decision != Refused || !strings.Contains(e.Error, "expired") || e.Grant != "" {
			t.Errorf("recorded %+v", e)
		}
		// A request with a credential of its own does not need the grant's.
		req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer own")
		if resp, err := client.Do(req); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("with its own: %v, %v", resp, err)
		} else {
			_ = resp.Body.Close()
		}
		// What is renewed while a request waits is what it gets.
		k.set(func() error { w.renew(host); return nil })
		get(t, client, "https://"+host+"/")
		if diff := cmp.Diff([]string{"Bearer own", "Bearer " + newSecret}, seen()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		k.set(func() error { return errors.New("the run is over") })
		if resp, err := client.Get("https://" + host + "/"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK && len(seen()) != 2 {
				t.Errorf("it is served: %s", resp.Status)
			}
		}
	})
}

func TestTheKeeperIsToldOfCredentialsThatAreNotAccepted(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		w, k, host, _ := renewing(t, http2)
		client := w.client(http2)
		for _, path := range []string{"/", "/401"} {
			get(t, client, "https://"+host+path)
		}
		req, err := http.NewRequest(http.MethodGet, "https://"+host+"/401", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer own")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		if diff := cmp.Diff([]string{"tracker Bearer " + oldSecret}, k.rejected); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

func TestARunKeepsABoundedNumberOfEarlierSecrets(t *testing.T) {
	t.Parallel()
	secret := func(n int) string { return fmt.Sprintf("credential-number-%03d", n) }
	grant := func(n int) Grant {
		return grantOf("tracker", testRule("api.test.example", 443, "Authorization", secret(n)))
	}
	run := &Run{Grants: []Grant{grant(0)}}
	for n := range 100 {
		run.Renew(grant(n))
	}
	run.Renew(grantOf("another")) // which it does not have
	m := run.holdings().maskers.content
	for n, masked := range map[int]bool{99: true, 98: true, 68: true, 10: false} {
		if got := m.Text(secret(n)) != secret(n); got != masked {
			t.Errorf("the credential of %d is masked: %v", n, got)
		}
	}
}
