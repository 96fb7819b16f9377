{{- define "retort.labels" -}}
app.kubernetes.io/name: retort
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "retort.claim" -}}
{{ .Values.data.existingClaim | default (printf "%s-data" .Release.Name) }}
{{- end }}

{{/* Arguments: root, image ("web" or "worker"). */}}
{{- define "retort.image" -}}
{{- $image := index .root.Values.images .image -}}
image: "{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ $image.pullPolicy }}
{{- end }}

{{/* Common part of all containers. Arguments: root, env (of this process). Later names win. */}}
{{- define "retort.container" -}}
{{- $host := required "Set host: the name under which people reach it, such as retort.example.org." .root.Values.host -}}
{{- $env := dict "DATA_DIR" "/data" "ALLOWED_HOSTS" $host "CSRF_TRUSTED_ORIGINS" (printf "https://%s" $host) "BEHIND_TLS_PROXY" "true" -}}
{{- $env = mergeOverwrite $env (deepCopy .root.Values.settings) (.env | default dict | deepCopy) -}}
envFrom:
  - secretRef: {name: {{ .root.Values.secret }}}
env:
  {{- range $name, $value := $env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* Common part of all pods. */}}
{{- define "retort.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: data
    persistentVolumeClaim: {claimName: {{ include "retort.claim" . }}}
  - name: tmp
    emptyDir: {sizeLimit: 512Mi}
{{- end }}
