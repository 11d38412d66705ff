# shellcheck shell=bash
# Gives a script a registry, a node and mounts in a directory of its own, and takes all of it away when the script
# ends, however it ends. Sourced; needs root. Reads SLUICE_BIN (default: the release build's bin directory).

set -euo pipefail
((EUID == 0)) || { echo "this mounts file systems: run it as root" >&2; exit 2; }

repository_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034  # for those who source this file
e2e_dir=$repository_root/tests/e2e
SLUICE_BIN=${SLUICE_BIN:-$repository_root/build/bin}
readonly wait_seconds_max=${WAIT_SECONDS_MAX:-60}

# Not /tmp, which may be a tmpfs: a store needs a file system that the kernel lets us watch.
work=$(mktemp -d -p "${SLUICE_TMP:-/var/tmp}" sluice-XXXXXXXX)
data_dir=$work/data
run_dir=$work/run
config=$work/sluiced.yaml
node_log=$work/sluiced.log
node_pid=
registry=
registry_pid=
listen=
mkdir -p "$run_dir" "$work/mnt"

# What went wrong, for whoever reports it at the end.
failure=

note() { echo "-- $*" >&2; }

fail() {
  failure=$*
  echo "FAILED: $failure" >&2
  [[ -s $node_log ]] && { echo "the node's last lines:" >&2; tail -n 20 "$node_log" >&2; }
  exit 1
}

# wait_until CONDITION...: polls until the command succeeds; returns 1 when wait_seconds_max have passed.
wait_until() {
  local end=$((SECONDS + wait_seconds_max))
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# A killed process whose first thread is a zombie is still there while other threads of it end, with its locks.
alive() {
  local line fields
  [[ -n $1 ]] && { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${line##*) }"  # from the third on: the state; the number of threads is the twentieth
  [[ ${fields[0]} != X && ! (${fields[0]} == Z && ${fields[17]} == 1) ]]
}
gone() { ! alive "$1"; }

# end_process PID [SIGNAL]: asks first, insists after wait_seconds_max.
end_process() {
  [[ -n $1 ]] || return 0
  kill "-${2:-TERM}" "$1" 2>/dev/null || return 0
  kill -CONT "$1" 2>/dev/null || true  # what is stopped does not hear
  wait_until gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

# Below those that the kernel gives to whoever wants any: a server that is down for a while finds its port free.
free_port() {
  python3 - <<'END'
import random, socket
while True:
    port = random.randrange(10000, 32768)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    print(port)
    break
END
}

# --- the registry

registry_listens() {
  registry=$(sed -n 's/.*listening on \([0-9.]*:[0-9]*\).*/\1/p' "$work/registry.log" | tail -n 1)
  [[ -n $registry ]]
}

# start_registry [ADDRESS]: a docker-registry, on loopback unless told otherwise; sets registry to its host:port.
# What stands in registry_runner runs it; its log says each request if registry_access_log is "true", and what stands in
# registry_more is the rest of its configuration.
registry_runner=()
registry_access_log=false
registry_more=()
start_registry() {
  cat >"$work/registry.yml" <<END
version: 0.1
log: {level: info, accesslog: {disabled: $([[ $registry_access_log == true ]] && echo false || echo true)}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "${1:-127.0.0.1:$(free_port)}"}
END
  ((${#registry_more[@]} == 0)) || printf '%s\n' "${registry_more[@]}" >>"$work/registry.yml"
  : >"$work/registry.log"
  OTEL_TRACES_EXPORTER=none setsid "${registry_runner[@]}" docker-registry serve "$work/registry.yml" >>"$work/registry.log" 2>&1 &
  registry_pid=$!
  disown
  wait_until registry_listens || fail "docker-registry does not listen: $(tail -n 3 "$work/registry.log")"
}

stop_registry() {
  end_process "$registry_pid" KILL
  registry_pid=
}

# manifest NAME: the manifest of $registry/NAME:1.
manifest() {
  curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/$1/manifests/1"
}
# What its blobs are plain, and what the registry has of the first.
data_blob_of() { manifest "$1" | jq -r '.layers[0] | .annotations["org.erofs.uncompressed-digest"] // .digest'; }
bootstrap_of() { manifest "$1" | jq -r '.layers[-1] | .annotations["org.erofs.uncompressed-digest"] // .digest'; }
data_size_of() { manifest "$1" | jq -r '.layers[0].annotations["io.sluice.blob.size"]'; }
stored_blob_of() { manifest "$1" | jq -r '.layers[0].digest'; }

# image_by_digest NAME: the reference that names what $registry/NAME:1 is now.
image_by_digest() { echo "$registry/$1@sha256:$(manifest "$1" | sha256sum | cut -d' ' -f1)"; }

# upload NAME FILE: pushes a blob; prints its digest.
upload() {
  local digest location
  digest=sha256:$(sha256sum "$2" | cut -d' ' -f1)
  location=$(curl -fsS -o "$work/upload" -D - -X POST "http://$registry/v2/$1/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  curl -fsS -o "$work/upload" -H 'Content-Type: application/octet-stream' -T "$2" "$location&digest=$digest"
  echo "$digest"
}

# put_manifest NAME TAG: pushes what it reads from standard input.
put_manifest() {
  curl -fsS -o "$work/upload" -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @- \
    "http://$registry/v2/$1/manifests/$2"
}

# download NAME DIGEST FILE
download() { curl -fsS -o "$3" "http://$registry/v2/$1/blobs/$2"; }
# download_plain NAME INDEX FILE: a layer of $registry/NAME:1 (-1: the last), decompressed.
download_plain() {
  local layer
  layer=$(manifest "$1" | jq -c ".layers[$2]")
  download "$1" "$(jq -r .digest <<<"$layer")" "$3"
  [[ $(jq -r .mediaType <<<"$layer") == *+zstd ]] || return 0
  zstd -q -d <"$3" >"$3.plain"
  mv "$3.plain" "$3"
}

# --- the node

# What the tool's exit codes mean; `sluice --help` lists them.
# shellcheck disable=SC2034
readonly exit_failed=1 exit_usage=2 exit_not_found=3 exit_unreachable=4 exit_refused=5

sluice() { "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" "$@"; }

# write_config [YAML LINE...]: the node's configuration; more top-level keys may be given. With START_PROFILES=off the
# node learns nothing of what starts read.
write_config() {
  listen=${listen:-127.0.0.1:$(free_port)}
  cat >"$config" <<END
dataDir: $data_dir
runtimeDir: $run_dir
log:
  level: ${LOG_LEVEL:-info}
operations:
  listen: "$listen"
images:
  allow: ["${registry:-127.0.0.1:5000}/*"]
ondemand:
  backend: ${BACKEND:-fanotify}
  readDeadline: ${READ_DEADLINE:-30s}
  fill: ${FILL:-false}
  keepCopy: ${KEEP_COPY:-true}
END
  [[ ${START_PROFILES:-on} == on ]] || printf 'profiles:\n  replay: false\n  recordFor: 0s\n' >>"$config"
  [[ ${registry:-127.} == 127.* ]] || printf 'origin:\n  plainHttp: ["%s"]\n' "$registry" >>"$config"
  (($# == 0)) || printf '%s\n' "$@" >>"$config"
}

# What stands in node_runner runs the node, and asks it for its metrics and its health.
node_runner=()

launch_node() {
  setsid "${node_runner[@]}" "$SLUICE_BIN/sluiced" --config "$config" >>"$node_log" 2>&1 &
  node_pid=$!
  disown
}

node_settled() { gone "$node_pid" || "${node_runner[@]}" curl -fs -o "$work/readyz" "http://$listen/readyz"; }
node_is_ready() { wait_until node_settled && alive "$node_pid"; }

# start_node [YAML LINE...]: writes the configuration, starts the node and waits until it is ready.
start_node() {
  write_config "$@"
  restart_node
}

# restart_node: starts the node again with the configuration it had.
restart_node() {
  launch_node
  node_is_ready || fail "the node does not become ready"
}

stop_node() {
  end_process "$node_pid" "${1:-TERM}"
  node_pid=
}

# The keeper outlives the node, so it is found by its arguments.
keeper_pid() { pgrep -f "^[^ ]*sluice-keeper.*$work" | head -n 1; }

# metric NAME [LABEL TEXT]: the sum of a metric's values, over the series that hold the text.
metric() {
  "${node_runner[@]}" curl -fsS "http://$listen/metrics" |
    awk -v name="$1" -v text="${2-}" '
      $0 ~ "^" name "[{ ]" && index($0, text) { sum += $NF } END { printf "%.0f\n", sum }'
}

# --- images and mounts

# push_tree DIR NAME: pushes the directory as $registry/NAME:1, with what stands in push_flags.
push_flags=()
push_tree() { sluice image push "${push_flags[@]}" "$1" "$registry/$2:1" >&2; }

# mount_image NAME DIR [sluice mount's options]
mount_image() {
  mkdir -p "$2"
  sluice mount "$registry/$1:1" "$2" "${@:3}" >&2
}

drop_page_cache() { sync && echo 3 >/proc/sys/vm/drop_caches; }

# make_cold NAME DIR: the image mounted at DIR with no byte of its data in the store or in memory.
make_cold() {
  if mountpoint -q "$2"; then sluice umount "$2" >&2; fi
  sluice blob evict "$(data_blob_of "$1")" >&2
  mount_image "$1" "$2"
  drop_page_cache
}

# reads_right TREE MOUNT [ARGUMENT...]: whether compare_reads.py could read every byte. Wrong ones are never waited out.
reads_right() {
  local status=0
  python3 "$e2e_dir/compare_reads.py" "$@" >"$work/compare.log" 2>&1 || status=$?
  ((status == 0 || status == 3)) || fail "wrong bytes: $(tail -n 5 "$work/compare.log")"
  return "$status"
}

# checksum_of DIR: of all that tar sees: names, contents, modes, owners and times.
checksum_of() { tar --sort=name --numeric-owner --format=gnu -C "$1" -cf - . | sha256sum | cut -d' ' -f1; }

# expect_failure CODE PATTERN COMMAND...: it must end in time, exit with CODE and say what the extended regex tells.
expect_failure() {
  local code=$1 pattern=$2 status=0
  shift 2
  "$@" >"$work/output" 2>&1 &
  wait_until gone $! || fail "'$*' does not end"
  wait $! || status=$?
  [[ $status == "$code" ]] || fail "'$*' exited with $status, not $code: $(<"$work/output")"
  grep -Eiq -- "$pattern" "$work/output" || fail "'$*' should say '$pattern': $(<"$work/output")"
}

# What sanitizers say goes to the processes' logs; without them, nothing says these words.
sanitizer_reports() {
  grep -rhE -A 20 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: ' \
    --include='*.log' "$work" 2>/dev/null
}

# --- the end

mounts_below() { awk -v dir="$1/" 'index($5 "/", dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }

cleanup() {
  local status=${1:-$?} pid point
  trap - EXIT INT TERM
  set +e
  for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null; done
  if declare -F nodes_down >/dev/null; then nodes_down; fi
  # With the keeper alive a plain umount succeeds as soon as the readers are gone.
  mounts_below "$work" | while read -r point; do umount "$point" 2>/dev/null || umount -l "$point"; done
  end_process "$node_pid" TERM
  end_process "$(keeper_pid)" TERM
  end_process "$registry_pid" TERM
  if declare -F link_down >/dev/null; then link_down; fi
  if declare -F net_down >/dev/null; then net_down; fi
  if sanitizer_reports >&2; then
    echo "FAILED: a process ended with a sanitizer's report" >&2
    status=1
  fi
  mounts_below "$work" | while read -r point; do umount -l "$point"; done
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
