package credential_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

func Example() {
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	ctx := context.Background()
	store, err := credential.Open(filepath.Join(home, "credentials"), credential.Options{Backend: credential.BackendFile})
	if err != nil {
		panic(err)
	}

	err = store.Put(ctx, credential.Credential{
		Grant: "github", Provider: "github", Source: credential.SourceStdin,
		Values: map[string]credential.Secret{"token": credential.NewSecret("ghp_0123456789")},
	})
	if err != nil {
		panic(err)
	}
	c, err := store.Get(ctx, "github")
	if err != nil {
		panic(err)
	}
	fmt.Println("printed:", c.Values["token"])
	fmt.Println("revealed:", c.Values["token"].Reveal())

	_, err = store.Get(ctx, "npm")
	fmt.Println(errors.Is(err, credential.ErrNotFound), err)
	// Output:
	// printed: [secret]
	// revealed: ghp_0123456789
	// true read grant npm: there is no such grant; run `drawbridge grant npm`
}
