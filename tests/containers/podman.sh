# podman.sh - podman for the tests of containers: storage and settings of its own, so that it neither sees nor touches the machine's. Sourced.
#
# The settings are what a restricted host needs (no systemd, no CAP_SYS_RESOURCE, cgroups in hybrid mode) and do no harm on others.
# Base images are made from Debian's packages, because a registry is not everywhere; where the name is there already, that one is used.
# shellcheck shell=bash

CONTAINERS=$(corral_cache)/containers || exit 1

podman_env() {
	mkdir -p "$CONTAINERS"/{root,run} || return 1
	cat >"$CONTAINERS/storage.conf" <<-END
		[storage]
		driver = "overlay"
		runroot = "$CONTAINERS/run"
		graphroot = "$CONTAINERS/root"
	END
	cat >"$CONTAINERS/containers.conf" <<-END
		[containers]
		default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		runtime = "runc"
	END
	export CONTAINERS_STORAGE_CONF=$CONTAINERS/storage.conf CONTAINERS_CONF=$CONTAINERS/containers.conf
}

# podman_works: podman_env; where no container runs here, the reason in $why.
podman_works() {
	local program said
	for program in podman runc mmdebstrap netavark; do
		have "$program" || [ -x "/usr/lib/podman/$program" ] || { why="no $program here ('scripts/setup containers' installs what this needs)"; return 1; }
	done
	[ "$(id -u)" -eq 0 ] || { why="only tried as root; base images are made with chroot"; return 1; }
	podman_env && said=$(podman info 2>&1 >/dev/null) || { why="podman does not work here: $(tail -n 1 <<<"${said:-}")"; return 1; }
}

# base_image SUITE: debian:SUITE-slim, from Debian's packages.
base_image() {
	local name=docker.io/library/debian:$1-slim mirror
	podman image exists "$name" && return 0
	mirror=$(debian_mirror 2>"$CONTAINERS/debootstrap.log") || return 1
	say "    making $name from Debian's packages" >&2
	nice mmdebstrap --variant=minbase --mode=root --include=ca-certificates --aptopt='Acquire::Check-Valid-Until "false"' \
		"$1" "$CONTAINERS/$1.tar" "$mirror" >"$CONTAINERS/debootstrap.log" 2>&1 || return 1
	podman import -q "$CONTAINERS/$1.tar" "$name" >/dev/null 2>>"$CONTAINERS/debootstrap.log" && rm -f "$CONTAINERS/$1.tar"
}

# build_image TAG FILE ARG...
build_image() {
	local tag=$1 file=$2; shift 2
	podman build -q --network=host --pull-never -t "$tag" -f "$file" "$@" "$ROOT" >"$CONTAINERS/build.log" 2>&1 || { tail -30 "$CONTAINERS/build.log" >&2; return 1; }
}
