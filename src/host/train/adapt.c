/* adapt.c - the adaptation step: each micro-batch goes forward, through the loss, and backward. */
#include "train/adapt.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "model/contract_head.h"
#include "model/finite.h"
#include "train/step_flop.h"
#include "train/step_numbers.h"

/* What the host reads of each micro-batch: the hidden states, then csp_token_loss.bad. */
enum { FAULTS = 3 };

struct csp_adapt {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_adapt_options options;
    csp_chunked *chunks;
    csp_contract_head head;
    csp_step_numbers numbers;
    csp_tensor faults; /* (texts,FAULTS) i64 a micro-batch has at least one text */
    csp_tensor losses; /* (texts,2) f64                                          */
    int64_t predicted; /* tokens of the last step, over all ranks                */
    double own_flop;   /* of this rank */
    double flop;       /* of all       */
};

static csp_status place_numbers(csp_adapt *a, csp_arena *arena)
{
    const int64_t texts = a->options.texts;

    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 2, (int64_t[]) { texts, FAULTS }, &a->faults));
    return csp_arena_tensor(arena, CSP_F64, 2, (int64_t[]) { texts, 2 }, &a->losses);
}

csp_status csp_adapt_create(csp_backend *be, const csp_model *model, const csp_contract *contract,
                            const csp_adapt_options *options, csp_adapt **out)
{
    csp_adapt *a;
    csp_arena ruler = { 0 };
    csp_status status;

    CSP_TRY(csp_alloc_zero("adaptation phase", 1, sizeof(*a), &a));
    a->be = be;
    a->model = model;
    a->contract = contract;
    a->options = *options;
    /* Budget 0: a micro-batch is finished before the next begins, so one is ever in memory. */
    CSP_TRY_GOTO(csp_chunked_create(be, model, contract, options->max_rows, options->max_len,
                                    options->texts, 0, options->keep, &a->chunks));
    CSP_TRY_GOTO(csp_contract_head_open(be, model, contract, &a->head));
    CSP_TRY_GOTO(place_numbers(a, &ruler));
    CSP_TRY_GOTO(csp_step_numbers_open(be, ruler.peak, &a->numbers));
    CSP_TRY_GOTO(place_numbers(a, &a->numbers.device));
    *out = a;
    return CSP_OK;

fail:
    csp_adapt_destroy(a);
    return status;
}

void csp_adapt_destroy(csp_adapt *a)
{
    if (a != NULL) {
        csp_chunked_destroy(a->chunks);
        csp_contract_head_close(&a->head);
        csp_step_numbers_close(&a->numbers);
        free(a);
    }
}

/* Micro-batch i, forward, through the loss, and backward. */
static csp_status run_chunk(csp_adapt *a, int64_t i, const csp_pass *pass, bool backward)
{
    const int64_t one = 1, two = 2;
    csp_chunk *chunk = &a->chunks->chunks[i];
    int64_t *faults = (int64_t *)a->faults.data + FAULTS * i;
    csp_tensor bad_row = csp_tensor_view(faults, CSP_I64, 1, &one);
    csp_token_loss_args args = { .head = a->head.head,
                                 .predicted = chunk->batch.predicted,
                                 .lambda_relu = (float)a->options.lambda_relu,
                                 .coefficient = (float)(1.0 / (double)a->predicted),
                                 .loss = csp_tensor_view((double *)a->losses.data + 2 * i, CSP_F64,
                                                         1, &two),
                                 .bad = csp_tensor_view(faults + 1, CSP_I64, 1, &two) };

    a->chunks->step.used = 0;
    CSP_TRY(csp_chunked_fwd(a->chunks, i, pass));
    CSP_TRY(csp_run_note_bad_row(a->model, chunk->run, &bad_row));
    args.h = chunk->run->h;
    args.target = chunk->packed.target;
    args.dh = backward ? chunk->run->dh : csp_tensor_none();
    args.de = backward ? csp_model_head_grad(a->model) : csp_tensor_none();
    CSP_TRY(csp_token_loss(a->be, &args));
    return backward ? csp_chunked_bwd(a->chunks, i, pass, a->options.watch) : CSP_OK;
}

csp_status csp_adapt_run(csp_adapt *a, const csp_token_lists *texts, const int64_t *text,
                         const csp_pass *pass, bool backward)
{
    a->predicted = csp_batch_predicted(a->contract, texts);
    CSP_TRY(csp_ranks_reduce_host(a->options.ranks, &a->predicted, CSP_I64, 1, CSP_COMM_SUM,
                                  "tokens to predict"));
    if (a->predicted == 0) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "adaptation step: none of its %lld texts has two tokens, the later one not "
                        "among model.exclude_ids",
                        (long long)texts->count);
    }
    if (texts->count > a->options.texts) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adaptation step: %lld texts, planned for %lld",
                        (long long)texts->count, (long long)a->options.texts);
    }
    csp_chunked_begin(a->chunks);
    CSP_TRY(csp_chunked_add_adapt(a->chunks, texts, text));
    for (int64_t i = 0; i < a->chunks->count; i++) {
        CSP_TRY(run_chunk(a, i, pass, backward));
    }
    a->own_flop =
        csp_flop_network(a->chunks, true, backward) + csp_flop_token_head(a->chunks, backward);
    return csp_step_numbers_fetch(&a->numbers);
}

csp_tensor csp_adapt_faults(const csp_adapt *a)
{
    const int64_t count = FAULTS * a->chunks->count;

    return csp_tensor_view(a->faults.data, CSP_I64, 1, &count);
}

/* Whether anything of micro-batch i was not as it must be. */
static csp_status check_chunk(const csp_adapt *a, int64_t i, int64_t step)
{
    const int64_t *bad = (const int64_t *)csp_step_numbers_at(&a->numbers, &a->faults) + FAULTS * i;
    char where[CSP_CHUNKED_WORDS];

    CSP_TRY(csp_chunked_check(a->chunks, i, bad[0], "adapt", step));
    for (int k = 1; k < FAULTS; k++) {
        if (bad[k] >= 0) {
            csp_chunked_say_row(a->chunks, i, bad[k], where, sizeof(where));
            return CSP_FAIL(CSP_ERR_NUMERIC, "adapt step %lld: the %s at %s", (long long)step,
                            k == 1 ? "target is an excluded term" : "logits are not finite, first",
                            where);
        }
    }
    return CSP_OK;
}

csp_status csp_adapt_read(csp_adapt *a, csp_step_metrics *m)
{
    const double *losses = csp_step_numbers_at(&a->numbers, &a->losses);
    /* Both losses, tokens, floating-point operations. */
    double sums[4] = { 0.0, 0.0, (double)csp_chunked_rows(a->chunks), a->own_flop };

    for (int64_t i = 0; i < a->chunks->count; i++) {
        CSP_TRY(check_chunk(a, i, m->step));
        sums[0] += losses[2 * i];
        sums[1] += losses[2 * i + 1];
    }
    CSP_TRY(csp_ranks_reduce_host(a->options.ranks, sums, CSP_F64, 4, CSP_COMM_SUM,
                                  "losses of the step"));
    m->clm = sums[0] / (double)a->predicted;
    m->relu = sums[1] / (double)a->predicted;
    m->loss = m->clm + a->options.lambda_relu * m->relu;
    m->tokens = sums[2];
    a->flop = sums[3];
    if (!isfinite(m->loss)) {
        return CSP_FAIL(CSP_ERR_NUMERIC, "adapt step %lld: the loss is not finite: clm %g, relu %g",
                        (long long)m->step, m->clm, m->relu);
    }
    return CSP_OK;
}

double csp_adapt_flop(const csp_adapt *a)
{
    return a->flop;
}
