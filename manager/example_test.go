package manager_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// A sibling from its creation to its end.
func ExampleManager() {
	m, err := manager.NewManagerWithOptions(manager.ManagerOptions{WorkspaceRoots: []string{"/home/me/src"}})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()

	run, err := m.Create(ctx, manager.Options{
		Workspace: "/home/me/src/app",
		Cmd:       []string{"make", "test"},
		Timeout:   30 * time.Minute,
	})
	if err != nil {
		log.Println(err)
		return
	}
	if err := m.Start(ctx, run.ID, manager.StartOptions{}); err != nil {
		log.Println(err)
		return
	}
	if err := m.FollowLogs(ctx, run.ID, os.Stdout); err != nil {
		log.Println(err)
	}
	if err := m.Wait(ctx, run.ID); err != nil {
		if failed, ok := manager.IsFailed(err); ok {
			fmt.Println("failed because", failed.EndReason)
		}
	}
	if err := m.Destroy(ctx, run.ID); err != nil {
		log.Println(err)
	}
}
