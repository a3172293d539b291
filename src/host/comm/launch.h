/*
 * launch.h - how this process was started: alone, by mpirun, by srun, or with the variables of
 * torchrun; and which rank of how many it is.
 *
 *     alone                nothing below is set
 *     mpirun               OMPI_COMM_WORLD_SIZE; variables of SLURM beside it are not read, because
 *                          inside a batch job they are those of the job's own shell
 *     srun --mpi=pmix      PMIX_RANK and SLURM_STEP_NUM_TASKS (or SLURM_NTASKS) above 1
 *     RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT    as torchrun sets them: a rendezvous over TCP
 *
 * A batch script's own shell has SLURM_NTASKS and SLURM_PROCID too: a program in it is alone.
 * torchrun's variables within srun count, because a wrapper makes them of SLURM's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum csp_launch_kind {
    CSP_LAUNCH_ALONE,
    CSP_LAUNCH_MPI, /* mpirun, or srun --mpi=pmix */
    CSP_LAUNCH_TCP  /* RANK, WORLD_SIZE, ...                                       */
} csp_launch_kind;

typedef struct csp_launch {
    csp_launch_kind kind;
    int rank; /* as the variables say; MPI's own answer must agree */
    int size;
    char by[32];      /* "mpirun", "srun", "torchrun variables", "alone": for messages   */
    char master[256]; /* TCP: where rank 0 listens                                       */
    int port;
    char mpi_plugin[1024]; /* the plugin, from CSPLADE_MPI_PLUGIN; "": look for it */
    char devices[512];     /* what it shows of them, CUDA_VISIBLE_DEVICES, cut off; "": all */
} csp_launch;

/*
 * Reads the variables.
 *
 * Errors: CSP_ERR_CONFIG for variables that contradict each other or are no numbers, naming them:
 *         RANK without WORLD_SIZE, a rank that is not below the size, two launchers at once;
 *         srun with several tasks and without --mpi=pmix, which would start so many runs of one
 *         rank in the same folder; several processes of a launcher that Open MPI does not know.
 */
CSP_CHECKED csp_status csp_launch_find(csp_launch *out);

/*
 * What the environment says of where this process runs, for the head of a log: the job of SLURM
 * with its machines and how often it was queued again, visible GPUs, and what is set for NCCL and
 * Open MPI; "" where none of it is set. What does not fit is left out.
 *
 *     SLURM job 17, restart 1 on n[1-2], CUDA_VISIBLE_DEVICES 0,1, NCCL_SOCKET_IFNAME ib0
 */
void csp_launch_describe(char *text, size_t bytes);

/*
 * What is set for NCCL and may change in which order it adds, a line "NCCL_ALGO Ring" each, in the
 * order of names: all but what is known to concern messages, addresses and patience alone. What
 * does not fit is left out.
 */
void csp_launch_collectives(char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
