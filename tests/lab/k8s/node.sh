# The first process of a real node: makes it look like a machine of its own, then runs containerd and kubelet.
#
# Started by node.rs in the node's network namespace and cgroups, and in new namespaces for cgroups, mounts, processes, the host's
# name and IPC. Everything that is mounted here is seen by the node alone and ends with it. Nothing of the machine is written.
#
# NODE     its name
# LAB      the lab's directory, the only one below /run that stays
# DIR      the node's own directory in it
# ADDRESSES, KUBECONFIG, AUTHORITY, DNS, PROGRAMS, IMAGES, RUNC: see node.rs
set -eu

hostname "$NODE"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf

# The hierarchies of cgroups, from the node's own cgroup down.
if grep -qv '^0::' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in
        "") directory=unified type=cgroup2 options=rw ;;
        name=*) directory=${controllers#name=} type=cgroup options=none,$controllers ;;
        *) directory=$controllers type=cgroup options=$controllers ;;
        esac
        mkdir "/sys/fs/cgroup/$directory"
        mount -t "$type" -o "$options" "$type" "/sys/fs/cgroup/$directory"
    done </proc/self/cgroup
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # A cgroup that hands out controllers has no processes of its own.
    mkdir -p /sys/fs/cgroup/node
    echo 1 >/sys/fs/cgroup/node/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
fi

# /run is the node's own, but for the lab's directory.
mount --bind "$LAB" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$LAB" /run/lock
mount --move /mnt "$LAB"
for directory in containerd kubelet log cni; do
    mkdir -p "$DIR/$directory"
done
mount --bind "$DIR/log" /var/log

# Settings of the whole machine that kubelet wants to be so: it sees them so.
see() {
    echo "$2" >"$DIR/$(basename "$1")"
    mount --bind "$DIR/$(basename "$1")" "/proc/sys/$1"
}
see vm/overcommit_memory 1
see vm/panic_on_oom 0
see kernel/panic 10
see kernel/panic_on_oops 1
see kernel/keys/root_maxkeys 1000000
see kernel/keys/root_maxbytes 25000000

# Mounts of Pods may have to be seen by other Pods (mountPropagation).
mount --make-rshared /

cat >"$DIR/containerd.toml" <<END
version = 3
root = "$DIR/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "lab.nodeport/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [$(echo "$PROGRAMS" | sed 's/[^:]*/"&"/g; s/:/, /g')]
conf_dir = "$DIR/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "$RUNC"
SystemdCgroup = false
END
cat >"$DIR/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /
failSwapOn: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$AUTHORITY"}}
authorization: {mode: Webhook}
clusterDNS: ["$DNS"]
clusterDomain: cluster.local
resolvConf: ""
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
nodeLeaseDurationSeconds: 10
nodeStatusUpdateFrequency: 5s
END

export PATH="$PROGRAMS:$PATH"
containerd --config "$DIR/containerd.toml" >"$DIR/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$IMAGES"/*.tar; do
    ctr --namespace k8s.io images import --local "$image"
done
kubelet --config="$DIR/kubelet.yaml" --root-dir="$DIR/kubelet" --cert-dir="$DIR/kubelet/pki" --kubeconfig="$KUBECONFIG" \
    --hostname-override="$NODE" --node-ip="$ADDRESSES" >"$DIR/kubelet.log" 2>&1 &
# The node ends with its kubelet; orphans are reaped by this shell.
wait $!
