#!/usr/bin/env bash
# A docker engine, and the images of the container stack, on a machine that can pull no image:
#   docker.sh engine                        makes sure that an engine answers, and prints its DOCKER_HOST
#   docker.sh host                          prints the DOCKER_HOST of the engine that answers, and starts none
#   docker.sh images TAG TIDEGATE BACKEND   builds tidegate:TAG and tidegate-backend:TAG of these two binaries, and
#                                           tidegate-envoy and tidegate-etcd of what scripts/setup.sh has fetched
#   docker.sh stop                          ends the engine, if it was started from here and no container runs
# The base image is Debian's own, made by debootstrap from the mirror that apt on this machine uses, once.
# Idempotent. Needs root, or sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

HOME_DIR=$PWD/.tools/docker
# Sockets have short paths only.
RUN_DIR=/run/tidegate-docker
SOCKET=unix://$RUN_DIR/docker.sock
BASE=tidegate-base:latest
START_LIMIT_S=60

say() { printf 'docker: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        die "needs root for: $*"
    fi
}

packages() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    # The engine's rules, also where docker.io came without its recommendations.
    [ -x /usr/sbin/iptables ] || [ -x /sbin/iptables ] || missing+=(iptables)
    command -v docker-compose >/dev/null || missing+=(docker-compose)
    [ -x /usr/sbin/debootstrap ] || missing+=(debootstrap)
    command -v strip >/dev/null || missing+=(binutils)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "install these by hand, there is no apt-get here: ${missing[*]}"
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        die "apt-get failed"
    fi
    rm -f "$log"
}

answers() { timeout 10 docker version >/dev/null 2>&1; }

# Finds the engine that answers: the one that the environment means, or ours. Sets DOCKER_HOST.
find_engine() {
    answers && return 0
    export DOCKER_HOST=$SOCKET
    answers
}

start_engine() {
    mkdir -p "$HOME_DIR"
    as_root mkdir -p "$RUN_DIR"
    say "starting an engine (log: $HOME_DIR/engine.log)"
    # Without a default bridge and without routing: every network of the stack is its own, and builds need none; so this
    # changes little of the host. Its own session, so that
    # it outlives the terminal.
    as_root setsid dockerd --host "$SOCKET" --group "$(id -gn)" --bridge none --ip-forward=false --log-level warn \
        --data-root "$HOME_DIR/data" --exec-root "$RUN_DIR/exec" --pidfile "$HOME_DIR/engine.pid" \
        </dev/null >"$HOME_DIR/engine.log" 2>&1 &
    local left=$START_LIMIT_S
    until answers; do
        left=$((left - 1))
        if [ "$left" -eq 0 ] || ! kill -0 $! 2>/dev/null; then
            tail -n 20 "$HOME_DIR/engine.log" >&2
            die "the docker engine does not start here: its last words stand above"
        fi
        sleep 1
    done
}

engine() {
    packages
    find_engine || start_engine
}

# Ends our engine. Others may use it for their containers: then it stays.
stop() {
    [ -e "$HOME_DIR/engine.pid" ] || return 0
    export DOCKER_HOST=$SOCKET
    if answers && [ -n "$(docker ps --quiet)" ]; then
        say "the engine stays: containers run on it"
        return 0
    fi
    local pid left=30
    pid=$(cat "$HOME_DIR/engine.pid")
    as_root kill "$pid" 2>/dev/null || true
    while [ -d "/proc/$pid" ]; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || die "the engine (process $pid) does not end"
        sleep 1
    done
}

# The mirror and the suite of this machine's apt, `MIRROR SUITE`.
mirror() {
    local suite
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$suite" '$1 == suite && $2 == "main" && $3 ~ /^https?:/ { print $3, suite; exit }'
}

base_image() {
    local tar=$HOME_DIR/base.tar.gz
    if [ ! -e "$tar" ]; then
        local from suite proxy='' root
        read -r from suite <<<"$(mirror)"
        [ -n "${suite:-}" ] || die "apt on this machine names no http mirror of its own release to take Debian from"
        eval "$(apt-config shell proxy Acquire::http::Proxy)"
        say "making a base image of Debian $suite (once: a minute or two)"
        mkdir -p "$HOME_DIR"
        root=$(as_root mktemp -d "$HOME_DIR/base.XXXXXX")
        if ! as_root env ${proxy:+"http_proxy=$proxy"} /usr/sbin/debootstrap --variant=minbase "$suite" "$root" "$from" \
            >"$HOME_DIR/debootstrap.log" 2>&1; then
            tail -n 20 "$HOME_DIR/debootstrap.log" >&2
            as_root rm -rf "$root"
            die "debootstrap failed"
        fi
        # What only a person at a shell would miss.
        as_root bash -c 'cd "$1" && rm -rf usr/share/{doc,info,locale,man}/* var/lib/apt/lists/* var/log/* \
            var/cache/{apt,debconf}/* etc/apt/sources.list && tar --one-file-system -cz .' - "$root" >"$tar.part"
        as_root rm -rf "$root"
        mv "$tar.part" "$tar"
    fi
    docker image inspect "$BASE" >/dev/null 2>&1 || docker import "$tar" "$BASE" >/dev/null
}

# image TAG DOCKERFILE FILE...: builds from a context of these files alone.
image() {
    local tag=$1 dockerfile=$2 context
    shift 2
    context=$(mktemp -d)
    for file in "$@"; do
        strip -o "$context/$(basename "$file")" "$(readlink -f "$file")"
    done
    # The classic builder: the other one is a package of its own.
    if ! DOCKER_BUILDKIT=0 docker build --network none --build-arg "BASE=$BASE" --tag "$tag" \
        --file "docker/$dockerfile" "$context" >"$context.log" 2>&1; then
        cat "$context.log" >&2
        die "no image $tag"
    fi
    rm -rf "$context" "$context.log"
}

images() {
    local tag=$1 tidegate=$2 backend=$3
    base_image
    say "building images"
    image "tidegate:$tag" tidegate.Dockerfile "$tidegate"
    image "tidegate-backend:$tag" backend.Dockerfile "$backend"
    image tidegate-envoy:latest envoy.Dockerfile .tools/bin/envoy
    image tidegate-etcd:latest etcd.Dockerfile "$(command -v etcd)" "$(command -v etcdctl)"
}

case "${1:-}" in
    engine) engine && echo "${DOCKER_HOST:-}" ;;
    host) find_engine || true; echo "${DOCKER_HOST:-}" ;;
    images) shift && engine && images "$@" ;;
    stop) stop ;;
    *) die "usage: docker.sh engine | host | images TAG TIDEGATE BACKEND | stop" ;;
esac
