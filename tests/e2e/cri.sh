#!/usr/bin/env bash
# The kubelet's way: Debian's containerd is told by CRI to pull somebody's private image, with his password. Without a
# server address it shows that to the mirror, and is served; with one it shows the mirror none, which sends it to the
# registry and says so.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$e2e_dir/lib_images.sh"
source "$e2e_dir/lib_containerd.sh"

export BACKEND=off
mirror=127.0.0.1:$(free_port)
mkdir "$work/tree" "$work/cni"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 2000000 --files 20
start_registry
# A layer each: what containerd has it pulls from nobody.
for repository in app other third fourth; do
  echo "$repository" >"$work/tree/whose"
  tar --numeric-owner -C "$work/tree" -czf "$work/$repository.gz" .
  push_ordinary "team/$repository" "$work/$repository.gz"
done

gate=127.0.0.1:$(free_port)
python3 -B "$repository_root/tests/net/token_registry.py" "$gate" "$registry" \
  team/{app,other,third}={ann:secret-of-ann,node:secret-of-node} team/fourth=ann:secret-of-ann \
  >"$work/gate.out" 2>"$work/gate.err" &
wait_until curl -s -o "$work/body" "http://$gate/v2/" || fail "the gate does not open: $(<"$work/gate.err")"
printf '{"auths":{"%s":{"auth":"%s"}}}' "$gate" "$(printf node:secret-of-node | base64)" >"$work/docker.json"
registry=$gate
start_node 'mirror:' "  listen: \"$mirror\"" 'origin:' "  dockerConfig: \"$work/docker.json\""
sluice configure containerd --mirror "http://$mirror" --config-path "$work/hosts" --registry "$gate" >&2
start_cri_containerd

# cri_pull REPOSITORY [SERVER_ADDRESS]
cri_pull() {
  /usr/bin/python3 -B "$e2e_dir/cri_pull.py" "$containerd_home.sock" "$gate/$1:1" ann:secret-of-ann "${@:2}" >"$work/cri.out" 2>&1 ||
    fail "containerd can't pull $1: $(<"$work/cri.out"); $(tail -n 3 "$work/containerd.log")"
}
no_credentials() { metric sluice_mirror_requests_total 'result="no_credentials"'; }

note "without a server address the mirror is shown the password, and serves"
cri_pull team/app
sent=$(metric sluice_mirror_sent_bytes_total)
((sent > $(stat -c %s "$work/app.gz"))) || fail "the mirror sent $sent bytes: $(<"$work/gate.out")"
(($(no_credentials) == 0)) || fail "it showed none"

note "with the registry's it is not: the mirror challenges, and the next time sends it to the registry, which serves both"
cri_pull team/other "http://$gate"
cri_pull team/other "http://$gate"
[[ $(metric sluice_mirror_sent_bytes_total) == "$sent" ]] || fail "the mirror gave what is private to a stranger"
(($(no_credentials) > 0)) || fail "who shows none is not counted: $(curl -fsS "http://$listen/metrics" | grep mirror_requests)"
(($(metric sluice_mirror_requests_total 'result="challenged"') > 0)) || fail "there was no challenge"
grep -q 'team/other: a container runtime shows no credentials' "$node_log" || fail "the log does not say whose"
sluice --output json doctor --config "$config" >"$work/doctor.json" || true
[[ $(jq '.mirror[0].holds' "$work/doctor.json") == false ]] || fail "doctor finds nothing: $(<"$work/doctor.json")"
grep -q '"remedy": ".*server address' "$work/doctor.json" || fail "doctor has no remedy: $(<"$work/doctor.json")"

note "with the mirror's address as the server's it is again"
cri_pull team/third "http://$mirror"
(($(metric sluice_mirror_sent_bytes_total) > sent)) || fail "the mirror sent nothing"

note "and a node that has no credentials itself fetches by those"
stop_node
start_node 'mirror:' "  listen: \"$mirror\"" 'origin:' '  dockerConfig: /nowhere/docker.json'
cri_pull team/fourth
(($(metric sluice_mirror_sent_bytes_total) > $(stat -c %s "$work/fourth.gz"))) || fail "the mirror sent nothing by ann's right"
! grep -r 'secret-of' "$node_log" || fail "a password in the log"
