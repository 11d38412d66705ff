#!/usr/bin/env bash
# What the chart makes beside its DaemonSet when it is asked to: who may connect, certificates, monitors; and what it says
# after an install.
source "$(dirname "$0")/lib_helm.sh"

readonly operator=(--api-versions monitoring.coreos.com/v1/PrometheusRule --api-versions monitoring.coreos.com/v1/ServiceMonitor
  --api-versions monitoring.coreos.com/v1/PodMonitor)
readonly cert_manager=(--api-versions cert-manager.io/v1/Certificate)

# --- who may connect

render
holds 'made["NetworkPolicy/node-sluice"]["spec"]["podSelector"]["matchLabels"] == daemons["selector"]["matchLabels"]'
holds 'made["NetworkPolicy/node-sluice"]["spec"]["policyTypes"] == ["Ingress"]'
holds '[[p["port"] for p in rule["ports"]] for rule in made["NetworkPolicy/node-sluice"]["spec"]["ingress"]] == [[7301], [9464]]'
holds 'made["NetworkPolicy/node-sluice"]["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": daemons["selector"]["matchLabels"]}}]'
holds '{"namespaceSelector": {}} in made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"]'

cat >"$work/values.yaml" <<'END_OF_VALUES'
config: {operations: {listen: "0.0.0.0:1900"}, cluster: {listen: "0.0.0.0:1901", swarm: true, swarmPort: 1902}}
networkPolicy:
  peerCidrs: [10.1.0.0/16, "fd00::/8"]
  metricsNamespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
  extraIngress: [{from: [{ipBlock: {cidr: 10.2.0.1/32}}], ports: [{port: 1900}]}]
END_OF_VALUES
render -f "$work/values.yaml"
holds '[[p["port"] for p in rule["ports"]] for rule in made["NetworkPolicy/node-sluice"]["spec"]["ingress"]] == [[1901, 1902], [1900], [1900]]'
holds '[f["ipBlock"]["cidr"] for f in made["NetworkPolicy/node-sluice"]["spec"]["ingress"][0]["from"][1:]] == ["10.1.0.0/16", "fd00::/8"]'
holds '{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"]'
holds '{"namespaceSelector": {}} not in made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"]'
holds 'made["NetworkPolicy/node-sluice"]["spec"]["ingress"][2]["from"][0]["ipBlock"]["cidr"] == "10.2.0.1/32"'
render --set peers.enabled=false
holds '[[p["port"] for p in rule["ports"]] for rule in made["NetworkPolicy/node-sluice"]["spec"]["ingress"]] == [[9464]]'

# A policy does not count for the host's network: none is made there unasked, and the notes say so in any case.
render --set hostNetwork=true
holds '"NetworkPolicy/node-sluice" not in made'
render --set hostNetwork=true --set networkPolicy.enabled=true
holds '"NetworkPolicy/node-sluice" in made'
render --set networkPolicy.enabled=false
holds '"NetworkPolicy/node-sluice" not in made'
notes
! grep -qi 'policy' "$work/notes" || fail "the notes warn of a policy that counts: $(<"$work/notes")"
notes --set hostNetwork=true
tr '\n' ' ' <"$work/notes" | grep -q 'no NetworkPolicy guards pods of the host.s network\. Keep port 9464 and port 7301 .* use TLS' ||
  fail "the notes don't say that nothing guards the host's network: $(<"$work/notes")"
notes --set hostNetwork=true --set networkPolicy.enabled=true --set tls.existingSecret=a
grep -q 'counts for' "$work/notes" || fail "the notes don't say that the policy counts for nothing"
! grep -q 'use TLS' "$work/notes" || fail "the notes want TLS, which is there"
notes --set networkPolicy.enabled=false
grep -q 'whoever reaches the pods can read metrics, and ask' "$work/notes" || fail "the notes don't say that nothing guards"

# What nodes without TLS don't do for each other is said, and what to do.
says_no_tls() { tr '\n' ' ' <"$work/notes" | grep -q 'WARNING: nodes have no TLS between them'; }
notes
says_no_tls || fail "the notes don't say what is missing without TLS: $(<"$work/notes")"
tr '\n' ' ' <"$work/notes" | grep -q 'for private images, for tags and for tokens, and for chunks that no recipe proves\. Set tls.existingSecret or tls.certManager\. If .* config.cluster.insecurePeers=true does, for all but private images' ||
  fail "the notes don't say what TLS would change: $(<"$work/notes")"
notes --set mirror.enabled=true
tr '\n' ' ' <"$work/notes" | grep -q 'no recipe proves: whatever comes through the mirror .* by every node\. Set tls' ||
  fail "the notes don't say what it means for the mirror: $(<"$work/notes")"
for values in tls.existingSecret=a config.cluster.insecurePeers=true peers.enabled=false \
  config.tls.ca=/a,config.tls.certificate=/b,config.tls.key=/c; do
  notes --set "mirror.enabled=true,$values"
  ! says_no_tls || fail "with $values the notes warn of what is not so: $(<"$work/notes")"
done
notes "${cert_manager[@]}" --set tls.certManager.enabled=true,tls.certManager.issuerRef.name=nodes
! says_no_tls || fail "the notes want TLS, which is there"
# Certificates of one's own are TLS too.
notes --set hostNetwork=true,config.tls.ca=/a,config.tls.certificate=/b,config.tls.key=/c
! grep -q 'use TLS' "$work/notes" || fail "the notes want TLS, which is there"

refused 'networkPolicy.enabled.*must be one of' --set networkPolicy.enabled=yes
refused 'networkPolicy.peerCidrs.0: Does not match pattern' --set 'networkPolicy.peerCidrs={10.0.0.1}'
refused 'networkPolicy.metricsNamespaceSelector: Additional property labels' --set networkPolicy.metricsNamespaceSelector.labels.a=b

# --- hints over the network: by TLS alone, from whom it is said

render
holds '"Service/node-sluice-hints" not in made and "prefetchListen" not in config.get("api", {})'
render --set hints.enabled=true,tls.existingSecret=nodes
holds 'config["api"]["prefetchListen"] == "0.0.0.0:7304"'
holds '{"name": "hints", "containerPort": 7304} in node["ports"]'
holds 'made["Service/node-sluice-hints"]["spec"]["ports"] == [{"name": "hints", "port": 7304, "targetPort": "hints"}]'
holds 'made["Service/node-sluice-hints"]["spec"]["selector"] == daemons["selector"]["matchLabels"]'
holds '[[p["port"] for p in rule["ports"]] for rule in made["NetworkPolicy/node-sluice"]["spec"]["ingress"]] == [[7301], [7304], [9464]]'
holds 'made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"] == [{"podSelector": {"matchLabels": daemons["selector"]["matchLabels"]}}]'
render --set hints.enabled=true,hints.port=1904,tls.existingSecret=nodes,config.api.prefetchClient=scheduler \
  --set 'hints.from[0].ipBlock.cidr=10.3.0.0/16'
holds 'config["api"] == {"prefetchListen": "0.0.0.0:1904", "prefetchClient": "scheduler"}'
holds 'made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"][1] == {"ipBlock": {"cidr": "10.3.0.0/16"}}'
refused 'hints.enabled: hints come over the network by TLS alone; set tls.existingSecret' --set hints.enabled=true
refused 'hints.enabled and config.api.prefetchListen both' \
  --set hints.enabled=true,tls.existingSecret=nodes,config.api.prefetchListen=0.0.0.0:1
refused 'ports of .* hints.port must differ' --set hints.enabled=true,tls.existingSecret=nodes,hints.port=7301
refused 'hints.port' --set hints.enabled=true,tls.existingSecret=nodes,hints.port=0
refused 'hints.from' --set hints.enabled=true,tls.existingSecret=nodes,hints.from=all

# --- what a pod may do: without mounts it has no privilege, and no folder for them

render --set config.ondemand.backend=off
holds 'node["securityContext"]["capabilities"] == {"drop": ["ALL"]} and "privileged" not in node["securityContext"]'
holds 'node["securityContext"]["allowPrivilegeEscalation"] is False and node["securityContext"]["readOnlyRootFilesystem"]'
holds 'not any(m.get("mountPropagation") for m in node["volumeMounts"]) and "lifecycle" not in node'
holds 'sorted(v["name"] for v in pod["volumes"]) == ["config", "data", "runtime", "tmp"]'
config_is_valid
render --set config.ondemand.backend=off,mirror.enabled=true,mirror.containerd.configure=true
holds 'node["lifecycle"]["preStop"]["exec"]["command"][2].rstrip().endswith("--remove || true")'
holds 'len(node["lifecycle"]["preStop"]["exec"]["command"]) == 3'

# --- mounts that outlive their pod: the host's processes are seen, the host mounts, nothing is unmounted at the end, and
# upgrades end pods; those that do not

render
holds 'pod["hostPID"] is True and node["securityContext"]["privileged"] and config["ondemand"]["keeperOnHost"] is True'
holds 'next(m for m in node["volumeMounts"] if m["name"] == "mounts")["mountPropagation"] == "HostToContainer"'
holds '"lifecycle" not in node and daemons["updateStrategy"]["type"] == "RollingUpdate"'
config_is_valid
in_pod=(--set config.ondemand.keeperOnHost=false)
render "${in_pod[@]}"
holds '"hostPID" not in pod and node["securityContext"]["privileged"] and config["ondemand"]["keeperOnHost"] is False'
holds 'next(m for m in node["volumeMounts"] if m["name"] == "mounts")["mountPropagation"] == "Bidirectional"'
holds '"preStop" in node["lifecycle"] and daemons["updateStrategy"] == {"type": "OnDelete"}'
config_is_valid
render "${in_pod[@]}" --set updateStrategy.type=RollingUpdate
holds 'daemons["updateStrategy"] == {"type": "RollingUpdate"}'
render "${in_pod[@]}" --set config.ondemand.backend=off
holds 'daemons["updateStrategy"] == {"type": "RollingUpdate"}'
render --set updateStrategy.type=OnDelete
holds 'daemons["updateStrategy"] == {"type": "OnDelete"}'
notes "${in_pod[@]}"
grep -q 'WARNING: A pod.s end ends its mounts' "$work/notes" || fail "the notes don't say what a pod's end ends"
grep -q 'So an upgrade changes no pod by itself' "$work/notes" || fail "the notes don't say what an upgrade does"
refused 'uninstall.force: without config.ondemand.keeperOnHost' "${in_pod[@]}" --set uninstall.force=true
refused 'uninstall.force: Invalid type' --set uninstall.force=maybe
notes --set uninstall.force=true
grep -q 'WARNING: uninstall.force is set' "$work/notes" || fail "the notes don't say what an uninstall ends"
notes --set uninstall.refuseWhileMounted=false
grep -q 'it leaves that as it is' "$work/notes" || fail "the notes don't say what an uninstall leaves"
notes
grep -q 'kubectl logs -n storage node-sluice-uninstall$' "$work/notes" || fail "the notes don't say where a refusal is told"
grep -q 'config.ondemand.readDeadline (2m)' "$work/notes" || fail "the notes don't say how long reads wait"
grep -q 'Mounts outlive their pod' "$work/notes" || fail "the notes don't say that mounts outlive their pod"
! grep -q 'WARNING: A pod.s end ends its mounts' "$work/notes" || fail "the notes warn of what is not so"
# The first process is not the daemon: its standard error is none of the pod's.
render --set mirror.enabled=true,mirror.containerd.configure=true
holds '"/proc/1/" not in str(node["lifecycle"]) and len(node["lifecycle"]["preStop"]["exec"]["command"]) == 3'
render --set config.ondemand.backend=off
holds '"hostPID" not in pod and "privileged" not in node["securityContext"]'

# --- who is a node

render "${cert_manager[@]}" --set tls.certManager.enabled=true,tls.certManager.issuerRef.name=nodes
holds 'made["Certificate/node-sluice-tls"]["spec"]["issuerRef"] == {"name": "nodes", "kind": "Issuer", "group": "cert-manager.io"}'
holds 'made["Certificate/node-sluice-tls"]["spec"]["dnsNames"] == ["sluice"]'
holds '{"server auth", "client auth"} <= set(made["Certificate/node-sluice-tls"]["spec"]["usages"])'
holds 'next(v for v in pod["volumes"] if v["name"] == "tls")["secret"]["secretName"] == made["Certificate/node-sluice-tls"]["spec"]["secretName"]'
holds 'config["tls"]["ca"] == "/etc/sluice-tls/ca.crt" and "crlFile" not in config["tls"]'
config_is_valid
render "${cert_manager[@]}" --set tls.certManager.enabled=true,tls.certManager.issuerRef.name=all \
  --set tls.certManager.issuerRef.kind=ClusterIssuer,config.tls.peerName=nodes.example,tls.certManager.duration=24h
holds 'made["Certificate/node-sluice-tls"]["spec"]["issuerRef"]["kind"] == "ClusterIssuer"'
holds 'made["Certificate/node-sluice-tls"]["spec"]["dnsNames"] == [config["tls"]["peerName"]] == ["nodes.example"]'
holds 'made["Certificate/node-sluice-tls"]["spec"]["duration"] == "24h"'
render "${cert_manager[@]}"
holds 'not any(name.startswith("Certificate") for name in made)'

managed=("${cert_manager[@]}" --set tls.certManager.enabled=true)
refused 'tls.certManager.issuerRef.name: .*ClusterIssuer' "${managed[@]}"
managed+=(--set tls.certManager.issuerRef.name=nodes)
refused 'no cert-manager.io/v1; install' --set tls.certManager.enabled=true,tls.certManager.issuerRef.name=nodes
refused 'tls.existingSecret and tls.certManager.enabled' "${managed[@]}" --set tls.existingSecret=a
refused 'tls.certManager: .*peers.enabled' "${managed[@]}" --set peers.enabled=false
refused 'tls.certManager and config.tls.key both name' "${managed[@]}" --set config.tls.key=/key
refused 'tls.crlKey: .*is empty' "${managed[@]}" --set tls.crlKey=ca.crl
refused 'config.cluster.swarm: the swarm is not encrypted' "${managed[@]}" --set config.cluster.swarm=true
refused 'tls.certManager.duration: Does not match pattern' "${managed[@]}" --set tls.certManager.duration=90d

# --- what scrapes them, and how they are replaced

# The node's name is the instance: a pod's address changes, and with it all history would go.
readonly by_node='{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"}'
render "${operator[@]}"
holds "made['ServiceMonitor/node-sluice']['spec']['endpoints'][0]['relabelings'] == [$by_node]"
render "${operator[@]}" --set podMonitor.enabled=true,serviceMonitor.enabled=false,podMonitor.interval=5s,podMonitor.labels.a=b
holds '"ServiceMonitor/node-sluice" not in made'
holds 'len(made["PodMonitor/node-sluice"]["spec"]["podMetricsEndpoints"]) == 1'
holds 'made["PodMonitor/node-sluice"]["spec"]["podMetricsEndpoints"][0].items() >= {"port": "operations", "path": "/metrics", "interval": "5s"}.items()'
holds "made['PodMonitor/node-sluice']['spec']['podMetricsEndpoints'][0]['relabelings'] == [$by_node]"
holds 'made["PodMonitor/node-sluice"]["spec"]["selector"]["matchLabels"] == daemons["selector"]["matchLabels"]'
holds 'made["PodMonitor/node-sluice"]["metadata"]["labels"]["a"] == "b"'
holds '"operations" in [p["name"] for p in node["ports"]]'
render --set podMonitor.enabled=true,serviceMonitor.enabled=false
holds 'not any(name.startswith("PodMonitor") for name in made)'
refused 'podMonitor.enabled and serviceMonitor.enabled: .*twice' "${operator[@]}" --set podMonitor.enabled=true
# What the README gives those without the operator does the same, and takes the nodes' pods alone.
render
sed -n '/^    scrape_configs:$/,/^$/s/^    //p' "$chart/README.md" >"$work/prometheus.yml"
python3 - "$work/prometheus.yml" "$work/rendered" <<'END_OF_PYTHON' || fail "the README's scrape_configs are not the monitors'"
import sys, yaml
job = yaml.safe_load(open(sys.argv[1]))["scrape_configs"][0]
keep, instance = job["relabel_configs"]
pod = next(o for o in yaml.safe_load_all(open(sys.argv[2])) if o and o["kind"] == "DaemonSet")["spec"]["template"]
assert job["job_name"] == "sluice" and job["kubernetes_sd_configs"] == [{"role": "pod"}] and keep["action"] == "keep", job
assert keep["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name", "__meta_kubernetes_pod_container_port_name"]
label, port = keep["regex"].split(";")
assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == label, pod["metadata"]
assert port in [p["name"] for p in pod["spec"]["containers"][0]["ports"]], port
assert instance == {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "instance"}, instance
END_OF_PYTHON
notes
grep -q "each by its node.s name (the chart.s README says how)" "$work/notes" || fail "the notes don't say what instances are called"

render --set updateStrategy.type=RollingUpdate,updateStrategy.maxUnavailable=10%
holds 'daemons["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}'
render --set updateStrategy.type=RollingUpdate,updateStrategy.maxUnavailable=2
holds 'daemons["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 2}'
render --set updateStrategy.maxUnavailable=2
holds 'daemons["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}'
refused 'updateStrategy.maxUnavailable: .*RollingUpdate' --set updateStrategy.type=OnDelete,updateStrategy.maxUnavailable=2
refused 'updateStrategy.maxUnavailable: .*is OnDelete' "${in_pod[@]}" --set updateStrategy.maxUnavailable=2
refused 'updateStrategy.maxUnavailable: Does not match' --set updateStrategy.type=RollingUpdate,updateStrategy.maxUnavailable=some
