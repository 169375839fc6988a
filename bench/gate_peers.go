package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Peers
//
// Other proxies that look into TLS. One that is not here is left out, with a note.

// Names of the peers in the table.
const (
	goproxyDefault = "goproxy as it comes"
	goproxyTuned   = "goproxy tuned"
	mitmproxyName  = "mitmproxy"
)

// rateTarget is what is wanted of the gate under load, beside each of the floors.
func rateTarget(floor string) string {
	switch floor {
	case goproxyDefault, goproxyTuned:
		return ">= 0.40; ratio >= 1.5"
	case mitmproxyName:
		return ">= 0.40; ratio >= 20"
	}
	return ">= 0.40"
}

// openPeers starts the peers and puts them behind the floors.
func (b *gateBench) openPeers(ctx context.Context) error {
	program, err := b.w.buildPeer(ctx)
	if err != nil {
		b.w.results.note("without goproxy: %v", err)
	} else {
		for _, peer := range []struct{ part, name string }{{partPeer, goproxyDefault}, {partPeerTuned, goproxyTuned}} {
			p, err := b.startProgram(ctx, program, partConfig{Part: peer.part})
			if err != nil {
				return err
			}
			b.floors = append(b.floors, b.through(p, peer.name, 0))
		}
	}
	program, err = exec.LookPath("mitmdump")
	if err != nil {
		b.w.results.note("without mitmproxy, whose Debian package is mitmproxy: %v", err)
		return nil
	}
	p, err := b.startMitmproxy(ctx, program)
	if err != nil {
		return err
	}
	b.floors = append(b.floors, b.through(p, mitmproxyName, 0))
	return nil
}

// mitmproxyListens is the line in which it says where.
var mitmproxyListens = regexp.MustCompile(`listening at (?:http://)?(?:127\.0\.0\.1|\*):(\d+)`)

// startMitmproxy starts mitmdump, which adds a header as the others do, passes large
// bodies on as they come, and prints nothing for a request.
func (b *gateBench) startMitmproxy(ctx context.Context, program string) (*part, error) {
	dir := filepath.Join(b.w.dir, "p"+strconv.Itoa(len(b.parts)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	trust, header := filepath.Join(dir, "trust.pem"), filepath.Join(dir, "header")
	if err := errors.Join(os.WriteFile(trust, b.pair.authority, 0o600), os.WriteFile(header, []byte(credentialValue), 0o600)); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "--listen-host", serverName, "--listen-port", "0", "--flow-detail", "0",
		"--set", "confdir="+dir, "--set", "ssl_verify_upstream_trusted_ca="+trust, "--set", "stream_large_bodies=64k",
		"--modify-headers", "/~q/Authorization/@"+header)
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &part{cmd: cmd, kill: true}
	b.parts = append(b.parts, p)
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	late := time.AfterFunc(partTimeout, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(stdout)
	var said strings.Builder
	for lines.Scan() {
		if match := mitmproxyListens.FindStringSubmatch(lines.Text()); match != nil {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			p.Sockets = []string{serverName + ":" + match[1]}
			p.Authority, err = os.ReadFile(filepath.Join(dir, "mitmproxy-ca-cert.pem"))
			return p, err
		}
		said.WriteString(lines.Text() + "\n")
	}
	return nil, fmt.Errorf("start mitmproxy: it does not say where it listens: %s", said.String())
}
