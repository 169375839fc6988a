package daemon

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth/oauthtest"
)

func TestACredentialIsRenewedBeforeItExpiresWhileARunUsesIt(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	old := w.put(5 * time.Minute)
	r, ask := w.run()
	w.eventually("the renewal", func() bool { return w.stored().Values["token"].Reveal() != old })
	renewed := w.stored()
	w.eventually("a request with the new credential", func() bool {
		status, body := ask("")
		got := w.server.Accepted()
		return status == http.StatusOK && body == "hello" && got[len(got)-1] == renewed.Values["token"].Reveal()
	})
	// Nothing of either comes back.
	_, body := ask("/echo")
	for _, secret := range []string{old, renewed.Values["token"].Reveal(), renewed.RefreshToken.Reveal()} {
		if body == "" || strings.Contains(body, secret) {
			t.Errorf("a secret comes back in %q", body)
		}
	}
	list, err := w.client.Grants(t.Context(), "")
	if err != nil || len(list) != 1 || !list[0].Renews || list[0].RenewedAt.IsZero() || list[0].Reason != "" || time.Until(list[0].ExpiresAt) < 50*time.Minute {
		t.Errorf("listed %+v, %v", list, err)
	}
	// Registering again changes nothing, and neither does another daemon.
	first := w.register(r)
	w.stop()
	w.serve()
	w.eventually("the run after the restart", func() bool {
		_, err := os.Stat(filepath.Join(r.GateDir, SocketFile))
		return err == nil
	})
	if again := w.register(r); again.Token != first.Token {
		t.Error("the run has another token")
	}
	if status, body := w.through(r, first.Token)(""); status != http.StatusOK || body != "hello" {
		t.Errorf("after the restart: %d %s", status, body)
	}
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("it was renewed %d times", n)
	}
}

func TestAnExpiredCredentialIsRenewedForTheFirstRunThatUsesIt(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	w.put(-time.Hour)
	_, ask := w.run()
	if status, body := ask(""); status != http.StatusOK || body != "hello" {
		t.Errorf("it gets %d %s", status, body)
	}
}

func TestAnExpiredCredentialThatCannotBeRenewedIsSaidToBe(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	w.put(-time.Hour, "spent-refresh-token-0123456789")
	r := w.request(1)
	r.Grants = []string{tracker}
	for range 2 { // the second time nobody is asked
		_, err := w.client.Register(t.Context(), r)
		for _, want := range []string{"the credential of the grant mcp:tracker expired at ", "invalid_grant", "run `drawbridge grant mcp:tracker` again"} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "spent-refresh") {
				t.Errorf("registered: %v; want %q", err, want)
			}
		}
	}
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("the service was asked %d times", n)
	}
	list, err := w.client.Grants(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Renews || list[0].State != "expired" || !strings.Contains(list[0].Reason, "invalid_grant") || !strings.Contains(list[0].Reason, "run `drawbridge grant mcp:tracker` again") {
		t.Errorf("listed %+v, %v", list, err)
	}
}

func TestARunWhoseCredentialExpiresIsToldSoUntilThereIsAnotherOne(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	w.put(2 * time.Hour)
	r, ask := w.run()
	if status, _ := ask(""); status != http.StatusOK {
		t.Fatal(status)
	}
	// It expires, and the service does not renew it: as if time had passed.
	w.put(-time.Second, "spent-refresh-token-0123456789")
	w.eventually("the refusal", func() bool {
		status, body := ask("")
		return status == http.StatusForbidden && strings.Contains(body, `"code":"grant_unusable"`) && strings.Contains(body, "invalid_grant") && strings.Contains(body, "drawbridge grant mcp:tracker")
	})
	// Another daemon serves the run all the same.
	w.stop()
	w.serve()
	ask = w.through(r, w.register(r).Token)
	if status, body := ask(""); status != http.StatusForbidden {
		t.Errorf("after the restart: %d %s", status, body)
	}
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("the service was asked %d times", n)
	}
	// What a person stores is for the run, at once.
	renewed := w.put(2 * time.Hour)
	w.eventually("the new credential", func() bool {
		status, _ := ask("")
		got := w.server.Accepted()
		return status == http.StatusOK && got[len(got)-1] == renewed
	})
}

func TestAServiceThatDoesNotAnswerIsAskedAgainLater(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	w.put(2 * time.Hour)
	_, ask := w.run()
	w.server.Set(oauthtest.Options{RefuseToken: 503})
	w.put(-time.Second)
	w.eventually("the refusal", func() bool {
		status, body := ask("")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "status 503") && strings.Contains(body, "tried again")
	})
	before := w.server.Renewals()
	ask("") // within the pause
	if n := w.server.Renewals(); n != before || n != 1 {
		t.Errorf("the service was asked %d times", n)
	}
	if c := w.stored(); c.Renewal.IsFinal || c.Renewal.Failures != 1 {
		t.Errorf("stored %+v", c.Renewal)
	}
}

func TestAnAnswer401HasTheCredentialRenewedOnce(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	old := w.put(2 * time.Hour)
	_, ask := w.run()
	w.server.Reject(old)
	if status, _ := ask(""); status != http.StatusUnauthorized {
		t.Errorf("the request itself gets %d", status)
	}
	// The next one waits for what comes of it.
	if status, body := ask(""); status != http.StatusOK || body != "hello" {
		t.Errorf("the next one gets %d %s", status, body)
	}
	w.server.Reject(w.stored().Values["token"].Reveal())
	for range 3 {
		if status, _ := ask(""); status != http.StatusUnauthorized {
			t.Errorf("soon afterwards it gets %d", status)
		}
	}
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("it was renewed %d times", n)
	}
}

func TestManyRequestsWaitForOneRenewal(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	w.put(2 * time.Hour)
	_, ask := w.run()
	hold := make(chan struct{})
	w.server.Set(oauthtest.Options{Hold: hold})
	w.put(-time.Second)
	w.eventually("the renewal", func() bool { return w.server.Renewals() == 1 })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if status, body := ask(""); status != http.StatusOK {
				t.Errorf("it gets %d %s", status, body)
			}
		})
	}
	close(hold)
	all.Wait()
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("it was renewed %d times", n)
	}
}

func TestADaemonThatEndsStoresWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	hold := make(chan struct{})
	w.server.Set(oauthtest.Options{Hold: hold})
	old := w.put(5 * time.Minute)
	w.run()
	w.eventually("the renewal", func() bool { return w.server.Renewals() == 1 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.stop()
	}()
	w.eventually("the end of the service", func() bool {
		_, err := w.client.Health(context.Background())
		return err != nil
	})
	close(hold)
	<-ended
	if c := w.stored(); c.Values["token"].Reveal() == old || c.Renewal.RenewedAt.IsZero() {
		t.Error("what the service gave is lost")
	}
}

func TestARenewedCredentialThatCannotBeStoredIsStoredLater(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	hold := make(chan struct{})
	w.server.Set(oauthtest.Options{Hold: hold})
	old := w.put(5 * time.Minute)
	_, ask := w.run()
	w.eventually("the renewal", func() bool { return w.server.Renewals() == 1 })
	dir := credential.Dir(w.home)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	close(hold)
	w.eventually("a request with the new credential", func() bool {
		ask("")
		got := w.server.Accepted()
		return len(got) > 0 && got[len(got)-1] != old
	})
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new credential in the store", func() bool { return w.stored().Values["token"].Reveal() != old })
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("it was renewed %d times", n)
	}
}

// A person who gives a grant another URL means it for runs to come: what those that are
// up may reach has been decided.
func TestACredentialForOtherRequestsIsNotForRunsThatAreUp(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	old := w.put(2 * time.Hour)
	_, ask := w.run()
	other := w.stored()
	access, _ := w.server.Issue()
	other.Values = map[string]credential.Secret{"token": credential.NewSecret(access)}
	other.Metadata["url"] += "/echo"
	if err := w.store.Put(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.eventually("a word about it", func() bool { return strings.Contains(w.log.String(), "is not for runs that are up") })
	if status, _ := ask(""); status != http.StatusOK || w.server.Accepted()[0] != old {
		t.Errorf("the run that is up gets %d", status)
	}
	second := w.request(2)
	second.Grants = []string{tracker}
	ask = w.through(second, w.register(second).Token)
	for path, want := range map[string]int{"": http.StatusUnauthorized, "/echo": http.StatusOK} {
		if status, _ := ask(path); status != want {
			t.Errorf("the next run gets %d for %q, want %d", status, path, want)
		}
	}
	if got := w.server.Accepted(); got[len(got)-1] != access {
		t.Error("the next run has the old credential")
	}
}

func TestARevokedGrantIsNotRenewed(t *testing.T) {
	t.Parallel()
	w := newRenewWorld(t)
	old := w.put(2 * time.Hour)
	_, ask := w.run()
	if err := w.store.Delete(t.Context(), tracker); err != nil {
		t.Fatal(err)
	}
	w.server.Reject(old)
	for range 2 {
		if status, _ := ask(""); status != http.StatusUnauthorized {
			t.Errorf("it gets %d", status)
		}
	}
	if w.store.Stamp(tracker) != "" || w.server.Renewals() != 0 {
		t.Error("it was renewed")
	}
}

func TestTheMendNamesTheProfile(t *testing.T) {
	t.Parallel()
	for id, want := range map[keeperID]string{
		{profile: "work", grant: tracker}: "drawbridge grant --profile work mcp:tracker", {grant: tracker}: "drawbridge grant mcp:tracker",
	} {
		if got := id.command(); got != want {
			t.Errorf("it is %q, want %q", got, want)
		}
	}
}
