{{- define "m3.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "m3.operatorName" -}}
{{ include "m3.fullname" . }}-operator
{{- end }}

{{- define "m3.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "m3.operatorName" .) .Values.serviceAccount.name }}
{{- else -}}{{ required "serviceAccount.name must name an existing service account when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "m3.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "m3.labels" -}}
{{ include "m3.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: m3
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* JSON list of the namespaces whose jobs are run; not used when clusterWide. */}}
{{- define "m3.namespaces" -}}
{{ prepend .Values.watchNamespaces .Release.Namespace | uniq | toJson }}
{{- end }}

{{- define "m3.trackingUri" -}}
{{ default (printf "http://mlflow.%s.svc.%s:5000" .Release.Namespace .Values.clusterDomain) .Values.mlflow.trackingUri }}
{{- end }}

{{- define "m3.rules" -}}
# Its own kind: delete is for ttlSecondsAfterFinished.
- apiGroups: [m3.dev]
  resources: [trainingjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [m3.dev]
  resources: [trainingjobs/status]
  verbs: [patch]
# The children: one RayJob for each attempt.
- apiGroups: [ray.io]
  resources: [rayjobs]
  verbs: [get, list, watch, create, patch, delete]
# What happened, for `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Why a cluster does not start, and what has killed it.
- apiGroups: [""]
  resources: [pods, events]
  verbs: [list]
{{- end }}

{{/* files/alerts.yaml, which is Prometheus' own kind of file, of this release's operator alone. */}}
{{- define "m3.alerts" -}}
{{- $ours := printf "namespace=%q,job=%q" .Release.Namespace (include "m3.operatorName" .) -}}
{{- $rules := .Files.Get "files/alerts.yaml" | replace "operator=\"this\"" $ours | fromYaml -}}
{{- range $rules.groups -}}
{{- $_ := set . "name" (printf "%s/%s" $.Release.Namespace (include "m3.operatorName" $)) -}}
{{- range .rules -}}
{{- $_ := set . "labels" (merge (deepCopy $.Values.metrics.prometheusRule.alertLabels) .labels) -}}
{{- end -}}
{{- end -}}
{{ toYaml $rules }}
{{- end }}
