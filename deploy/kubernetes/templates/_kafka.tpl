{{/* How a part reaches the brokers. All take a dictionary: root (the top scope) and part (sensor or processor). */}}

{{/* kafka, with what the part says otherwise; as YAML. */}}
{{- define "dogwatch.kafka" -}}
{{- $kafka := mergeOverwrite (deepCopy .root.Values.kafka) (index .root.Values .part).kafka }}
{{- if not $kafka.bootstrapServers }}
{{- fail "kafka.bootstrapServers is empty: name your brokers, host:port joined by commas" }}
{{- end }}
{{- range splitList "," $kafka.bootstrapServers }}
{{- if not (regexMatch ":[0-9]+$" (trim .)) }}
{{- fail (printf "kafka.bootstrapServers needs host:port, not %q" .) }}
{{- end }}
{{- end }}
{{- if and $kafka.sasl.mechanism (not $kafka.sasl.secret) }}
{{- fail "kafka.sasl.mechanism needs kafka.sasl.secret: a secret with username and password" }}
{{- end }}
{{- if and $kafka.sasl.secret (not $kafka.sasl.mechanism) }}
{{- fail "kafka.sasl.secret needs kafka.sasl.mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512" }}
{{- end }}
{{- if and $kafka.tls.secret (not $kafka.tls.enabled) }}
{{- fail "kafka.tls.secret is named, and kafka.tls.enabled is false: the connection would not be encrypted" }}
{{- end }}
{{- if and $kafka.tls.clientCertificate (not $kafka.tls.secret) }}
{{- fail "kafka.tls.clientCertificate needs kafka.tls.secret: a secret with tls.crt, tls.key and ca.crt" }}
{{- end }}
{{- toYaml $kafka }}
{{- end }}

{{/* Settings that stand in the pod's specification as well, and what decides them. */}}
{{- define "dogwatch.decided" -}}
kafka.bootstrap_servers: kafka.bootstrapServers
metrics.listen: metrics.address and metrics.{{ .part }}Port
{{- if eq .part "sensor" }}
host_name: the node's name
state_file: sensor.stateFolder
containers.docker_root: sensor.dockerRoot
containers.sockets: sensor.sockets
{{- else }}
kafka.instance: the pod's name
detections.folder: processor.detections
{{- end }}
{{- end }}

{{/* The file of settings: what follows from the values, then the part's config over it; as TOML. */}}
{{- define "dogwatch.settings" -}}
{{- $kafka := include "dogwatch.kafka" . | fromYaml }}
{{- $options := dict }}
{{- $protocol := "plaintext" }}
{{- if $kafka.tls.enabled }}
{{- $protocol = "ssl" }}
{{- if $kafka.tls.secret }}
{{- $_ := set $options "ssl.ca.location" "/etc/dogwatch/tls/ca.crt" }}
{{- else }}
{{- $_ := set $options "ssl.ca.location" "/etc/ssl/certs/ca-certificates.crt" }}
{{- end }}
{{- end }}
{{- if $kafka.tls.clientCertificate }}
{{- $_ := set $options "ssl.certificate.location" "/etc/dogwatch/tls/tls.crt" }}
{{- $_ := set $options "ssl.key.location" "/etc/dogwatch/tls/tls.key" }}
{{- end }}
{{- if $kafka.sasl.mechanism }}
{{- $protocol = ternary "sasl_ssl" "sasl_plaintext" $kafka.tls.enabled }}
{{- $_ := set $options "sasl.mechanisms" $kafka.sasl.mechanism }}
{{- end }}
{{- $_ := set $options "security.protocol" $protocol }}
{{- $port := index .root.Values.metrics (printf "%sPort" .part) }}
{{- $settings := dict
      "kafka" (dict "bootstrap_servers" $kafka.bootstrapServers "options" $options)
      "metrics" (dict "listen" (printf "%s:%d" .root.Values.metrics.address (int $port))) }}
{{- $containers := dict }}
{{- if and (eq .part "sensor") .root.Values.sensor.dockerRoot }}
{{- $_ := set $containers "docker_root" .root.Values.sensor.dockerRoot }}
{{- end }}
{{- if and (eq .part "sensor") .root.Values.sensor.sockets }}
{{- $_ := set $containers "sockets" .root.Values.sensor.sockets }}
{{- end }}
{{- if $containers }}
{{- $_ := set $settings "containers" $containers }}
{{- end }}
{{- $config := (index .root.Values .part).config }}
{{- range $key, $value := include "dogwatch.decided" . | fromYaml }}
{{- $names := splitList "." $key }}
{{- $table := $config }}
{{- if eq (len $names) 2 }}{{ $table = index $config (first $names) | default dict }}{{ end }}
{{- if hasKey $table (last $names) }}
{{- fail (printf "%s.config may not set %s, which follows from %s" $.part $key $value) }}
{{- end }}
{{- end }}
{{- mergeOverwrite $settings (deepCopy $config) | toToml }}
{{- end }}

{{/* Variables of both parts: secrets, which stand in no ConfigMap. */}}
{{- define "dogwatch.login" -}}
{{- $kafka := include "dogwatch.kafka" . | fromYaml }}
{{- if $kafka.sasl.mechanism }}
- name: DOGWATCH_KAFKA__OPTIONS__SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ $kafka.sasl.secret }}, key: username}}
- name: DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $kafka.sasl.secret }}, key: password}}
{{- end }}
{{- end }}

{{/* The folders of the sensor's sockets; a JSON list. A folder outlives the socket of a runtime that is started anew. */}}
{{- define "dogwatch.socketfolders" -}}
{{- $folders := list }}
{{- range .root.Values.sensor.sockets }}
{{- $folders = append $folders (regexReplaceAll "^(cri|docker):(//)?" . "" | dir) }}
{{- end }}
{{- uniq $folders | toJson }}
{{- end }}

{{/* Name of the secret of certificates; empty when there is none. */}}
{{- define "dogwatch.tlssecret" -}}
{{- (include "dogwatch.kafka" . | fromYaml).tls.secret }}
{{- end }}

{{/* The brokers' ports as the policy needs them; a JSON list. */}}
{{- define "dogwatch.kafkaports" -}}
{{- $ports := .root.Values.networkPolicy.kafkaPorts }}
{{- if not $ports }}
{{- range splitList "," (include "dogwatch.kafka" . | fromYaml).bootstrapServers }}
{{- $ports = append $ports (int (splitList ":" (trim .) | last)) }}
{{- end }}
{{- end }}
{{- uniq $ports | toJson }}
{{- end }}
