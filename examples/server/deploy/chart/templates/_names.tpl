{{- define "tollgate.selector" -}}
app.kubernetes.io/name: tollgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tollgate.labels" -}}
{{ include "tollgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The secret with the password of the chart's Redis. */}}
{{- define "tollgate.secret" -}}
{{ .Values.redis.existingSecret | default (print .Release.Name "-redis") }}
{{- end }}

{{- define "tollgate.configuration" -}}
{{ .Values.configuration | default (.Files.Get "files/tollgate.toml") }}
{{- end }}
