# shellcheck shell=bash disable=SC2154
# A Docker Engine: the one that is running, else one of our own. Sourced by cluster.sh, which sets `here`.
ENGINE=$M3_CACHE/engine # images and layers; kept between runs
ENGINE_RUN=/run/m3      # socket and process id; gone after a restart of the machine
export DOCKER_BUILDKIT=1

own_engine() { # true where commands go to the engine that we started
  [ -S "$ENGINE_RUN/docker.sock" ] || return 1
  export DOCKER_HOST=unix://$ENGINE_RUN/docker.sock
  # Debian's client, of its engine's own version: a newer one on PATH may speak no API as old as that. kind calls it too.
  case :$PATH: in *":$ENGINE/bin:"*) ;; *) export PATH="$ENGINE/bin:$PATH" ;; esac
  docker version >/dev/null 2>&1
}

find_engine() {
  local host=${DOCKER_HOST:-} path=$PATH
  own_engine && return
  PATH=$path
  if [ -n "$host" ]; then export DOCKER_HOST="$host"; else unset DOCKER_HOST; fi
  docker version >/dev/null 2>&1
}

start_engine() {
  find_engine && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "Docker does not answer: start it, or set KUBECONFIG to a cluster (without Docker, only root on Debian can go on)"
  fi
  install_packages docker.io runc iptables nftables jq debootstrap
  say "starting a Docker Engine of our own"
  mkdir -p "$ENGINE/bin" "$ENGINE_RUN"
  ln -sf /usr/bin/docker "$ENGINE/bin/docker"
  rm -f "$ENGINE_RUN/docker.sock" "$ENGINE_RUN/pid" # of an engine that was killed
  ln -sf "$here/stand-in/runc" "$ENGINE/bin/runc"   # on PATH as well: BuildKit asks no --default-runtime
  # Docker sets it to DROP; where there is a file, an engine of ours that was killed has done so already.
  [ -f "$ENGINE_RUN/forward" ] || iptables -S FORWARD | grep '^-P' >"$ENGINE_RUN/forward"
  PATH=$ENGINE/bin:$PATH setsid dockerd --data-root "$ENGINE/data" --exec-root "$ENGINE_RUN/exec" \
    --pidfile "$ENGINE_RUN/pid" --host "unix://$ENGINE_RUN/docker.sock" \
    --add-runtime m3="$here/stand-in/runc" --default-runtime m3 >"$ENGINE/log" 2>&1 </dev/null &
  wait_until 60 own_engine || die "the Docker Engine did not start: $(tail -3 "$ENGINE/log")"
}

install_packages() {
  dpkg -s "$@" >/dev/null 2>&1 && return
  say "installing Debian packages: $*"
  quietly packages sh -c 'apt-get update && apt-get install -y --no-install-recommends "$@"' sh "$@"
}

stop_engine() { # only the one that we started; its images stay in the cache
  own_engine || return 0
  local pid
  pid=$(cat "$ENGINE_RUN/pid")
  kill "$pid"
  wait_until 30 process_is_gone "$pid" || die "the Docker Engine (process $pid) does not stop"
  # What dockerd leaves in the kernel: its bridge, its rules, and the mount of a network namespace.
  ip link delete docker0 2>/dev/null || true
  iptables-save | grep -v -e DOCKER -e docker0 | iptables-restore
  xargs iptables <"$ENGINE_RUN/forward"
  umount "$ENGINE_RUN"/exec/netns/* 2>/dev/null || true
  rm -rf "$ENGINE_RUN"
}
process_is_gone() { ! kill -0 "$1" 2>/dev/null; }

have_image() { docker image inspect "$1" >/dev/null 2>&1; }
image_id() { docker image inspect -f '{{.Id}}' "$1"; }
obtain_image() { have_image "$1" || { say "pulling $1" && docker pull --quiet "$1" >/dev/null 2>&1; }; }

# An image of one static program and nothing else. PATH=/ because Kubernetes' manifests call some by their bare names.
program_image() { # TAG PROGRAM [PATH [USER]]
  local path=${3:-/$2}
  printf 'FROM scratch\nCOPY %s %s\nENV PATH=/\nUSER %s\nENTRYPOINT ["%s"]\n' "$2" "$path" "${4:-0:0}" "$path" |
    quietly "$2-image" docker build --tag "$1" --file - "$BIN"
}
