#!/usr/bin/env bash
# A Kubernetes cluster with M3, MLflow and KubeRay in it, for users, for developers and for the end-to-end tests.
#
#   cluster.sh up          all of it; prints the line that points kubectl at it, last
#   cluster.sh down        remove the cluster, and the Docker Engine if it was started here
#   cluster.sh prepare     tools and images only: what `up` would spend its time on, to be run ahead or beside something else
#   cluster.sh images      build m3-operator:dev and m3-trainer:dev, show their compressed sizes
#   cluster.sh load IMAGE  put an image of the Docker Engine into the cluster
#   cluster.sh minio       an S3 server for tests, in the namespace minio
#   cluster.sh env         the exports for `eval`: KUBECONFIG, PATH, and DOCKER_HOST where the engine is ours
#
# With KUBECONFIG set to a cluster that answers, `up` installs into that one. It can then not load images: push them
# yourself and set M3_IMAGE_REPOSITORY (registry.example.com/team) and M3_IMAGE_TAG (dev).

# shellcheck disable=SC2329 # functions are called by name, through locked and quietly
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=tests/cluster/lib.sh
. "$here/lib.sh"
# shellcheck source=tests/cluster/engine.sh
. "$here/engine.sh"
# shellcheck source=tests/cluster/stand-in.sh
. "$here/stand-in.sh"

CLUSTER=m3
OWN_KUBECONFIG=$M3_CACHE/kubeconfig
GIVEN_KUBECONFIG=${KUBECONFIG:-}
[ "$GIVEN_KUBECONFIG" != "$OWN_KUBECONFIG" ] || GIVEN_KUBECONFIG=
NAMESPACE=m3-system
MAX_COMPRESSED_MB=600 # of the trainer's image
export PATH="$PATH:$BIN" # what is installed here comes first, what tools.sh builds fills the gaps

# --- which cluster ------------------------------------------------------------------------------------------------
need() { # TOOL...
  local tool
  for tool in "$@"; do command -v "$tool" >/dev/null || "$here/tools.sh" "$tool"; done
}
answers() { kubectl --kubeconfig "$1" --request-timeout 5s get --raw /readyz >/dev/null 2>&1; }

choose_cluster() { # sets KUBECONFIG; true where the cluster was there before us
  export KUBECONFIG=$OWN_KUBECONFIG
  [ -n "$GIVEN_KUBECONFIG" ] || return 1
  if answers "$GIVEN_KUBECONFIG"; then
    KUBECONFIG=$GIVEN_KUBECONFIG
  else
    say "KUBECONFIG=$GIVEN_KUBECONFIG does not answer: using kind"
    return 1
  fi
}

# --- images -------------------------------------------------------------------------------------------------------
build_image() { # TARGET
  local network=()
  # Our own engine has no name server for its bridge; elsewhere the default network is right.
  ! own_engine || network=(--network host)
  quietly "$1" docker build ${network[@]+"${network[@]}"} --build-arg "GIT_COMMIT=$(commit)" --target "$1" --tag "m3-$1:dev" "$root"
}
commit() { git -C "$root" describe --always --abbrev=40 --exclude='*' 2>/dev/null || true; } # none in an archive of the source
build_images() {
  build_image operator
  build_image trainer
  # What had these tags before. This engine has no other user who would clean up.
  ! own_engine || { docker image prune --force && docker builder prune --force --keep-storage 10GB; } >/dev/null
}

compressed_mb() { # what a registry would hold, a few per cent more: gzip -1 over the whole image
  echo $(($(docker save "$1" | gzip -1 | wc -c) / 1000000))
}
report_sizes() {
  local size
  echo "m3-operator:dev $(compressed_mb m3-operator:dev) MB compressed"
  size=$(compressed_mb m3-trainer:dev)
  echo "m3-trainer:dev $size MB compressed"
  [ "$size" -lt "$MAX_COMPRESSED_MB" ] || die "the trainer's image must stay under $MAX_COMPRESSED_MB MB compressed"
}

# Not `kind load`: it wants crictl in the node, and it cannot tell a new image from an old one of the same tag. A label on
# the node's copy remembers which image it was.
load() { # IMAGE...
  local image node id name old
  for node in $(kind get nodes --name "$CLUSTER"); do
    for image in "$@"; do
      id=$(image_id "$image")
      name=docker.io/library/$image
      old=$(ctr_in "$node" images ls "name==$name" | sed -n 's#.*m3.dev/id=\(sha256:[0-9a-f]*\).*#\1#p')
      [ "$old" != "$id" ] || continue
      say "loading $image"
      docker save "$image" | docker exec -i "$node" ctr -n k8s.io images import - >/dev/null
      ctr_in "$node" images label "$name" "m3.dev/id=$id" >/dev/null
      # The kubelet has named the old one by its id, and would keep it until the disk is full.
      [ -z "$old" ] || ctr_in "$node" images rm "$old" >/dev/null || true
    done
  done
}
ctr_in() { # NODE ARGUMENT...
  local node=$1
  shift
  docker exec "$node" ctr -n k8s.io "$@"
}

# --- cluster ------------------------------------------------------------------------------------------------------
prepare() { # [COMMAND]: all that takes long and needs no cluster. M3's images are built beside the rest, and beside COMMAND
  start_engine
  python_image
  build_images &
  local images=$!
  need helm kind
  node_image
  ${1:-true}
  wait "$images" || die "the images of M3 were not built"
}
images() {
  start_engine
  python_image
  build_images
  report_sizes
}

create_cluster() {
  local node=$CLUSTER-control-plane
  if answers "$KUBECONFIG" && [ "$(docker inspect -f '{{.Config.Image}}' "$node" 2>/dev/null)" = "$NODE_IMAGE" ]; then return; fi
  # A run that was cut off leaves its node behind, stopped, and another version of it is of no use.
  kind delete cluster --name "$CLUSTER" --kubeconfig "$KUBECONFIG" >/dev/null 2>&1 || true
  say "creating the kind cluster $CLUSTER from $NODE_IMAGE"
  quietly kind "$KIND" create cluster --name "$CLUSTER" --image "$NODE_IMAGE" --config "$KIND_CONFIG" --kubeconfig "$KUBECONFIG" --wait 120s
  # Two on one node are no safer than one, and the second takes 100m of its CPU.
  kubectl --namespace kube-system scale deployment coredns --replicas 1 >/dev/null
}

strict_namespace() { # NAME: made if need be; refuses pods that are not `restricted`
  kubectl create namespace "$1" --dry-run=client -o yaml | kubectl apply -f - >/dev/null 2>&1
  kubectl label --overwrite namespace "$1" pod-security.kubernetes.io/enforce=restricted >/dev/null
}

stand_in_kuberay() { # its image from its module too; the node cannot pull the published one
  local image
  image=m3-kuberay-operator:$("$here/tools.sh" --version kuberay)
  have_image "$image" || program_image "$image" ray-operator /manager 65532:65532
  load "$image"
  install_kuberay "$image"
}
kuberay_manifests() { # [IMAGE]
  local work=$M3_CACHE/kuberay upstream
  upstream=$("$here/tools.sh" --module-dir kuberay)/config
  rm -rf "$work"
  cp -R "$here/kuberay" "$work"
  mkdir "$work/upstream"
  cp -R "$upstream/default" "$upstream/crd" "$upstream/rbac" "$upstream/manager" "$work/upstream"
  chmod -R u+w "$work" # Go's module cache is read-only
  [ -z "${1:-}" ] || printf 'images:\n  - {name: quay.io/kuberay/operator, newName: %s, newTag: %s}\n' "${1%:*}" "${1##*:}" >>"$work/kustomization.yaml"
  kubectl kustomize "$work"
}
install_kuberay() { # [IMAGE]
  local manifests key
  manifests=$(kuberay_manifests "$@")
  key=$(echo "$manifests" | digest)
  [ "$(kubectl get namespace ray-system --ignore-not-found -o 'jsonpath={.metadata.annotations.m3\.dev/key}')" != "$key" ] || return 0
  say "installing KubeRay $("$here/tools.sh" --version kuberay)"
  # --server-side: the CRDs are larger than the annotation of a client-side apply may be.
  echo "$manifests" | quietly kuberay kubectl apply --server-side --force-conflicts -f -
  kubectl annotate --overwrite namespace ray-system "m3.dev/key=$key" >/dev/null
}

release() { # NAME OPTION...
  local name=$1
  shift
  quietly "helm-$name" helm upgrade --install "$name" "$root/charts/$name" --namespace "$NAMESPACE" \
    --values "$here/values/$name.yaml" "$@"
}
install_charts() {
  local prefix=${M3_IMAGE_REPOSITORY:+$M3_IMAGE_REPOSITORY/} tag=${M3_IMAGE_TAG:-dev}
  say "installing the charts mlflow and m3 into $NAMESPACE"
  strict_namespace "$NAMESPACE"
  # The annotations restart the pods where the image behind an unchanged tag is another one. MLflow's part of the trainer's
  # image is the lock: a change of our code is no reason to restart the server.
  release mlflow --set "image.repository=${prefix}m3-trainer" --set-string "image.tag=$tag" \
    --set-string "podAnnotations.m3\.dev/lock=$(digest <"$root/requirements/trainer.txt")"
  release m3 --set "image.repository=${prefix}m3-operator,trainer.image.repository=${prefix}m3-trainer" \
    --set-string "image.tag=$tag,trainer.image.tag=$tag" \
    --set-string "podAnnotations.m3\.dev/image=$(image_id m3-operator:dev 2>/dev/null || echo unknown)"
}
wait_until_ready() { # NAMESPACE...
  local namespace
  for namespace in "$@"; do
    kubectl --namespace "$namespace" rollout status deployment --timeout 300s >/dev/null || {
      kubectl --namespace "$namespace" get pods,events >&2
      die "the pods of namespace $namespace did not become ready in 5 minutes"
    }
  done
}

up() {
  if choose_cluster; then
    say "using the cluster of KUBECONFIG=$KUBECONFIG, context $(kubectl config current-context)"
    [ -n "${M3_IMAGE_REPOSITORY:-}" ] ||
      say "M3_IMAGE_REPOSITORY is not set: its nodes must have m3-operator:${M3_IMAGE_TAG:-dev} and m3-trainer:${M3_IMAGE_TAG:-dev}"
    need helm
    kubectl get crd rayjobs.ray.io >/dev/null 2>&1 || install_kuberay
    install_charts
    wait_until_ready "$NAMESPACE"
  else
    unset M3_IMAGE_REPOSITORY M3_IMAGE_TAG # the images are loaded, under the names that they are built with
    prepare create_cluster
    strict_namespace default # where the samples' jobs run
    if stand_in; then
      stand_in_kuberay
    else
      install_kuberay
    fi
    load m3-operator:dev m3-trainer:dev
    install_charts
    wait_until_ready kube-system ray-system "$NAMESPACE"
  fi
  next_steps
}

next_steps() {
  echo "The cluster is ready. What to run next:"
  echo "  kubectl apply -f manifests/samples/trainingjob.yaml"
  echo "  kubectl wait --for=condition=Complete trainingjob/fraud-rf --timeout=10m"
  echo "  kubectl get trainingjobs"
  echo "  kubectl --namespace $NAMESPACE port-forward service/mlflow 5000   # then http://localhost:5000"
  exports
}
exports() {
  # Only where kubectl is ours alone.
  [ "$(command -v kubectl)" != "$BIN/kubectl" ] || echo "export PATH=\"\$PATH:$BIN\""
  echo "export KUBECONFIG=$KUBECONFIG"
}
environment() {
  choose_cluster || ! own_engine || echo "export DOCKER_HOST=$DOCKER_HOST PATH=\"$ENGINE/bin:\$PATH\""
  exports
}

down() {
  if choose_cluster; then
    down_existing
    return
  fi
  # Containers of an engine that was cut off still hold their disks: it has to run for them to be removed.
  [ -z "$(ls -A "$ENGINE/data/containers" 2>/dev/null)" ] || start_engine
  if find_engine; then
    need kind
    quietly kind kind delete cluster --name "$CLUSTER" --kubeconfig "$OWN_KUBECONFIG"
    ! own_engine || docker network rm kind >/dev/null 2>&1 || true
  fi
  stop_engine
  rm -f "$OWN_KUBECONFIG"
  say "removed the cluster. The tools and images that make the next one quick stay in $M3_CACHE: remove it for their space"
}
down_existing() {
  local mine
  need helm
  helm uninstall m3 mlflow --namespace "$NAMESPACE" --ignore-not-found --wait
  kubectl delete namespace "$NAMESPACE" minio --ignore-not-found
  mine=$(kubectl get namespace ray-system --ignore-not-found -o 'jsonpath={.metadata.labels.app\.kubernetes\.io/managed-by}')
  [ "$mine" != m3-cluster ] || kuberay_manifests | kubectl delete --ignore-not-found -f -
  say "removed M3 from the cluster of KUBECONFIG=$KUBECONFIG. Its CRDs stay, with every job in them:"
  say "  kubectl delete crd -l app.kubernetes.io/name=m3"
}

# --- a server for tests -------------------------------------------------------------------------------------------
minio() {
  choose_cluster && die "minio needs an image that only a kind cluster of our own can be given"
  "$here/tools.sh" minio
  find_engine || die "no cluster is up: cluster.sh up"
  program_image m3-minio:test minio /minio 1000:1000
  load m3-minio:test
  kubectl apply -f "$here/minio.yaml"
  wait_until_ready minio
}

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
}
main() {
  need kubectl
  case ${1:-} in
    up | down | prepare | images | minio) locked cluster "$1" ;;
    load) shift && find_engine && load "$@" ;;
    env) environment ;;
    *) usage ;;
  esac
}
main "$@"
exit # bash reads a script as it runs it: nothing after this line matters when the file changes under a long run
