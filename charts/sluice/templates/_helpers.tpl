{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sluice.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sluice.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sluice.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* The port of a host:port. */}}
{{- define "sluice.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{- define "sluice.apiSocket" -}}
{{- default (printf "%s/api.sock" .Values.config.runtimeDir) (dig "api" "socket" "" .Values.config) -}}
{{- end -}}

{{/* The Secret with the nodes' certificate; empty without TLS. */}}
{{- define "sluice.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- include "sluice.fullname" . | trunc 59 | trimSuffix "-" }}-tls
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Whether the keeper leaves the pod for the host: true, or empty. */}}
{{- define "sluice.keeperOnHost" -}}
{{- if and .Values.config.ondemand.keeperOnHost (ne .Values.config.ondemand.backend "off") }}true{{ end -}}
{{- end -}}

{{/* When pods are replaced: by an upgrade itself only where their end ends no mounts, unless it is said otherwise. */}}
{{- define "sluice.updateStrategy" -}}
{{- $endsMounts := and (ne .Values.config.ondemand.backend "off") (not (include "sluice.keeperOnHost" .)) -}}
{{- default (ternary "OnDelete" "RollingUpdate" $endsMounts) .Values.updateStrategy.type -}}
{{- end -}}

{{/* Labels "a=b,c=d" as lines of YAML. */}}
{{- define "sluice.labelLines" -}}
{{- range splitList "," . }}
{{ index (splitList "=" .) 0 }}: {{ index (splitList "=" .) 1 | quote }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of what is made before helm uninstall, and goes when it was of use. Takes a list: the root,
labels "a=b,c=d" (not the nodes': it is none of them), and its place in the order. */}}
{{- define "sluice.uninstallHook" -}}
labels:
  {{- include "sluice.labelLines" (index . 1) | trim | nindent 2 }}
annotations:
  helm.sh/hook: pre-delete
  helm.sh/hook-weight: {{ index . 2 | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "sluice.uninstallImage" -}}
image: {{ include "sluice.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* Where such pods run, and how their image is pulled: as the nodes. */}}
{{- define "sluice.uninstallPod" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Whether the node's container runtime is to be told of the mirror: true, or empty. */}}
{{- define "sluice.configuresRuntime" -}}
{{- if or .Values.mirror.containerd.configure .Values.mirror.crio.configure }}true{{ end -}}
{{- end -}}

{{/* Lines of shell that tell it, in a pod that sees the host's folders. Takes a list: the root, and more arguments. It
stands in the pod, not in the ConfigMap: what a pod has written it takes away, though the values have changed. */}}
{{- define "sluice.configureRuntime" -}}
{{- $root := index . 0 -}}
{{- $arguments := index . 1 -}}
{{- $mirror := printf "--mirror http://127.0.0.1:%d" (int $root.Values.mirror.port) -}}
{{- with $root.Values.mirror.containerd -}}
{{- if .configure -}}
sluice configure containerd {{ $mirror }}
{{- if .configPath }} --config-path {{ .configPath }}
{{- else }} --containerd-config {{ .folder | trimSuffix "/" }}/config.toml
{{- end }}
{{- range .registries }} --registry {{ . }}{{ end }}{{ $arguments }}
{{ end -}}
{{- end -}}
{{- with $root.Values.mirror.crio -}}
{{- if .configure -}}
sluice configure crio {{ $mirror }} --folder {{ .folder }}
{{- range .registries }} --registry {{ . }}{{ end }}{{ $arguments }}
{{ end -}}
{{- end -}}
{{- end -}}

{{- define "sluice.runtimeFolderMounts" -}}
{{- if .Values.mirror.containerd.configure }}
- {name: containerd, mountPath: {{ .Values.mirror.containerd.folder | quote }}}
{{- end }}
{{- if .Values.mirror.crio.configure }}
- {name: crio, mountPath: {{ .Values.mirror.crio.folder | quote }}}
{{- end }}
{{- end -}}

{{/* Whether there is to be a NetworkPolicy: true, or empty. */}}
{{- define "sluice.hasNetworkPolicy" -}}
{{- $enabled := .Values.networkPolicy.enabled -}}
{{- if eq (toString $enabled) "auto" -}}
{{- $enabled = not .Values.hostNetwork -}}
{{- end -}}
{{- if $enabled }}true{{ end -}}
{{- end -}}

{{/* "true" if the daemon asks Kubernetes for its node's zone. */}}
{{- define "sluice.asksForZone" -}}
{{- if and .Values.peers.enabled (dig "cluster" "zoneLabel" "" .Values.config) }}true{{ end -}}
{{- end -}}

{{/* The daemon's configuration as YAML: `config`, and what follows from other values. */}}
{{- define "sluice.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.peers.enabled -}}
{{- $cluster := default dict $config.cluster -}}
{{- if not $cluster.members -}}
{{- $service := printf "%s.%s.svc:%s" (include "sluice.fullname" .) .Release.Namespace (include "sluice.port" $cluster.listen) -}}
{{- $_ := set $cluster "members" (list $service) -}}
{{- end -}}
{{- $_ := set $config "cluster" $cluster -}}
{{- else -}}
{{- $config = omit $config "cluster" -}}
{{- end -}}
{{- if not (dig "cluster" "zoneLabel" "" $config) -}}
{{- $_ := set $config "cluster" (omit (default dict $config.cluster) "zoneLabel") -}}
{{- end -}}
{{- if not .Values.peers.enabled }}{{ $config = omit $config "cluster" }}{{ end -}}
{{- if .Values.registryCredentials.existingSecret -}}
{{- $_ := set $config "origin" (merge (dict "dockerConfig" "/etc/sluice/docker/config.json") (default dict $config.origin)) -}}
{{- end -}}
{{- if include "sluice.tlsSecret" . -}}
{{- $files := dict "ca" "/etc/sluice-tls/ca.crt" "certificate" "/etc/sluice-tls/tls.crt" "key" "/etc/sluice-tls/tls.key" -}}
{{- with .Values.tls.crlKey -}}
{{- $_ := set $files "crlFile" (printf "/etc/sluice-tls/%s" .) -}}
{{- end -}}
{{- $_ := set $config "tls" (merge $files (default dict $config.tls)) -}}
{{- end -}}
{{- if .Values.hints.enabled -}}
{{- $_ := set $config "api" (merge (dict "prefetchListen" (printf "0.0.0.0:%d" (int .Values.hints.port))) (default dict $config.api)) -}}
{{- end -}}
{{- if .Values.mirror.enabled -}}
{{- $listen := printf "%s:%d" (ternary "127.0.0.1" "0.0.0.0" .Values.hostNetwork) (int .Values.mirror.port) -}}
{{- $_ := set $config "mirror" (merge (dict "listen" $listen) (default dict $config.mirror)) -}}
{{- end -}}
{{- range $key, $value := $config }}
{{- if kindIs "map" $value }}
{{ $key }}:
{{- range $name, $setting := $value }}
{{- if not (kindIs "invalid" $setting) }}
  {{ $name }}: {{ include "sluice.setting" $setting }}
{{- end }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
{{ $key }}: {{ include "sluice.setting" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Helm takes every number for a float, and would write a large one with an exponent. */}}
{{- define "sluice.setting" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* The host's folder of containerd's content store; empty where nothing is taken from it. */}}
{{- define "sluice.containerdContent" -}}
{{- $store := .Values.config.store | default dict -}}
{{- if $store.importContainerd -}}
{{- $store.containerdContent | default "/var/lib/containerd/io.containerd.content.v1.content" -}}
{{- end -}}
{{- end -}}
