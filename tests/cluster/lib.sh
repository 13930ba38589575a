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
    command -v flock >/dev/null && flock 9
    "$@" 9>&-
  ) 9>"$file"
}
