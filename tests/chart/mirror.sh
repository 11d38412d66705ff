#!/usr/bin/env bash
# The node's container runtime asks the pod's mirror: where the mirror listens, and what the pod's own commands write to
# the host's folders, again after a container's restart, and take away when the pod ends.
source "$(dirname "$0")/lib_helm.sh"

readonly to_containerd=(--set 'mirror.enabled=true,mirror.containerd.configure=true')
readonly to_crio=(--set 'mirror.enabled=true,mirror.crio.configure=true,mirror.crio.registries={docker.io,quay.io}')

render
holds '"mirror" not in config and "initContainers" not in pod and "lifecycle" not in node'
render --set config.ondemand.keeperOnHost=false
holds '"mirror" not in config and "initContainers" not in pod and "postStart" not in node["lifecycle"]'
holds 'node["lifecycle"]["preStop"]["exec"]["command"][1] == "/etc/sluice/unmount-unused.sh"'

render --set mirror.enabled=true,mirror.port=7777,config.mirror.budget=2s
holds 'config["mirror"] == {"listen": "0.0.0.0:7777", "budget": "2s"} and "initContainers" not in pod'
holds 'node["ports"][-1] == {"name": "mirror", "containerPort": 7777, "hostPort": 7777, "hostIP": "127.0.0.1"}'
# Other pods are none of its runtime.
holds '7777 not in [p["port"] for rule in made["NetworkPolicy/node-sluice"]["spec"]["ingress"] for p in rule["ports"]]'
holds '7777 not in [p["port"] for p in made["Service/node-sluice"]["spec"]["ports"]]'
config_is_valid
render --set mirror.enabled=true,hostNetwork=true
holds 'config["mirror"]["listen"] == "127.0.0.1:7303" and "mirror" not in [p["name"] for p in node["ports"]]'

render "${to_containerd[@]}"
holds 'pod["initContainers"][0]["image"] == node["image"]'
holds 'pod["initContainers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}'
holds 'not pod["initContainers"][0]["securityContext"].get("privileged")'
holds '{"name": "containerd", "hostPath": {"path": "/etc/containerd", "type": "Directory"}} in pod["volumes"]'
holds 'all({"name": "containerd", "mountPath": "/etc/containerd"} in c["volumeMounts"] for c in (node, pod["initContainers"][0]))'
config_is_valid

# What containerd has already is read, and not written to.
render --set config.store.importContainerd=true
holds '{"name": "containerd-content", "mountPath": "/var/lib/containerd/io.containerd.content.v1.content", "readOnly": True} in node["volumeMounts"]'
holds '[v["hostPath"] for v in pod["volumes"] if v["name"] == "containerd-content"] == [{"path": "/var/lib/containerd/io.containerd.content.v1.content", "type": "Directory"}]'
config_is_valid
render --set config.store.importContainerd=true,config.store.containerdContent=/run/k3s/content
holds '[m["mountPath"] for m in node["volumeMounts"] if m["name"] == "containerd-content"] == ["/run/k3s/content"]'
render --set config.store.importContainerd=false
holds '"containerd-content" not in [v["name"] for v in pod["volumes"]]'

# run_command EXPRESSION: the command that this names, with the programs of this build, and with the paths below $work/host
# in place of the host's; its words go to $work/said.
run_command() {
  python3 - "$work/rendered" "$1" >"$work/command" <<'END_OF_PYTHON'
import sys, yaml
pod = next(o for o in yaml.safe_load_all(open(sys.argv[1])) if o and o["kind"] == "DaemonSet")["spec"]["template"]["spec"]
node = pod["containers"][0]
print("\0".join(eval(sys.argv[2])), end="")
END_OF_PYTHON
  local command pod=()
  mapfile -d '' -t command <"$work/command"
  # The init container has no capability, and where nothing is mounted the node has none either.
  ((EUID)) || pod=(setpriv --inh-caps=-all --bounding-set=-all --no-new-privs)
  PATH=$SLUICE_BIN:$PATH timeout 30 "${pod[@]}" "${command[@]}" >"$work/said" 2>&1
}
readonly init='pod["initContainers"][0]["command"]'
readonly post_start='node["lifecycle"]["postStart"]["exec"]["command"]'
# What it does after that is unmounting, which is in the ConfigMap, and not here.
readonly pre_stop='[w.replace("/etc/sluice/unmount-unused.sh", "/dev/null") for w in node["lifecycle"]["preStop"]["exec"]["command"]]'

host=$work/host
hosts=$host/containerd/certs.d
mkdir -p "$hosts/registry.example"
printf 'server = "https://registry.example"\n\n[host."https://other.example"]\n  skip_verify = true\n' \
  >"$hosts/registry.example/hosts.toml"
cp "$hosts/registry.example/hosts.toml" "$work/others"
render "${to_containerd[@]}" --set "mirror.port=7777,mirror.containerd.folder=$host/containerd"

# A host whose containerd reads no such files: said, with what to do, and nothing is written.
if run_command "$init"; then fail "a containerd without a configuration is accepted"; fi
grep -q "$host/containerd/config.toml is not there: set config_path" "$work/said" || fail "it says: $(<"$work/said")"
cmp "$work/others" "$hosts/registry.example/hosts.toml" || fail "what was refused is written"

printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "%s"\n' "$hosts" >"$host/containerd/config.toml"
asks_mirror() { grep -qxF '[host."http://127.0.0.1:7777"]' "$hosts/_default/hosts.toml" "$hosts/registry.example/hosts.toml"; }
is_as_before() { cmp "$work/others" "$hosts/registry.example/hosts.toml" && [[ ! -e $hosts/_default ]]; }
for keeper_on_host in false true; do
  render "${to_containerd[@]}" --set "mirror.port=7777,mirror.containerd.folder=$host/containerd" \
    --set config.ondemand.keeperOnHost=$keeper_on_host
  run_command "$init" || fail "the init container fails: $(<"$work/said")"
  asks_mirror || fail "containerd does not ask the mirror"
  run_command "$init" || fail "the init container fails on what it wrote: $(<"$work/said")"
  run_command "$pre_stop" || fail "the pod does not end well: $(<"$work/said")"
  is_as_before || fail "something is left at the pod's end: $(find "$hosts")"
  run_command "$post_start" || fail "a container that is started again fails: $(<"$work/said")"
  asks_mirror || fail "containerd does not ask a container that was started again"
  # A folder that has gone meanwhile ends no container, and keeps no pod from ending.
  mv "$host/containerd" "$host/away"
  run_command "$post_start" || fail "a container ends for a folder that has gone: $(<"$work/said")"
  run_command "$pre_stop" || fail "a pod does not end for a folder that has gone: $(<"$work/said")"
  mv "$host/away" "$host/containerd"
  run_command "$pre_stop"
done

# Only for some, and where config.toml is elsewhere.
render "${to_containerd[@]}" --set "mirror.containerd.folder=$host/containerd,mirror.containerd.configPath=$hosts" \
  --set 'mirror.containerd.registries={registry.example}'
rm "$host/containerd/config.toml"
run_command "$init" || fail "a given configPath is not taken: $(<"$work/said")"
[[ ! -e $hosts/_default ]] || fail "only one registry was named"
grep -q 'http://127.0.0.1:7303' "$hosts/registry.example/hosts.toml" || fail "the one that was named is not written"
run_command "$pre_stop"
is_as_before || fail "something is left: $(find "$hosts")"

render "${to_crio[@]}" --set "mirror.crio.folder=$host/crio"
holds 'len(pod["volumes"]) == 6 and pod["volumes"][-1]["hostPath"]["type"] == "DirectoryOrCreate"'
mkdir "$host/crio"
run_command "$init" || fail "CRI-O can't be configured: $(<"$work/said")"
[[ $(grep -c 'location = "127.0.0.1:7303/' "$host/crio/50-sluice.conf") == 2 ]] || fail "CRI-O has other mirrors"
run_command "$pre_stop"
[[ ! -e $host/crio/50-sluice.conf ]] || fail "CRI-O's file is left"
[[ -d $host/crio ]] || fail "CRI-O's own folder has gone"

notes
! grep -q 'sluice_mirror' "$work/notes" || fail "the notes speak of a mirror that is off"
notes --set mirror.enabled=true
grep -q 'sluice configure containerd' "$work/notes" || fail "the notes don't say what a mirror lacks"
notes "${to_containerd[@]}"
grep -q 'which each pod tells it' "$work/notes" || fail "the notes don't say who configures containerd"

refused 'mirror.containerd.configure, .*mirror.enabled=true' --set mirror.containerd.configure=true
refused 'mirror.containerd.configure, .*mirror.enabled=true' --set 'mirror.crio.configure=true,mirror.crio.registries={a.b}'
refused 'mirror.crio.registries: .*docker.io' --set mirror.enabled=true,mirror.crio.configure=true
refused 'mirror.enabled and config.mirror.listen' --set mirror.enabled=true,config.mirror.listen=0.0.0.0:7303
refused 'config.mirror.listen: nothing but the pod itself' --set config.mirror.listen=127.0.0.1:7303
refused 'must differ, and are 9464, 7301, 7301' --set mirror.enabled=true,mirror.port=7301
refused 'mirror.containerd.configPath: "/srv/hosts" is not in' "${to_containerd[@]}" --set mirror.containerd.configPath=/srv/hosts
refused 'mirror.containerd.folder: Does not match' "${to_containerd[@]}" --set 'mirror.containerd.folder=/etc/$(a)'
refused 'mirror.containerd.registries.0: Does not match' "${to_containerd[@]}" --set 'mirror.containerd.registries={a/b}'
