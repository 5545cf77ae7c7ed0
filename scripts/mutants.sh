#!/bin/sh
# Mutation testing of the protocol engine: the session state machines, the snapshot, the shared frames.
#
#   scripts/mutants.sh [cargo-mutants' own flags, such as --file or --shard 0/8]
#
# Each mutant is a build, so the engine is built alone: its modules name nothing of the rest (tidy.rs), and are copied
# into a package of their own, which takes seconds where the whole takes minutes. The copy shares the dependencies that
# are already built.
set -eu
cd "$(dirname "$0")/.."
root=$PWD engine=${ENGINE:-$PWD/target/engine}

rm -rf "$engine/src"
mkdir -p "$engine/src/serve"
# Names that the package does not have are left out of its manifest; features must be the same, or all is built anew.
awk '/^\[/ { keep = !/^\[\[|^\[lib\]|^\[build-dependencies\]/ }
    /^(build|default-run) *=/ { next } /^name *=/ { sub(/"tidegate"/, "\"engine\"") } keep' Cargo.toml >"$engine/Cargo.toml"
printf '\n[workspace]\n' >>"$engine/Cargo.toml"
sed 's/^name = "tidegate"$/name = "engine"/' Cargo.lock >"$engine/Cargo.lock"
for module in model xds identity snapshot feedback; do
    cp "src/$module.rs" "$engine/src/"
    [ ! -d "src/$module" ] || cp -r "src/$module" "$engine/src/"
done
for module in fanout fuzz machine session sotw wire; do
    cp "src/serve/$module.rs" "$engine/src/serve/"
    [ ! -d "src/serve/$module" ] || cp -r "src/serve/$module" "$engine/src/serve/"
done
# With the fuzz targets of it, not that of manifests.
rm -rf "$engine/fuzz"
cp -r proto fuzz "$engine/"
sed '/^#\[test\]$/ { N; /any_text/ { N; N; d } }' src/fuzzing.rs >"$engine/src/fuzzing.rs"
printf '#[cfg(test)]\nmod fuzzing;\npub mod feedback;\npub mod identity;\npub mod model;\npub mod serve;\npub mod snapshot;\npub mod xds;\n' >"$engine/src/lib.rs"
printf 'pub mod fanout;\n#[cfg(any(test, fuzzing))]\npub mod fuzz;\nmod machine;\npub mod session;\npub mod sotw;\nmod wire;\n' >"$engine/src/serve.rs"

if [ "${1:-}" = --assemble ]; then exit; fi
PATH=$PATH:$root/.tools/bin
command -v cargo-mutants >/dev/null || cargo install --quiet --locked --root "$root/.tools" cargo-mutants
cd "$engine"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
exec cargo mutants --in-place --no-shuffle --baseline skip --timeout 60 --output "$root/target" "$@" \
    -- --lib -- serve:: snapshot:: fuzzing
