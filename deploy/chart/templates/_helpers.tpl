{{- define "nodeport.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nodeport.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "nodeport.name" .) -}}
{{- end -}}

{{- define "nodeport.selector" -}}
app.kubernetes.io/name: nodeport
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nodeport.labels" -}}
{{ include "nodeport.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: kube-proxy
{{- end -}}

{{- define "nodeport.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nodeport.configuration" -}}
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
{{- with .Values.kubeProxy }}
{{ toYaml . }}
{{- end }}
---
apiVersion: nodeport.dev/v1alpha1
kind: NodeportConfiguration
{{- with .Values.nodeport }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The port of the health server, as the agent takes it from healthzBindAddress; 0 if there is none. */ -}}
{{- define "nodeport.healthzPort" -}}
{{- $address := dig "healthzBindAddress" "0.0.0.0:10256" .Values.kubeProxy -}}
{{- if contains ":" $address -}}{{ splitList ":" $address | last }}{{- else -}}10256{{- end -}}
{{- end -}}

{{- /* Whether settings of the host are to be written. */ -}}
{{- define "nodeport.writesHost" -}}
{{- if or .Values.nodeport.conntrackSysctls .Values.nodeport.reservePorts -}}true{{- end -}}
{{- end -}}
