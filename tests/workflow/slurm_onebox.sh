#!/usr/bin/env bash
# A real Slurm on one machine: slurmctld and one slurmd for each node, with null devices standing in for GPUs.
#   slurm_onebox.sh up FOLDER [NODES=2] [GPUS_PER_NODE=2] [CPUS_PER_NODE=2]
#   slurm_onebox.sh down FOLDER
# Needs root and the Debian packages slurm-wlm and munge. Everything lives in FOLDER and a temporary folder, but for two
# links in /etc/slurm: a job step of Snakemake's plugin drops SLURM_CONF from its environment, so only the default place
# is found by it. `down` takes all of it away.
set -euo pipefail

usage() {
    sed -n '3,4s/^# *//p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
command=$1
folder=$2
nodes=${3:-2}
gpus=${4:-2}
cpus=${5:-2}
host=$(hostname -s 2>/dev/null || uname -n)
conf=/etc/slurm
socket=
options=()
export PATH=$PATH:/usr/sbin

# A port of the loopback that nothing listens on, counted up from $1.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

# A munge of our own, with key, log and socket of our own: the machine's, if it has one, is left alone.
start_munge() {
    local name
    # a socket's path may have 107 characters at most, which those of tests come near to
    socket=$(mktemp -d "${TMPDIR:-/tmp}/munge.XXXXXX")
    if [ ${#socket} -gt 90 ]; then
        rmdir "$socket"
        socket=$(mktemp -d /tmp/munge.XXXXXX)
    fi
    echo "$socket" >"$folder/run/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$socket/key")
    for name in log seed pid; do options+=("--$name-file=$socket/$name"); done
    munged --force --key-file="$socket/key" --socket="$socket/socket" "${options[@]}"
}

write_conf() {
    local number gpu=0 port
    port=$(free_port 16817)
    # linuxproc and task/none: no cgroups needed, so it runs in a container. DefMemPerCPU: else a job takes all
    # memory of a node. MinJobAge: squeue must still know a job when Snakemake asks. The scheduler's intervals and
    # the batch delay are short because the jobs are.
    cat >"$folder/slurm.conf" <<CONF
ClusterName=onebox
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket/socket
CredType=cred/munge
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
ReturnToService=2
MinJobAge=3600
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,batch_sched_delay=1
CONF
    : >"$folder/gres.conf"
    for number in $(seq 1 "$nodes"); do
        port=$(free_port $((port + 1)))
        echo "NodeName=n$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$port CPUs=$cpus RealMemory=16000" \
            "Gres=gpu:$gpus" >>"$folder/slurm.conf"
        for _ in $(seq 1 "$gpus"); do
            # Slurm takes character devices only; 1,3 is the null device.
            mknod "$folder/gpu$gpu" c 1 3
            echo "NodeName=n$number Name=gpu File=$folder/gpu$gpu" >>"$folder/gres.conf"
            gpu=$((gpu + 1))
        done
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$folder/slurm.conf"
}

up() {
    local file number
    for file in slurm.conf gres.conf; do
        if [ -e "$conf/$file" ]; then
            echo "$conf/$file exists: this machine has a Slurm of its own, which is left alone" >&2
            exit 3
        fi
    done
    mkdir -p "$folder"/{state,spool,log,run}
    if [ ! -d "$conf" ]; then mkdir "$conf" && : >"$folder/run/made_conf"; fi
    start_munge
    write_conf
    ln -sfn "$folder/slurm.conf" "$conf/slurm.conf"
    ln -sfn "$folder/gres.conf" "$conf/gres.conf"
    slurmctld
    for number in $(seq 1 "$nodes"); do slurmd -N "n$number"; done
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = "$nodes" ]; then
            sinfo --Node -o "%N %P %t %c %m %G"
            return
        fi
        sleep 0.5
    done
    echo "the nodes did not come up within 30 s:" >&2
    tail -n 20 "$folder"/log/*.log >&2
    exit 1
}

# Ends what `up` started, by the process numbers it wrote, whatever state that is in.
down() {
    local file pid
    # Without these two links nothing is ours to cancel; a foreign Slurm has plain files or links elsewhere.
    if [ "$(readlink "$conf/slurm.conf" || true)" = "$folder/slurm.conf" ]; then
        scancel --user="$(id -un)" --signal=KILL 2>/dev/null || true
        timeout 10 scontrol shutdown >/dev/null 2>&1 || true
        rm -f "$conf/slurm.conf" "$conf/gres.conf"
    fi
    for file in "$folder"/run/*.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    if [ -s "$folder/run/munge" ]; then
        socket=$(cat "$folder/run/munge")
        kill "$(cat "$socket/pid")" 2>/dev/null || true
        rm -rf "$socket"
        rm -f "$folder/run/munge"
    fi
    if [ -e "$folder/run/made_conf" ]; then rmdir "$conf" 2>/dev/null || true; fi
}

case $command in
up) up ;;
down) down ;;
*) usage ;;
esac
