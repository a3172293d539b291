/* adapt.c - the adaptation step: each micro-batch goes forward, through the loss, and backward. */
#include "train/adapt.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "model/contract_head.h"
#include "train/step_flop.h"

struct csp_adapt {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_adapt_options options;
    csp_chunked *chunks;
    csp_contract_head head;
    double flop;
};

csp_status csp_adapt_create(csp_backend *be, const csp_model *model, const csp_contract *contract,
                            const csp_adapt_options *options, csp_adapt **out)
{
    csp_adapt *a;
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
        free(a);
    }
}

csp_status csp_adapt_run(csp_adapt *a, const csp_token_lists *texts, const csp_pass *pass,
                         bool backward, csp_step_metrics *m)
{
    const int64_t predicted = csp_batch_predicted(a->contract, texts);
    double sums[2] = { 0.0, 0.0 };

    if (predicted == 0) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "adaptation step: none of its %lld texts has two tokens, the later one not "
                        "among model.exclude_ids",
                        (long long)texts->count);
    }
    csp_chunked_begin(a->chunks);
    CSP_TRY(csp_chunked_add_adapt(a->chunks, texts));
    for (int64_t i = 0; i < a->chunks->count; i++) {
        csp_chunk *chunk = &a->chunks->chunks[i];
        csp_token_loss_args args = { .head = a->head.head,
                                     .lambda_relu = (float)a->options.lambda_relu,
                                     .coefficient = (float)(1.0 / (double)predicted) };
        double loss[2];

        a->chunks->step.used = 0;
        CSP_TRY(csp_chunked_fwd(a->chunks, i, pass));
        CSP_TRY(csp_chunked_check(a->chunks, i, "adapt", m->step));
        args.h = chunk->run->h;
        args.target = chunk->target;
        args.dh = backward ? chunk->run->dh : csp_tensor_none();
        args.de = backward ? csp_model_head_grad(a->model) : csp_tensor_none();
        CSP_TRY(csp_token_loss(a->be, &args, loss));
        sums[0] += loss[0];
        sums[1] += loss[1];
        if (backward) {
            CSP_TRY(csp_chunked_bwd(a->chunks, i, pass));
        }
    }
    m->clm = sums[0] / (double)predicted;
    m->relu = sums[1] / (double)predicted;
    m->loss = m->clm + a->options.lambda_relu * m->relu;
    m->tokens = (double)csp_chunked_rows(a->chunks);
    a->flop =
        csp_flop_network(a->chunks, true, backward) + csp_flop_token_head(a->chunks, backward);
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
