#!/usr/bin/env bash
# The container stack of docker/compose.yaml:
#   stack.sh up TIDEGATE BACKEND   images of these two binaries, certificates, containers, manifests, one request
#   stack.sh down                  stops and removes all of it, and the engine, if it was started for this
#   stack.sh compose ARGUMENT...   docker-compose on it
#   stack.sh docker ARGUMENT...    docker on its engine
# What differs from stack to stack, so that several fit on a machine, is in the environment:
#   STACK_NAME (tidegate), STACK_DIR (.tools/stack), and what docker/compose.yaml takes: TIDEGATE_NET (10.213),
#   TIDEGATE_EDGE1_PORT, TIDEGATE_EDGE2_PORT, TIDEGATE_API_PORT, TIDEGATE_HTTP_PORT.
set -euo pipefail
cd "$(dirname "$0")/.."

export STACK_NAME=${STACK_NAME:-tidegate} STACK_DIR=${STACK_DIR:-$PWD/.tools/stack}
export TIDEGATE_NET=${TIDEGATE_NET:-10.213}
export TIDEGATE_EDGE1_PORT=${TIDEGATE_EDGE1_PORT:-8081} TIDEGATE_EDGE2_PORT=${TIDEGATE_EDGE2_PORT:-8082}
export TIDEGATE_API_PORT=${TIDEGATE_API_PORT:-18011} TIDEGATE_HTTP_PORT=${TIDEGATE_HTTP_PORT:-18012}
export TIDEGATE_CERTS=$STACK_DIR/certs TIDEGATE_TAG=$STACK_NAME
SITES=(edge:edge1 edge:edge2 core:core1 core:core2)
HEALTHY_TRIES=120

say() { printf 'stack: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

compose() { docker-compose --project-name "$STACK_NAME" --file docker/compose.yaml "$@"; }

# Certificates, and beside each site's its Envoy's bootstrap.
identities() {
    local tidegate=$1 site flags=()
    # A stack that was here before left them to the containers' user.
    [ ! -e "$TIDEGATE_CERTS" ] || as_root chown -R "$(id -u)" "$TIDEGATE_CERTS"
    for site in "${SITES[@]}"; do flags+=(--site "${site#*:}:${site%:*}"); done
    "$tidegate" dev-certs "$TIDEGATE_CERTS" "${flags[@]}" \
        --operator ann --control-plane cp1 --control-plane cp2 --etcd etcd >/dev/null
    for site in "${SITES[@]}"; do
        local role=${site%:*} name=${site#*:}
        "$tidegate" proxy bootstrap --site "$name" --id "$name-a" --role "$role" --server cp1:18000,cp2:18000 \
            --identity --drain-time 10s --max-heap 384 \
            >"$TIDEGATE_CERTS/$role/$name/envoy.yaml"
    done
    # Keys are readable for their owner alone, which in the containers is the images' user.
    as_root chown -R 10001:10001 "$TIDEGATE_CERTS"/{edge,core,control-plane,etcd}
}

# Starts these services, or all, and waits until they are healthy.
start() {
    local left=$HEALTHY_TRIES containers sick
    compose up --detach --remove-orphans "$@" >"$STACK_DIR/compose.log" 2>&1 || { cat "$STACK_DIR/compose.log" >&2; exit 1; }
    containers=$(compose ps --quiet)
    while :; do
        # shellcheck disable=SC2086 # one word for each container
        sick=$(docker inspect --format '{{.Name}} {{.State.Health.Status}}' $containers | grep -v ' healthy$' || true)
        [ -n "$sick" ] || return 0
        left=$((left - 1))
        [ "$left" -gt 0 ] || { compose logs --tail 10 >&2; die "not healthy: $sick"; }
        sleep 0.5
    done
}

# One request through each edge, tried until the edges' first checks of the cores are done.
request() {
    local port left
    for port in "$TIDEGATE_EDGE1_PORT" "$TIDEGATE_EDGE2_PORT"; do
        left=30
        until curl -fsS --max-time 5 -H 'Host: hello.example' "http://127.0.0.1:$port/" 2>"$STACK_DIR/curl.log"; do
            left=$((left - 1))
            [ "$left" -gt 0 ] || { cat "$STACK_DIR/curl.log" >&2; die "no answer through the edge at port $port"; }
            sleep 1
        done
    done
}

operator() {
    local tidegate=$1 at=$TIDEGATE_CERTS/operator/ann
    shift
    "$tidegate" --server "https://127.0.0.1:$TIDEGATE_API_PORT" --ca "$at/ca.crt" --cert "$at/tls.crt" \
        --key "$at/tls.key" "$@"
}

up() {
    local tidegate=$1 backend=$2 at=$TIDEGATE_CERTS/operator/ann
    scripts/docker.sh images "$STACK_NAME" "$tidegate" "$backend"
    mkdir -p "$STACK_DIR"
    identities "$tidegate"
    say "starting the containers"
    # The control planes first: an Envoy whose Site is not known yet is answered nothing, and waits for half a minute.
    start etcd cp1 cp2
    sed "s/\b10\.213\./$TIDEGATE_NET./" docker/fleet.yaml | operator "$tidegate" apply -f - >&2
    start
    say "one request through each edge:"
    request
    cat <<END

Try:
  curl -H 'Host: hello.example' http://127.0.0.1:$TIDEGATE_EDGE1_PORT/
  export TIDEGATE_SERVER=https://127.0.0.1:$TIDEGATE_API_PORT TIDEGATE_CA=$at/ca.crt \\
    TIDEGATE_CERT=$at/tls.crt TIDEGATE_KEY=$at/tls.key
  $tidegate proxy status
  scripts/stack.sh docker kill ${STACK_NAME}_cp2_1 ${STACK_NAME}_etcd_1     # and curl again
  scripts/stack.sh docker start ${STACK_NAME}_cp2_1 ${STACK_NAME}_etcd_1
  curl 'http://127.0.0.1:$TIDEGATE_HTTP_PORT/readyz?verbose'
END
}

down() {
    if docker version >/dev/null 2>&1; then
        compose --log-level ERROR down --volumes --remove-orphans --timeout 10
        docker image rm "tidegate:$TIDEGATE_TAG" "tidegate-backend:$TIDEGATE_TAG" >/dev/null 2>&1 || true
    fi
    [ ! -e "$STACK_DIR" ] || as_root rm -rf "$STACK_DIR"
    scripts/docker.sh stop
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    # Only this one makes an engine where there is none.
    up) DOCKER_HOST=$(scripts/docker.sh engine) ;;
    *) DOCKER_HOST=$(scripts/docker.sh host) ;;
esac
if [ -n "$DOCKER_HOST" ]; then export DOCKER_HOST; else unset DOCKER_HOST; fi
case "$command" in
    up) up "$@" ;;
    down) down ;;
    compose) compose "$@" ;;
    docker) docker "$@" ;;
    *) die "usage: stack.sh up TIDEGATE BACKEND | down | compose ARGUMENT... | docker ARGUMENT..." ;;
esac
