#!/usr/bin/env bash
# Regenerates proto/envoy.binpb, the Envoy descriptor set, from the .proto files that the pinned envoy-types crate
# ships: all that can stand in a resource, and their imports. With --check it only compares, and fails when they differ.
# Needs cargo, python3 and protoc with its includes (Debian: protobuf-compiler, libprotobuf-dev). The stored set is that
# of protoc 3.21, Debian 12's; another protoc brings its own google/protobuf/*.proto, so that --check may differ there.
set -euo pipefail
cd "$(dirname "$0")/.."

crate=$(cargo -q metadata --format-version 1 --locked |
  python3 -c 'import json,sys;print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"]=="envoy-types"))')
root=$(dirname "$crate")/proto
includes=()
for dir in data-plane-api xds protoc-gen-validate googleapis opentelemetry-proto cel-spec/proto client_model; do
  includes+=("-I$root/$dir")
done
# A raw resource may carry any extension in an `Any`; one that is missing here is refused as unknown. And csds.proto,
# which the API port serves: reflection hands it out.
mapfile -t files < <(
  cd "$root/data-plane-api" &&
    find envoy/{config,data,extensions,type} envoy/service/{discovery,runtime,status} -path '*/v3/*' -name '*.proto' |
    LC_ALL=C sort
)
files+=(google/protobuf/wrappers.proto google/protobuf/empty.proto validate/validate.proto)

out=proto/envoy.binpb
new=$(mktemp)
trap 'rm -f "$new"' EXIT
protoc "${includes[@]}" --include_imports --descriptor_set_out="$new" "${files[@]}"

if [ "${1:-}" = --check ]; then
  cmp "$new" "$out" || { echo "$out is stale: run scripts/descriptors.sh" >&2; exit 1; }
else
  install -m 644 "$new" "$out"
  echo "$out: $(wc -c <"$out") bytes"
fi
