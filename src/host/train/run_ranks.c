/* run_ranks.c - groups of the ranks of a run, and what all of them must share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "train/trainer_internal.h"

csp_status csp_run_join_groups(csp_run_state *run)
{
    const int rank = csp_ranks_rank(run->ranks), size = csp_ranks_size(run->ranks);
    const int group = csp_negative_group(run->config->contrastive.negative_blocks, size);
    csp_comm *near;

    if (size > 1) {
        CSP_TRY(csp_comm_group_local(run->together.comm, &run->machine));
    }
    if (group == size) {
        return CSP_OK;
    }
    CSP_TRY(csp_comm_group(run->together.comm, rank / group * group, group, &near));
    CSP_TRY(csp_ranks_open(near, run->be, &run->near));
    run->group = &run->near;
    return CSP_OK;
}

csp_status csp_run_agree(const csp_run_state *run)
{
    const csp_data_identity *d = &run->progress.data;
    char text[1024], dev[CSP_DIGEST_TEXT_BYTES] = "";

    if (run->ranks == NULL) {
        return CSP_OK;
    }
    if (run->dev != NULL) {
        CSP_TRY(csp_dev_digest(run->dev, dev));
    }
    snprintf(text, sizeof(text),
             "examples %lld\ndocuments %lld\ndocument digest %s\nquery digest %s\n"
             "example digest %s\ntexts %lld\ntext digest %s\ndev digest %s\nbase %s\n",
             (long long)d->examples, (long long)d->documents, d->document_digest, d->query_digest,
             d->example_digest, (long long)d->texts, d->text_digest, dev, run->opened.base_hash);
    return csp_comm_agree(run->ranks->comm, text, "the data or the base model");
}

static bool shares_tuning(const csp_run_state *run)
{
    return run->together.devices != NULL && run->config->device.tune_products;
}

/* Rank 0's choices on every rank. Owner: the caller frees *out. */
static csp_status send_tuning(csp_run_state *run, char **out)
{
    static const char what[] = "choices of algorithms";
    csp_comm *comm = run->ranks->comm;
    int64_t bytes = 0;
    char *text = NULL;
    csp_status status;

    if (run->ranks->rank == 0) {
        CSP_TRY(csp_backend_tuning_get(run->be, &text));
        bytes = (int64_t)strlen(text) + 1;
        run->tuning_sent = run->be->tuned;
    }
    CSP_TRY_GOTO(csp_comm_broadcast(comm, &bytes, sizeof(bytes), 0, what));
    if (text == NULL) {
        CSP_TRY_GOTO(csp_alloc_zero(what, bytes, 1, &text));
    }
    CSP_TRY_GOTO(csp_comm_broadcast(comm, text, bytes, 0, what));
    *out = text;
    text = NULL;

fail:
    free(text);
    return status;
}

csp_status csp_run_join_tuning(csp_run_state *run)
{
    char *text;
    csp_status status = CSP_OK;

    if (!shares_tuning(run)) {
        return CSP_OK;
    }
    CSP_TRY(send_tuning(run, &text));
    if (run->ranks->rank > 0) {
        status = csp_backend_tuning_set(run->be, text);
        run->has_tuning_of_all = status == CSP_OK;
        run->be->tune_products = !run->has_tuning_of_all;
    }
    free(text);
    if (status == CSP_ERR_UNSUPPORTED) {
        csp_log(CSP_LOG_WARN, "train",
                "%s: this rank chooses its own, which a checkpoint does not hold",
                csp_error_text());
        return CSP_OK;
    }
    return status;
}

int32_t csp_run_has_tuned(const csp_run_state *run)
{
    return shares_tuning(run) && run->ranks->rank == 0 && run->be->tuned > run->tuning_sent;
}

csp_status csp_run_share_tuning(csp_run_state *run)
{
    char *text;
    csp_status status = CSP_OK;

    CSP_TRY(send_tuning(run, &text));
    if (run->has_tuning_of_all) {
        status = csp_backend_tuning_set(run->be, text);
    }
    free(text);
    return status;
}

csp_status csp_run_agree_on_tuning(csp_run_state *run)
{
    int32_t more = csp_run_has_tuned(run);

    if (!shares_tuning(run)) {
        return CSP_OK;
    }
    CSP_TRY(csp_ranks_reduce_host(run->ranks, &more, CSP_I32, 1, CSP_COMM_MAX, "the evaluation"));
    return more != 0 ? csp_run_share_tuning(run) : CSP_OK;
}
