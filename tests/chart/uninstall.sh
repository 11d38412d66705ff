#!/usr/bin/env bash
# What runs before `helm uninstall` where mounts outlive their pods, against a real node: it refuses while an image is
# mounted, and while a node does not say.
source "$(dirname "$0")/../e2e/lib.sh"
export BACKEND=fuse
helm=$(bash "$repository_root/tests/chart/helm.sh")
template() { KUBECONFIG=$work/none "$helm" template node "$repository_root/charts/sluice" --namespace storage "$@"; }

note "the hook is there where mounts outlive their pods, and may ask the nodes"
template --set config.ondemand.keeperOnHost=true,config.operations.listen=0.0.0.0:1900 >"$work/rendered"
python3 - "$work/rendered" >"$work/command" <<'END_OF_PYTHON'
import sys, yaml
made = {f'{o["kind"]}/{o["metadata"]["name"]}': o for o in yaml.safe_load_all(open(sys.argv[1])) if o}
pod = made["Pod/node-sluice-uninstall"]
node = made["DaemonSet/node-sluice"]["spec"]
asker = pod["spec"]["containers"][0]
labels = pod["metadata"]["labels"]
assert pod["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
assert asker["image"] == node["template"]["spec"]["containers"][0]["image"]
assert not node["selector"]["matchLabels"].items() <= labels.items()
callers = made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"]
assert any(c["podSelector"]["matchLabels"].items() <= labels.items() for c in callers if "podSelector" in c)
assert asker["command"][-2:] == ["node-sluice.storage.svc", "1900"], asker["command"][-2:]
print("\0".join(asker["command"][:-2]), end="")
END_OF_PYTHON
for values in config.ondemand.keeperOnHost=false config.ondemand.keeperOnHost=true,config.ondemand.backend=off \
  config.ondemand.keeperOnHost=true,uninstall.refuseWhileMounted=false; do
  template --set "$values" >"$work/others"
  ! grep -q pre-delete "$work/others" || fail "a hook with $values"
done
mapfile -d '' -t command <"$work/command"
# ask SERVICE PORT
ask() { timeout 30 "${command[@]}" "$@" >"$work/said" 2>&1; }

start_registry
start_node
port=${listen##*:}
address=${listen%:*}

ask "$address" "$port" || fail "a node without mounts keeps from uninstalling: $(<"$work/said")"
grep -qxF "no image is mounted on any of 1 nodes" "$work/said" || fail "it says: $(<"$work/said")"

note "an image that is mounted"
mkdir "$work/tree"
echo something >"$work/tree/file"
push_tree "$work/tree" app
mount_image app "$work/mnt/app"
if ask "$address" "$port"; then fail "an image is mounted, and nothing keeps from uninstalling"; fi
grep -q "FAILED: $address has 1 images mounted\. Unmount .* --no-hooks" "$work/said" || fail "it says: $(<"$work/said")"

note "a node that does not say"
kill -STOP "$node_pid"
if ask "$address" "$port"; then fail "a node that is stopped does not keep from uninstalling"; fi
grep -q "$address: no answer on port $port, and it may" "$work/said" || fail "it says: $(<"$work/said")"
kill -CONT "$node_pid"

sluice umount "$work/mnt/app" >&2
wait_until ask "$address" "$port" || fail "nothing is mounted any more: $(<"$work/said")"
ask nobody.invalid "$port" || fail "where there are no nodes there are no mounts: $(<"$work/said")"
