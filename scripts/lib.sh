# shellcheck shell=bash
#
# What the scripts of this directory share: messages, packages, clean-up, a
# Docker engine. Sourced, never run. The caller sets `-euo pipefail`.
#
# Works as root and with sudo, without systemd, and in containers that lack
# CAP_SYS_RESOURCE.

# shellcheck disable=SC2034 # used by the scripts that source this file
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# dockerd, ip and friends live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# cache_dir holds what is slow to fetch and safe to keep between runs.
# shellcheck disable=SC2034 # used by the scripts that source this file
cache_dir=${DRAWBRIDGE_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/drawbridge}
# shellcheck disable=SC2034 # used by the scripts that source this file
demo_image=drawbridge-demo:latest

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# as_root runs a command as root: directly, or through sudo.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "this needs root: run it as root, or install sudo: $*"
  fi
}

# bounded SECONDS COMMAND... ends a command that hangs. macOS has no timeout(1);
# there the command runs unbounded.
bounded() {
  local seconds=$1
  shift
  if command -v timeout >/dev/null; then
    timeout --kill-after=5 "$seconds" "$@"
  else
    "$@"
  fi
}

# --- Clean-up --------------------------------------------------------------

# Functions to run when the script ends, last registered first.
cleanups=()
# Process group of the command under `run`, empty when there is none.
run_group=

on_exit() { cleanups=("$1" ${cleanups[@]+"${cleanups[@]}"}); }

# run COMMAND... is a foreground command that a signal to this script ends at
# once: bash defers traps while a plain foreground command runs. The command gets
# a process group of its own, so that whatever it started ends with it. It must
# not read from the terminal.
run() {
  local status=0
  # Job control gives the job its own group, and leaves SIGINT as it was.
  set -m
  "$@" </dev/null &
  run_group=$!
  set +m
  wait "$run_group" || status=$?
  run_group=
  return "$status"
}

end_run_group() {
  [[ -n $run_group ]] || return 0
  kill -TERM -- "-$run_group" 2>/dev/null || return 0
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    kill -0 -- "-$run_group" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$run_group" 2>/dev/null || true
}

finish() {
  local status=$? cleanup
  # A second Ctrl-C must not cut the clean-up short: every step is bounded.
  trap '' INT TERM HUP
  trap - EXIT
  end_run_group
  for cleanup in ${cleanups[@]+"${cleanups[@]}"}; do
    "$cleanup" || { [[ $status -ne 0 ]] || status=1; }
  done
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- Packages --------------------------------------------------------------

apt_updated=

is_debian() { command -v apt-get >/dev/null && command -v dpkg >/dev/null; }

# quietly COMMAND... shows a command's output only when it fails.
quietly() {
  local output
  output=$("$@" 2>&1) || {
    printf '%s\n' "$output" | tail -n 30 >&2
    return 1
  }
}

apt_update() {
  [[ -z $apt_updated ]] || return 0
  # Old package lists often do: let the installation decide.
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 update ||
    say "apt-get update failed, going on with the package lists that are here"
  apt_updated=yes
}

# need_debian THING:PACKAGE... installs each package whose thing is missing. A
# thing is a command, or the absolute path of a file. Elsewhere than on Debian
# and its kin, missing things are named instead.
need_debian() {
  local need thing packages=() things=()
  for need; do
    thing=${need%%:*}
    if [[ $thing == /* ]]; then
      [[ ! -e $thing ]] || continue
    else
      ! command -v "$thing" >/dev/null || continue
    fi
    things+=("$thing")
    packages+=("${need##*:}")
  done
  [[ ${#packages[@]} -gt 0 ]] || return 0
  is_debian || die "missing: ${things[*]}. Install them with this system's package manager."
  say "installing ${packages[*]}"
  apt_update
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 \
    install --no-install-recommends "${packages[@]}" ||
    die "installing failed: apt-get install ${packages[*]}"
  hash -r
}

# find_busybox sets busybox to the path of a static one for this machine. Debian's
# package is unpacked into the cache where it is not installed: it conflicts
# with the dynamic busybox that many machines boot with.
find_busybox() {
  local kept stage
  busybox=$(dpkg-query -L busybox-static 2>/dev/null | grep -E '^(/usr)?/bin/busybox$' | head -n 1 || true)
  [[ -z $busybox ]] || return 0
  kept=$cache_dir/busybox-static-$(dpkg --print-architecture)
  if [[ ! -x $kept ]]; then
    say "downloading busybox-static"
    apt_update
    stage=$(mkdir -p "$cache_dir" && mktemp -d "$cache_dir/busybox-stage.XXXXXX")
    if ! (
      cd "$stage" && quietly apt-get -q download busybox-static &&
        dpkg-deb -x busybox-static_*.deb package &&
        mv "$(find package -path '*bin/busybox' -type f)" "$kept"
    ); then
      rm -rf "$stage"
      die "downloading failed: apt-get download busybox-static"
    fi
    rm -rf "$stage"
  fi
  busybox=$kept
}

need_go() {
  [[ ! -x /usr/local/go/bin/go ]] || PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || die "go is missing: install Go 1.26.3 or newer from https://go.dev/dl/"
}

# --- Docker engine ---------------------------------------------------------

# Directory of the private engine that this script started. Empty: none, the
# engine in use belongs to somebody else and is left as it was found.
engine_dir=

# Private engines live in /tmp, whatever TMPDIR says: the path of a Unix socket
# ends at 108 bytes, and engines nest several directories below this one.
engine_dirs=/tmp/drawbridge-engine

engine_start_seconds=60

engine_answers() { bounded 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# ensure_engine makes DOCKER_HOST name an engine that answers: the one that is
# there, or a private one that is stopped when the script ends.
# DRAWBRIDGE_PRIVATE_ENGINE=1 asks for a private one in any case.
ensure_engine() {
  need_docker_cli
  # A context is known to the command line alone; DOCKER_HOST to every client.
  if [[ -z ${DOCKER_HOST:-} ]]; then
    local endpoint
    endpoint=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)
    [[ -z $endpoint ]] || export DOCKER_HOST=$endpoint
  fi
  unset DOCKER_CONTEXT
  if [[ -z ${DRAWBRIDGE_PRIVATE_ENGINE:-} ]] && engine_answers; then
    say "using the engine at $DOCKER_HOST"
    return
  fi
  [[ $(uname -s) == Linux ]] || die "no Docker engine answers at ${DOCKER_HOST:-the default socket}: start Docker, then try again"
  start_engine
}

need_docker_cli() {
  command -v docker >/dev/null && return
  need_debian docker:docker.io
  # From Debian 13 on, docker.io is the daemon alone.
  need_debian docker:docker-cli
}

start_engine() {
  need_debian dockerd:docker.io containerd:containerd runc:runc iptables:iptables \
    ip:iproute2 setsid:util-linux ps:procps
  sweep_engines
  # Asks for a password now, when it is asked for one, and not in the background.
  [[ $EUID -eq 0 ]] || as_root true
  engine_dir=$(mktemp -d "$engine_dirs.XXXXXX")
  on_exit stop_engine
  process_identity "$$" >"$engine_dir/owner"
  say "no engine in use: starting a private one in $engine_dir"

  make_engine_bridge "$engine_dir"
  write_engine_config "$engine_dir"
  # A containerd of our own: dockerd would else join the one of the system.
  spawn_engine_part "$engine_dir" containerd containerd --config "$engine_dir/containerd.toml"
  spawn_engine_part "$engine_dir" dockerd dockerd --config-file "$engine_dir/daemon.json"
  unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH
  export DOCKER_HOST=unix://$engine_dir/docker.sock
  await_engine "$engine_dir"
}

# process_identity PID prints a living process's id and start time. The id alone
# may be another process's tomorrow.
process_identity() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The second field, a name in brackets, may hold spaces.
  # shellcheck disable=SC2086 # split into fields
  set -- "$1" ${stat##*) }
  # A zombie has ended; where nobody reaps it, its entry stays.
  [[ $2 != Z ]] || return 1
  printf '%s %s\n' "$1" "${21}"
}

# same_process FILE reports whether the process that FILE identifies is alive.
same_process() {
  local pid _rest
  read -r pid _rest 2>/dev/null <"$1" || return 1
  [[ $(process_identity "$pid") == "$(cat "$1")" ]]
}

# A bridge of its own and no firewall rules: the system's docker0, its chains and
# ip_forward stay as they are. Sandboxes on it reach the host, and ports that they
# publish are served by docker-proxy; they do not reach beyond the host.
make_engine_bridge() {
  local bridge=dbr-${1##*.} octet=$(($$ % 250)) tries
  for ((tries = 0; tries < 250; tries++, octet = (octet + 1) % 250)); do
    ip -4 route show table all | grep -qF "10.213.$octet." || break
  done
  as_root ip link add name "$bridge" type bridge || die "making the bridge $bridge failed"
  as_root ip address add "10.213.$octet.1/24" dev "$bridge"
  as_root ip link set "$bridge" up
}

write_engine_config() {
  local dir=$1 runtimes='' runsc
  if runsc=$(command -v runsc); then
    # Also as where it does not pass sockets of the host.
    runtimes=",
  \"runtimes\": {
    \"runsc\": {\"path\": \"$runsc\", \"runtimeArgs\": [\"--platform=systrap\", \"--oci-seccomp\", \"--host-uds=open\"]},
    \"runsc-closed\": {\"path\": \"$runsc\", \"runtimeArgs\": [\"--platform=systrap\", \"--oci-seccomp\"]}
  }"
  fi
  # In a file of its own, since flags clash with what /etc/docker/daemon.json sets.
  cat >"$dir/daemon.json" <<JSON
{
  "hosts": ["unix://$dir/docker.sock"],
  "group": "$(id -g)",
  "data-root": "$dir/data",
  "exec-root": "$dir/exec",
  "pidfile": "$dir/docker.pid",
  "containerd": "$dir/containerd.sock",
  "bridge": "dbr-${dir##*.}",
  "iptables": false,
  "ip6tables": false,
  "ip-forward": false,
  "ip-masq": false,
  "shutdown-timeout": 5,
  "labels": ["drawbridge.engine=private"]$runtimes
}
JSON
  # The CRI plug-in serves Kubernetes and opens a TCP port; the opt plug-in
  # makes /opt/containerd.
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$dir/containerd.sock"
[ttrpc]
  address = "$dir/containerd.sock.ttrpc"
TOML
}

# spawn_engine_part DIR NAME COMMAND... starts a daemon in a session of its own,
# out of reach of this terminal's Ctrl-C, and notes which process it is.
spawn_engine_part() {
  local dir=$1 name=$2 pid
  shift 2
  # shellcheck disable=SC2016 # expanded by the inner shell
  pid=$(as_root sh -c 'log=$1; shift; setsid "$@" </dev/null >"$log" 2>&1 & echo $!' sh "$dir/$name.log" "$@")
  process_identity "$pid" >"$dir/$name.id" || true
}

await_engine() {
  local dir=$1 part deadline=$((SECONDS + engine_start_seconds))
  until engine_answers; do
    for part in containerd dockerd; do
      same_process "$dir/$part.id" || engine_failed "$dir" "$part ended while starting"
    done
    [[ $SECONDS -lt $deadline ]] || engine_failed "$dir" "it did not answer within $engine_start_seconds s"
    sleep 0.2
  done
}

engine_failed() {
  local part
  for part in containerd dockerd; do
    say "--- the end of $1/$part.log"
    as_root tail -n 20 "$1/$part.log" >&2 || true
  done
  die "starting a private Docker engine failed: $2. Start an engine by hand, or mend the cause above."
}

# stop_engine ends the engine that this script started, and nothing else.
stop_engine() {
  [[ -n $engine_dir ]] || return 0
  local dir=$engine_dir
  engine_dir=
  say "stopping the private engine"
  remove_engine "$dir"
}

# remove_engine DIR ends a private engine, checks that its processes and mounts
# are gone, and removes its directory.
remove_engine() {
  local dir=$1 shims mounts mount
  if same_process "$dir/dockerd.id"; then
    empty_engine "unix://$dir/docker.sock"
    end_engine_part "$dir/dockerd.id" 20
  fi
  end_engine_part "$dir/containerd.id" 10
  # Shims outlive a killed containerd.
  shims=$(engine_shims "$dir")
  if [[ -n $shims ]]; then
    # shellcheck disable=SC2086 # one word a process
    as_root kill -KILL $shims 2>/dev/null || true
    await_no_shims "$dir" || {
      say "processes of the private engine are left: $(engine_shims "$dir" | tr '\n' ' ')"
      return 1
    }
  fi
  # The network name spaces of dockerd stay mounted, deepest last.
  mounts=$(mounts_below "$dir" | sort -r)
  while read -r mount; do
    [[ -z $mount ]] || as_root umount "$mount" || true
  done <<<"$mounts"
  mounts=$(mounts_below "$dir")
  if [[ -n $mounts ]]; then
    say "mounts of the private engine are left: $mounts"
    return 1
  fi
  ! ip link show "dbr-${dir##*.}" >/dev/null 2>&1 || as_root ip link delete "dbr-${dir##*.}"
  as_root rm -rf --one-file-system "$dir"
}

# empty_engine ENDPOINT removes containers and networks, so that no shim and no
# bridge outlives the engine.
empty_engine() {
  local ids
  ids=$(DOCKER_HOST=$1 bounded 20 docker ps -aq 2>/dev/null || true)
  # shellcheck disable=SC2086 # one word a container
  [[ -z $ids ]] || DOCKER_HOST=$1 bounded 60 docker rm -f $ids >/dev/null 2>&1 || true
  DOCKER_HOST=$1 bounded 20 docker network prune -f >/dev/null 2>&1 || true
}

# end_engine_part FILE SECONDS ends the process that FILE identifies, politely,
# and after SECONDS with its whole session.
end_engine_part() {
  local file=$1 pid _rest deadline=$((SECONDS + $2))
  same_process "$file" || return 0
  read -r pid _rest <"$file"
  as_root kill -TERM "$pid" 2>/dev/null || true
  while same_process "$file"; do
    if [[ $SECONDS -ge $deadline ]]; then
      as_root kill -KILL -- "-$pid" 2>/dev/null || true
      return 0
    fi
    sleep 0.1
  done
}

# engine_shims DIR prints the ids of the shims whose command line names the
# engine's containerd.
engine_shims() { pgrep -f -- "^[^ ]*containerd-shim.* $1/" || true; }

await_no_shims() {
  local tries
  for ((tries = 0; tries < 50; tries++)); do
    [[ -n $(engine_shims "$1") ]] || return 0
    sleep 0.1
  done
  return 1
}

# mounts_below DIR prints the mount points under a directory.
mounts_below() { awk -v prefix="$1/" 'index($5, prefix) == 1 { print $5 }' /proc/self/mountinfo; }

# sweep_engines removes private engines whose script was killed outright.
sweep_engines() {
  local dir
  for dir in "$engine_dirs".*; do
    [[ -O $dir && -f $dir/owner ]] || continue
    same_process "$dir/owner" && continue
    say "removing $dir, left behind by a killed script"
    remove_engine "$dir" || true
  done
}
