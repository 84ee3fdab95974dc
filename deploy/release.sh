#!/usr/bin/env bash
# Builds a release: deploy/release.sh [OUTPUT DIRECTORY, default dist]
# The binary, completions, manual pages, systemd units, licence, and checksums of all of it, as a tar archive.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
target=$(rustc -vV | sed -n 's/^host: //p')
name="sealane-$version-$target"
if commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
  [ -z "$(git status --porcelain)" ] || commit="$commit-dirty"
  # The commit's time, not this moment: the same source gives the same text.
  built=$(git show --no-patch --format=%cI HEAD)
fi
SEALANE_BUILD_COMMIT=${commit:-} SEALANE_BUILD_TIME=${built:-} cargo build --profile dist --locked --package sealane-cli
binary="${CARGO_TARGET_DIR:-target}/dist/sealane"
stage="$out/$name"
rm -rf "$stage"
mkdir -p "$stage"/{completions,man,systemd}
install -m 0755 "$binary" "$stage/sealane"
for shell in bash zsh fish; do "$binary" completion "$shell" > "$stage/completions/sealane.$shell"; done
"$binary" man --out "$stage/man"
cp deploy/systemd/* "$stage/systemd/"
cp LICENSE README.md CHANGELOG.md "$stage/"
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner -czf "$out/$name.tar.gz" "$name"
(cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
(cd "$stage" && find . -type f -print0 | sort -z | xargs -0 sha256sum > "../$name.files.sha256")
"$binary" version
echo "$out/$name.tar.gz"
