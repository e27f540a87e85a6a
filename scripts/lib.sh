# lib.sh: what the scripts of this folder share; sourced, never run.
#
# Talking (say, step, warn, die), places (corral_cache, corral_state), Debian packages (pkg_want,
# pkg_install), and small questions about ports, processes and HTTP. Nothing here changes anything
# on the machine except pkg_install and the two folders.
# shellcheck shell=bash

set -u

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Exit codes that callers may rely on.
EX_MISSING=3    # something that only an administrator can install is missing
EX_UNABLE=4     # not possible on this machine (no Go, other architecture); tests skip on it

say()  { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die()  { warn "$(basename "$0"): $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- places ------------------------------------------------------------------------------------

# usable_dir PATH WHAT VARIABLE: make PATH, or stop with a sentence that says which variable moves it.
usable_dir() {
	mkdir -p "$1" 2>/dev/null && [ -w "$1" ] && return 0
	die "cannot write to $1 ($2). Make it writable, or set $3 to a folder that is."
}

home_or_die() {
	[ -n "${HOME:-}" ] || die "HOME is not set; set it, or set $1 to a writable folder."
}

# corral_cache: the folder of what is downloaded or made once (engine, model, Python packages).
corral_cache() {
	local d=${CORRAL_CACHE_DIR:-}
	if [ -z "$d" ]; then
		[ -n "${XDG_CACHE_HOME:-}" ] || home_or_die CORRAL_CACHE_DIR
		d=${XDG_CACHE_HOME:-$HOME/.cache}/corral
	fi
	usable_dir "$d" "the cache" CORRAL_CACHE_DIR || exit 1
	printf '%s\n' "$d"
}

# corral_state: the folder of the ledger, the spool, logs and pid files.
corral_state() {
	local d=${CORRAL_STATE_DIR:-}
	if [ -z "$d" ]; then
		[ -n "${XDG_STATE_HOME:-}" ] || home_or_die CORRAL_STATE_DIR
		d=${XDG_STATE_HOME:-$HOME/.local/state}/corral
	fi
	usable_dir "$d" "the state folder" CORRAL_STATE_DIR || exit 1
	printf '%s\n' "$d"
}

# --- Debian packages ---------------------------------------------------------------------------

# debian_mirror: CORRAL_DEBIAN_MIRROR, or that of this machine's own sources, in either of apt's two notations.
debian_mirror() {
	local mirror=${CORRAL_DEBIAN_MIRROR:-}
	[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
		sed -nE 's#^URIs:[[:space:]]*(https?://[^[:space:]]*/debian)/?([[:space:]].*)?$#\1#p
		         s#^deb[[:space:]].*(https?://[^[:space:]]*/debian)/?[[:space:]].*#\1#p' | head -n 1)
	[ -n "$mirror" ] || { warn "apt's sources name no mirror of Debian; set CORRAL_DEBIAN_MIRROR to one"; return 1; }
	printf '%s\n' "$mirror"
}

# pkg_missing NAME...: those that are not installed, on one line.
pkg_missing() {
	local have_list p missing=()
	have_list=$(dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
		sed -n 's/^\([^: ]*\)[^ ]* installed$/\1/p')
	for p in "$@"; do
		grep -qxF -- "$p" <<<"$have_list" || missing+=("$p")
	done
	printf '%s\n' "${missing[*]}"
}

# as_root COMMAND...: directly, or by sudo.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() { [ "$(id -u)" -eq 0 ] || have sudo; }

# pkg_want WHY NAME...: remember those that are missing, and say so.
wanted=()
pkg_want() {
	local why=$1 missing; shift
	missing=$(pkg_missing "$@")
	[ -n "$missing" ] || return 0
	[ ${#wanted[@]} -gt 0 ] || step "missing Debian packages:"
	say "    for $why: $missing"
	# shellcheck disable=SC2206
	wanted+=($missing)
}

# pkg_install: install what was wanted, in one go; nothing, and no network, when that is nothing.
# Daemons that come with a package are neither started nor enabled.
pkg_install() {
	[ ${#wanted[@]} -gt 0 ] || return 0
	if ! can_be_root; then
		warn "Installing them needs an administrator, and there is no sudo here. Ask one to run:"
		warn "    apt-get install --no-install-recommends ${wanted[*]}"
		exit $EX_MISSING
	fi
	step "installing them with apt-get"
	apt_quietly "${wanted[@]}" && return 0
	warn "apt-get could not install them; its message is above. To try by hand:"
	warn "    apt-get update && apt-get install --no-install-recommends ${wanted[*]}"
	exit $EX_MISSING
}

apt_quietly() {
	local new_units
	policy_off
	if ! apt_try "$@"; then
		say "    refreshing the package lists"
		as_root apt-get -qq update && apt_try "$@" || { policy_on; return 1; }
	fi
	policy_on
	if [ -d /run/systemd/system ]; then
		new_units=$(for p in "$@"; do dpkg -L "$p" 2>/dev/null; done |
			sed -n 's#.*/systemd/system/\([^/@]*\.service\)$#\1#p' | sort -u)
		# shellcheck disable=SC2086
		[ -z "$new_units" ] || as_root systemctl disable --now $new_units >/dev/null 2>&1 || :
	fi
}

apt_try() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 install "$@" 2>&1 |
		grep --line-buffered -v '^(Reading database' | sed -u 's/^/    /'
	[ "${PIPESTATUS[0]}" -eq 0 ]
}

# While packages are installed, /usr/sbin/policy-rc.d forbids starting daemons; a policy that was
# there before comes back afterwards.
POLICY=/usr/sbin/policy-rc.d
policy_off() {
	trap 'policy_on' EXIT
	trap 'exit 130' INT TERM
	if [ -e $POLICY ] && [ ! -e $POLICY.before-corral ]; then as_root mv $POLICY $POLICY.before-corral; fi
	printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
	as_root chmod 755 $POLICY
}

policy_on() {
	trap - EXIT INT TERM
	as_root rm -f $POLICY
	if [ -e $POLICY.before-corral ]; then as_root mv $POLICY.before-corral $POLICY; fi
}

# --- ports, processes, HTTP --------------------------------------------------------------------

# port_open PORT [HOST]: does something listen there?
port_open() {
	(exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null
}

# free_port FROM: the first port at or above FROM on which nothing listens.
free_port() {
	local p=$1
	while port_open "$p"; do
		p=$((p + 1))
		[ $p -lt 65536 ] || die "no free port from $1 up"
	done
	printf '%s\n' "$p"
}

# port_owner PORT: "program (pid N)" when it can be known.
port_owner() {
	have ss || return 0
	ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1
}

# http_get URL [SECONDS]: the body of a 2xx answer.
http_get() {
	curl -gfs --noproxy '*' --max-time "${2:-2}" "$1" 2>/dev/null
}

# wait_for SECONDS PID COMMAND...: until the command succeeds; fails when time is up or PID has gone.
wait_for() {
	local until=$((SECONDS + $1)) pid=$2; shift 2
	until "$@"; do
		kill -0 "$pid" 2>/dev/null || return 1
		[ $SECONDS -lt $until ] || return 1
		sleep 0.05
	done
}

# pid_is PIDFILE PROGRAM: the pid in the file, when that process lives and is that program.
pid_is() {
	local pid
	[ -r "$1" ] && read -r pid <"$1" || return 1
	[ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's# (deleted)$##; s#.*/##')" = "$2" ] || return 1
	printf '%s\n' "$pid"
}
