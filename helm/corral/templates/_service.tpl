{{/* One service of Corral: all that it needs, from the one shape that values.yaml gives each.
   Used as   {{ include "corral.service" (list . "gateway") }}   */}}

{{/* Ports by program, as the programs have them by default. */}}
{{- define "corral.ports" -}}
gateway: {public: 8100, admin: 8110}
model-registry: {admin: 8111, rpc: 7111}
selector: {admin: 8112, rpc: 7112}
ab-testing: {admin: 8114, rpc: 7114}
usage-tracker: {admin: 8115, rpc: 7115}
access: {admin: 8116, rpc: 7116}
hardware-probe: {admin: 8117, rpc: 7117}
cloud-fallback: {admin: 8118, rpc: 7118, cloud: 8101}
{{- end }}

{{- define "corral.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "corral.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "corral.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "corral.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What finds the pods of a service; it can never be changed, so no version is in it. */}}
{{- define "corral.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "corral.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "corral.labels" -}}
{{- $ := index . 0 -}}
{{ include "corral.selector" . }}
app.kubernetes.io/part-of: corral
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- end }}

{{- define "corral.metadata" -}}
{{- $ := index . 0 -}}
name: {{ include "corral.fullname" $ }}-{{ index . 1 }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "corral.labels" . | nindent 2 }}
{{- end }}

{{- define "corral.image" -}}
{{- with .Values.image -}}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The file of options: what follows from the chart, over it what the values say for every program and for this one. */}}
{{- define "corral.config" -}}
{{- $ := index . 0 }}
{{- $name := index . 1 }}
{{- $service := index $.Values.services $name }}
{{- $ports := include "corral.ports" $ | fromYaml }}
{{- $mine := index $ports $name }}
{{- $full := include "corral.fullname" $ }}
{{- $tls := $.Values.tls.secretName }}
{{- $scheme := ternary "tls+tcp" "tcp" (ne $tls "") }}
{{- $peers := list }}
{{- range $peer, $port := $ports }}
{{- if and $port.rpc (ne $peer $name) (index $.Values.services $peer).enabled }}
{{- $peers = append $peers (printf "%s=%s://%s-%s:%v" $peer $scheme $full $peer $port.rpc) }}
{{- end }}
{{- end }}
{{- $bus := ternary (deepCopy $.Values.bus) (dict) (has $name (include "corral.onBus" $ | fromYamlArray)) }}
{{- $config := mergeOverwrite (dict "log_format" "json") $bus (deepCopy $.Values.config) (deepCopy $service.config) }}
{{- $_ := set $config "state_dir" "/var/lib/corral" }}
{{- $_ := set $config "drain" (printf "%vs" $service.drainSeconds) }}
{{- $_ := set $config "admin_listen" (printf "%s:%v" (ternary "0.0.0.0" "127.0.0.1" $.Values.adminOnPod) $mine.admin) }}
{{- $_ := set $config "peer" $peers }}
{{- with $mine.public }}
{{- $_ := set $config "listen" (printf "0.0.0.0:%v" .) }}
{{- $host := printf "%s-%s" $full $name }}
{{- $hosts := list $host (printf "%s.%s" $host $.Release.Namespace) (printf "%s.%s.svc" $host $.Release.Namespace) }}
{{- $_ := set $config "allowed_hosts" (concat $hosts (default list $config.allowed_hosts)) }}
{{- end }}
{{- with $mine.rpc }}
{{- $_ := set $config "rpc_listen" (printf "%s://0.0.0.0:%v" $scheme .) }}
{{- end }}
{{- with $mine.cloud }}
{{- $_ := set $config "cloud_listen" (printf "0.0.0.0:%v" .) }}
{{- $_ := set $config "cloud_endpoint" (printf "http://%s-%s:%v" $full $name .) }}
{{- end }}
{{- if and (has $name (include "corral.oneWriter" $ | fromYamlArray)) (gt (int $service.replicas) 1) }}
{{- if ne (include "corral.onServer" . | trim) "yes" }}
{{- fail (printf "services.%s.replicas is %v, and it keeps what it owns in a file, which has one writer: set database.secretName to a Secret with the URL of a PostgreSQL server first (docs/ops/replicas.md), or leave it at 1" $name $service.replicas) }}
{{- end }}
{{- $_ := set $config "standby_ready" true }}
{{- end }}
{{- if eq $name "access" }}
{{- $_ := set $config "bootstrap_key_file" "/etc/corral/first-key/key" }}
{{- end }}
{{- if and (has $name (include "corral.withMasterKey" $ | fromYamlArray)) $.Values.masterKey.secretName }}
{{- $_ := set $config "master_key_file" "/etc/corral/master-key/key" }}
{{- end }}
{{- if $tls }}
{{- $_ := set $config "tls_ca" "/etc/corral/tls/ca.crt" }}
{{- $_ := set $config "tls_cert" "/etc/corral/tls/tls.crt" }}
{{- $_ := set $config "tls_key" "/etc/corral/tls/tls.key" }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The programs that send or read facts by Kafka. */}}
{{- define "corral.onBus" -}}
[ab-testing, access, gateway, model-registry, selector, usage-tracker]
{{- end }}

{{/* The programs that need the installation's secret: for tokens, and for keys of providers that lie sealed. */}}
{{- define "corral.withMasterKey" -}}
[gateway, cloud-fallback]
{{- end }}

{{/* The programs that keep something in a database, and the option for it that goes before 'db'. */}}
{{- define "corral.databases" -}}
gateway: runs_db
model-registry: jobs_db
selector: selector_db
usage-tracker: ledger_db
ab-testing: ab_db
access: access_db
cloud-fallback: cloud_db
{{- end }}

{{/* The programs that have one writer: of several on a PostgreSQL server the others stand by. */}}
{{- define "corral.oneWriter" -}}
[model-registry, selector, usage-tracker, ab-testing, access]
{{- end }}

{{/* "yes" where a program keeps what it owns on a server; what a Secret holds is taken to be one. */}}
{{- define "corral.onServer" -}}
{{- $ := index . 0 }}
{{- $config := merge (dict) (index $.Values.services (index . 1)).config $.Values.config }}
{{- $secrets := include "corral.databaseSecrets" . | fromYaml }}
{{- $own := index (include "corral.databases" $ | fromYaml) (index . 1) | default "" }}
{{- $url := index $config $own | default $config.db | default "" }}
{{- if hasKey $config $own }}{{ ternary "yes" "" (hasPrefix "postgres" $url) }}
{{- else if $secrets }}yes
{{- else }}{{ ternary "yes" "" (hasPrefix "postgres" $url) }}
{{- end }}
{{- end }}

{{/* Those of a program's options that name a database and come from a Secret: {option: {secretName, key}}. */}}
{{- define "corral.databaseSecrets" -}}
{{- $secrets := include "corral.secretConfig" . | fromYaml }}
{{- with index (include "corral.databases" (index . 0) | fromYaml) (index . 1) }}
{{- toYaml (pick $secrets "db" .) }}
{{- end }}
{{- end }}

{{/* Options that come from Secrets, {option: {secretName, key}}: those for every program, over them those for this one. */}}
{{- define "corral.secretConfig" -}}
{{- $ := index . 0 }}
{{- $name := index . 1 }}
{{- $service := index $.Values.services $name }}
{{- $secrets := merge (dict) (deepCopy $service.secretConfig) (deepCopy $.Values.secretConfig) }}
{{- $config := merge (dict) $service.config $.Values.config }}
{{- $own := index (include "corral.databases" $ | fromYaml) $name }}
{{- if and $own $.Values.database.secretName (not (hasKey $config "db")) (not (hasKey $secrets "db")) (not (hasKey $config $own)) (not (hasKey $secrets $own)) }}
{{- $_ := set $secrets "db" (pick $.Values.database "secretName" "key") }}
{{- end }}
{{- range $option, $from := $secrets }}
{{- if hasKey $config $option }}
{{- fail (printf "%s of %s stands in config and in secretConfig; the Secret would win, so remove it from config" $option $name) }}
{{- end }}
{{- end }}
{{- if and $config.providers (not (hasKey $secrets "cloud_token")) (not $config.cloud_token) }}
{{- fail "with providers configured, services.cloud-fallback.secretConfig has to say where cloud_token is (16 characters or more): gateways show it there" }}
{{- end }}
{{- if and (eq $name "gateway") $.Values.cache.secretName (not (hasKey $config "cache")) (not (hasKey $secrets "cache")) }}
{{- $_ := set $secrets "cache" (pick $.Values.cache "secretName" "key") }}
{{- if and (gt (int $service.replicas) 1) (not $.Values.masterKey.secretName) (not $config.master_key_file) }}
{{- fail "gateways that share a cache need one secret: set masterKey.secretName, else each finds only its own answers" }}
{{- end }}
{{- end }}
{{- if and $.Values.busPassword.secretName (has $name (include "corral.onBus" $ | fromYamlArray)) (not (hasKey $secrets "bus_password")) }}
{{- $_ := set $secrets "bus_password" (pick $.Values.busPassword "secretName" "key") }}
{{- end }}
{{- toYaml $secrets }}
{{- end }}

{{- define "corral.env" -}}
- {name: CORRAL_CONFIG, value: /etc/corral/config/corral.yaml}
{{- range $option, $from := include "corral.secretConfig" . | fromYaml }}
- name: CORRAL_{{ upper $option }}
  valueFrom: {secretKeyRef: {name: {{ $from.secretName }}, key: {{ $from.key }}}}
{{- end }}
{{- end }}

{{/* Secrets that are folders, {name: secretName}: below /etc/corral/secrets. */}}
{{- define "corral.secretFiles" -}}
{{- $ := index . 0 }}
{{- toYaml (merge (dict) (index $.Values.services (index . 1)).secretFiles $.Values.secretFiles) }}
{{- end }}

{{- define "corral.probe" -}}
{{- $ := index . 0 -}}
{{- if $.Values.adminOnPod -}}
httpGet: {path: /{{ index . 2 }}, port: admin}
{{- else -}}
exec: {command: [{{ index . 1 }}, --probe={{ index . 2 }}]}
{{- end }}
{{- end }}

{{- define "corral.mounts" -}}
{{- $ := index . 0 }}
{{- $name := index . 1 -}}
- {name: config, mountPath: /etc/corral/config, readOnly: true}
- {name: state, mountPath: /var/lib/corral}
{{- if eq $name "access" }}
- {name: first-key, mountPath: /etc/corral/first-key, readOnly: true}
{{- end }}
{{- if and (has $name (include "corral.withMasterKey" $ | fromYamlArray)) $.Values.masterKey.secretName }}
- {name: master-key, mountPath: /etc/corral/master-key, readOnly: true}
{{- end }}
{{- if $.Values.tls.secretName }}
- {name: tls, mountPath: /etc/corral/tls, readOnly: true}
{{- end }}
{{- range $folder, $secret := include "corral.secretFiles" . | fromYaml }}
- {name: secret-{{ $folder }}, mountPath: /etc/corral/secrets/{{ $folder }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "corral.pod" -}}
{{- $ := index . 0 }}
{{- $name := index . 1 }}
{{- $service := index $.Values.services $name }}
{{- $ports := index (include "corral.ports" $ | fromYaml) $name }}
{{- $files := include "corral.secretFiles" . | fromYaml -}}
metadata:
  labels:
    {{- include "corral.labels" . | nindent 4 }}
  annotations:
    checksum/config: {{ include "corral.config" . | sha256sum }}
    {{- with $service.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "corral.fullname" $ }}-{{ $name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $service.preStopSeconds $service.drainSeconds 15 }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $.Values.podSecurityContext | nindent 4 }}
  {{- with $service.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $service.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $service.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if gt (int $service.replicas) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "corral.selector" . | nindent 10 }}
  {{- end }}
  {{- if and (eq $.Values.database.migrate "init") (include "corral.databaseSecrets" . | fromYaml) }}
  initContainers:
    - name: migrate
      image: {{ include "corral.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [{{ $name }}, migrate]
      env:
        {{- include "corral.env" . | nindent 8 }}
      securityContext:
        {{- toYaml $.Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml $service.resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "corral.mounts" . | nindent 8 }}
  {{- end }}
  containers:
    - name: {{ $name }}
      image: {{ include "corral.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [{{ $name }}]
      env:
        {{- include "corral.env" . | nindent 8 }}
      ports:
        {{- with $ports.public }}
        - {name: http, containerPort: {{ . }}}
        {{- end }}
        {{- with $ports.rpc }}
        - {name: rpc, containerPort: {{ . }}}
        - {name: news, containerPort: {{ add . 100 }}}
        {{- end }}
        {{- with $ports.cloud }}
        - {name: cloud, containerPort: {{ . }}}
        {{- end }}
        {{- if $.Values.adminOnPod }}
        - {name: admin, containerPort: {{ $ports.admin }}}
        {{- end }}
      startupProbe:
        {{- include "corral.probe" (list $ $name "startupz") | nindent 8 }}
        periodSeconds: 1
        failureThreshold: 60
        timeoutSeconds: 5
      livenessProbe:
        {{- include "corral.probe" (list $ $name "livez") | nindent 8 }}
        periodSeconds: 10
        failureThreshold: 6
        timeoutSeconds: 5
      readinessProbe:
        {{- include "corral.probe" (list $ $name "readyz") | nindent 8 }}
        periodSeconds: 5
        failureThreshold: 2
        timeoutSeconds: 5
      {{- if $service.preStopSeconds }}
      lifecycle:
        preStop:
          exec: {command: [{{ $name }}, --wait={{ $service.preStopSeconds }}s]}
      {{- end }}
      securityContext:
        {{- toYaml $.Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml $service.resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "corral.mounts" . | nindent 8 }}
  volumes:
    - name: config
      configMap: {name: {{ include "corral.fullname" $ }}-{{ $name }}}
    {{- if not $service.storage.size }}
    - name: state
      emptyDir: {}
    {{- end }}
    {{- if eq $name "access" }}
    - name: first-key
      secret:
        secretName: {{ $.Values.firstKey.secretName }}
        defaultMode: 0440
        items: [{key: {{ $.Values.firstKey.key }}, path: key}]
    {{- end }}
    {{- if and (has $name (include "corral.withMasterKey" $ | fromYamlArray)) $.Values.masterKey.secretName }}
    - name: master-key
      secret:
        secretName: {{ $.Values.masterKey.secretName }}
        defaultMode: 0440
        items: [{key: {{ $.Values.masterKey.key }}, path: key}]
    {{- end }}
    {{- with $.Values.tls.secretName }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- range $folder, $secret := $files }}
    - name: secret-{{ $folder }}
      secret: {secretName: {{ $secret }}, defaultMode: 0440}
    {{- end }}
{{- end }}

{{- define "corral.network" -}}
{{- $ := index . 0 }}
{{- $ports := index (include "corral.ports" $ | fromYaml) (index . 1) }}
{{- $policy := $.Values.networkPolicy -}}
podSelector:
  matchLabels:
    {{- include "corral.selector" . | nindent 4 }}
policyTypes: [Ingress{{ if $policy.restrictEgress }}, Egress{{ end }}]
ingress:
  {{- if $ports.public }}
  - ports:
      - {port: http}
  {{- end }}
  {{- if $ports.rpc }}
  - from:
      - podSelector:
          matchLabels:
            {{- include "corral.selector" (list $ "") | nindent 12 }}
    ports:
      - {port: rpc}
      - {port: news}
      {{- if $ports.cloud }}
      - {port: cloud}
      {{- end }}
  {{- end }}
  {{- if and $.Values.adminOnPod $policy.adminFrom }}
  - from:
      {{- toYaml $policy.adminFrom | nindent 6 }}
    ports:
      - {port: admin}
  {{- end }}
{{- if $policy.restrictEgress }}
egress:
  - ports:                              # names
      - {protocol: UDP, port: 53}
      - {protocol: TCP, port: 53}
  - to:
      - podSelector:
          matchLabels:
            {{- include "corral.selector" (list $ "") | nindent 12 }}
  {{- range concat $policy.egress (index $.Values.services (index . 1)).egress }}
  - {{ toYaml . | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "corral.service" -}}
{{- $ := index . 0 }}
{{- $name := index . 1 }}
{{- $service := index $.Values.services $name }}
{{- $ports := index (include "corral.ports" $ | fromYaml) $name }}
{{- if $service.enabled -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
data:
  corral.yaml: |
    {{- include "corral.config" . | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
  {{- with $service.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.service.type | default "ClusterIP" }}
  {{- if $ports.rpc }}
  publishNotReadyAddresses: true        # the others tell by themselves what state it is in
  {{- end }}
  selector:
    {{- include "corral.selector" . | nindent 4 }}
  ports:
    {{- if $ports.public }}
    - {name: http, port: {{ $service.service.port }}, targetPort: http, appProtocol: http}
    {{- end }}
    {{- with $ports.rpc }}
    - {name: rpc, port: {{ . }}, targetPort: rpc}
    - {name: news, port: {{ add . 100 }}, targetPort: news}
    {{- end }}
    {{- with $ports.cloud }}
    - {name: cloud, port: {{ . }}, targetPort: cloud, appProtocol: http}
    {{- end }}
---
{{- if $.Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
spec:
  {{- include "corral.network" . | nindent 2 }}
---
{{- end }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "corral.selector" . | nindent 6 }}
---
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" (not (not $service.storage.size)) }}
metadata:
  {{- include "corral.metadata" . | nindent 2 }}
spec:
  replicas: {{ $service.replicas }}
  selector:
    matchLabels:
      {{- include "corral.selector" . | nindent 6 }}
  {{- if $service.storage.size }}
  serviceName: {{ include "corral.fullname" $ }}-{{ $name }}
  podManagementPolicy: Parallel
  {{- /* The partition is Kubernetes' own default, said all the same: where rollingUpdate is not there its controller makes a pod again in the old version while
         status.currentReplicas is above 0, and that status cannot be saved (-1) where pods of the old version go and are replaced in one turn, as when
         a new version has fewer replicas. Then it makes and deletes that pod for ever. */}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}}
  {{- else }}
  strategy: {type: {{ ternary "RollingUpdate" "Recreate" (gt (int $service.replicas) 1) }}}
  {{- end }}
  template:
    {{- include "corral.pod" . | nindent 4 }}
  {{- with $service.storage }}
  {{- if .size }}
  volumeClaimTemplates:
    - metadata:
        name: state
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .size }}}}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
