/*
 * transformer.h - a model: parameters in memory, the stack of blocks forward and backward, and what
 * is saved or computed again in between.
 *
 *     x = embed(token);   x = block_l(x), l = 0 .. L-1;   h = RMS(x)
 *
 * How a step is run (nothing is allocated after start-up):
 *
 *     csp_run_create(params, keep, &run)                    once
 *     csp_run_bytes(params, N_max, keep, &bytes)            once; csp_backend_reserve with it
 *     mark = csp_arena_mark(step)                           for each micro-batch:
 *     csp_run_place(run, N, step)                             run->h, run->dh have memory now
 *     csp_model_fwd(model, pack, pass, run)                   run->h is written
 *     csp_sparse_pool_fwd(... run->h ...), loss, csp_sparse_pool_bwd(... run->dh ...)
 *     csp_model_bwd(model, pack, pass, run)                   reads run->dh, adds to gradients
 *     csp_arena_release(step, mark)
 */
#pragma once

#include "comm/comm.h"
#include "io/digest.h"
#include "model/block.h"
#include "model/params.h"
#include "ops/sparse_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values of parameters that other ranks have updated and that are on their way here. */
typedef struct csp_arrival {
    /*
     * What is enqueued from now on finds the values of this layer and of all below it: -1, the
     * embedding; 0 .. L-1; L, and with it all of them.
     */
    csp_status (*await)(void *context, int64_t layer);
    void *context;
} csp_arrival;

typedef struct csp_model {
    csp_backend *be;     /* not owned                                    */
    csp_params *params;  /* config, lora, train are in here              */
    csp_arena keep;      /* values, gradients, moments, rotary tables    */
    csp_tensor cos, sin; /* (max_len,E/2) f32                            */
    int64_t max_len;
    const csp_arrival *arrival; /* NULL: all values are here. Else csp_values_await before any is
                                   read; not owned                       */
} csp_model;

/*
 * To be called before values of this layer, or of those below it, are read or written: L for those
 * of all. csp_model_fwd does it layer by layer, so that after it all are there.
 *
 * Stream: waits on a backend with host_memory; else makes what is enqueued wait.
 * Errors: CSP_ERR_COMM.
 */
static inline csp_status csp_values_await(const csp_model *model, int64_t layer)
{
    return model->arrival != NULL ? model->arrival->await(model->arrival->context, layer) : CSP_OK;
}

typedef struct csp_model_options {
    const char *dir;                /* Hugging Face folder; NULL: config below                    */
    const csp_model_config *config; /* read where dir is NULL                                     */
    csp_lora lora;                  /* R = 0: no adapters                                         */
    const char *adapter;            /* PEFT folder with the adapters' values (its r, alpha, targets
                                       must be those of lora), or NULL: A random, B 0             */
    csp_train_mode train;
    csp_storage storage;
    csp_comm *machine;  /* the ranks for which its rank 0 reads the files of dir and adapter;
                           NULL: this process reads for itself                                 */
    csp_digest *digest; /* not NULL: gets the values of dir, as csp_weights_load says            */
    uint64_t seed;      /* of random values                                           */
    bool blank;         /* values are left 0: a checkpoint will fill them             */
    int64_t max_len;    /* rows of the longest text, both copies of an echo included  */
} csp_model_options;

/*
 * Reads or draws a model. The memory it takes is compared with what the machine has before
 * anything is allocated.
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT, CSP_ERR_UNSUPPORTED (among them: max_len above a sliding
 *         window), CSP_ERR_ARGUMENT (max_len above max_position_embeddings), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_model_create(csp_backend *be, const csp_model_options *options,
                                        csp_model **out);
void csp_model_destroy(csp_model *model);

/* Bytes csp_model_create would take on the device for a table and max_len. */
CSP_CHECKED csp_status csp_model_bytes(const csp_params *params, int64_t max_len, size_t *out);

/* One packed batch on the device. */
typedef struct csp_pack {
    csp_tensor token; /* (N) i32    0 <= token < V: checked by the host that made it           */
    csp_tensor seq_start; /* (B+1) i32 */
    csp_tensor order; /* (B) i32    csp_attention.order, or none                                 */
    csp_tensor row_key; /* (N) i64    csp_dropout.row_key; none: a pass without dropout          */
    int64_t longest;    /* rows of the longest text, <= max_len                                  */
} csp_pack;

/* How a pass sees the texts. The same in csp_model_fwd and csp_model_bwd. */
typedef struct csp_pass {
    bool causal;   /* false: variant bi                                                   */
    bool dropout;  /* lora.dropout is applied                                             */
    uint64_t seed; /* of dropout                                                          */
    uint64_t step; /* of dropout                                                          */
} csp_pass;

typedef enum csp_keep {
    CSP_KEEP_NOTHING = 0, /* forward only                                                   */
    CSP_KEEP_ALL = 1,     /* every block's activations: fastest                             */
    CSP_KEEP_INPUTS = 2,  /* inputs of blocks; the rest is computed again, to the same bits */
    CSP_KEEP_MOST = 3     /* all but gate and up, which are computed again, to the same bits */
} csp_keep;

/* "all activations", ...: a keep in words. */
const char *csp_keep_name(csp_keep keep);

/* The activations of one micro-batch. Contents are private but for h and dh. */
typedef struct csp_run {
    const csp_params *params;
    csp_keep keep;      /* may be changed between two csp_run_place, but not from or to NOTHING */
    int64_t N;          /* rows of a pass, those behind csp_run_cut's among them           */
    csp_tensor h;       /* (N,D) final hidden states; overwritten by csp_model_bwd         */
    csp_tensor dh;      /* (N,D) the caller writes their gradient; consumed; none if NOTHING */
    csp_tensor x_final; /* (N,D) before the final norm                                     */
    csp_tensor rstd_final;  /* (N)                                                             */
    csp_block_saved *saved; /* [L]: aliases of one another where not kept                      */
    csp_block_work work;
    uint64_t *key; /* of the last pass (ops/graph.h)                                     */
} csp_run;

/* Host memory only. params must outlive it. */
CSP_CHECKED csp_status csp_run_create(const csp_params *params, csp_keep keep, csp_run **out);
void csp_run_destroy(csp_run *run);

/* Takes all activations of N rows from step, until the caller releases them. Allocates nothing. */
CSP_CHECKED csp_status csp_run_place(csp_run *run, int64_t N, csp_arena *step);

/*
 * Says that only the first rows of a placed run are anybody's: h, dh and rstd_final have those from
 * now on, and what the others add to gradients is 0 (csp_batch_pad).
 */
void csp_run_cut(csp_run *run, int64_t rows);

/* Bytes csp_run_place takes for N rows; needs a table only, no memory for the model. */
CSP_CHECKED csp_status csp_run_bytes(const csp_params *params, int64_t N, csp_keep keep,
                                     size_t *out);

/*
 * Hidden states of a packed batch in run->h.
 *
 * Precision:  that of the ops at params->storage.dtype. Bits depend on shapes and be->threads only,
 *             not on run->keep.
 * Stream:     enqueued on the model's backend, op by op or, where a pass of the same sizes on the
 *             same memory came before, as a graph (ops/graph.h). One that awaits values of other
 *             ranks (csp_arrival) is never a graph, because it may begin before they are there.
 * Errors:     CSP_ERR_ARGUMENT (a text above max_len), CSP_ERR_SHAPE, CSP_ERR_DEVICE,
 *             CSP_ERR_COMM (values that do not arrive).
 */
CSP_CHECKED csp_status csp_model_fwd(const csp_model *model, const csp_pack *pack,
                                     const csp_pass *pass, csp_run *run);

/* Who is told how far a backward pass has come, so that sums over ranks can begin meanwhile. */
typedef struct csp_gradient_watch {
    /*
     * The gradients of this layer and of all above it are enqueued. layer: L, of what is above the
     * blocks; L-1 .. 0; and at last -1, the embedding.
     */
    csp_status (*complete)(void *context, int64_t layer);
    void *context;
} csp_gradient_watch;

/*
 * Adds the gradients of all trained parameters below the head, from run->dh. The same bits whatever
 * run->keep is. run->h and run->dh are overwritten.
 *
 *   watch   in   NULL: nobody. With one the pass is never a graph, because work of others goes
 *                between its ops. Its errors are this function's.
 */
CSP_CHECKED csp_status csp_model_bwd(const csp_model *model, const csp_pack *pack,
                                     const csp_pass *pass, csp_run *run,
                                     const csp_gradient_watch *watch);

static inline csp_status csp_gradients_complete(const csp_gradient_watch *watch, int64_t layer)
{
    return watch != NULL ? watch->complete(watch->context, layer) : CSP_OK;
}

/*
 * The retrieval head of a model.
 *
 *   scale     in   k: logits are k h e^T
 *   exclude   in   (V) u8 on the device, or none
 */
csp_head csp_model_head(const csp_model *model, float scale, csp_pool_kind pooling,
                        const csp_tensor *exclude);

/* Where the head's gradient goes (the embedding's, where tied); none where it is frozen. */
csp_tensor csp_model_head_grad(const csp_model *model);

#ifdef __cplusplus
}
#endif
