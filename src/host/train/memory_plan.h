/*
 * memory_plan.h - what a phase takes of a device, in its parts, and how it makes do with what there
 * is: rows of a micro-batch, and what of its activations is kept. Known before anything is
 * allocated, from the code that places tensors, run on arenas without memory; `csplade estimate`
 * prints it, and training refuses by it before the first step.
 */
#pragma once

#include "config/settings.h"
#include "model/transformer.h"

/* Token rows computed at once where nothing asks for fewer: they keep matrix products efficient. */
enum { CSP_PLANNED_ROWS = 4096 };

/* Bytes of a model on a device. */
typedef struct csp_model_memory {
    csp_params_size params;
    size_t rotary; /* cos and sin of all positions */
    size_t all;
} csp_model_memory;

CSP_CHECKED csp_status csp_model_memory_of(const csp_params *params, int64_t max_len,
                                           csp_model_memory *out);

/* How a rank of so many keeps the state of a model and adds up its gradients. */
csp_sharing csp_run_sharing(const csp_config *config, int rank, int ranks);

typedef struct csp_phase_memory {
    const char *phase;
    int64_t longest;          /* rows of its longest text                                        */
    int64_t rows;             /* of a micro-batch                                                */
    csp_keep keep;            /* of a micro-batch alone in memory: the fastest form that fits    */
    size_t sparse;            /* representations and scores, whatever they hold                  */
    size_t evaluation;        /* encoder of the evaluations while training                     */
    size_t scratch;           /* of ops on a device, at most; 0 on a CPU, where it is small    */
    size_t micro_batch;       /* activations of one micro-batch in that form                  */
    size_t least_micro_batch; /* the same with inputs of blocks only                    */
    size_t step;   /* activations of a step of longest texts, all kept                  */
    size_t budget; /* what activations may take                                         */
} csp_phase_memory;

/*
 * Plans a phase, "adapt" or "contrastive".
 *
 *   rows     in   of a micro-batch where the config sets none; 0: planned
 *   ranks    in   among which steps are shared out: the plan is that of one of them
 *   memory   in   free: beside the model, and beside scratch that a phase before has taken. lazy:
 *                 the worst case of sparse rows is not counted, and activations may take half,
 *                 because what is not written is not taken
 *
 * Errors: CSP_ERR_MEMORY naming what the phase needs, what is free, and a setting that would fit.
 *         *out is written all the same then.
 */
CSP_CHECKED csp_status csp_phase_memory_plan(const csp_config *config, const csp_params *params,
                                             const char *phase, int64_t rows, int ranks,
                                             const csp_memory *memory, csp_phase_memory *out);

/* Rows of the longest text of a phase, and of all phases and evaluations. */
int64_t csp_phase_longest(const csp_config *config, const char *phase);
int64_t csp_config_longest(const csp_config *config);
