# servers.sh: PostgreSQL, Redis and Kafka that scripts/up was told of; sourced by it, never run.
#
# Their URLs, which may hold passwords, reach the programs by the environment, and lie in $run/servers (for its owner only) for
# a service that is started again later, from a shell that does not have them.
# shellcheck shell=bash

# By the word of the command line, the URL; each is the environment's CORRAL_<WORD> where nothing else was said.
declare -A server_url=([db]=${CORRAL_DB:-} [cache]=${CORRAL_CACHE:-} [bus]=${CORRAL_BUS:-})

# without_secret URL: as it may be shown.
without_secret() { sed -E 's#(://[^:/@]*):[^@]*@#\1:***@#; s#(password=)[^&]*#\1***#' <<<"$1"; }

# answers HOST PORT: within three seconds.
answers() { timeout 3 bash -c ': <"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; }

# cache_answers URL: what names no server is always there.
cache_answers() {
	local at=${1#*://}
	case $1 in
	redis+unix://*) at=${at%%\?*}; [ -S "$at" ] ;;
	redis://*)
		at=${at##*@} at=${at%%[/?]*}
		[[ $at == *:* ]] || at=$at:6379
		answers "${at%:*}" "${at##*:}" ;;
	esac
}

# bus_answers URL: one broker is enough.
bus_answers() {
	local at
	[[ $1 == kafka:* ]] || return 0
	for at in $(tr ',' ' ' <<<"${1#kafka:}"); do
		answers "${at%:*}" "${at##*:}" && return 0
	done
	return 1
}

# servers_check: the words stand for options that the programs have.
servers_check() {
	local word known
	known=$("$bin" serve --dump=config | sed -n 's/^| `\([a-z0-9_]*\)` |.*/\1/p' | tr '\n' ' ')
	for word in "${!server_url[@]}"; do
		[ -z "${server_url[$word]}" ] || [[ " $known" == *" $word "* ]] || die "--$word: this version of Corral has no option '$word'"
	done
}

# servers_export: to what is started from here, now and by servers_recall.
servers_export() {
	local word
	(umask 077; : >"$run/servers") || exit 1
	for word in "${!server_url[@]}"; do
		[ -n "${server_url[$word]}" ] || continue
		export "CORRAL_${word^^}=${server_url[$word]}"
		printf 'export CORRAL_%s=%q\n' "${word^^}" "${server_url[$word]}" >>"$run/servers"
	done
}

servers_recall() {
	# shellcheck disable=SC1091
	[ ! -r "$run/servers" ] || . "$run/servers"
}

# servers_ready: the schema is what the programs need, or this script ends; what they can do without for a while is only named.
servers_ready() {
	local db=${server_url[db]} said
	case $db in
	postgresql://*|postgres://*)
		step "bringing the schemas on $(without_secret "$db") to this version (corral migrate)"
		said=$("$bin" migrate 2>&1) || {
			warn "$said"
			die "corral migrate failed, its message is above. Start the server, or name another: --db postgresql://USER:PASSWORD@HOST:PORT/NAME"
		}
		sed 's/^/    /' <<<"$said" ;;
	esac
	cache_answers "${server_url[cache]:-memory:}" ||
		warn "    nothing answers at $(without_secret "${server_url[cache]}") (--cache): Corral goes on without what is kept there, and looks again"
	bus_answers "${server_url[bus]:-local:}" ||
		warn "    nothing answers at ${server_url[bus]} (--bus): facts wait on this machine until it does"
}
