#!/bin/bash
# A training run as a SLURM job that continues itself: sbatch docs/slurm.sh, from the folder of the project. Change what is of your
# cluster, and the command; docs/cluster.md says what each part is for.
#SBATCH --job-name=convmae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

command=(
    python tools/pretrain.py --launcher slurm --resume auto
    --config fastconvmae_base_50e.yaml --work-dir work_dirs/pretrain
    --cfg-options data.root=data/imagenet/train
)

asked= run= timer=
trap 'asked=yes signalled=yes; [[ $run ]] && make_room' USR1 TERM
make_room() { # srun passes the signal on to all processes
    kill -USR1 "$run"
    # A step and its checkpoint take less. A run that is killed continues, too: from an earlier checkpoint.
    (sleep "${GRACE:-120}" && kill -KILL "$run") >/dev/null 2>&1 &
    timer=$!
}

srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1 "${command[@]}" &
run=$!
[[ $asked ]] && make_room # while it started
while # once more where it was the signal that ended the wait, and not the run
    signalled=
    wait "$run"
    status=$?
    [[ $signalled ]]
do :; done
[[ $timer ]] && kill "$timer" 2>/dev/null

# 75: someone else sent the processes SIGUSR1. What fails without having been asked would fail again.
if [[ $status -ne 0 && ($asked || $status -eq 75) ]]; then
    echo "stopped with status $status: requeued"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
