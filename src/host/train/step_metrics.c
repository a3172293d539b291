/* step_metrics.c - the table of metric keys, and the two ways a step is written. */
#include "train/step_metrics.h"

#include <math.h>
#include <stdio.h>

#define ROW(member, in_line, unit, help)                                 \
    {                                                                    \
#member, offsetof(csp_step_metrics, member), in_line, unit, help \
    }

const csp_metric_row csp_metric_rows[] = {
    ROW(loss, true, "nats", "what is minimised: all parts with their weights"),
    ROW(clm, true, "nats per token", "cross-entropy of the plain logits (adapt)"),
    ROW(relu, true, "nats per token", "cross-entropy of the log-saturated logits (adapt)"),
    ROW(nce, true, "nats per query", "InfoNCE; chance level is ln of the number of candidates"),
    ROW(reg_q, false, "", "sparsity term of the queries before its weight"),
    ROW(reg_d, false, "", "sparsity term of the documents before its weight"),
    ROW(lambda_q, false, "", "weight of reg_q at this step"),
    ROW(lambda_d, false, "", "weight of reg_d at this step"),
    ROW(lr, false, "", "learning rate of this step"),
    ROW(grad_norm, true, "", "global 2-norm of the gradient before clipping"),
    ROW(clipped, false, "", "1 where the gradient was clipped"),
    ROW(skipped, false, "", "1 where a gradient was not finite and nothing was updated"),
    ROW(active_q, true, "terms", "mean number of terms of a query"),
    ROW(active_q_p95, false, "terms", "95th percentile of the same"),
    ROW(active_q_max, false, "terms", "largest of the same"),
    ROW(active_d, true, "terms", "mean number of terms of a document"),
    ROW(active_d_p95, false, "terms", "95th percentile of the same"),
    ROW(active_d_max, false, "terms", "largest of the same"),
    ROW(zero_q, false, "share", "queries without any term"),
    ROW(zero_d, false, "share", "documents without any term"),
    ROW(dead_terms, false, "share",
        "terms of the vocabulary active in no text of the last 100 steps"),
    ROW(index_flops, false, "products", "expected products per query and document: sum of p_q p_d"),
    ROW(top_position, false, "share",
        "maxima that fall on the most frequent position of a document"),
    ROW(margin, false, "score", "mean of positive score minus best other, before temperature"),
    ROW(accuracy, false, "share", "queries whose positive has the best score of all candidates"),
    ROW(masked, false, "pairs", "candidates left out as known positives"),
    ROW(tokens, false, "tokens", "tokens of this step, no padding exists"),
    ROW(tokens_per_s, true, "tokens/s", "tokens of this step by its wall time"),
    ROW(gflop_per_s, false, "GFLOP/s",
        "arithmetic the step needs (docs/method.md, section 12) by its wall time"),
    ROW(matmul_gflop_per_s, false, "GFLOP/s",
        "rate of a large matrix product here, measured when this process began the run"),
    ROW(mfu, true, "share", "model FLOPs utilisation: gflop_per_s by matmul_gflop_per_s"),
    ROW(peak_mb, false, "MB", "peak resident memory of the process so far"),
    ROW(data_wait, false, "share", "of the step that it waited for its texts, mean of ranks"),
    ROW(save_pause_s, false, "s",
        "that training stood still for checkpoints since the line before, on the rank where it did "
        "longest; null where it did not"),
    ROW(save_write_s, false, "s",
        "a checkpoint took to be written, in the line of the step in which it was finished"),
    ROW(ranks, false, "ranks", "processes that shared the step"),
    ROW(rank_comm, false, "share",
        "of the step that exchanges between ranks were under way, mean of them; what is above "
        "rank_wait was hidden behind computation"),
    ROW(rank_wait, false, "share", "of the step that ranks waited for one another, mean of them"),
    ROW(rank_slowest, false, "ratio", "work of the slowest rank, without waiting, by the mean"),
    ROW(rank_sent_mb, false, "MB", "what a rank sent to the others in this step, mean of them"),
    ROW(elapsed_s, false, "s", "wall time since this process began the phase"),
};

const int csp_metric_row_count = (int)(sizeof(csp_metric_rows) / sizeof(csp_metric_rows[0]));

void csp_step_metrics_clear(csp_step_metrics *m, const char *phase, int64_t step, int64_t steps)
{
    m->step = step;
    m->steps = steps;
    m->phase = phase;
    for (int i = 0; i < csp_metric_row_count; i++) {
        *(double *)((char *)m + csp_metric_rows[i].offset) = NAN;
    }
}

double csp_metric_value(const csp_step_metrics *m, const csp_metric_row *row)
{
    return *(const double *)((const char *)m + row->offset);
}

csp_status csp_step_metrics_json(const csp_step_metrics *m, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "{\"phase\":\"%s\",\"step\":%lld", m->phase,
                                   (long long)m->step);

    for (int i = 0; i < csp_metric_row_count && used < bytes; i++) {
        const double value = csp_metric_value(m, &csp_metric_rows[i]);

        if (isfinite(value)) {
            used += (size_t)snprintf(text + used, bytes - used, ",\"%s\":%.9g",
                                     csp_metric_rows[i].key, value);
        } else {
            /* JSON has no NaN; null says "not known or not finite". */
            used +=
                (size_t)snprintf(text + used, bytes - used, ",\"%s\":null", csp_metric_rows[i].key);
        }
    }
    if (used + 2 > bytes) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "step metrics: %zu bytes are too few for a line", bytes);
    }
    text[used] = '}';
    text[used + 1] = '\0';
    return CSP_OK;
}

void csp_step_metrics_line(const csp_step_metrics *m, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "%s step %lld of %lld", m->phase,
                                   (long long)m->step, (long long)m->steps);

    for (int i = 0; i < csp_metric_row_count && used < bytes; i++) {
        const csp_metric_row *row = &csp_metric_rows[i];
        const double value = csp_metric_value(m, row);

        if (row->in_line && !isnan(value)) {
            used += (size_t)snprintf(text + used, bytes - used, "  %s %.5g", row->key, value);
        }
    }
}
