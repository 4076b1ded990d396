{{- /* The release's name, and what it is of if that does not say so. */ -}}
{{- define "smg.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "smg" $name) -}}
{{- $name = printf "%s-smg" $name -}}
{{- end -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- define "smg.account" -}}
{{- .Values.serviceAccount.name | default (ternary (include "smg.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}
{{- define "smg.workerNamespace" -}}
{{- .Values.discovery.namespace | default .Release.Namespace -}}
{{- end -}}
{{- define "smg.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- define "smg.selector" -}}
app.kubernetes.io/name: smg
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "smg.labels" -}}
{{ include "smg.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
