#!/bin/sh
# Starts the fleet. The authority first: its trust root, its CA and one enrolment token for each region go to ./state.
set -eu
cd "$(dirname "$0")"
mkdir -p state
chmod 0700 state
# A secret or file that is named and not there is an error of the whole project; they are filled below.
for file in eu.token us.token trust.json ca.pem; do [ -e "state/$file" ] || : > "state/$file"; done
docker compose up --detach --build --wait authority
docker compose cp authority:/data/trust.json state/trust.json
docker compose cp authority:/data/ca.pem state/ca.pem
# The folder is closed to others; the file in it must be readable by the container's user.
umask 022
for region in eu us; do
    [ -s "state/$region.token" ] || docker compose exec -T authority sealane token create --role agent --region "$region" > "state/$region.token"
done
docker compose up --detach --wait
echo "next: docker compose exec authority sealane publish /config/fleet.yaml -m first --watch"
