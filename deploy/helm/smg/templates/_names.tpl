{{- define "smg.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- define "smg.account" -}}
{{- default (include "smg.name" .) .Values.serviceAccount.name -}}
{{- end -}}
{{- define "smg.workerNamespace" -}}
{{- default .Release.Namespace .Values.discovery.namespace -}}
{{- end -}}
{{- define "smg.selector" -}}
app.kubernetes.io/name: smg
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "smg.labels" -}}
{{ include "smg.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
