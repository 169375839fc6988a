// Command awsprog is a program that uses AWS, for tests of sandboxes: it has AWS's own
// SDK, as it is without a setting.
//
//	awsprog whoami URL   who the service at URL takes it for
//	awsprog ask [TOKEN]  the status with which it is answered where SDKs get credentials
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.New("usage: awsprog whoami URL | ask [TOKEN]")
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "whoami":
		err = whoami(ctx, args[1])
	case len(args) == 1 && args[0] == "ask":
		err = ask(ctx, os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN"))
	case len(args) == 2 && args[0] == "ask":
		err = ask(ctx, args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "awsprog:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to cancel
	}
}

func whoami(ctx context.Context, url string) error {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	who, err := sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = aws.String(url) }).GetCallerIdentity(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Printf("in %s as %s\n", cfg.Region, aws.ToString(who.Arn))
	return nil
}

func ask(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:3128/aws/credentials", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	fmt.Println("answered", resp.StatusCode, n > 0)
	return err
}
