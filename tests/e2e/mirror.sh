#!/usr/bin/env bash
# Debian's containerd pulls ordinary images through a node: no byte of a blob twice from the registry, none while that is
# stopped, straight from it while the node is; and what else a runtime may ask is answered as a registry would.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$(dirname "$0")/lib_images.sh"
source "$(dirname "$0")/lib_containerd.sh"

export BACKEND=off
mirror=127.0.0.1:$(free_port)
registry_access_log=true

ask_mirror_for() {
  sluice configure containerd --mirror "http://$mirror" --config-path "$work/hosts" --registry "$1" >&2
}
# asked_by AGENT KIND: how often the registry was asked for manifests or blobs by whom.
asked_by() { grep -c "\"GET /v2/[^ ]*/$2/.*\"$1" "$work/registry.log" || true; }
origin_blob_bytes() { metric sluice_origin_blob_bytes_total; }
# answer PATH [CURL OPTION...]: the status; the body is in $work/body, the headers in $work/headers.
answer() { curl -sS -o "$work/body" -D "$work/headers" -w '%{http_code}' "${@:2}" "http://$mirror$1"; }
header() { tr -d '\r' <"$work/headers" | sed -n "s/^$1: //Ip"; }
# expect STATUS PATH [CURL OPTION...]
expect() {
  local status
  status=$(answer "${@:2}")
  [[ $status == "$1" ]] || fail "$2 is answered with $status, not $1: $(cat "$work/body")"
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 20000000 --files 60
tar --numeric-owner -C "$work/tree" -czf "$work/tree.gz" .
start_registry
push_ordinary app "$work/tree.gz"
start_node 'mirror:' "  listen: \"$mirror\""
start_containerd
ask_mirror_for "$registry"

note "containerd gets an ordinary image through the node, and nothing from the registry itself"
pull "$registry/app:1"
mkdir "$work/mnt/first"
ctr images mount --snapshotter native "$registry/app:1" "$work/mnt/first" >&2
diff -r --no-dereference "$work/tree" "$work/mnt/first" >&2 || fail "containerd has another tree"
umount "$work/mnt/first"
(($(asked_by containerd blobs) == 0 && $(asked_by containerd manifests) == 0)) || fail "containerd asked the registry"
(($(metric sluice_mirror_sent_bytes_total) > 0)) || fail "the mirror sent nothing"

note "a second pull costs the registry no byte of a blob, nor does one by digest while it is stopped"
before=$(origin_blob_bytes)
forget_images
pull "$registry/app:1"
[[ $(origin_blob_bytes) == "$before" ]] || fail "blobs were fetched again"
by_digest=$(image_by_digest app)
first_layer=$(manifest app | jq -r '.layers[0].digest')
stop_registry
forget_images
pull "$by_digest"

note "what was public is given by a node that starts while the registry is away, for as long as that counts"
end_process "$node_pid"
start_node 'mirror:' "  listen: \"$mirror\""
expect 200 "/v2/app/blobs/$first_layer?ns=$registry"
expect 200 "/v2/app/manifests/${by_digest#*@}?ns=$registry" -I
end_process "$node_pid"
start_node 'mirror:' "  listen: \"$mirror\"" '  publicTtl: 1s'
for what in "blobs/$first_layer" "manifests/${by_digest#*@}"; do
  expect 503 "/v2/app/$what?ns=$registry"
  grep -q 'the registry does not answer' "$work/body" || fail "it says: $(<"$work/body")"
done

note "a tag is nothing while the registry is away, unless it may be old"
expect 404 "/v2/app/manifests/1?ns=$registry"
end_process "$node_pid"
start_node 'mirror:' "  listen: \"$mirror\"" '  staleTags: true'
expect 200 "/v2/app/manifests/1?ns=$registry" -I
start_registry "$registry"

note "requests as runtimes, and others, make them"
layer=$(manifest app | jq -r '.layers[0].digest')
size=$(manifest app | jq -r '.layers[0].size')
expect 200 "/v2/"
expect 200 "/v2/app/manifests/1?ns=$registry" -I
[[ $(header Docker-Content-Digest) == "sha256:$(manifest app | sha256sum | cut -d' ' -f1)" ]] || fail "another digest"
expect 200 "/v2/app/blobs/$layer?ns=$registry" -I
[[ $(header Content-Length) == "$size" ]] || fail "another size"
expect 206 "/v2/app/blobs/$layer?ns=$registry" -r 1000-2999
cmp <(tail -c +1001 "$work/tree.gz" | head -c 2000) "$work/body" || fail "another range"
expect 206 "/v2/app/blobs/$layer?ns=$registry" -r "$((size - 5))-"
expect 416 "/v2/app/blobs/$layer?ns=$registry" -r "$size-"
expect 200 "/v2/app/referrers/$layer?ns=$registry"
expect 404 "/v2/app/manifests/none?ns=$registry"
expect 404 "/v2/none/manifests/1?ns=$registry"
expect 404 "/v2/app/manifests/1"
expect 404 "/v2/app/manifests/1?ns=elsewhere.test"
expect 404 "/v2/app/blobs/sha256:$(printf '0%.0s' {1..64})?ns=$registry"
expect 400 "/v2/app/blobs/sha256:..%2f..?ns=$registry"
expect 400 "/v2/../app/manifests/1?ns=$registry" --path-as-is
expect 405 "/v2/app/manifests/1?ns=$registry" -X DELETE

note "who holds connections and asks nothing on them keeps no probe and no runtime out"
python3 - "${mirror##*:}" "${listen##*:}" "$work/held" <<'END' &
import pathlib, socket, sys, time
held = [socket.create_connection(("127.0.0.1", int(port))) for port in sys.argv[1:3] for _ in range(256)]
pathlib.Path(sys.argv[3]).touch()
time.sleep(60)
END
holder=$!
wait_until test -e "$work/held" || fail "nobody holds connections"
sleep 0.3
for _ in {1..10}; do
  curl -fsS -o "$work/body" "http://$listen/livez" || fail "the probe is refused: $(<"$work/body")"
  expect 200 "/v2/app/manifests/1?ns=$registry" -I
done
kill "$holder"

note "what is written for containerd is taken away again, and what is somebody else's stays"
mkdir -p "$work/others/_default" "$work/others/registry.example"
printf 'server = "https://registry.example"\n\n[host."https://other.example"]\n  skip_verify = true\n' >"$work/others/registry.example/hosts.toml"
cp "$work/others/registry.example/hosts.toml" "$work/hosts.before"
sluice configure containerd --config-path "$work/others" >&2
sluice configure containerd --config-path "$work/others" >"$work/output"
grep -q 'nothing is to be changed' "$work/output" || fail "written twice: $(<"$work/output")"
[[ $(grep -n '^\[host' "$work/others/registry.example/hosts.toml" | head -n 1) == *127.0.0.1:7303* ]] || fail "not the first host"
sluice configure containerd --config-path "$work/others" --remove >&2
cmp "$work/hosts.before" "$work/others/registry.example/hosts.toml" || fail "the file is not what it was"
[[ ! -e $work/others/_default/hosts.toml ]] || fail "a file of ours is left"
[[ $(find "$work/others" -type f | wc -l) == 1 ]] || fail "something is left: $(find "$work/others")"
# The folder itself goes where it was not there before, and nothing else is in it.
sluice configure containerd --config-path "$work/certs.d" --dry-run >&2
[[ ! -e $work/certs.d ]] || fail "a dry run makes a folder"
for others in no yes; do
  sluice configure containerd --config-path "$work/certs.d" >&2
  [[ $others == no ]] || mkdir "$work/certs.d/other.example"
  sluice configure containerd --config-path "$work/certs.d" --remove >&2
  [[ $others == yes || ! -e $work/certs.d ]] || fail "an empty folder is left"
done
[[ $(find "$work/certs.d" -mindepth 1) == "$work/certs.d/other.example" ]] || fail "left: $(find "$work/certs.d")"
rm -r "$work/certs.d"
sluice configure containerd --config-path "$work/certs.d" --registry one.example --registry two.example >&2
for registry_name in one.example two.example; do
  [[ -d $work/certs.d ]] || fail "the folder goes before $registry_name"
  sluice configure containerd --config-path "$work/certs.d" --registry "$registry_name" --remove >&2
done
[[ ! -e $work/certs.d ]] || fail "an empty folder is left when one registry after the other goes"
mkdir "$work/empty"
sluice configure containerd --config-path "$work/empty" >&2
sluice configure containerd --config-path "$work/empty" --remove >&2
[[ -d $work/empty && -z $(ls -A "$work/empty") ]] || fail "a folder that was there is not as it was"
echo 'version = 2' >"$work/no-path.toml"
expect_failure "$exit_refused" 'no config_path.*certs\.d' sluice configure containerd --containerd-config "$work/no-path.toml"
expect_failure "$exit_not_found" 'is not there.*config-path' sluice configure containerd --containerd-config "$work/none.toml"

note "where one file can't be written all stay as they are"
mkdir -p "$work/ro/a.example" "$work/ro/z.example"
for host in a z; do printf 'server = "https://%s.example"\n' "$host" >"$work/ro/$host.example/hosts.toml"; done
cp -r "$work/ro" "$work/ro.before"
mount --bind "$work/ro/z.example" "$work/ro/z.example"
mount -o remount,bind,ro "$work/ro/z.example"
expect_failure "$exit_refused" 'cannot write .*z.example/hosts.toml.*Read-only.*make it writable.*nothing was changed' \
  sluice configure containerd --config-path "$work/ro"
diff -r "$work/ro" "$work/ro.before" >&2 || fail "something was written"
for command in 'containerd --config-path' 'crio --registry a.b --folder'; do
  # shellcheck disable=SC2086  # words
  expect_failure "$exit_refused" 'Read-only' sluice configure $command "$work/ro/z.example/new/folder"
done
umount "$work/ro/z.example"
sluice configure containerd --config-path "$work/ro" >&2
mount --bind "$work/ro/z.example" "$work/ro/z.example"
mount -o remount,bind,ro "$work/ro/z.example"
cp -r "$work/ro" "$work/ro.written"
expect_failure "$exit_refused" 'z.example/hosts.toml.*nothing was changed' sluice configure containerd --config-path "$work/ro" --remove
diff -r "$work/ro" "$work/ro.written" >&2 || fail "something was taken away"
umount "$work/ro/z.example"
# A folder that was made before, and is known to be, stays so.
sluice configure containerd --config-path "$work/made" >&2
mount --bind "$work/made/_default" "$work/made/_default"
mount -o remount,bind,ro "$work/made/_default"
expect_failure "$exit_refused" 'nothing was changed' sluice configure containerd --mirror http://127.0.0.1:9 --config-path "$work/made"
umount "$work/made/_default"
sluice configure containerd --config-path "$work/made" --remove >&2
[[ ! -e $work/made ]] || fail "a folder of ours is left: $(find "$work/made")"

note "what is written for CRI-O is taken away by the registry, and what is somebody else's is refused"
crio_file=$work/crio/50-sluice.conf
sluice configure crio --folder "$work/crio" --registry docker.io --registry quay.io >&2
sluice configure crio --folder "$work/crio" --registry docker.io --remove >&2
[[ $(grep -c '^prefix' "$crio_file") == 1 ]] && grep -q '"quay.io"' "$crio_file" || fail "not only docker.io went: $(<"$crio_file")"
sluice configure crio --folder "$work/crio" --remove >&2
[[ -d $work/crio && -z $(ls -A "$work/crio") ]] || fail "something is left, or CRI-O's own folder went: $(ls "$work/crio")"
echo 'unqualified-search-registries = ["docker.io"]' >"$crio_file"
for how in --remove --dry-run; do
  expect_failure "$exit_refused" '50-sluice.conf: somebody else' sluice configure crio --folder "$work/crio" --registry a.b $how
done
grep -q '^unqualified' "$crio_file" || fail "somebody else's file is not what it was"

note "while the node is stopped containerd turns to the registry"
end_process "$node_pid"
forget_images
pull "$registry/app:1"
(($(asked_by containerd blobs) > 0)) || fail "who gave it?"

note "what is somebody's is given to him alone, though the node has it"
start_gate() {
  python3 -B "$repository_root/tests/net/token_registry.py" "$gate" "$registry" \
    team/app=ann:secret-of-ann team/app=node:secret-of-node team/other=bob:secret-of-bob >>"$work/gate.out" 2>"$work/gate.err" &
  gate_pid=$!
  disown
  wait_until curl -s -o "$work/body" "http://$gate/v2/" || fail "the gate does not open: $(cat "$work/gate.err")"
}
gate=127.0.0.1:$(free_port)
push_ordinary team/app "$work/tree.gz"
start_gate
printf '{"auths":{"%s":{"auth":"%s"}}}' "$gate" "$(printf node:secret-of-node | base64)" >"$work/docker.json"
registry=$gate write_config 'mirror:' "  listen: \"$mirror\"" 'origin:' "  dockerConfig: \"$work/docker.json\""
restart_node
ask_mirror_for "$gate"
forget_images
pull "$gate/team/app:1" --user ann:secret-of-ann
(($(metric sluice_mirror_sent_bytes_total) > 0)) || fail "containerd did not get it through the node"
layer=$(manifest team/app | jq -r '.layers[0].digest')
# token USER:PASSWORD REPOSITORY
token() { curl -fsS -u "$1" "http://$gate/token?scope=repository:$2:pull" | jq -r .token; }
for what in manifests/1 "blobs/$layer"; do
  expect 401 "/v2/team/app/$what?ns=$gate" -H 'Authorization: Bearer nobody'
  [[ $(header WWW-Authenticate) == "Bearer realm=\"http://$gate/token\""* ]] || fail "another challenge"
  expect 401 "/v2/team/app/$what?ns=$gate" -H "Authorization: Bearer $(token bob:secret-of-bob team/other)"
  expect 200 "/v2/team/app/$what?ns=$gate" -H "Authorization: Bearer $(token ann:secret-of-ann team/app)"
done
# Whoever may have another repository does not get by it what that one has not.
expect 404 "/v2/team/other/blobs/$layer?ns=$gate" -H "Authorization: Bearer $(token bob:secret-of-bob team/other)"
expect 401 "/v2/team/app/manifests/1?ns=$gate"
for what in manifests/1 "blobs/$layer"; do expect 404 "/v2/team/app/$what?ns=$gate"; done
(($(metric sluice_mirror_requests_total 'no_credentials') == 2)) || fail "who sends no credentials is not counted"
sluice --output json doctor --config "$config" >"$work/doctor.json" || true
[[ $(jq '.mirror[0].holds' "$work/doctor.json") == false ]] || fail "doctor finds nothing: $(<"$work/doctor.json")"
grep -q '"remedy": ".*server address' "$work/doctor.json" || fail "doctor has no remedy: $(<"$work/doctor.json")"
grep -q 'team/app: a container runtime shows no credentials' "$node_log" || fail "the log does not say whose"
! grep -r 'secret-of' "$node_log" || fail "a password in the log"
end_process "$gate_pid"
# What the registry let one have holds for minutes; a stranger hears nothing of what is here.
expect 404 "/v2/team/app/manifests/1?ns=$gate" -H 'Authorization: Bearer nobody'
