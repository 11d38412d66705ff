#!/usr/bin/env bash
# What runs before `helm uninstall` where mounts outlive their pods: on a real node it tells who uses what, unmounts, and
# ends readers by force; and what nodes have said is gathered from an API server, of which every answer that is not "all
# is done" keeps from uninstalling.
source "$(dirname "$0")/../e2e/lib.sh"
source "$(dirname "$0")/../e2e/lib_tls.sh"
export BACKEND=fuse
helm=$(bash "$repository_root/tests/chart/helm.sh")
template() { KUBECONFIG=$work/none "$helm" template node "$repository_root/charts/sluice" --namespace storage "$@"; }

# commands STEPS [helm's arguments]: checks what is rendered, and leaves each step's commands in $work/node.STEP, gather.STEP.
commands() {
  local steps
  read -ra steps <<<"$1"
  template "${@:2}" >"$work/rendered"
  python3 - "$work/rendered" "$work" "${steps[@]}" <<'END_OF_PYTHON'
import sys, yaml
made = {f'{o["kind"]}/{o["metadata"]["name"]}': o for o in yaml.safe_load_all(open(sys.argv[1])) if o}
work, steps = sys.argv[2], sys.argv[3:]
hooks = [o for o in made.values() if o["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"]
assert all(o["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded" for o in hooks)
order = sorted((int(o["metadata"]["annotations"]["helm.sh/hook-weight"]), o["kind"]) for o in hooks)
assert order == sorted([(0, k) for k in ("ServiceAccount", "Role", "RoleBinding")] +
                       [(1 + 2 * i, "DaemonSet") for i in range(len(steps))] +
                       [(2 + 2 * i, "Pod") for i in range(len(steps))]), order
assert made["Role/node-sluice-uninstall"]["rules"] == [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get", "delete"],
     "resourceNames": ["node-sluice-uninstall" + (f"-{step}" if i else "") for i, step in enumerate(steps)]}]
node = made["DaemonSet/node-sluice"]["spec"]
nodes_of_release = node["selector"]["matchLabels"].items()
for i, step in enumerate(steps):
    name = "node-sluice-uninstall" + (f"-{step}" if i else "")
    looks, gathers = made[f"DaemonSet/{name}"]["spec"], made[f"Pod/{name}"]
    pod = looks["template"]["spec"]
    labels = looks["template"]["metadata"]["labels"]
    assert looks["selector"]["matchLabels"] == labels and not nodes_of_release <= labels.items()
    assert not nodes_of_release <= gathers["metadata"]["labels"].items()
    assert not labels.items() <= gathers["metadata"]["labels"].items()
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod.get(key) == node["template"]["spec"].get(key), key
    asks, asked = pod["initContainers"][0], gathers["spec"]["containers"][0]
    for container in (asks, asked, pod["containers"][0]):
        assert container["image"] == node["template"]["spec"]["containers"][0]["image"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"].get("privileged") and container["securityContext"]["readOnlyRootFilesystem"]
    assert "hostPID" not in pod and not pod["automountServiceAccountToken"]
    assert gathers["spec"]["serviceAccountName"] == "node-sluice-uninstall" != pod["serviceAccountName"]
    assert asks["command"][-2] == step, asks["command"][-2:]
    assert asked["command"][4:] == ["node", "storage", name, ",".join(f"{k}={v}" for k, v in labels.items()), "120"]
    open(f"{work}/node.{step}", "w").write("\0".join(asks["command"][:-1] + ["5"]))
    open(f"{work}/gather.{step}", "w").write("\0".join(asked["command"][:-1]))
END_OF_PYTHON
}

note "what is made before an uninstall, and when nothing is"
commands 'look unmount' --set 'tolerations[0].operator=Exists,priorityClassName=system-node-critical'
commands force --set uninstall.force=true
commands force --set uninstall.force=true,uninstall.refuseWhileMounted=false
commands 'look unmount'
for values in config.ondemand.keeperOnHost=false config.ondemand.backend=off uninstall.refuseWhileMounted=false; do
  template --set "$values" >"$work/others"
  ! grep -q pre-delete "$work/others" || fail "a hook with $values"
done

# says STEP WORD: what the container of that step does on this node; its message is then in $work/message.
says() {
  local command
  mapfile -d '' -t command <"$work/node.$1"
  rm -f "$work/message"
  PATH=$SLUICE_BIN:$PATH TERMINATION_LOG=$work/message SLUICE_API_SOCKET=$run_dir/api.sock \
    timeout 90 "${command[@]}" >"$work/said" 2>&1 || fail "$1 fails: $(<"$work/said")"
  [[ $(head -n 1 "$work/message") == "$2" ]] || fail "$1 should be \"$2\": $(<"$work/message")"
  cmp -s "$work/message" "$work/said" || fail "its log is another one than its message: $(<"$work/said")"
  (($(wc -c <"$work/message") < 4096)) || fail "longer than kubelet takes"
}
said() { grep -q -- "$1" "$work/message" || fail "it does not say \"$1\": $(<"$work/message")"; }

start_registry
start_node
note "a node without mounts"
for step in look unmount force; do
  says "$step" ok
  said 'Nothing is mounted'
done

note "an image that nobody uses"
mkdir "$work/tree"
head -c 8M /dev/urandom >"$work/tree/file"
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
says look ok
said "$mount"
mountpoint -q "$mount" || fail "what only looks has unmounted"

note "an image that is in use"
hold() { exec sleep 1000; }
hold <"$mount/file" &
user=$!
trap 'status=$?; kill -KILL "$user" 2>/dev/null; cleanup "$status"' EXIT
in_use() { [[ $(readlink "/proc/$user/fd/0") == "$mount/file" ]]; }
wait_until in_use || fail "nobody uses it"
for step in look unmount; do
  says "$step" used
  said "pid $user (sleep) uses $mount/file"
done
mountpoint -q "$mount" || fail "what is in use is unmounted"

note "by force"
says force ok
said "unmounted $mount .*whose readers get errors"
if mountpoint -q "$mount"; then fail "it is mounted still"; fi
says look used
said 'not mounted any more'
kill -KILL "$user"
wait "$user" 2>"$work/error" || true
mounts() { sluice mount "$registry/app:1" "$mount" >"$work/answer" 2>&1; }
wait_until mounts || fail "can't be mounted again: $(<"$work/answer")"
says unmount ok
said "unmounted $mount"
if mountpoint -q "$mount"; then fail "it is mounted still"; fi

note "more users than a message takes"
mount_image app "$mount"
users=()
trap 'status=$?; kill -KILL "${users[@]}" 2>/dev/null; cleanup "$status"' EXIT
for _ in {1..60}; do
  hold <"$mount/file" &
  users+=($!)
done
user=${users[59]}
wait_until in_use || fail "nobody uses it"
says look used
said 'and more: '
kill -KILL "${users[@]}"

note "a daemon that does not answer"
stop_node
says look failed
said 'api.sock'

# --- what is gathered

# The API server's part: a DaemonSet's state and its pods, as it prints them, or what stands in $work/api.status.
tls_authority api
tls_authority other
tls_issue api server kubernetes.default.svc
tls_issue api stranger another.name
cat >"$work/api.py" <<'END_OF_PYTHON'
import http.server, json, pathlib, ssl, sys, urllib.parse
port, crt, key, work = sys.argv[1:]
work = pathlib.Path(work)
def pod(state):
    init = {"name": "look", "state": state, "lastState": {}, "ready": True}
    return {"metadata": {"name": "p", "managedFields": [{"fieldsV1": {"f:status": {"f:message": {}}}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "message": "not ready: [main]"}],
                       "initContainerStatuses": [init],
                       "containerStatuses": [{"name": "wait", "state": {"running": {"startedAt": "now"}}}]}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        where = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(where.query)
        with open(work / "asked", "a") as file:
            print(where.path, query.get("labelSelector", [""])[0], self.headers["Authorization"], file=file)
        answer, status = json.loads((work / "answer.json").read_text()), 200
        if "error" in answer:
            status, body = 403, {"kind": "Status", "message": answer["error"]}
        elif where.path.endswith("/daemonsets/node-sluice-uninstall"):
            body = {"kind": "DaemonSet", "metadata": {"managedFields": [{"f:desiredNumberScheduled": {}}]},
                    "status": answer["daemonset"]}
        else:
            pods = []
            for node, state in answer["pods"]:
                one = pod(state)
                pods.append({"metadata": one["metadata"], "spec": {"nodeName": node, "containers": []}, "status": one["status"]})
            body = {"kind": "PodList", "items": pods}
        # Field by field on lines of their own, as it is asked for; else on one.
        text = json.dumps(body, indent=2 if query.get("pretty") == ["true"] else None).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def do_DELETE(self):
        with open(work / "deleted", "a") as file: print(urllib.parse.urlparse(self.path).path, file=file)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(crt, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END_OF_PYTHON
api_pid=
trap 'status=$?; end_process "$api_pid" KILL; cleanup "$status"' EXIT
# start_api NAME: with that certificate.
start_api() {
  [[ -z $api_pid ]] || end_process "$api_pid" KILL
  api_port=$(free_port)
  python3 "$work/api.py" "$api_port" "$tls_dir/$1.crt" "$tls_dir/$1.key" "$work" 2>"$work/api.log" &
  api_pid=$!
  disown
  wait_until curl -ksS -o "$work/answer" "https://127.0.0.1:$api_port/" 2>"$work/error" || fail "no API server: $(<"$work/api.log")"
}
mkdir "$work/account"
cp "$tls_dir/api.crt" "$work/account/ca.crt"
printf a-token >"$work/account/token"

# gather SECONDS ANSWER
gather() {
  local command
  mapfile -d '' -t command <"$work/gather.look"
  printf '%s' "$2" >"$work/answer.json"
  : >"$work/asked"
  : >"$work/deleted"
  ACCOUNT=$work/account KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT=$api_port \
    timeout 90 "${command[@]}" "$1" >"$work/message" 2>&1
}
# state WORD TEXT: of a container that has said so.
state() { jq -cn --arg message "$1"$'\n'"$2"$'\n' '{terminated: {exitCode: 0, reason: "Completed", message: $message}}'; }
counted='"daemonset": {"desiredNumberScheduled": 2, "numberReady": 1, "observedGeneration": 1}'
echo '{"error": "at first"}' >"$work/answer.json"
start_api server

note "all is done"
gather 60 "{$counted, \"pods\": [[\"east\", $(state ok 'Nothing is mounted.')], [\"west\", $(state ok 'unmounted /mnt/a')]]}" ||
  fail "two nodes that are done: $(<"$work/message")"
said 'node west: unmounted /mnt/a'
said 'all 2 nodes: done'
[[ ! -s $work/deleted ]] || fail "it deletes what Helm does: $(<"$work/deleted")"
grep -qxF "/api/v1/namespaces/storage/pods app.kubernetes.io/name=sluice-uninstall,app.kubernetes.io/instance=node,app.kubernetes.io/component=look Bearer a-token" \
  "$work/asked" || fail "it asks: $(<"$work/asked")"
gather 60 '{"daemonset": {"desiredNumberScheduled": 0, "observedGeneration": 1}, "pods": []}' || fail "no node: $(<"$work/message")"

note "who uses what is named, and what to do"
used=$(state used '/mnt/a "b\c"  r/a:1'$'\n''  pid 8 (nginx) of pod shop/web-0, container main, uses /mnt/a/x')
if gather 60 "{$counted, \"pods\": [[\"east\", $(state ok '')], [\"west\", $used]]}"; then fail "an image is in use"; fi
said 'node west: /mnt/a "b\\c"  r/a:1'
said '  pid 8 (nginx) of pod shop/web-0, container main, uses /mnt/a/x'
said 'FAILED: on 1 of 2 nodes images are in use.*--set uninstall.force=true.*helm uninstall node --namespace storage --no-hooks'

readonly daemonset_path=/apis/apps/v1/namespaces/storage/daemonsets/node-sluice-uninstall
[[ $(<"$work/deleted") == "$daemonset_path" ]] || fail "the DaemonSet is left behind: $(<"$work/deleted")"

note "nodes that say nothing, or are not there, or fail"
waiting='{"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}'
if gather 1 "{$counted, \"pods\": [[\"east\", $(state ok '')], [\"west\", $waiting]]}"; then fail "a node says nothing"; fi
said 'node west says nothing: ImagePullBackOff: Back-off pulling image'
said 'FAILED: not every node'
if gather 1 "{$counted, \"pods\": [[\"east\", $(state ok '')]]}"; then fail "a node has no pod"; fi
said '1 nodes have no pod'
if gather 60 "{$counted, \"pods\": [[\"east\", $(state ok '')], [\"west\", $(state failed 'no daemon answers')]]}"; then fail "a node fails"; fi
said 'node west: no daemon answers'
if gather 1 '{"daemonset": {}, "pods": []}'; then fail "nobody has counted the nodes"; fi
said 'does not say on which nodes'

note "an API server that refuses, or is another"
if gather 1 '{"error": "forbidden: no such right"}'; then fail "it is refused"; fi
said 'forbidden: no such right'
all_done="{$counted, \"pods\": [[\"east\", $(state ok '')], [\"west\", $(state ok '')]]}"
start_api stranger
if gather 1 "$all_done"; then fail "a server of another name is believed"; fi
start_api server
cp "$tls_dir/other.crt" "$work/account/ca.crt"
if gather 1 "$all_done"; then fail "a server of another authority is believed"; fi
[[ ! -s $work/asked && ! -s $work/deleted ]] || fail "it shows its token to strangers: $(<"$work/asked")"
