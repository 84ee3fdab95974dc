#!/bin/sh
# Starts the fleet. The authority first: its trust root, its CA and one enrolment token for each region go to ./state.
set -eu
cd "$(dirname "$0")"
mkdir -p state
chmod 0700 state
# A secret or file that is named and not there is an error of the whole project; they are filled below.
for file in eu.token us.token de.token de-proxy.token trust.json ca.pem; do [ -e "state/$file" ] || : > "state/$file"; done
docker compose up --detach --build --wait authority
docker compose cp authority:/data/trust.json state/trust.json
docker compose cp authority:/data/ca.pem state/ca.pem
# The folder is closed to others; the file in it must be readable by the container's user.
umask 022
token() { [ -s "state/$1" ] || docker compose exec -T authority sealane token create --role "$2" --region "$3" > "state/$1"; }
for region in eu us de; do token "$region.token" agent "$region"; done
token de-proxy.token proxy de
docker compose up --detach --wait
# A rollout takes those that are there.
looks=0
until [ "$(docker compose exec -T authority sealane fleet nodes -o name | grep -c '^proxy-')" -ge 4 ]; do
    looks=$((looks + 1))
    [ "$looks" -lt 60 ] || { echo "proxies do not attach: docker compose logs agent-eu proxy-eu-1" >&2; exit 1; }
    sleep 1
done
echo "next: docker compose exec authority sealane publish /config/fleet.yaml -m first --watch"
