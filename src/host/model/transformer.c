/*
 * transformer.c - the stack of blocks, and what a pass keeps. A pass is one stretch of work for
 * the device, which may replay it (ops/graph.h): all that it depends on is in the key of key_of.
 */
#include "model/transformer.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "ops/embed.h"
#include "ops/graph.h"
#include "ops/norm.h"

/* Both consist of tensors alone, so that a key can have all of them. */
enum {
    SAVED_TENSORS = sizeof(csp_block_saved) / sizeof(csp_tensor),
    WORK_TENSORS = sizeof(csp_block_work) / sizeof(csp_tensor),
    PASS_WORDS = 18 /* of a key before them */
};

_Static_assert(sizeof(csp_block_saved) % sizeof(csp_tensor) == 0, "tensors alone");
_Static_assert(sizeof(csp_block_work) % sizeof(csp_tensor) == 0, "tensors alone");

static int64_t key_words(const csp_params *params)
{
    return PASS_WORDS + WORK_TENSORS + SAVED_TENSORS * params->config.L;
}

const char *csp_keep_name(csp_keep keep)
{
    static const char *const names[] = { [CSP_KEEP_NOTHING] = "no activations",
                                         [CSP_KEEP_ALL] = "all activations",
                                         [CSP_KEEP_INPUTS] = "inputs of blocks only",
                                         [CSP_KEEP_MOST] = "all activations but gate and up" };

    return names[keep];
}

csp_status csp_run_create(const csp_params *params, csp_keep keep, csp_run **out)
{
    csp_run *run = NULL;
    csp_status status;

    if (keep != CSP_KEEP_NOTHING && params->train == CSP_TRAIN_NONE) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "a model opened without training keeps no activations");
    }
    CSP_TRY_GOTO(csp_alloc_zero("activations", 1, sizeof(*run), &run));
    CSP_TRY_GOTO(csp_alloc_zero("activations", params->config.L, sizeof(*run->saved), &run->saved));
    CSP_TRY_GOTO(csp_alloc("activations", key_words(params), sizeof(*run->key), &run->key));
    run->params = params;
    run->keep = keep;
    *out = run;
    return CSP_OK;

fail:
    csp_run_destroy(run);
    return status;
}

void csp_run_destroy(csp_run *run)
{
    if (run != NULL) {
        free(run->saved);
        free(run->key);
        free(run);
    }
}

/* One set for all blocks; with KEEP_INPUTS each has its own input and its own u of the last map,
   which the repeated forward pass then need not run. */
static csp_status place_shared(csp_run *run, int64_t N, csp_arena *step)
{
    const csp_params *params = run->params;
    const csp_dtype type = params->storage.dtype;
    const int64_t shape[] = { N, params->config.D };
    csp_block_saved set;
    csp_tensor *u = &set.u[CSP_MATRIX_DOWN];

    memset(&set, 0, sizeof(set));
    CSP_TRY(csp_arena_tensor(step, type, 2, shape, &set.x));
    CSP_TRY(csp_block_saved_place(params, N, true, step, &set));
    run->saved[0] = set;
    for (int64_t l = 1; l < params->config.L; l++) {
        if (run->keep == CSP_KEEP_INPUTS) {
            CSP_TRY(csp_arena_tensor(step, type, 2, shape, &set.x));
            if (u->ndim > 0) {
                CSP_TRY(csp_arena_tensor(step, type, 2, u->dim, u));
            }
        }
        run->saved[l] = set;
    }
    return CSP_OK;
}

csp_status csp_run_place(csp_run *run, int64_t N, csp_arena *step)
{
    const csp_params *params = run->params;
    const csp_dtype type = params->storage.dtype;
    const int64_t shape[] = { N, params->config.D };

    run->N = N;
    CSP_TRY(csp_arena_tensor(step, type, 2, shape, &run->h));
    CSP_TRY(csp_arena_tensor(step, CSP_F32, 1, &N, &run->rstd_final));
    if (run->keep == CSP_KEEP_ALL || run->keep == CSP_KEEP_MOST) {
        for (int64_t l = 0; l < params->config.L; l++) {
            CSP_TRY(csp_arena_tensor(step, type, 2, shape, &run->saved[l].x));
            /* With KEEP_MOST all blocks share the gate and up of the first. */
            run->saved[l].gate = run->saved[0].gate;
            run->saved[l].up = run->saved[0].up;
            run->saved[l].up_tail = run->saved[0].up_tail;
            CSP_TRY(csp_block_saved_place(params, N, run->keep == CSP_KEEP_ALL || l == 0, step,
                                          &run->saved[l]));
        }
    } else {
        CSP_TRY(place_shared(run, N, step));
    }
    CSP_TRY(csp_block_work_place(params, N, run->keep != CSP_KEEP_NOTHING, step, &run->work));
    run->dh = csp_tensor_none();
    run->x_final = run->saved[0].x;
    if (run->keep != CSP_KEEP_NOTHING) {
        CSP_TRY(csp_arena_tensor(step, type, 2, shape, &run->x_final));
        CSP_TRY(csp_arena_tensor(step, type, 2, shape, &run->dh));
        run->work.dt = run->h; /* the head is done with h when the blocks go back */
        if (run->work.dx.ndim == 0) {
            run->work.dx = run->dh;
        }
    }
    return CSP_OK;
}

void csp_run_cut(csp_run *run, int64_t rows)
{
    run->h = csp_tensor_rows(&run->h, 0, rows);
    run->rstd_final = csp_tensor_rows(&run->rstd_final, 0, rows);
    if (run->dh.ndim > 0) {
        run->dh = csp_tensor_rows(&run->dh, 0, rows);
    }
}

/* All rows of a tensor that csp_run_cut may have cut. */
static csp_tensor whole(const csp_run *run, const csp_tensor *t)
{
    csp_tensor all = *t;

    all.dim[0] = run->N;
    return all;
}

csp_status csp_run_bytes(const csp_params *params, int64_t N, csp_keep keep, size_t *out)
{
    csp_arena ruler = { 0 };
    csp_run *run;
    csp_status status;

    CSP_TRY(csp_run_create(params, keep, &run));
    status = csp_run_place(run, N, &ruler);
    csp_run_destroy(run);
    CSP_TRY(status);
    *out = ruler.peak;
    return CSP_OK;
}

/* The checks of both directions, and what all blocks share. */
static csp_status begin(const csp_model *model, const csp_pack *pack, const csp_pass *pass,
                        const csp_run *run, csp_block_pass *out)
{
    const csp_model_config *c = &model->params->config;
    const csp_lora *lora = &model->params->lora;
    const bool dropout = pass->dropout && lora->R > 0 && lora->dropout > 0.0;

    CSP_ASSERT(run->params == model->params);
    if (pack->longest < 1 || pack->longest > model->max_len) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "a text of %lld rows, not in 1..%lld (max_len)",
                        (long long)pack->longest, (long long)model->max_len);
    }
    if (!csp_tensor_is(&pack->token, CSP_I32, 1, &run->N)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "model: token must be i32 (%lld)", (long long)run->N);
    }
    if (dropout && !csp_tensor_is(&pack->row_key, CSP_I64, 1, &run->N)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "model: row_key must be i64 (%lld)", (long long)run->N);
    }
    *out = (csp_block_pass) {
        .be = model->be,
        .params = model->params,
        .attention = { .seq_start = pack->seq_start,
                       .order = pack->order,
                       .cos = model->cos,
                       .sin = model->sin,
                       .H = c->H,
                       .G = c->G,
                       .E = c->E,
                       .longest = pack->longest,
                       .causal = pass->causal },
        .dropout = { .p = dropout ? (float)lora->dropout : 0.0f,
                     .seed = pass->seed,
                     .step = pass->step,
                     .row_key = dropout ? pack->row_key : csp_tensor_none() },
        .eps = c->rms_eps,
    };
    return CSP_OK;
}

/* A pass in one direction. */
typedef struct model_pass {
    const csp_model *model;
    const csp_pack *pack;
    csp_run *run;
    csp_block_pass blocks;
    const csp_gradient_watch *watch; /* of a backward pass; NULL: nobody */
} model_pass;

static uint64_t *add_addresses(uint64_t *at, const csp_tensor *t, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        *at++ = (uint64_t)(uintptr_t)t[i].data;
    }
    return at;
}

/*
 * Makes run->key, key_words long. Shapes of activations follow from N; those of parameters, their
 * addresses and all settings from the model, which lasts as long as its memory.
 */
static void key_of(const model_pass *p, bool backward)
{
    const csp_run *run = p->run;
    const csp_block_pass *b = &p->blocks;
    uint64_t *at = run->key;

    *at++ = (uint64_t)backward;
    *at++ = (uint64_t)(uintptr_t)p->model;
    *at++ = (uint64_t)run->keep;
    *at++ = (uint64_t)run->N;
    *at++ = (uint64_t)p->pack->seq_start.dim[0];
    *at++ = (uint64_t)b->attention.longest;
    *at++ = (uint64_t)b->attention.causal;
    *at++ = (uint64_t)(b->dropout.p > 0.0f);
    *at++ = b->dropout.p > 0.0f ? b->dropout.seed : 0;
    at = add_addresses(at, &p->pack->token, 1);
    at = add_addresses(at, &p->pack->seq_start, 1);
    at = add_addresses(at, &p->pack->order, 1);
    at = add_addresses(at, &b->dropout.row_key, 1);
    at = add_addresses(at, &run->h, 1);
    at = add_addresses(at, &run->dh, 1);
    at = add_addresses(at, &run->x_final, 1);
    at = add_addresses(at, &run->rstd_final, 1);
    at = add_addresses(at, &p->model->cos, 1);
    CSP_ASSERT(at == run->key + PASS_WORDS);
    at = add_addresses(at, (const csp_tensor *)&run->work, WORK_TENSORS);
    for (int64_t l = 0; l < run->params->config.L; l++) {
        at = add_addresses(at, (const csp_tensor *)&run->saved[l], SAVED_TENSORS);
    }
}

static csp_status run_pass(model_pass *p, bool backward, csp_status (*enqueue)(void *pass))
{
    const csp_graph_call call = { .name = backward ? "model_bwd" : "model_fwd",
                                  .key = p->run->key,
                                  .key_count = key_words(p->run->params),
                                  .rows = p->run->N,
                                  .step = p->blocks.dropout.step,
                                  .enqueue = enqueue,
                                  .context = p };

    key_of(p, backward);
    return csp_graph_run(p->model->be, &call);
}

static csp_status enqueue_fwd(void *pass)
{
    const model_pass *p = pass;
    const csp_model *model = p->model;
    const csp_params *params = model->params;
    const csp_pack *pack = p->pack;
    csp_run *run = p->run;
    csp_tensor before = csp_tensor_none();
    csp_tensor h = whole(run, &run->h), rstd = whole(run, &run->rstd_final);

    CSP_TRY(csp_values_await(model, -1));
    CSP_TRY(csp_embed_fwd(model->be, &params->embed->value, &pack->token, &run->saved[0].x));
    for (int64_t l = 0; l < params->config.L; l++) {
        CSP_TRY(csp_values_await(model, l));
        CSP_TRY(csp_block_fwd(&p->blocks, l, true, &before, &run->saved[l], &run->work));
        before = run->saved[l].y;
    }
    CSP_TRY(csp_values_await(model, params->config.L));
    return csp_norm_fwd(model->be, &before, &run->work.t, &params->final_norm->value,
                        (float)params->config.rms_eps, &run->x_final, &rstd, &h);
}

csp_status csp_model_fwd(const csp_model *model, const csp_pack *pack, const csp_pass *pass,
                         csp_run *run)
{
    model_pass p = { .model = model, .pack = pack, .run = run };

    CSP_TRY(begin(model, pack, pass, run, &p.blocks));
    return model->arrival != NULL ? enqueue_fwd(&p) : run_pass(&p, false, enqueue_fwd);
}

static csp_status enqueue_bwd(void *pass)
{
    const model_pass *p = pass;
    const csp_model *model = p->model;
    const csp_params *params = model->params;
    csp_run *run = p->run;
    const csp_tensor none = csp_tensor_none();
    const bool all = params->train == CSP_TRAIN_FULL;
    const csp_tensor dh = whole(run, &run->dh), rstd = whole(run, &run->rstd_final);
    csp_tensor dg = params->final_norm->grad;

    CSP_TRY(csp_norm_bwd(model->be, &run->x_final, &params->final_norm->value, &rstd, &dh, &none,
                         &run->work.dx, &dg));
    CSP_TRY(csp_gradients_complete(p->watch, params->config.L));
    for (int64_t l = params->config.L - 1; l >= 0; l--) {
        csp_block_saved *s = &run->saved[l];

        if (run->keep == CSP_KEEP_INPUTS) {
            CSP_TRY(csp_block_fwd(&p->blocks, l, false, &none, s, &run->work));
        } else if (run->keep == CSP_KEEP_MOST && l + 1 < params->config.L) {
            CSP_TRY(csp_block_wide_again(&p->blocks, l, s, &run->work)); /* the last has its own */
        }
        CSP_TRY(csp_block_bwd(&p->blocks, l, l > 0 || all, s, &run->work));
        CSP_TRY(csp_gradients_complete(p->watch, l));
    }
    if (params->embed->grad.ndim > 0) {
        csp_tensor de = params->embed->grad;

        CSP_TRY(csp_embed_bwd(model->be, &p->pack->token, &run->work.dx, &de));
    }
    return csp_gradients_complete(p->watch, -1);
}

csp_status csp_model_bwd(const csp_model *model, const csp_pack *pack, const csp_pass *pass,
                         csp_run *run, const csp_gradient_watch *watch)
{
    model_pass p = { .model = model, .pack = pack, .run = run, .watch = watch };

    CSP_ASSERT(run->keep != CSP_KEEP_NOTHING);
    CSP_TRY(begin(model, pack, pass, run, &p.blocks));
    if (run->dh.dim[0] < run->N) {
        /* Not part of the pass, which has the same rows however many of them are anybody's. */
        const csp_tensor all = whole(run, &run->dh);
        csp_tensor rest = csp_tensor_rows(&all, run->dh.dim[0], run->N - run->dh.dim[0]);

        CSP_TRY(csp_backend_zero(model->be, &rest));
    }
    return watch != NULL ? enqueue_bwd(&p) : run_pass(&p, true, enqueue_bwd);
}

csp_head csp_model_head(const csp_model *model, float scale, csp_pool_kind pooling,
                        const csp_tensor *exclude)
{
    return (csp_head) {
        .e = model->params->head->value, .exclude = *exclude, .scale = scale, .pooling = pooling
    };
}

csp_tensor csp_model_head_grad(const csp_model *model)
{
    return model->params->head->grad;
}
