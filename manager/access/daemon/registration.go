package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// registered is a run that the gate serves.
type registered struct {
	request  RegisterRequest // with its token
	granted  resolved
	run      *proxy.Run
	sshKeys  []string // fingerprints
	aws      *AWSRole // nil without a grant for AWS
	listener *net.UnixListener
	stop     context.CancelFunc
	stopped  chan struct{}
	log      *recorder
}

// restore serves the runs that an earlier daemon served.
func (s *server) restore(ctx context.Context, left *inherited) {
	defer left.closeRest()
	files, _ := filepath.Glob(runFile(s.opts.Home, "*_*"))
	for _, file := range files {
		var request RegisterRequest
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &request)
		}
		if err == nil {
			if _, gone := os.Stat(request.GateDir); errors.Is(gone, os.ErrNotExist) {
				_ = os.Remove(file)
				continue
			}
			_, err = s.add(ctx, request, left.listener(request.RunID))
		}
		if err != nil {
			// Its Manager registers it again.
			s.opts.Log.Warn("a run that was registered cannot be served", zap.String("file", file), zap.Error(err))
		}
	}
}

// decisions are what decides about the requests of a run.
type decisions struct {
	policy     *policy.Policy
	operations *policy.Operations
}

var errClosing = errors.New("the daemon is ending")

// add serves a run, on l if there is one. A run that is served already keeps its
// token.
func (s *server) add(ctx context.Context, request RegisterRequest, l *net.UnixListener) (_ *registered, err error) {
	defer func() {
		if err != nil && l != nil {
			_ = l.Close()
		}
	}()
	rules, err := request.check()
	if err != nil {
		return nil, err
	}
	granted, err := s.resolve(ctx, &request)
	isServed := false
	defer func() {
		if !isServed {
			granted.release()
		}
	}()
	if err != nil {
		return nil, err
	}
	hosts, err := granted.sshRules()
	if err != nil {
		return nil, err
	}
	allowed, err := request.policy(rules, slices.Concat(granted.grants, granted.awsHosts()), hosts)
	if err != nil {
		return nil, err
	}
	operations, err := request.Operations.Parse()
	if err != nil {
		return nil, err
	}
	secrets, err := s.secretsOf(ctx, &request)
	if err != nil {
		return nil, err
	}
	if request.Token == "" {
		if err := granted.checkSSH(ctx, agentSocket(&request)); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, errClosing
	}
	before := s.runs[request.RunID]
	if before != nil {
		request.Token = before.request.Token
		// A credential that has been renewed is there already.
		if reflect.DeepEqual(before.request, request) && before.granted.isAlike(&granted) {
			return before, nil
		}
	}
	r, err := s.admit(ctx, request, granted, l, decisions{allowed, operations}, secrets)
	if err != nil {
		return nil, err
	}
	isServed = true
	s.runs[request.RunID] = r
	return r, nil
}

// admit serves a run, on l if there is one, in place of how it was served before.
func (s *server) admit(ctx context.Context, request RegisterRequest, granted resolved, l *net.UnixListener, decides decisions, secrets *mask.Masker) (*registered, error) {
	if request.Token == "" {
		request.Token = rand.Text()
	}
	role, err := s.awsOf(&request, &granted)
	if err != nil {
		return nil, err
	}
	// On a full disk, what is served already goes on as it is.
	if err := s.writeDown(&request, &granted); err != nil {
		return nil, err
	}
	if before := s.runs[request.RunID]; before != nil {
		before.end()
		delete(s.runs, request.RunID)
	}
	r := &registered{request: request, granted: granted, aws: roleOf(role), stopped: make(chan struct{})}
	if r.log, err = openRecorder(request.LogDir, request.LogLimit, s.opts.Log); err != nil {
		return nil, errors.Join(err, os.Remove(runFile(s.opts.Home, request.RunID)))
	}
	if l == nil {
		// The directory is closed to other users of the host; in the sandbox the
		// command's user has to get in.
		if l, err = listen(filepath.Join(request.GateDir, SocketFile), 0o666); err != nil {
			r.log.close()
			return nil, errors.Join(fmt.Errorf("listen for the run: %w", err), os.Remove(runFile(s.opts.Home, request.RunID)))
		}
	}
	r.listener = l
	agent, agentListener, err := agentOf(&request, &granted, r.log)
	if err != nil {
		r.log.close()
		return nil, errors.Join(err, r.listener.Close(), os.Remove(runFile(s.opts.Home, request.RunID)))
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	r.run = &proxy.Run{
		ID: request.RunID, Token: request.Token, Policy: decides.policy, Operations: decides.operations, Learn: request.Learn,
		Grants: granted.grants, Keeper: granted.keepers, AWS: role, Secrets: secrets, Record: r.log.record, CanRecord: r.log.canRecord,
	}
	for _, k := range granted.keepers {
		k.join(r.run)
	}
	var both sync.WaitGroup
	both.Go(func() { s.gate.Serve(serving, r.run, r.listener) })
	if agent != nil {
		r.run.Agent = agent.ServeConn
		r.sshKeys = agent.Fingerprints
		both.Go(func() { agent.Serve(serving, agentListener) })
	}
	go func() {
		defer close(r.stopped)
		both.Wait()
	}()
	return r, nil
}

// writeDown writes a registration, for daemons to come, and what the sandbox gets.
func (s *server) writeDown(request *RegisterRequest, granted *resolved) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	for name, content := range s.shared {
		if err := s.share(name, content, request.GateDir); err != nil {
			return fmt.Errorf("write what the sandbox gets: %w", err)
		}
	}
	if err := granted.stage(request.GateDir); err != nil {
		return fmt.Errorf("write the files of grants: %w", err)
	}
	if err := writeFile(runFile(s.opts.Home, request.RunID), data, 0o600); err != nil {
		return fmt.Errorf("record the run: %w", err)
	}
	return nil
}

// share puts a file into a run's directory: the same file for all runs, where the
// file system can do that.
func (s *server) share(name string, content []byte, dir string) error {
	own, theirs := filepath.Join(daemonDir(s.opts.Home), "shared-"+name), filepath.Join(dir, name)
	if known, err := os.ReadFile(theirs); err == nil && bytes.Equal(known, content) {
		return nil
	}
	if err := os.Remove(theirs + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if os.Link(own, theirs+".new") == nil {
		return os.Rename(theirs+".new", theirs)
	}
	return writeFile(theirs, content, 0o644)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte, mode os.FileMode) error {
	err := os.WriteFile(path+".new", data, mode)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new") // of no use, and it may be what fills the disk
	}
	return err
}

// forget ends the service of a run and leaves nothing of it.
func (s *server) forget(id string) {
	s.mu.Lock()
	r := s.runs[id]
	delete(s.runs, id)
	s.idle = time.Now()
	_ = os.Remove(runFile(s.opts.Home, id))
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.end()
	for _, socket := range []string{SocketFile, AgentFile} {
		_ = os.Remove(filepath.Join(r.request.GateDir, socket))
	}
}

// end ends connections and waits for them: what they did is recorded then.
func (r *registered) end() {
	r.stop()
	<-r.stopped
	r.log.close()
	for _, k := range r.granted.keepers {
		k.leave(r.run)
	}
	r.granted.release()
}

func (s *server) register(w http.ResponseWriter, req *http.Request) {
	var request RegisterRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxRequestBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		answer(w, http.StatusBadRequest, failure{"read the request: " + err.Error()})
		return
	}
	if err := s.belongs(&request); err != nil {
		answer(w, http.StatusBadRequest, failure{err.Error()})
		return
	}
	r, err := s.add(req.Context(), request, nil)
	switch {
	case errors.Is(err, errClosing):
		answer(w, http.StatusServiceUnavailable, failure{err.Error()})
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		answer(w, http.StatusInsufficientStorage, failure{err.Error()})
	case err != nil:
		answer(w, http.StatusUnprocessableEntity, failure{err.Error()})
	default:
		env := slices.Concat(r.granted.env, r.granted.awsEnv(&r.request))
		answer(w, http.StatusOK, Registration{Token: r.request.Token, Commit: s.opts.Commit, Env: env, SSHKeys: r.sshKeys, AWS: r.aws})
	}
}

// belongs refuses directories that are not the run's.
func (s *server) belongs(request *RegisterRequest) error {
	if !runIDs.MatchString(request.RunID) {
		return fmt.Errorf("%q is not a run ID", request.RunID)
	}
	all := "runs"
	if strings.HasPrefix(request.RunID, "build_") {
		all = "builds"
	}
	own := filepath.Join(s.opts.Home, all, request.RunID) + string(filepath.Separator)
	dirs := []string{request.GateDir, request.LogDir}
	if request.Secrets != "" {
		dirs = append(dirs, request.Secrets)
	}
	for _, dir := range dirs {
		if !strings.HasPrefix(filepath.Clean(dir)+string(filepath.Separator), own) {
			return fmt.Errorf("%s is not in the directory of %s", dir, request.RunID)
		}
	}
	return nil
}

func (s *server) unregister(w http.ResponseWriter, req *http.Request) {
	id := req.PathValue("id")
	if !runIDs.MatchString(id) {
		answer(w, http.StatusBadRequest, failure{fmt.Sprintf("%q is not a run ID", id)})
		return
	}
	s.forget(id)
	w.WriteHeader(http.StatusNoContent)
}
