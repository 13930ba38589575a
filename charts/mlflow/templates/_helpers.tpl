{{- define "mlflow.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "mlflow.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mlflow.labels" -}}
{{ include "mlflow.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: m3
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "mlflow.claimName" -}}
{{ default (printf "%s-data" (include "mlflow.fullname" .)) .Values.persistence.existingClaim }}
{{- end }}

{{/* MLflow compares the Host header, port included, as a whole string, so each name is listed bare and with the port. */}}
{{- define "mlflow.allowedHosts" -}}
{{- $name := include "mlflow.fullname" . -}}
{{- $namespaced := printf "%s.%s" $name .Release.Namespace -}}
{{- $service := list $name $namespaced (printf "%s.svc" $namespaced) (printf "%s.svc.%s" $namespaced .Values.clusterDomain) -}}
{{- $hosts := list -}}
{{- range $service }}{{ $hosts = concat $hosts (list . (printf "%s:%v" . $.Values.service.port)) }}{{ end -}}
{{- range list "localhost" "127.0.0.1" }}{{ $hosts = concat $hosts (list . (printf "%s:*" .)) }}{{ end -}}
{{- if .Values.ingress.enabled }}{{ $hosts = append $hosts .Values.ingress.host }}{{ end -}}
{{ concat $hosts .Values.extraAllowedHosts | uniq | join "," }}
{{- end }}

{{- define "mlflow.corsAllowedOrigins" -}}
{{- $origins := .Values.corsAllowedOrigins -}}
{{- if .Values.ingress.enabled -}}
{{- $origins = append $origins (printf "%s://%s" (ternary "https" "http" (not (empty .Values.ingress.tlsSecretName))) .Values.ingress.host) -}}
{{- end -}}
{{ $origins | uniq | join "," }}
{{- end }}

{{/* /health answers 200 even where every API call is refused for its Host header, so it cannot say that a client will be served. */}}
{{- define "mlflow.apiProbe" -}}
httpGet:
  path: /api/2.0/mlflow/experiments/search?max_results=1
  port: http
  httpHeaders:
    - {name: Host, value: "{{ include "mlflow.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}"}
timeoutSeconds: 5
{{- end }}
