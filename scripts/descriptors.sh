#!/usr/bin/env bash
# Regenerates proto/envoy.binpb, the Envoy descriptor set, from the .proto files that the pinned envoy-types crate
# ships: the imports' closure of the files below. With --check it only compares, and fails when they differ.
# Needs cargo, python3 and protoc with its includes (Debian: protobuf-compiler, libprotobuf-dev). The stored set is that
# of protoc 3.21, Debian 12's; another protoc brings its own google/protobuf/*.proto, so that --check may differ there.
set -euo pipefail
cd "$(dirname "$0")/.."

# What compile and bootstrap write, and what appears in an `Any` of theirs. A type that is missing here is refused by
# validation as unknown: add its file. And csds.proto, which the API port serves: reflection hands it out.
files=(
  envoy/config/accesslog/v3/accesslog.proto
  envoy/config/bootstrap/v3/bootstrap.proto
  envoy/config/cluster/v3/cluster.proto
  envoy/config/core/v3/base.proto
  envoy/config/endpoint/v3/endpoint.proto
  envoy/config/listener/v3/listener.proto
  envoy/config/route/v3/route.proto
  envoy/config/overload/v3/overload.proto
  envoy/extensions/access_loggers/file/v3/file.proto
  envoy/extensions/access_loggers/stream/v3/stream.proto
  envoy/extensions/bootstrap/internal_listener/v3/internal_listener.proto
  envoy/extensions/clusters/aggregate/v3/cluster.proto
  envoy/extensions/filters/http/buffer/v3/buffer.proto
  envoy/extensions/filters/http/fault/v3/fault.proto
  envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto
  envoy/extensions/filters/http/health_check/v3/health_check.proto
  envoy/extensions/filters/http/on_demand/v3/on_demand.proto
  envoy/extensions/filters/http/router/v3/router.proto
  envoy/extensions/filters/http/upstream_codec/v3/upstream_codec.proto
  envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto
  envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto
  envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto
  envoy/extensions/formatter/req_without_query/v3/req_without_query.proto
  envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto
  envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto
  envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto
  envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto
  envoy/extensions/load_balancing_policies/random/v3/random.proto
  envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto
  envoy/extensions/path/match/uri_template/v3/uri_template_match.proto
  envoy/extensions/path/rewrite/uri_template/v3/uri_template_rewrite.proto
  envoy/extensions/request_id/uuid/v3/uuid.proto
  envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.proto
  envoy/extensions/resource_monitors/fixed_heap/v3/fixed_heap.proto
  envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto
  envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto
  envoy/extensions/transport_sockets/internal_upstream/v3/internal_upstream.proto
  envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto
  envoy/extensions/transport_sockets/tls/v3/tls.proto
  envoy/extensions/upstreams/http/v3/http_protocol_options.proto
  envoy/service/discovery/v3/discovery.proto
  envoy/service/status/v3/csds.proto
  google/protobuf/wrappers.proto
  google/protobuf/empty.proto
  validate/validate.proto
)

crate=$(cargo -q metadata --format-version 1 --locked |
  python3 -c 'import json,sys;print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"]=="envoy-types"))')
root=$(dirname "$crate")/proto
includes=()
for dir in data-plane-api xds protoc-gen-validate googleapis; do
  includes+=("-I$root/$dir")
done

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
