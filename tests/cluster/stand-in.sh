# shellcheck shell=bash disable=SC2034,SC2154
# Images for a machine that reaches no image registry, made of Debian packages and of the tools that tools.sh builds.
# Sourced by cluster.sh, which sets `here` and `root`. Keyed by all that goes into them, so that a new pin or a changed file makes new ones.
NODE_TOOLS="kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd coredns
  local-path-provisioner pause"
STAND_IN_TOOLS="kind ray-operator $NODE_TOOLS"

debian() { # prints the name of a minimal Debian tree as an image
  local image=m3-debian:bookworm-slim tree=$M3_CACHE/debian
  if ! have_image $image; then
    say "making a Debian tree"
    rm -rf "$tree"
    quietly debootstrap debootstrap --variant=minbase bookworm "$tree"
    # As the published slim images do. There is a second reason for the lists: an image that deletes a file of a lower layer
    # cannot be unpacked in import_into_node, because overlayfs lets nobody make its own marker for deleted files (mknod c 0 0).
    rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* "$tree"/usr/share/{doc,info,locale,man}/*
    printf 'path-exclude /usr/share/%s/*\n' doc info locale man >"$tree/etc/dpkg/dpkg.cfg.d/slim"
    echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >"$tree/etc/apt/apt.conf.d/slim"
    tar -C "$tree" -c . | docker import - $image >/dev/null
    rm -rf "$tree"
  fi
  echo $image
}

stand_in_build() { # TARGET TAG OPTION...; the context is a folder with the files of stand-in/ and what was built
  local target=$1 tag=$2 debian
  shift 2
  debian=$(debian)
  quietly "$target-image" docker build --network host --target "$target" --tag "$tag" --build-arg "DEBIAN=$debian" "$@" \
    "$M3_CACHE/context"
}
context() { # TOOL...
  local context=$M3_CACHE/context tool
  rm -rf "$context"
  cp -R "$here/stand-in" "$context"
  cp -L /etc/ssl/certs/ca-certificates.crt "$context/"
  mkdir "$context/bin"
  for tool in "$@"; do ln "$BIN/$tool" "$context/bin/$tool"; done
}

python_image() { # makes sure of python:3.11-slim
  local image=python:3.11-slim key
  key=$(cat "$here/stand-in/Dockerfile" /etc/ssl/certs/ca-certificates.crt 2>/dev/null | digest)
  if have_image $image; then
    # Where it is the stand-in, is it still the one of these files?
    case $(docker image inspect -f '{{index .Config.Labels "m3.dev/stand-in"}}' $image) in "" | "<no value>" | "$key") return ;; esac
  elif obtain_image $image; then
    return
  fi
  say "making a stand-in for $image"
  context
  stand_in_build python $image --label "m3.dev/stand-in=$key"
}

node_image() { # sets NODE_IMAGE, KIND_CONFIG and KIND: kind's own image where it can be had
  KIND=kind
  KIND_CONFIG=$root/manifests/kind.yaml
  NODE_IMAGE=$(sed -n 's/^ *image: *//p' "$KIND_CONFIG")
  own_engine || ! obtain_image "$NODE_IMAGE" || return 0
  # shellcheck disable=SC2086 # a list of words
  "$here/tools.sh" $STAND_IN_TOOLS
  KIND=$BIN/kind # another version of kind may not get along with our node
  KIND_CONFIG=$here/stand-in/kind.yaml
  NODE_IMAGE=m3-node:$(node_key)
  have_image "$NODE_IMAGE" || build_node
}
node_key() { # what the tools were built of, the files, and the functions as bash prints them, without comments
  local tool
  {
    for tool in $NODE_TOOLS; do cat "$BIN/.$tool.key"; done
    cat "$here/stand-in/"[!r]* # all but runc, which is the engine's
    declare -f debian build_node import_into_node storage_manifest
  } | digest
}
stand_in() { case $NODE_IMAGE in m3-node:*) true ;; *) false ;; esac; }

build_node() {
  local images image pause
  say "making a stand-in for kind's node image"
  # shellcheck disable=SC2086
  context $NODE_TOOLS
  "$here/tools.sh" --version kubernetes >"$M3_CACHE/context/version"
  images=$("$BIN/kubeadm" config images list --kubernetes-version "$("$here/tools.sh" --version kubernetes)")
  pause=$(echo "$images" | grep /pause:)
  stand_in_build kube-proxy "$(echo "$images" | grep /kube-proxy:)"
  storage_manifest "$(echo "$images" | grep /kube-proxy:)" >"$M3_CACHE/context/default-storage.yaml"
  stand_in_build node m3-node:empty --build-arg "PAUSE_IMAGE=$pause"
  images="$images m3-local-path-provisioner:built"
  for image in $images; do
    case $image in
      */kube-proxy:*) ;;
      *) program_image "$image" "$(basename "${image%:*}" | sed s/^m3-//)" ;;
    esac
  done
  # shellcheck disable=SC2086
  import_into_node $images
}

# The images of the control plane go into the node image, as in kind's own, so that a new cluster starts without a load.
import_into_node() {
  local builder=m3-node-build
  docker rm -f $builder >/dev/null 2>&1 || true # of a run that was cut off
  docker run -d --name $builder --privileged --entrypoint containerd m3-node:empty >/dev/null
  wait_until 30 docker exec $builder ctr version >/dev/null 2>&1 || die "containerd did not start in the node image"
  docker save "$@" | docker exec -i $builder ctr -n k8s.io images import - >/dev/null
  docker stop -t 10 $builder >/dev/null
  docker commit -c 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' $builder "$NODE_IMAGE" >/dev/null
  docker rm $builder >/dev/null
  # What went into it, and its predecessors; one that a cluster still runs from stays.
  docker images --format '{{.Repository}}:{{.Tag}}' m3-node | grep -vxF "$NODE_IMAGE" | xargs docker rmi "$@" >/dev/null 2>&1 || true
}

# The volume provisioner that kind's own node image has too, from its module. kubernetes.io/host-path, kind's fallback,
# makes folders that only root can write to, and every pod of ours runs as somebody else.
storage_manifest() { # HELPER_IMAGE
  sed -e 's#image: rancher/local-path-provisioner:.*#image: m3-local-path-provisioner:built#' -e "s#image: busybox#image: $1#" \
    -e 's#^  name: local-path$#&\n  annotations: {storageclass.kubernetes.io/is-default-class: "true"}#' \
    "$("$here/tools.sh" --module-dir local-path-provisioner)/deploy/local-path-storage.yaml"
}
