#!/bin/bash
{% set directives = {
  "job-name": job.name,
  "output": (limits.logs | string).replace("%", "%%") ~ "/%x-" ~ ("%A_%a" if job.kind == "array" else "%j") ~ ".log",
  "open-mode": "append",
  "time": limits.time,
  "partition": limits.partition,
  "mem": limits.memory,
  "cpus-per-task": 1 if job.kind == "light" else limits.cpus,
  "gpus-per-node": 0 if job.kind == "light" else limits.gpus,
  "array": limits.array ~ "%" ~ limits.array_parallelism if job.kind == "array",
  "nodes": limits.nodes if job.kind == "srun",
  "ntasks-per-node": limits.tasks_per_node or limits.gpus or 1 if job.kind == "srun",
  "dependency": "after" ~ job.after ~ ":" ~ before if before,
  "kill-on-invalid-dep": "yes" if before,
  "signal": "B:USR1@90",
} %}
{% for name, value in directives.items() if value %}
#SBATCH --{{ name }}={{ quote(value | string) }}
{% endfor %}
#SBATCH --requeue

# Slurm sends USR1 to this script only, 90 seconds before the time limit or on preemption. The
# command saves its work and exits with 4; after a minute it is killed, as the job must be requeued.
warn() {
  trap '' USR1
  kill -USR1 $command
  (sleep 60; kill -KILL $command) &
  warned=$!
}
trap warn USR1

{% if job.kind == "srun" %}
# Once one process has ended, the others have a minute to save, or to notice that it failed.
srun --cpus-per-task={{ limits.cpus }} --kill-on-bad-exit=0 --wait=60 \
{% endif %}
{{ command }}{% if job.kind == "array" %} --part="$SLURM_ARRAY_TASK_ID/{{ limits.parts }}"{% endif %} &
command=$!
wait $command # ends early on USR1
wait $command
code=$?
[ "$warned" ] && kill $warned

# SLURM_JOB_ID may stand for all tasks of an array.
task={{ "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.kind == "array" else "$SLURM_JOB_ID" }}
if [ $code = 4 ] || { [ "$warned" ] && [ $code -gt 128 ]; }; then
  if [ "$(squeue --noheader --format=%T --jobs=$task)" != RUNNING ]; then
    echo "Cancelled: not requeued" >&2
  elif [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; then
    echo "Error: not finished after 20 requeues; submit again with a longer --time" >&2
  else
    scontrol requeue $task
  fi
fi
exit $code
