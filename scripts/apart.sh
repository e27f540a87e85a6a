# apart.sh: scripts/up --apart: every service as a process of its own; sourced by up and down, never run.
# shellcheck shell=bash

# In the order in which they are stopped: those that others report to come last. A service N above the
# gateway's admin port has its own there; its RPC port follows the same number.
APART=(gateway cloud-fallback selector model-registry hardware-probe ab-testing usage-tracker access)
declare -A APART_NUMBER=([gateway]=0 [model-registry]=1 [selector]=2 [ab-testing]=4 [usage-tracker]=5 [access]=6 [hardware-probe]=7 [cloud-fallback]=8)

# apart_pair FROM: the first port at or above FROM that is free together with the one 100 above.
apart_pair() {
	local p=$1
	while port_open "$p" || port_open $((p + 100)); do p=$((p + 1)); done
	printf '%s\n' "$p"
}

# apart_places WIRE: fills at[NAME] (where it listens) and peer[NAME] (where others find it).
declare -A at peer
apart_places() {
	local s base=$((port > 2000 ? port - 1000 : port + 1000)) p scheme=tcp
	[ "$1" != tls ] || scheme=tls+tcp
	for s in "${APART[@]}"; do
		[ "$s" != gateway ] || continue
		if [ "$1" = ipc ]; then
			at[$s]=ipc://$run/$s.ipc
			peer[$s]=${at[$s]}
			continue
		fi
		p=$(apart_pair $((base + 10 + APART_NUMBER[$s])))
		at[$s]=$scheme://127.0.0.1:$p
		peer[$s]=$scheme://localhost:$p
	done
}

# apart_options OPTION...: fills has[NAME] with those that each program knows, one a line, and names[NAME]; stops at one that none knows.
declare -A has names
apart_options() {
	local s flag name known
	for s in "${APART[@]}"; do
		names[$s]=" $("$bindir/$s" --dump=config | sed -n 's/^| `\([a-z0-9_]*\)` |.*/\1/p' | tr '\n' ' ')"
		has[$s]=
	done
	while [ $# -gt 0 ]; do
		[[ $1 == --?* ]] || die "'$1' is not an option"
		flag=$1; shift
		if [[ $flag != *=* && $# -gt 0 && $1 != --* ]]; then flag=$flag=$1; shift; fi
		name=${flag#--} name=${name%%=*} name=${name//-/_} known=
		for s in "${APART[@]}"; do
			if [[ ${names[$s]} == *" $name "* || ${names[$s]} == *" ${name#no_} "* || $name == peer.* ]]; then
				has[$s]+=$flag$'\n' known=1
			fi
		done
		[ -n "$known" ] || die "no service has the option '$flag'"
	done
}

# apart_argv NAME: fills argv with its command.
apart_argv() {
	local s word more=() not=()
	for word in "${!server_url[@]}"; do [[ ${names[$1]} == *" $word "* ]] || not+=(-u "CORRAL_${word^^}"); done
	argv=(env -u OLLAMA_ENDPOINT -u OLLAMA_BASE_URL -u OLLAMA_HOST "${not[@]}" "$bindir/$1" --state-dir "$state" --admin-listen "127.0.0.1:$((admin + APART_NUMBER[$1]))")
	if [ "$1" = gateway ]; then argv+=(--listen "127.0.0.1:$port"); else argv+=(--rpc-listen "${at[$1]}"); fi
	[ "$1" != model-registry ] || argv+=(--backends "$backends")
	for s in "${!peer[@]}"; do [ "$s" = "$1" ] || argv+=("--peer.$s=${peer[$s]}"); done
	[ "$wire" != tls ] || argv+=(--tls-ca "$state/tls/ca.pem" --tls-cert "$state/tls/$1.pem" --tls-key "$state/tls/$1.key")
	[ -z "${has[$1]}" ] || mapfile -t more < <(printf '%s' "${has[$1]}")
	argv+=("${more[@]}")
	printf '%q ' "${argv[@]}" >"$run/$1.cmd"
}

# apart_mend: starts what is not running of those that scripts/up started here.
apart_mend() {
	local s
	for s in "${APART[@]}"; do
		[ -e "$run/$s.pid" ] && [ -e "$run/$s.cmd" ] && ! pid_is "$run/$s.pid" "$s" >/dev/null || continue
		warn "$s has ended, its log is $run/$s.log.1; starting it again"
		eval "argv=($(cat "$run/$s.cmd"))"
		servers_recall
		start "$s" "${argv[@]}"
	done
}

# apart_start OPTION...: all of them at once; they wait for nobody. Returns when the gateway is ready.
apart_start() {
	local s
	apart_options "$@"
	apart_places "$wire"
	[ "$wire" != tls ] || [ -s "$state/tls/gateway.pem" ] || {
		step "making a private authority and certificates in $state/tls"
		"$ROOT/scripts/certs" "$state/tls" "${APART[@]}" || exit 1
	}
	step "starting ${#APART[@]} services over $wire, the gateway on 127.0.0.1:$port"
	for s in "${APART[@]}"; do
		apart_argv "$s"
		start "$s" "${argv[@]}"
	done
	for s in model-registry selector usage-tracker access hardware-probe ab-testing cloud-fallback gateway; do       # who waits for others comes last
		wait_for 30 "$(cat "$run/$s.pid")" http_ok "http://127.0.0.1:$((admin + APART_NUMBER[$s]))/readyz" || {
			warn "$(curl -gs --noproxy '*' --max-time 2 "http://127.0.0.1:$((admin + APART_NUMBER[$s]))/readyz" 2>/dev/null)"
			gave_up "$s"
		}
	done
}

# apart_stands_by: as long as the gateway's pid file is there. A service that ends is started again after a second.
apart_stands_by() {
	while sleep 1 & wait $!; do
		[ -e "$run/gateway.pid" ] || return 0
		apart_mend
		[ ! -e "$run/llama.pid" ] || pid_is "$run/llama.pid" llama-server >/dev/null || gave_up llama "has ended"
	done
}
