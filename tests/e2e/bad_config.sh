#!/usr/bin/env bash
# Configurations that can't be: sluiced says what is wrong and where, and ends at once.
source "$(dirname "$0")/lib.sh"

# refused PATTERN [YAML LINE...]
refused() {
  write_config "${@:2}"
  expect_failure "${code:-2}" "$1" "$SLUICE_BIN/sluiced" --config "$config"
}

note "keys and values"
refused 'sluiced.yaml:[0-9]+.*dataDri.*dataDir' 'dataDri: /var/lib/sluice'
refused 'sluiced.yaml:[0-9]+.*requestTimeout' 'origin: {requestTimeout: 20}'
refused 'sluiced.yaml:[0-9]+.*minRate' 'origin: {minRate: 5 parsecs}'
refused 'sluiced.yaml:[0-9]+.*inflightMax' 'fetch: {inflightMax: 1Zi}'
refused 'sluiced.yaml:[0-9]+.*store.capacity.*101%' 'store: {capacity: 101%}'
refused 'sluiced.yaml:[0-9]+.*store.capacity.*nothing' 'store: {capacity: 0}'
refused 'store.lowWatermark is 95 and store.highWatermark 90' 'store: {lowWatermark: 95}'
BACKEND=teleport refused 'backend.*teleport'
refused 'sluiced.yaml:[0-9]+' 'origin: ['

note "files"
expect_failure 2 'nowhere.yaml' "$SLUICE_BIN/sluiced" --config "$work/nowhere.yaml"
expect_failure 2 "$work" "$SLUICE_BIN/sluiced" --config "$work"
# Root may read everything, so somebody else has to try; the program goes where they can reach it.
write_config
chmod 600 "$config"
chmod 755 "$work"
cp "$SLUICE_BIN/sluiced" "$work/"
expect_failure 2 'sluiced.yaml.*permission denied' \
  setpriv --reuid=65534 --regid=65534 --clear-groups "$work/sluiced" --config "$config"

note "too few tasks"
chmod 644 "$config"
expect_failure 1 'more threads may be there, and the node needs.*pids.max' \
  setpriv --reuid=65534 --regid=65534 --clear-groups prlimit --nproc=20 "$work/sluiced" --config "$config"

note "a port that is taken"
python3 -c 'import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(120)' >"$work/port" &
wait_until test -s "$work/port"
listen=127.0.0.1:$(<"$work/port")
code=1 refused "$listen.*in use"

note "a variable that means nothing"
listen=127.0.0.1:$(free_port)
SLUICE_ONDEMAND_READDEADLIN=3s SLUICE_SERVICE_HOST=10.0.0.1 SLUICE_PORT_9464_TCP=tcp://10.0.0.1:9464 start_node
grep -q 'warn.*SLUICE_ONDEMAND_READDEADLIN is none' "$node_log" || fail "nothing is said of it: $(<"$node_log")"
grep -q 'SLUICE_SERVICE_HOST\|SLUICE_PORT' "$node_log" && fail "variables that Kubernetes makes are complained of"

note "the doctor asks the node that runs where its store is"
doctored=$(sluice --output json doctor | jq -r .data_dir)
[[ $doctored == "$data_dir" ]] || fail "the doctor looks at $doctored"
sluice --output json doctor | jq -e '.backends[] | select(.name == "fanotify").requirements[] |
  select(.name == "paused containers").detail' >"$work/jq.log" || fail "the doctor says nothing of paused containers"
