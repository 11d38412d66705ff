#!/usr/bin/env bash
# Debian's docker-registry tells a node what was pushed: it brings it in, and the first start of the image asks the
# registry for no byte of a blob. Whoever has not the secret, and what can't be understood, is refused.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_tls.sh"

told=127.0.0.1:$(free_port)
registry_access_log=true
secret=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
(umask 077 && echo "$secret" >"$work/secret")
registry_more=('notifications:' '  endpoints:' '    - name: sluice' "      url: http://$told/registry/notifications"
  "      headers: {Authorization: [\"Bearer $secret\"]}" '      timeout: 5s' '      threshold: 3' '      backoff: 1s')
notifications=('notifications:' "  listen: \"$told\"" "  secretFile: \"$work/secret\"")
mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000 --files 40
start_registry
start_node "${notifications[@]}"
blobs_asked() { grep -c '"GET /v2/[^ ]*/blobs/' "$work/registry.log" || true; }
hint_state() { sluice --output json prefetch list | jq -r '.hints[] | select(.scheduler == "registry") | .state'; }
is_there() { [[ $(hint_state) == completed ]]; }

note "what is pushed is brought in, before anybody asks for it"
push_tree "$work/tree" app
wait_until is_there || fail "the hint is '$(hint_state)': $(sluice prefetch list)"
(($(metric sluice_notifications_total hinted) == 1)) || fail "what was told is not counted"
(($(metric sluice_origin_blob_bytes_total) > 0)) || fail "who brought it in?"
before=$(metric sluice_origin_blob_bytes_total)
asked=$(blobs_asked)
mount_image app "$work/mnt/app"
drop_page_cache
reads_right "$work/tree" "$work/mnt/app" || fail "not all is there: $(tail -n 3 "$work/compare.log")"
[[ $(metric sluice_origin_blob_bytes_total) == "$before" ]] || fail "the first start asked the registry for blobs"
[[ $(blobs_asked) == "$asked" ]] || fail "the registry was asked for blobs"
sluice umount "$work/mnt/app" >&2

note "whoever has not the secret is refused, and what is malformed"
# post STATUS BODY [CURL OPTION...]
post() {
  local status
  status=$(curl -sS -o "$work/body" -w '%{http_code}' -d "$2" "${@:3}" "http://$told/registry/notifications")
  [[ $status == "$1" ]] || fail "'$2' is answered with $status, not $1: $(<"$work/body")"
}
post 401 '{"events":[]}'
post 401 '{"events":[]}' -H 'Authorization: Bearer nobody'
post 400 'events' -H "Authorization: Bearer $secret"
post 200 '{"events":[]}' -H "Authorization: Bearer $secret"
! grep -F "$secret" "$node_log" || fail "the secret is in the log"

note "a configuration that would let anybody tell is refused"
stop_node
chmod 644 "$work/secret"
write_config "${notifications[@]}"
expect_failure 1 'secretFile: .*can be read by everybody.*chmod' "$SLUICE_BIN/sluiced" --config "$config"
chmod 600 "$work/secret"
write_config 'notifications:' "  listen: \"$told\""
expect_failure 2 'notifications.listen without notifications.secretFile' "$SLUICE_BIN/sluiced" --config "$config"
write_config 'notifications:' "  listen: \"0.0.0.0:${told##*:}\"" "  secretFile: \"$work/secret\""
expect_failure 1 'notifications.listen: .*reached from beyond this machine.*tls.ca' "$SLUICE_BIN/sluiced" --config "$config"

note "beyond this machine it is told by https: the registry trusts the node's authority, and has but the secret to show"
tls_authority own
tls_issue own node sluice localhost
start_node 'notifications:' "  listen: \"0.0.0.0:${told##*:}\"" "  secretFile: \"$work/secret\"" \
  'tls:' "  ca: $tls_dir/own.crt" "  certificate: $tls_dir/node.crt" "  key: $tls_dir/node.key"
by_tls() {
  curl -sS --cacert "$tls_dir/own.crt" -o "$work/body" -w '%{http_code}' -d '{"events":[]}' \
    "$@" "https://localhost:${told##*:}/registry/notifications"
}
[[ $(by_tls -H "Authorization: Bearer $secret") == 200 ]] || fail "the secret does not help: $(<"$work/body")"
[[ $(by_tls) == 401 ]] || fail "whoever has no secret is answered: $(<"$work/body")"
[[ $(by_tls -H 'Authorization: Bearer nobody') == 401 ]] || fail "a wrong secret is answered: $(<"$work/body")"
! curl -sS -d '{"events":[]}' -H "Authorization: Bearer $secret" "http://localhost:${told##*:}/registry/notifications" \
  >"$work/body" 2>&1 || fail "it answers without TLS"
stop_registry
registry_more=("${registry_more[@]/http:\/\/$told/https:\/\/localhost:${told##*:}}")
registry_runner=(env "SSL_CERT_FILE=$tls_dir/own.crt")
start_registry "$registry"
mkdir "$work/tree2"
python3 "$e2e_dir/make_tree.py" "$work/tree2" --bytes 2000000 --files 10
push_tree "$work/tree2" second
second_is_there() {
  sluice --output json prefetch list |
    jq -e '[.hints[] | select(.scheduler == "registry" and .state == "completed" and (tostring | contains("/second")))] | length > 0' \
      >"$work/hints"
}
wait_until second_is_there || fail "what was told by https is no hint: $(sluice prefetch list)"
(($(metric sluice_notifications_total hinted) == 1)) || fail "what was told by https is not counted"
