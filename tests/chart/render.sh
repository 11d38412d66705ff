#!/usr/bin/env bash
# The chart passes helm lint, renders what it must for values of every kind, and refuses wrong ones with a message that
# names the value. What it renders as the node's configuration, the daemon accepts.
source "$(dirname "$0")/lib_helm.sh"

"$helm" lint --strict "$chart" >"$work/lint" || fail "helm lint: $(<"$work/lint")"

render
holds 'daemons["updateStrategy"] == {"type": "RollingUpdate"}'
holds 'config["ondemand"] == {"backend": "fuse", "keeperOnHost": True, "readDeadline": "2m"}'
holds 'config["cluster"] == {"listen": "0.0.0.0:7301", "members": ["node-sluice.storage.svc:7301"], "swarm": False, "swarmPort": 7302}'
holds 'pod["automountServiceAccountToken"] is False and not pod.get("hostNetwork")'
holds 'node["securityContext"]["privileged"] and pod["hostPID"] is True and "lifecycle" not in node'
holds 'node["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "operations"}'
holds 'node["livenessProbe"]["httpGet"]["path"] == node["startupProbe"]["httpGet"]["path"] == "/livez"'
holds 'next(m for m in node["volumeMounts"] if m["name"] == "mounts")["mountPropagation"] == "HostToContainer"'
holds 'next(v for v in pod["volumes"] if v["name"] == "data")["hostPath"]["path"] == "/var/lib/sluice"'
holds 'made["Service/node-sluice"]["spec"]["clusterIP"] == "None"'
holds 'made["Service/node-sluice"]["spec"]["publishNotReadyAddresses"] is True'
holds '[p["port"] for p in made["Service/node-sluice"]["spec"]["ports"]] == [9464, 7301]'
holds '__import__("json").loads(made["ConfigMap/node-sluice-dashboard-overview"]["data"]["overview.json"])["panels"]'
holds 'made["ConfigMap/node-sluice-dashboard-overview"]["metadata"]["labels"]["grafana_dashboard"] == "1"'
holds 'not any(name.startswith(("PrometheusRule", "ServiceMonitor")) for name in made)'

# A zone is asked for with no more than the right to see nodes.
holds 'not any(name.startswith("ClusterRole") for name in made)'
render --set config.cluster.zoneLabel=topology.kubernetes.io/zone
holds 'config["cluster"]["zoneLabel"] == "topology.kubernetes.io/zone"'
holds 'made["ClusterRole/storage-node-sluice-zones"]["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]'
holds 'made["ClusterRoleBinding/storage-node-sluice-zones"]["subjects"][0]["namespace"] == "storage"'
holds 'any(m["name"] == "account" for m in node["volumeMounts"]) and pod["automountServiceAccountToken"] is False'
render --set config.cluster.zoneLabel=topology.kubernetes.io/zone --set peers.enabled=false
holds 'not any(name.startswith("ClusterRole") for name in made)'

render --set config.cluster.swarm=true
holds '[p["port"] for p in made["Service/node-sluice"]["spec"]["ports"]] == [9464, 7301, 7302]'
config_is_valid

# Where the operator is; what it gets is a file that promtool takes.
render --api-versions monitoring.coreos.com/v1/PrometheusRule --api-versions monitoring.coreos.com/v1/ServiceMonitor
holds '"ServiceMonitor/node-sluice" in made'
python3 - "$work/rendered" >"$work/rules.yaml" <<'END_OF_PYTHON'
import sys, yaml
print(yaml.safe_dump(next(o["spec"] for o in yaml.safe_load_all(open(sys.argv[1])) if o and o["kind"] == "PrometheusRule")))
END_OF_PYTHON
promtool check rules "$work/rules.yaml" >"$work/error" || fail "the PrometheusRule: $(<"$work/error")"
grep -q '15 rules found' "$work/error" || fail "the PrometheusRule has not 15 rules: $(<"$work/error")"

cat >"$work/values.yaml" <<'END_OF_VALUES'
fullnameOverride: node-sluice
image: {repository: "registry.example:5000/team/sluice", tag: "7", pullPolicy: Always, pullSecrets: [pull]}
config:
  dataDir: /srv/sluice
  operations: {listen: "0.0.0.0:1900"}
  images: {allow: ["registry.example/*"]}
  origin: {plainHttp: ["10.0.0.1:5000"], retries: 2}
  fetch: {inflightMax: 1073741824, readaheadMax: 4Mi}
  ondemand: {readDeadline: 20s, fill: true}
peers: {enabled: false}
mountsDir: /srv/mounts
registryCredentials: {existingSecret: credentials}
podLabels: {team: storage}
podAnnotations: {note: "1"}
tolerations: [{operator: Exists}]
nodeSelector: {disk: fast}
priorityClassName: system-node-critical
resources: {limits: {memory: 1Gi}, requests: {cpu: 100m}}
hostNetwork: true
serviceAccount: {create: false, name: mine}
dashboards: {enabled: false}
extraEnv: [{name: SLUICE_LOG_LEVEL, value: debug}]
END_OF_VALUES
render -f "$work/values.yaml"
holds 'node["image"] == "registry.example:5000/team/sluice:7" and node["imagePullPolicy"] == "Always"'
holds 'pod["imagePullSecrets"] == [{"name": "pull"}]'
holds 'config["dataDir"] == "/srv/sluice" and config["runtimeDir"] == "/run/sluice" and "cluster" not in config'
holds 'config["fetch"] == {"inflightMax": 1073741824, "readaheadMax": "4Mi"}'
holds 'config["origin"]["dockerConfig"] == "/etc/sluice/docker/config.json" and config["origin"]["retries"] == 2'
holds 'config["ondemand"] == {"backend": "fuse", "keeperOnHost": True, "readDeadline": "20s", "fill": True}'
holds '{v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v} == {"/srv/sluice", "/run/sluice", "/srv/mounts"}'
holds 'pod["hostNetwork"] and pod["dnsPolicy"] == "ClusterFirstWithHostNet" and pod["serviceAccountName"] == "mine"'
holds 'pod["priorityClassName"] == "system-node-critical" and pod["tolerations"] == [{"operator": "Exists"}]'
holds 'pod["nodeSelector"]["disk"] == "fast" and daemons["template"]["metadata"]["labels"]["team"] == "storage"'
holds '[p["port"] for p in made["Service/node-sluice"]["spec"]["ports"]] == [1900]'
holds '"ServiceAccount/node-sluice" not in made and not any(name.startswith("ConfigMap/node-sluice-dashboard") for name in made)'
config_is_valid

render --set tls.existingSecret=node-tls --set tls.crlKey=ca.crl --set config.tls.peerName=nodes.example
holds 'config["tls"] == {"ca": "/etc/sluice-tls/ca.crt", "certificate": "/etc/sluice-tls/tls.crt", "key": "/etc/sluice-tls/tls.key", "crlFile": "/etc/sluice-tls/ca.crl", "peerName": "nodes.example"}'
holds 'next(v for v in pod["volumes"] if v["name"] == "tls")["secret"] == {"secretName": "node-tls", "defaultMode": 0o400}'
holds 'next(m for m in node["volumeMounts"] if m["name"] == "tls")["mountPath"] == "/etc/sluice-tls"'
config_is_valid

# What we give as examples, the schema and the daemon take.
for example in "$chart"/examples/*.yaml; do
  render -f "$example" --api-versions cert-manager.io/v1/Certificate
  config_is_valid
  holds 'config["images"]["allow"] and config["mirror"]["listen"] == "0.0.0.0:7303"'
  holds 'pod["initContainers"][0]["command"][2].startswith("sluice configure containerd ")'
  # Each is explained, and is named by the README.
  [[ $(head -c 2 "$example") == '# ' ]] || fail "$example does not say what it is for"
  grep -q "examples/$(basename "$example")" "$chart/README.md" || fail "the README does not name $example"
done
[[ $(ls "$chart/examples") == $'air-gapped.yaml\neks.yaml\ngke.yaml\nk3s.yaml\nkind.yaml' ]] ||
  fail "examples: $(ls "$chart/examples")"
render -f "$chart/examples/k3s.yaml"
holds '"/var/lib/rancher/k3s/agent/etc/containerd/config.toml" in pod["initContainers"][0]["command"][2]'
render -f "$chart/examples/air-gapped.yaml" --api-versions cert-manager.io/v1/Certificate
holds 'made["Certificate/node-sluice-tls"]["spec"]["issuerRef"]["name"] == "sluice-nodes" and config["tls"]'
holds 'config["origin"]["caFile"].startswith(next(m for m in node["volumeMounts"] if m["name"] == "house-ca")["mountPath"])'

refused 'Additional property relpicas is not allowed' --set relpicas=1
refused 'image: Additional property repo is not allowed' --set image.repo=x
refused 'image.pullPolicy.*must be one of' --set image.pullPolicy=Sometimes
refused 'image\.repository: .*give the tag as image\.tag' --set image.repository=registry.example/sluice:1
refused 'config.ondemand: Additional property readdeadline' --set config.ondemand.readdeadline=5s
refused 'config.ondemand.backend: "fanotify" can.t be used in a pod.*zeros.*use "fuse"' --set config.ondemand.backend=fanotify
refused 'config.ondemand.backend: "auto" can.t be used in a pod' --set config.ondemand.backend=auto
refused 'config.ondemand.backend: .*must be one of' --set config.ondemand.backend=nbd
refused 'config.ondemand.readDeadline: Does not match pattern' --set config.ondemand.readDeadline=soon
refused 'config.fetch.inflightMax: Does not match pattern' --set config.fetch.inflightMax=lots
refused 'config.fetch.readaheadMax: Does not match pattern' --set config.fetch.readaheadMax=4MB
refused 'config.origin.retries: Must be less than or equal to 20' --set config.origin.retries=99
refused 'config.images.allow: Invalid type.*array' --set config.images.allow=registry.example
refused 'config.dataDir: Does not match pattern' --set config.dataDir=data
refused 'config.operations.listen: .*probes' --set config.operations.listen=127.0.0.1:9464
refused 'config.cluster.listen: other nodes can.t reach "127' --set config.cluster.listen=127.0.0.1:7301
refused 'config.cluster.listen: .*peers.enabled=false' --set config.cluster.listen=
refused 'config.cluster.swarmPort: the swarm needs a port' --set config.cluster.swarm=true --set config.cluster.swarmPort=null
refused 'must differ, and are 9464, 7301, 7301' --set config.cluster.swarm=true --set config.cluster.swarmPort=7301
refused 'config.dataDir: "/run/sluice/data" lies in "/run/sluice", which is config.runtimeDir' --set config.dataDir=/run/sluice/data
refused 'lies in "/var/lib/sluice"' --set mountsDir=/var/lib/sluice/mounts
refused 'config.api.socket: "/tmp/api.sock" is not in config.runtimeDir' --set config.api.socket=/tmp/api.sock
refused 'config.api.prefetchSocket: .* is not in config.runtimeDir' --set config.api.prefetchSocket=/tmp/hints.sock
refused 'tls.existingSecret: .*peers.enabled' --set tls.existingSecret=a --set peers.enabled=false
refused 'tls.existingSecret and config.tls.ca both name' --set tls.existingSecret=a --set config.tls.ca=/ca
refused 'tls.crlKey: .*is empty' --set tls.crlKey=ca.crl
refused 'config.cluster.swarm: the swarm is not encrypted' --set tls.existingSecret=a --set config.cluster.swarm=true
refused 'config.tls.peerName: Does not match pattern' --set config.tls.peerName=a_b
refused 'both name the credentials' --set registryCredentials.existingSecret=a --set config.origin.dockerConfig=/etc/config.json
refused 'updateStrategy.type.*must be one of' --set updateStrategy.type=Recreate
refused 'terminationGracePeriodSeconds: Must be greater than or equal to 30' --set terminationGracePeriodSeconds=1
refused 'tolerations: Invalid type' --set tolerations=all
refused 'incompatible with Kubernetes' --kube-version 1.19.0

# The schema and the daemon know the same settings.
"$SLUICE_BIN/sluice" config show >"$work/settings.yaml"
python3 - "$work/settings.yaml" "$chart/values.schema.json" <<'END_OF_PYTHON' || fail "the schema and the daemon differ"
import json, sys, yaml
def of_daemon(settings, prefix=""):
    for key, value in settings.items():
        yield from of_daemon(value, prefix + key + ".") if isinstance(value, dict) else [prefix + key]
def of_schema(schema, prefix=""):
    for key, value in schema["properties"].items():
        yield from of_schema(value, prefix + key + ".") if "properties" in value else [prefix + key]
daemon = set(of_daemon(yaml.safe_load(open(sys.argv[1]))))
schema = set(of_schema(json.load(open(sys.argv[2]))["properties"]["config"]))
for key in sorted(daemon - schema): print(f"values.schema.json has no config.{key}", file=sys.stderr)
for key in sorted(schema - daemon): print(f"the daemon knows no {key}, which values.schema.json has", file=sys.stderr)
sys.exit(daemon != schema)
END_OF_PYTHON
