/* run_ranks.c - groups of the ranks of a run, and what all of them must share. */
#include <stdio.h>

#include "train/trainer_internal.h"

/* Whether blocks of negatives can be shared out: a block to some ranks, or some to a rank. */
csp_status csp_run_check_blocks(const csp_config *config, int ranks)
{
    const int64_t blocks = config->contrastive.negative_blocks;

    if (csp_config_has_phase(config, "contrastive") && blocks % ranks != 0 && ranks % blocks != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "contrastive.negative_blocks is %lld, which %d ranks cannot share evenly: "
                        "make one a multiple of the other",
                        (long long)blocks, ranks);
    }
    return CSP_OK;
}

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
