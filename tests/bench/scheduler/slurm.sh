#!/bin/bash
# Debian's slurm-wlm on this machine: one controller, NODES slurmd on loopback (its build lets them
# share a host), submit-to-start of single jobs on the idle cluster and of a burst. Prints the same
# JSON lines as ours, or says that it was skipped. Needs root, slurm-wlm and munge.
set -u
nodes=${NODES:-16}
single=${SINGLE:-20}
burst=${BURST:-100}
skip() {
  echo "slurm: skipped, $1"
  exit 0
}
for program in slurmctld slurmd sbatch squeue sacctmgr munged; do
  command -v "$program" > /dev/null || skip "$program is not installed (apt-get install slurm-wlm munge)"
done
[ "$(id -u)" = 0 ] || skip "it needs root"

work=$(mktemp -d /var/tmp/graft-slurm.XXXXXX)
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2> /dev/null; done
  wait 2> /dev/null
  rm -rf "$work"
}
trap finish EXIT
export SLURM_CONF=$work/slurm.conf

# munge with a key, socket and log of its own.
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 2> /dev/null
chmod 0400 "$work/munge.key"
munged --force --foreground --key-file="$work/munge.key" --socket="$work/munge.socket" \
  --log-file="$work/munge.log" --pid-file="$work/munge.pid" --seed-file="$work/munge.seed" \
  > "$work/munge.out" 2>&1 &
started+=($!)

cat > "$SLURM_CONF" << CONF
ClusterName=bench
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=17817
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
CONF
for i in $(seq 1 "$nodes"); do
  echo "NodeName=n$i NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((17900 + i)) CPUs=1" \
    >> "$SLURM_CONF"
done
echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >> "$SLURM_CONF"
mkdir -p "$work/state"
slurmctld -D -f "$SLURM_CONF" > "$work/ctld.out" 2>&1 &
started+=($!)
for i in $(seq 1 "$nodes"); do
  mkdir -p "$work/spool-n$i"
  slurmd -D -N "n$i" -f "$SLURM_CONF" > "$work/slurmd-n$i.out" 2>&1 &
  started+=($!)
done
for _ in $(seq 60); do
  idle=$(sinfo -h -o '%T %D' 2> /dev/null | awk '$1 ~ /^idle/ {n += $2} END {print n + 0}')
  [ "$idle" = "$nodes" ] && break
  sleep 1
done
[ "${idle:-0}" = "$nodes" ] || skip "only ${idle:-0} of $nodes nodes came up; see its logs"

now_ms() { date +%s%3N; }
# A job writes the time at which it runs.
cat > "$work/job.sh" << JOB
#!/bin/bash
date +%s%3N > "$work/start.\$SLURM_JOB_ID"
JOB
chmod +x "$work/job.sh"
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for _ in $(seq "$single"); do
  begin=$(now_ms)
  id=$(sbatch --parsable -o /dev/null "$work/job.sh")
  while [ ! -s "$work/start.$id" ]; do sleep 0.01; done
  echo $(($(cat "$work/start.$id") - begin))
done > "$work/single"
p50=$(median < "$work/single")

begin=$(now_ms)
last=0
for _ in $(seq "$burst"); do last=$(sbatch --parsable -o /dev/null "$work/job.sh"); done
submitted=$(now_ms)
while [ ! -s "$work/start.$last" ]; do sleep 0.02; done
end=$(cat "$work/start.$last")
rate=$(awk "BEGIN {print $burst * 1000 / ($submitted - $begin)}")

line='{"bench":"scheduler","metric":"%s","value":%s,"unit":"%s","peer":"none","peer_value":0,"ratio":0,"bar":0,"ok":true}\n'
# shellcheck disable=SC2059
printf "$line" slurm_submit_to_start_p50 "$p50" ms
# shellcheck disable=SC2059
printf "$line" slurm_submits "$rate" jobs/s
# shellcheck disable=SC2059
printf "$line" slurm_burst_last_start $((end - begin)) ms
printf '\nSlurm %s, %s nodes: submit to start p50 %s ms (%s jobs); %s submits at %s/s, last start after %s ms\n' \
  "$(sinfo -V | awk '{print $2}')" "$nodes" "$p50" "$single" "$burst" "$rate" $((end - begin))
