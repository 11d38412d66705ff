# shellcheck shell=bash
# Values of every kind that the chart takes, and those of its examples. Sourced by tests of this folder and of
# tests/cluster.

# What is made only where a cluster knows it.
# shellcheck disable=SC2034
readonly all_kinds=(--api-versions monitoring.coreos.com/v1/PrometheusRule --api-versions cert-manager.io/v1/Certificate
  --api-versions monitoring.coreos.com/v1/ServiceMonitor --api-versions monitoring.coreos.com/v1/PodMonitor)

# each_combination CHART FOLDER COMMAND...: calls COMMAND with a name and helm's arguments for each; FOLDER is to write in.
each_combination() {
  local chart=$1 folder=$2 example
  shift 2
  "$@" default
  "$@" off --set config.ondemand.backend=off,peers.enabled=false
  "$@" off-mirror --set config.ondemand.backend=off,mirror.enabled=true,mirror.containerd.configure=true
  "$@" in-pod --set config.ondemand.keeperOnHost=false
  "$@" uninstall-forced --set uninstall.force=true,priorityClassName=system-node-critical
  "$@" host-network --set hostNetwork=true,networkPolicy.enabled=true,config.cluster.swarm=true
  "$@" certificate --set tls.certManager.enabled=true,tls.certManager.issuerRef.name=nodes
  "$@" mirror --set mirror.enabled=true,mirror.containerd.configure=true \
    --set 'mirror.crio.configure=true,mirror.crio.registries={docker.io}'
  "$@" hints --set hints.enabled=true,tls.existingSecret=nodes
  "$@" pod-monitor --set podMonitor.enabled=true,serviceMonitor.enabled=false,podMonitor.labels.a=b
  cat >"$folder/much.yaml" <<'END_OF_VALUES'
image: {repository: "registry.example:5000/team/sluice", pullPolicy: Always, pullSecrets: [pull]}
registryCredentials: {existingSecret: credentials}
tls: {existingSecret: node-tls, crlKey: ca.crl}
updateStrategy: {type: RollingUpdate, maxUnavailable: 10%}
podLabels: {team: storage}
podAnnotations: {note: "1"}
tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 3}]
nodeSelector: {disk: fast}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
priorityClassName: system-node-critical
resources: {limits: {memory: 1Gi, cpu: 2}, requests: {cpu: 100m}}
serviceAccount: {annotations: {a: b}}
service: {annotations: {a: b}, labels: {c: d}}
networkPolicy:
  peerCidrs: [10.1.0.0/16]
  metricsNamespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}
  extraIngress: [{from: [{ipBlock: {cidr: 10.2.0.1/32}}], ports: [{port: 1900}]}]
extraEnv: [{name: SLUICE_LOG_LEVEL, value: debug}]
extraVolumes: [{name: more, emptyDir: {}}]
extraVolumeMounts: [{name: more, mountPath: /more}]
serviceMonitor: {labels: {a: b}}
prometheusRule: {labels: {a: b}}
dashboards: {annotations: {a: b}}
END_OF_VALUES
  "$@" much -f "$folder/much.yaml"
  for example in "$chart"/examples/*.yaml; do "$@" "$(basename "$example" .yaml)" -f "$example"; done
}
