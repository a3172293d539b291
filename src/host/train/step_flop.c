/* step_flop.c - sums of the formulas over the texts of a step. */
#include "train/step_flop.h"

/* Backward products for each forward one: by inputs, and by weights where they are trained. */
static double backward_products(const csp_chunked *chunks)
{
    return chunks->model->params->train == CSP_TRAIN_FULL ? 2.0 : 1.0;
}

double csp_flop_network(const csp_chunked *chunks, bool causal, bool backward)
{
    const csp_model_config *c = &chunks->model->params->config;
    const double weights =
        (double)c->L * (double)c->D * (double)((2 * c->H + 2 * c->G) * c->E + 3 * c->F);
    double linear = 2.0 * weights * (double)csp_chunked_rows(chunks), pairs = 0.0, attention;

    for (int64_t i = 0; i < chunks->count; i++) {
        const csp_batch *b = &chunks->chunks[i].batch;

        for (int64_t j = 0; j < b->B; j++) {
            const double T = (double)(b->seq_start[j + 1] - b->seq_start[j]);

            pairs += causal ? T * (T + 1.0) / 2.0 : T * T;
        }
    }
    attention = 4.0 * (double)(c->L * c->H * c->E) * pairs;
    if (backward) {
        linear += linear * backward_products(chunks);
        attention *= 3.0;
    }
    return linear + attention;
}

/* One dense product of the head for each of these rows. */
static double head_product(const csp_chunked *chunks, int64_t rows)
{
    const csp_model_config *c = &chunks->model->params->config;

    return 2.0 * (double)c->D * (double)c->V * (double)rows;
}

double csp_flop_token_head(const csp_chunked *chunks, bool backward)
{
    int64_t predicted = 0;

    for (int64_t i = 0; i < chunks->count; i++) {
        predicted += chunks->chunks[i].batch.predicted;
    }
    return head_product(chunks, predicted) * (backward ? 1.0 + backward_products(chunks) : 1.0);
}

double csp_flop_sparse_head(const csp_chunked *chunks, int64_t entries, csp_pooling pooling)
{
    const double width = (double)chunks->model->params->config.D;
    int64_t pooled = 0;
    double forward;

    for (int64_t i = 0; i < chunks->count; i++) {
        pooled += chunks->chunks[i].batch.kept;
    }
    forward = head_product(chunks, pooled);
    return forward + backward_products(chunks) *
                         (pooling == CSP_POOLING_SUM ? forward : 2.0 * width * (double)entries);
}
