#!/bin/bash
# Runs a step of a batch job by srun, so that what interrupts the job costs no work. A batch script ends with
#
#   exec "$scripts/step.sh" csplade train ...
#
# Before the time limit (#SBATCH --signal=B:USR1@120), and before preemption where the cluster says so, SIGUSR1
# comes here. All ranks then write a checkpoint at the end of the present step and exit with 75; a job that ends
# so is queued again under its number, and goes on from the checkpoint. Every other exit code is the job's.
#
#   scancel --signal=USR1 JOB            a checkpoint, and the run goes on
#   scancel --batch --signal=USR1 JOB    a checkpoint, and the job is queued again
#   scancel JOB                          a checkpoint, and the job ends
set -u

# srun does not take over --cpus-per-task of the job by itself since SLURM 22.05.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

case ${CSPLADE_RANKS:-pmix} in
pmix)
    set -- --mpi=pmix "$@"
    ;;
tcp) # for clusters whose srun has no PMIx: this is the machine of rank 0
    export MASTER_ADDR=${MASTER_ADDR:-$(hostname)} MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    # shellcheck disable=SC2016 # of each task, not of this shell
    set -- --mpi=none bash -c 'export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS; exec "$@"' rank "$@"
    ;;
*)
    echo "step.sh: CSPLADE_RANKS is $CSPLADE_RANKS: it must be pmix or tcp" >&2
    exit 2
    ;;
esac
srun "$@" &
step=$!

signalled='' ending=''
# shellcheck disable=SC2317 # called by the traps
stop() {
    signalled=yes
    kill -USR2 "$step" 2>/dev/null # srun passes it on to every rank
}
trap stop USR1
# SLURM itself ends the job, or queues it again: that is not undone here.
trap 'ending=yes; stop' TERM

# A signal ends wait before the step has ended.
while
    signalled=''
    wait "$step"
    code=$?
    [ -n "$signalled" ]
do :; done

if [ "$code" -eq 75 ] && [ -z "$ending" ]; then
    echo "step.sh: stopped with a checkpoint; job $SLURM_JOB_ID is queued again" >&2
    # Exit code 75 would do where the cluster has RequeueExit=75; this does on every cluster.
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
