# shellcheck shell=bash
# What the scripts of this folder share; sourced, never run. Written for bash 3.2, which is what macOS has.
M3_CACHE=${M3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/m3}
BIN=$M3_CACHE/bin
mkdir -p "$BIN" "$M3_CACHE/lock"

say() { echo "m3: $*" >&2; }
die() {
  say "$*"
  exit 1
}

digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-12; }

# locked NAME COMMAND...: one at a time on this machine. The kernel drops the lock with the process, so a run that was
# killed leaves nothing to clean up. Where there is no flock (macOS), two runs at once do the work twice, no worse.
locked() {
  local file=$M3_CACHE/lock/$1
  shift
  (
    if command -v flock >/dev/null; then flock -n 9 || { say "waiting for another run" && flock 9; }; fi
    "$@" 9>&-
  ) 9>"$file"
}

wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.5
  done
}

quietly() { # NAME COMMAND...: output into a log, shown where the command fails
  local log=$M3_CACHE/log/$1.log
  shift
  mkdir -p "$M3_CACHE/log"
  "$@" >"$log" 2>&1 || {
    tail -40 "$log" >&2
    die "failed: $* (all of it in $log)"
  }
}
