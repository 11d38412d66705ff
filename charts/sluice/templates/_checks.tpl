{{/* What values.schema.json can't say of values: each refusal names the value, and what to do. */}}
{{- define "sluice.checks" -}}
{{- $config := .Values.config -}}
{{- $backend := $config.ondemand.backend -}}
{{- if not (has $backend (list "fuse" "off")) -}}
{{- fail (printf "config.ondemand.backend: %q can't be used in a pod: when the pod ends, its keeper ends too, and readers of the mounts could get zeros; use \"fuse\" (readers get errors then), or \"off\"" $backend) -}}
{{- end -}}

{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" $config.operations.listen -}}
{{- fail (printf "config.operations.listen: the probes come from outside of the pod and can't reach %q; use 0.0.0.0:9464" $config.operations.listen) -}}
{{- end -}}
{{- $ports := list (include "sluice.port" $config.operations.listen) -}}

{{- if .Values.peers.enabled -}}
{{- $cluster := default dict $config.cluster -}}
{{- if not $cluster.listen -}}
{{- fail "config.cluster.listen: other nodes need an address to ask at; set it (0.0.0.0:7301), or peers.enabled=false" -}}
{{- end -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" $cluster.listen -}}
{{- fail (printf "config.cluster.listen: other nodes can't reach %q; use 0.0.0.0:7301, or set peers.enabled=false" $cluster.listen) -}}
{{- end -}}
{{- $ports = append $ports (include "sluice.port" $cluster.listen) -}}
{{- if $cluster.swarm -}}
{{- if not $cluster.swarmPort -}}
{{- fail "config.cluster.swarmPort: the swarm needs a port; set it (7302), or config.cluster.swarm=false" -}}
{{- end -}}
{{- $ports = append $ports (toString (int $cluster.swarmPort)) -}}
{{- end -}}
{{- end -}}
{{- $mirror := .Values.mirror -}}
{{- $listen := dig "mirror" "listen" "" $config -}}
{{- if $mirror.enabled -}}
{{- if $listen -}}
{{- fail "mirror.enabled and config.mirror.listen both say where the mirror is; give one of them" -}}
{{- end -}}
{{- $ports = append $ports (toString (int $mirror.port)) -}}
{{- else if or $mirror.containerd.configure $mirror.crio.configure -}}
{{- fail "mirror.containerd.configure, mirror.crio.configure: there is no mirror to be asked; set mirror.enabled=true" -}}
{{- else if and $listen (not .Values.hostNetwork) (regexMatch "^(127\\.|localhost:|\\[::1\\])" $listen) -}}
{{- fail (printf "config.mirror.listen: nothing but the pod itself can reach %q; leave it out, and set mirror.enabled=true" $listen) -}}
{{- end -}}
{{- if and $mirror.crio.configure (not $mirror.crio.registries) -}}
{{- fail "mirror.crio.registries: CRI-O has no mirror for all registries; name at least one, e.g. docker.io" -}}
{{- end -}}
{{- with $mirror.containerd -}}
{{- if and .configPath (not (hasPrefix (printf "%s/" (trimSuffix "/" .folder)) .configPath)) -}}
{{- fail (printf "mirror.containerd.configPath: %q is not in mirror.containerd.folder (%s), so the pod would not see it" .configPath .folder) -}}
{{- end -}}
{{- end -}}
{{- if .Values.hints.enabled -}}
{{- if dig "api" "prefetchListen" "" $config -}}
{{- fail "hints.enabled and config.api.prefetchListen both say where hints are taken; give one of them" -}}
{{- end -}}
{{- if not (or (include "sluice.tlsSecret" .) (dig "tls" "ca" "" $config)) -}}
{{- fail "hints.enabled: hints come over the network by TLS alone; set tls.existingSecret or tls.certManager" -}}
{{- end -}}
{{- $ports = append $ports (toString (int .Values.hints.port)) -}}
{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- fail (printf "config: the ports of operations.listen, cluster.listen, cluster.swarmPort, mirror.port and hints.port must differ, and are %s" (join ", " $ports)) -}}
{{- end -}}

{{- $folders := dict "config.dataDir" $config.dataDir "config.runtimeDir" $config.runtimeDir "mountsDir" .Values.mountsDir -}}
{{- range $one, $inner := $folders -}}
{{- range $other, $outer := $folders -}}
{{- if and (ne $one $other) (hasPrefix (printf "%s/" (trimSuffix "/" $outer)) (printf "%s/" (trimSuffix "/" $inner))) -}}
{{- fail (printf "%s: %q lies in %q, which is %s; they are folders of the host, each for itself" $one $inner $outer $other) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $key := list "socket" "prefetchSocket" -}}
{{- $socket := dig "api" $key "" $config -}}
{{- if and $socket (not (hasPrefix (printf "%s/" (trimSuffix "/" $config.runtimeDir)) $socket)) -}}
{{- fail (printf "config.api.%s: %q is not in config.runtimeDir (%s), so the host would not see it" $key $socket $config.runtimeDir) -}}
{{- end -}}
{{- end -}}

{{- if regexMatch ":[^/]*$|@" .Values.image.repository -}}
{{- fail (printf "image.repository: %q has a tag or a digest; give the tag as image.tag" .Values.image.repository) -}}
{{- end -}}
{{- $tls := .Values.tls -}}
{{- $manager := $tls.certManager -}}
{{- if and $tls.existingSecret $manager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled both say where the certificate is; give one of them" -}}
{{- end -}}
{{- if and $manager.enabled (not $manager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: cert-manager must be told who issues; name an Issuer of the release's namespace, or a ClusterIssuer with tls.certManager.issuerRef.kind=ClusterIssuer" -}}
{{- end -}}
{{- if and $manager.enabled (not (.Capabilities.APIVersions.Has "cert-manager.io/v1/Certificate")) -}}
{{- fail "tls.certManager.enabled: this cluster has no cert-manager.io/v1; install cert-manager first (helm template: --api-versions cert-manager.io/v1/Certificate), or name a Secret as tls.existingSecret" -}}
{{- end -}}
{{- if include "sluice.tlsSecret" . -}}
{{- $source := ternary "tls.certManager" "tls.existingSecret" $manager.enabled -}}
{{- if not .Values.peers.enabled -}}
{{- fail (printf "%s: TLS is between nodes, and peers.enabled is false; leave it out, or set peers.enabled=true" $source) -}}
{{- end -}}
{{- range $key := list "ca" "certificate" "key" "crlFile" -}}
{{- if dig "tls" $key "" $config -}}
{{- fail (printf "%s and config.tls.%s both name the files; give one of them" $source $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $tls.crlKey (not $tls.existingSecret) -}}
{{- fail "tls.crlKey: it is a key of the Secret tls.existingSecret, which is empty" -}}
{{- end -}}
{{- if and (default dict $config.cluster).swarm (or (include "sluice.tlsSecret" .) (dig "tls" "ca" "" $config)) -}}
{{- fail "config.cluster.swarm: the swarm is not encrypted, and TLS is on; set config.cluster.swarm=false" -}}
{{- end -}}
{{- if and .Values.uninstall.force (not (include "sluice.keeperOnHost" .)) -}}
{{- fail "uninstall.force: without config.ondemand.keeperOnHost mounts end with their pods in any case, and their readers get errors; leave it out" -}}
{{- end -}}
{{- $strategy := include "sluice.updateStrategy" . -}}
{{- if and .Values.updateStrategy.maxUnavailable (ne $strategy "RollingUpdate") -}}
{{- fail (printf "updateStrategy.maxUnavailable: it is for RollingUpdate, and updateStrategy.type is %s" $strategy) -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor.enabled and serviceMonitor.enabled: Prometheus would count every node twice; set one of them to false" -}}
{{- end -}}
{{- if and .Values.registryCredentials.existingSecret (dig "origin" "dockerConfig" "" $config) -}}
{{- fail "registryCredentials.existingSecret and config.origin.dockerConfig both name the credentials; give one of them" -}}
{{- end -}}
{{- end -}}
