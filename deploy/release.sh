#!/usr/bin/env bash
# Builds a release: deploy/release.sh [OUTPUT DIRECTORY, default dist]
# The binary, completions, manual pages, systemd units, licence, and checksums of all of it, as a tar archive. The same commit
# on the same toolchain gives the same bytes. For another architecture: TARGET=aarch64-unknown-linux-gnu deploy/release.sh
# (with that target and a linker for it installed). BINARY=PATH packs a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
host=$(rustc -vV | sed -n 's/^host: //p')
target=${TARGET:-$host}
name="sealane-$version-$target"
epoch=0
if commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
  [ -z "$(git status --porcelain --untracked-files=no)" ] || commit="$commit-dirty"
  # The commit's time, not this moment.
  epoch=$(git show --no-patch --format=%ct HEAD)
fi
if [ -z "${BINARY:-}" ]; then
  # Paths of this machine are no part of the program.
  home=${CARGO_HOME:-$HOME/.cargo}
  export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=. --remap-path-prefix=$home=cargo"
  SEALANE_BUILD_COMMIT=${commit:-} SEALANE_BUILD_TIME=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ) \
    cargo build --profile dist --locked --package sealane-cli --target "$target"
  BINARY="${CARGO_TARGET_DIR:-target}/$target/dist/sealane"
fi
# Completions and pages are the same for every architecture: they come from a program that runs here.
runs=$BINARY
"$runs" version > /dev/null 2>&1 || runs=${SEALANE:?a program for $target does not run here: SEALANE=PATH names one that does}
stage="$out/$name"
rm -rf "$stage"
mkdir -p "$stage"/{completions,man,systemd,monitoring}
install -m 0755 "$BINARY" "$stage/sealane"
for shell in bash zsh fish; do "$runs" completion "$shell" > "$stage/completions/sealane.$shell"; done
"$runs" man --out "$stage/man"
cp deploy/systemd/* "$stage/systemd/"
cp -R deploy/monitoring/. "$stage/monitoring/"
cp LICENSE README.md CHANGELOG.md "$stage/"
(cd "$stage" && find . -type f ! -name SHA256SUMS -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > SHA256SUMS)
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w --mtime="@$epoch" -cf - "$name" | gzip -n -9 > "$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
"$runs" version
echo "$out/$name.tar.gz"
