#!/bin/sh
# Makes the Secrets that the manifests and the pipeline name, with random contents. One that is there already stays as
# it is, so this can be run again. Needs kubectl with rights in both namespaces, and the project's Python ($PYTHON).
#
#   HF_TOKEN                    of the model hub, for gated models; no Secret without it
#   PIXELIS_SECRETS_NAMESPACE   where the pipeline's tasks run (kubeflow, or a profile's namespace)
set -eu
own=pixelis
tasks=${PIXELIS_SECRETS_NAMESPACE:-kubeflow}
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

random() { "$python" -c 'import secrets; print(secrets.token_hex(24))'; }
there() { kubectl -n "$1" get secret "$2" >/dev/null 2>&1; }
of_pipelines() {
  value=$(kubectl -n "$tasks" get secret mlpipeline-minio-artifact -o "jsonpath={.data.$1}" | base64 -d)
  if [ -z "$value" ]; then # the pipe hides kubectl's failure; a Secret without contents would never be made again
    echo "error: namespace $tasks holds no Secret mlpipeline-minio-artifact with $1 (the store of Kubeflow Pipelines);" \
      "set PIXELIS_SECRETS_NAMESPACE to where the pipeline's tasks run." >&2
    return 1
  fi
  printf %s "$value"
}
service_key() {
  "$python" -m components.ttrl.security --file "$folder/keys.json" --name "$1" --role "$2" |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["key"])'
}

kubectl get namespace "$own" >/dev/null 2>&1 || kubectl create namespace "$own"

there $own pixelis-postgres || kubectl -n $own create secret generic pixelis-postgres --from-literal=password="$(random)"

if ! there $own pixelis-object-store; then
  key=$(random)
  printf '{"identities":[{"name":"pixelis","credentials":[{"accessKey":"pixelis","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}' \
    "$key" >"$folder/s3.json"
  kubectl -n $own create secret generic pixelis-object-store --from-file="$folder/s3.json" \
    --from-literal=AWS_ACCESS_KEY_ID=pixelis --from-literal=AWS_SECRET_ACCESS_KEY="$key"
fi

# The store of Kubeflow Pipelines: the service fetches its model there, training keeps its checkpoints there.
if ! there $own pixelis-model-store || ! there "$tasks" pixelis-exchange; then
  id=$(of_pipelines accesskey)
  key=$(of_pipelines secretkey)
  address=http://minio-service.kubeflow.svc.cluster.local:9000
  there $own pixelis-model-store || kubectl -n $own create secret generic pixelis-model-store \
    --from-literal=AWS_ENDPOINT_URL=$address --from-literal=AWS_ACCESS_KEY_ID="$id" --from-literal=AWS_SECRET_ACCESS_KEY="$key"
  there "$tasks" pixelis-exchange || kubectl -n "$tasks" create secret generic pixelis-exchange \
    --from-literal=AWS_ENDPOINT_URL=$address --from-literal=AWS_DEFAULT_REGION=us-east-1 \
    --from-literal=AWS_ACCESS_KEY_ID="$id" --from-literal=AWS_SECRET_ACCESS_KEY="$key"
fi

# Keys of the service: it keeps their hashes, the pipeline and Prometheus the keys.
if ! there $own pixelis-ttrl-keys; then
  pipeline=$(service_key pipeline client)
  prometheus=$(service_key prometheus viewer)
  admin=$(service_key admin admin)
  kubectl -n "$tasks" delete secret pixelis-ttrl-client --ignore-not-found
  kubectl -n "$tasks" create secret generic pixelis-ttrl-client --from-literal=PIXELIS_API_KEY="$pipeline"
  kubectl -n $own delete secret pixelis-ttrl-scrape --ignore-not-found
  kubectl -n $own create secret generic pixelis-ttrl-scrape --from-literal=token="$prometheus"
  kubectl -n $own create secret generic pixelis-ttrl-keys --from-file="$folder/keys.json" # last: it says all are made
  echo "The service's admin key, shown this once: $admin"
fi

if [ -n "${HF_TOKEN:-}" ] && ! there "$tasks" pixelis-hub; then
  kubectl -n "$tasks" create secret generic pixelis-hub --from-literal=HF_TOKEN="$HF_TOKEN"
fi
