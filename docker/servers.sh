#!/bin/sh
# servers.sh: what the official images of PostgreSQL and Redis do at their start, as far as docker-compose.servers.yml uses it.
#
#   servers.sh postgres|redis-server [ARGUMENT...]
set -eu

# What POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB say, in a folder that is empty.
postgres_make() {
	printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
	initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=/tmp/password -A scram-sha-256 -E UTF8 --no-locale --no-instructions
	rm /tmp/password
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
}

case $1 in
postgres)
	export PGDATA="${PGDATA:-/var/lib/postgresql/data}"
	[ -s "$PGDATA/PG_VERSION" ] || postgres_make
	shift
	exec postgres -D "$PGDATA" -c listen_addresses='*' "$@" ;;
*)
	exec "$@" ;;
esac
