#!/usr/bin/env bash
# A node in a pod asks Kubernetes for its zone: by its service account, once, with a server's answers of every kind. What
# it is not told is no reason not to serve.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_tls.sh"

readonly label=topology.kubernetes.io/zone account=/run/secrets/kubernetes.io/serviceaccount
made_folder=$(p=$account; while [[ ! -e $(dirname "$p") ]]; do p=$(dirname "$p"); done; [[ -e $p ]] || echo "$p")
tls_authority cluster
tls_issue cluster api localhost
mkdir "$work/account"
cp "$tls_dir/cluster.crt" "$work/account/ca.crt"
echo secret-token >"$work/account/token"
port=$(free_port)

# What it answers stands in a file: a status, and a body.
python3 - "$port" "$tls_dir/api.crt" "$tls_dir/api.key" "$work/answer" "$work/asked" <<'END_OF_PYTHON' &
import http.server, ssl, sys
port, crt, key, answer, asked = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(asked, "a") as file:
            print(self.path, self.headers.get("Authorization"), file=file)
        status, body = open(answer).read().split("\n", 1)
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(crt, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END_OF_PYTHON
server=$!
end_server() {
  end_process "$server" KILL
  [[ -z $made_folder ]] || find "$made_folder" -depth -type d -empty -delete
}
trap 'status=$?; end_server; cleanup "$status"' EXIT

peers=$(free_port)
# zone_after STATUS BODY: the zone of a node that is started while the server answers so.
zone_after() {
  printf '%s\n%s' "$1" "$2" >"$work/answer"
  : >"$work/asked"
  : >"$node_log"
  export KUBERNETES_SERVICE_HOST=localhost KUBERNETES_SERVICE_PORT=$port
  start_node "$(printf 'cluster:\n  listen: 127.0.0.1:%s\n  members: ["127.0.0.1:%s"]\n  name: node-7\n  zoneLabel: %s\n' \
    "$peers" "$peers" "$label")"
  zone=$(sluice --output json peers | jq -r '.self.zone // ""')
  stop_node
}
mkdir -p "$account"
# shellcheck disable=SC2016  # for the shell that it starts
node_runner=(unshare --mount --propagation slave sh -c 'mount --bind "$0" "$1" && shift && exec "$@"' "$work/account" "$account")
BACKEND=off

zone_after 200 "{\"metadata\": {\"labels\": {\"$label\": \"east-1\"}}}"
[[ $zone == east-1 ]] || fail "the zone is '$zone': $(<"$node_log")"
[[ $(<"$work/asked") == "/api/v1/nodes/node-7 Bearer secret-token" ]] || fail "it was asked: $(<"$work/asked")"
! grep -q secret-token "$node_log" || fail "the token is in the log"

# says STATUS BODY TEXT: it starts without a zone, and the log says why.
says() {
  zone_after "$1" "$2"
  [[ -z $zone ]] || fail "the zone is '$zone' after $1 $2"
  grep -q "cluster.zoneLabel: .*$3.*; this node has no zone" "$node_log" || fail "the log says nothing of $3: $(<"$node_log")"
}
says 403 '{}' 'may not see node node-7'
says 404 '{}' 'knows no node node-7'
says 200 '{"metadata": {"labels": {}}}' "no label $label"
says 200 'nonsense' 'no node.s object'
says 200 '[]' 'no node.s object'
says 200 "{\"metadata\": {\"labels\": {\"$label\": \"two words\"}}}" 'which is no zone'
says 500 '' 'HTTP 500'
end_process "$server"
says 200 '' 'connect'
rm "$work/account/token"
says 200 '' "can't be read"
