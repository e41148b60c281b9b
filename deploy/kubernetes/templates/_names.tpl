{{/* Names and labels. Those with a part take a dictionary: root (the top scope) and part (sensor or processor). */}}

{{- define "dogwatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "dogwatch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "dogwatch.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "dogwatch.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dogwatch.partname" -}}
{{- printf "%s-%s" (include "dogwatch.fullname" .root) .part }}
{{- end }}

{{- define "dogwatch.selector" -}}
app.kubernetes.io/name: {{ include "dogwatch.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "dogwatch.labels" -}}
{{ include "dogwatch.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "dogwatch.serviceaccount" -}}
{{- if .root.Values.serviceAccount.create }}
{{- include "dogwatch.partname" . }}
{{- else }}
{{- .root.Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dogwatch.image" -}}
{{- with (index .root.Values .part).image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.root.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}
