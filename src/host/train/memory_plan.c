/* memory_plan.c - sizes from the code that places tensors; policy from what is left. */
#include "train/memory_plan.h"

#include <string.h>

#include "config/config.h"
#include "data/batch.h"
#include "eval/encode.h"
#include "io/contract.h"
#include "ops/graph.h"
#include "train/contrastive.h"

enum { LEAST_ROWS = 256 };

static const double GIB = 1024.0 * 1024.0 * 1024.0;

int64_t csp_phase_longest(const csp_config *config, const char *phase)
{
    const csp_model_settings *m = &config->model;
    const csp_contract contract = { .variant = (csp_variant)m->variant,
                                    .query_max_len = (int32_t)m->query_max_len,
                                    .passage_max_len = (int32_t)m->passage_max_len,
                                    .add_bos = m->add_bos,
                                    .append_eos = m->append_eos };

    return strcmp(phase, "adapt") == 0
               ? config->adapt.max_len + (m->add_bos ? 1 : 0) + (m->append_eos ? 1 : 0)
               : csp_contract_rows(&contract);
}

int64_t csp_config_longest(const csp_config *config)
{
    const int64_t contrastive = csp_phase_longest(config, "contrastive");
    const int64_t adapt =
        csp_config_has_phase(config, "adapt") ? csp_phase_longest(config, "adapt") : 0;

    return contrastive > adapt ? contrastive : adapt;
}

csp_sharing csp_run_sharing(const csp_config *config, int rank, int ranks)
{
    const csp_run_settings *s = &config->run;

    if (ranks == 1) {
        return (csp_sharing) { 0 };
    }
    return (csp_sharing) {
        .ranks = s->shard_state == (int)CSP_SHARD_OFF ? 1 : ranks,
        .rank = rank,
        .bucket_bytes = (int64_t)(s->bucket_mb * 1e6),
        .least_bytes = s->shard_state == (int)CSP_SHARD_AUTO ? CSP_SHARD_LEAST_BYTES : 0,
    };
}

csp_status csp_model_memory_of(const csp_params *params, int64_t max_len, csp_model_memory *out)
{
    csp_model_memory m;

    CSP_TRY(csp_params_bytes(params, &m.params));
    CSP_TRY(csp_model_bytes(params, max_len, &m.all));
    m.rotary = m.all - m.params.values - m.params.masters - m.params.gradients - m.params.moments;
    *out = m;
    return CSP_OK;
}

/*
 * An upper bound of what the heads of src/cuda's files say of their scratch memory, which grows by
 * a quarter more than is asked: tiles of some 32 to 192 MiB, 16 rows of logits, or the matrices of
 * one input in 8 bits, turned for backward, beside 64 MiB of the rows they meet and their scales.
 */
static size_t scratch_bytes(const csp_params *params)
{
    const csp_model_config *c = &params->config;
    size_t most = (size_t)256 << 20;
    const size_t logits = (size_t)c->V * 16 * sizeof(float);
    const int64_t heads = (c->H + 2 * c->G) * c->E, wide = 2 * c->F > heads ? 2 * c->F : heads;
    const size_t turned = params->storage.fp8 ? (size_t)(wide * c->D) + ((size_t)72 << 20) : 0;

    most = turned > most ? turned : most;
    most = logits > most ? logits : most;
    return most + most / 4;
}

/* Token rows of a step in which every text is as long as it may be. */
static int64_t step_rows(const csp_config *config, const csp_phase_memory *p)
{
    const csp_model_settings *m = &config->model;
    const int64_t Q = config->contrastive.batch.queries;
    const csp_contract contract = { .variant = (csp_variant)m->variant,
                                    .query_max_len = (int32_t)m->query_max_len,
                                    .passage_max_len = (int32_t)m->passage_max_len,
                                    .add_bos = m->add_bos,
                                    .append_eos = m->append_eos };

    if (strcmp(p->phase, "adapt") == 0) {
        return p->rows; /* one micro-batch is finished before the next begins */
    }
    return Q *
           (csp_contract_side_rows(&contract, CSP_SIDE_QUERY) +
            config->data.train_group_size * csp_contract_side_rows(&contract, CSP_SIDE_PASSAGE));
}

/* The most terms that a dev evaluation is asked to keep of a text, 0: it keeps all. */
static int64_t largest_cut(const csp_config *config)
{
    const csp_model_settings *m = &config->model;
    const int64_t cut = m->top_k_query > m->top_k_passage ? m->top_k_query : m->top_k_passage;

    return cut > config->eval.top_k_terms ? cut : config->eval.top_k_terms;
}

/* What lies beside activations. */
static csp_status fixed_parts(const csp_config *config, const csp_params *params, int ranks,
                              bool lazy, csp_phase_memory *p)
{
    const int64_t Q = config->contrastive.batch.queries;

    p->sparse = p->evaluation = p->scratch = 0;
    if (strcmp(p->phase, "contrastive") == 0) {
        CSP_TRY(csp_contrastive_bytes(
            params->config.V, Q, Q * config->data.train_group_size, ranks,
            csp_negative_group(config->contrastive.negative_blocks, ranks), &p->sparse));
    }
    if (config->run.eval_steps > 0) {
        CSP_TRY(csp_encoder_bytes(params, 0, csp_config_longest(config), largest_cut(config),
                                  &p->evaluation));
    }
    if (!lazy) {
        p->scratch = scratch_bytes(params);
        if (strcmp(p->phase, "contrastive") == 0 &&
            config->device.head_backward == (int)CSP_POOL_CUSPARSE) {
            p->scratch += CSP_POOL_CUSPARSE_BYTES;
        }
    }
    return CSP_OK;
}

/* Bytes that are still to be taken beside activations: a phase before may have grown scratch. */
static size_t others_of(const csp_phase_memory *p, const csp_memory *memory)
{
    const size_t there = (size_t)memory->scratch;

    return p->sparse + p->evaluation + (p->scratch > there ? p->scratch - there : 0);
}

/* Bytes that activations may take: on a device all but what is for others and a twentieth. */
static size_t budget_of(const csp_phase_memory *p, const csp_memory *memory)
{
    const size_t others = others_of(p, memory);
    const size_t available = memory->free > 0 ? (size_t)memory->free : 0;

    if (memory->lazy) {
        return memory->free == INT64_MAX ? (size_t)4 << 30 : available / 2;
    }
    return available > others ? (available - others) / 20 * 19 : 0;
}

/* Rows of a micro-batch of up to `rows` in memory: a device replays passes, and pads for that. */
static int64_t rows_in_memory(const csp_memory *memory, int64_t rows)
{
    return memory->lazy ? rows : csp_batch_padded_rows(rows);
}

/* The rows and the form of a micro-batch: the fastest form first, then as many rows as fit. */
static csp_status choose(const csp_params *params, const csp_memory *memory, bool recompute,
                         int64_t set, csp_phase_memory *p)
{
    static const csp_keep forms[] = { CSP_KEEP_ALL, CSP_KEEP_MOST, CSP_KEEP_INPUTS };
    /* What a CPU keeps between the passes is worth more than large micro-batches. */
    const size_t limit = !memory->lazy               ? p->budget
                         : memory->free == INT64_MAX ? SIZE_MAX
                         : set > 0                   ? (size_t)memory->free
                                                     : (size_t)memory->free / 4;

    for (int64_t least = CSP_PLANNED_ROWS / 4; least >= LEAST_ROWS; least /= 2) {
        for (int f = recompute ? 2 : 0; f < 3; f++) {
            for (int64_t rows = set > 0 ? set : CSP_PLANNED_ROWS; rows >= (set > 0 ? set : least);
                 rows /= 2) {
                p->keep = forms[f];
                p->rows = rows > p->longest ? rows : p->longest;
                CSP_TRY(csp_run_bytes(params, rows_in_memory(memory, p->rows), p->keep,
                                      &p->micro_batch));
                if (p->micro_batch <= limit) {
                    return CSP_OK;
                }
            }
        }
    }
    return CSP_OK; /* as small as it gets; whether that fits is for the caller to say */
}

/* The most rows, a power of two, whose activations fit with inputs of blocks only; 0: none. */
static csp_status rows_that_fit(const csp_params *params, const csp_phase_memory *p, int64_t *out)
{
    int64_t rows = 1;
    size_t bytes = 0;

    while (rows * 2 <= p->rows) {
        rows *= 2;
    }
    for (*out = 0; rows >= p->longest && *out == 0; rows /= 2) {
        CSP_TRY(csp_run_bytes(params, rows, CSP_KEEP_INPUTS, &bytes));
        *out = bytes <= p->budget ? rows : 0;
    }
    return CSP_OK;
}

/* What was asked, what is free, and which setting would fit. */
static csp_status refuse(const csp_config *config, const csp_params *params,
                         const csp_memory *memory, const csp_phase_memory *p)
{
    const size_t others = others_of(p, memory);
    const int64_t queries = config->contrastive.batch.queries;
    char advice[160];
    int64_t rows;

    CSP_TRY(rows_that_fit(params, p, &rows));
    if (rows > 0) {
        snprintf(advice, sizeof(advice), "%s.batch.micro_batch_tokens=%lld would fit", p->phase,
                 (long long)rows);
    } else if (p->sparse > (size_t)memory->free / 4 && queries > 1) {
        snprintf(advice, sizeof(advice),
                 "fewer than contrastive.batch.queries=%lld or data.train_group_size=%lld would "
                 "take less",
                 (long long)queries, (long long)config->data.train_group_size);
    } else {
        snprintf(advice, sizeof(advice),
                 "not even one text of %lld rows fits: shorter texts, or lora, would take less",
                 (long long)p->longest);
    }
    return CSP_FAIL(CSP_ERR_MEMORY,
                    "phase %s: %.2f GiB for activations of %lld token rows at once (keeping %s) "
                    "and %.2f GiB beside them are needed, %.2f GiB are free: %s",
                    p->phase, (double)p->micro_batch / GIB, (long long)p->rows,
                    csp_keep_name(p->keep), (double)others / GIB, (double)memory->free / GIB,
                    advice);
}

csp_status csp_phase_memory_plan(const csp_config *config, const csp_params *params,
                                 const char *phase, int64_t rows, int ranks,
                                 const csp_memory *memory, csp_phase_memory *out)
{
    const bool adapt = strcmp(phase, "adapt") == 0;
    const csp_batch_settings *batch = adapt ? &config->adapt.batch : &config->contrastive.batch;
    const int64_t set = batch->micro_batch_tokens > 0 ? batch->micro_batch_tokens : rows;
    csp_phase_memory p = { .phase = phase, .longest = csp_phase_longest(config, phase) };
    size_t limit, spare;

    CSP_TRY(fixed_parts(config, params, ranks, memory->lazy, &p));
    p.budget = budget_of(&p, memory);
    CSP_TRY(choose(params, memory, batch->recompute, set, &p));
    CSP_TRY(csp_run_bytes(params, rows_in_memory(memory, p.rows), CSP_KEEP_INPUTS,
                          &p.least_micro_batch));
    CSP_TRY(csp_run_bytes(params, p.rows, CSP_KEEP_ALL, &p.step));
    p.step = (size_t)((double)p.step * (double)step_rows(config, &p) / ranks / (double)p.rows);
    limit = memory->lazy ? (size_t)memory->free : p.budget;
    /* With tokens and alignment; and with the rows that small micro-batches are padded by. */
    spare = p.step / (p.rows <= CSP_GRAPH_ROWS ? 6 : 16) + ((size_t)1 << 20);
    if (!memory->lazy && p.budget > p.step + spare) {
        p.budget = p.step + spare;
    }
    *out = p;
    return p.micro_batch <= limit ? CSP_OK : refuse(config, params, memory, &p);
}
