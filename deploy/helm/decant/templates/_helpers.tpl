{{- define "decant.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "decant.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "decant.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "decant.selector" -}}
app.kubernetes.io/name: {{ include "decant.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "decant.labels" -}}
{{ include "decant.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "decant.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "decant.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "decant.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{- $built := printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (gt (int .Values.gpu.count) 0)) -}}
{{ .Values.image.repository }}:{{ default $built .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* The Secret that holds the keys; empty if there is none. */ -}}
{{- define "decant.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret -}}
{{- .Values.apiKeys.existingSecret -}}
{{- else if .Values.apiKeys.values -}}
{{- printf "%s-keys" (include "decant.fullname" .) -}}
{{- else if not .Values.allowNoApiKey -}}
{{- fail "apiKeys.existingSecret or apiKeys.values is required; allowNoApiKey: true lets everyone use the server" -}}
{{- end -}}
{{- end -}}

{{- define "decant.keysEntry" -}}
{{- ternary .Values.apiKeys.existingSecretKey "keys" (not (empty .Values.apiKeys.existingSecret)) -}}
{{- end -}}

{{- /* Decant's own default is 30 s. */ -}}
{{- define "decant.drainSeconds" -}}
{{- $drain := 30 -}}
{{- if hasKey .Values.config "drain_seconds" -}}{{- $drain = .Values.config.drain_seconds -}}{{- end -}}
{{- ceil $drain | int -}}
{{- end -}}

{{- define "decant.graceSeconds" -}}
{{- add .Values.preStopSeconds (include "decant.drainSeconds" . | int) .Values.shutdownMarginSeconds -}}
{{- end -}}
