/* cmd_eval.c - csplade eval: scores a run file against judgements. */
#include <jansson.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "core/log.h"
#include "eval/metrics.h"

static const csp_option options[] = {
    { .name = "qrels",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .required = true,
      .help = "judgements: TREC or BEIR form" },
    { .name = "run",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .required = true,
      .help = "rankings: TREC run, \"query document score\" or MS MARCO's three columns" },
    { .name = "measures",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "LIST",
      .standard = "nDCG@10,RR@10,R@100,AP",
      .help = "measures with commas between: nDCG, RR, R, AP, P, with @k, and (rel=n) before it" },
    { .name = "per-query", .kind = CSP_OPTION_FLAG, .help = "also every query's values" },
    { .name = "remove-query",
      .kind = CSP_OPTION_FLAG,
      .help = "leave a document out whose id is the query's, as BEIR does for ArguAna and Quora" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_ENUM,
      .value = "text|json",
      .standard = "text",
      .help = "form of the result on stdout" },
};

static void print_text(const csp_metrics *m, bool per_query)
{
    for (int64_t q = 0; q < m->queries && per_query; q++) {
        for (int64_t i = 0; i < m->measures; i++) {
            printf("%s\t%s\t%.6f\n", m->query_id[q], m->measure[i].name,
                   m->value[q * m->measures + i]);
        }
    }
    for (int64_t i = 0; i < m->measures; i++) {
        printf("%s%s\t%.6f\n", per_query ? "all\t" : "", m->measure[i].name, m->mean[i]);
    }
}

/* {"nDCG@10": ...} of one row of values; NULL without memory. */
static json_t *values_object(const csp_metrics *m, const double *values)
{
    json_t *object = json_object();

    for (int64_t i = 0; i < m->measures; i++) {
        if (json_object_set_new(object, m->measure[i].name, json_real(values[i])) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static csp_status print_json(const csp_metrics *m, bool per_query)
{
    json_t *root = values_object(m, m->mean), *rows = per_query ? json_object() : NULL;
    int failed = root == NULL || (per_query && rows == NULL);

    failed = failed || json_object_set_new(root, "queries", json_integer(m->queries)) != 0 ||
             json_object_set_new(root, "unanswered", json_integer(m->unanswered)) != 0 ||
             json_object_set_new(root, "unjudged", json_integer(m->unjudged)) != 0;
    for (int64_t q = 0; q < m->queries && per_query && !failed; q++) {
        failed = json_object_set_new_nocheck(rows, m->query_id[q],
                                             values_object(m, m->value + q * m->measures)) != 0;
    }
    if (per_query && !failed) {
        failed = json_object_set(root, "per_query", rows) != 0;
    }
    if (!failed) {
        failed = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(15)) != 0;
        fputc('\n', stdout);
    }
    json_decref(rows);
    json_decref(root);
    if (failed) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "eval: the result could not be written as JSON (no memory, a full disk, or "
                        "a query id that is not UTF-8)");
    }
    return CSP_OK;
}

static void warn_of_mismatch(const csp_metrics *m)
{
    if (m->unanswered > 0) {
        csp_log(CSP_LOG_WARN, "eval",
                "%lld of %lld judged queries are not in the run; they count 0",
                (long long)m->unanswered, (long long)m->queries);
    }
    if (m->unjudged > 0) {
        csp_log(CSP_LOG_WARN, "eval", "%lld queries of the run have no judgements; left out",
                (long long)m->unjudged);
    }
    if (m->found > 0 && m->found_judged == 0) {
        csp_log(
            CSP_LOG_WARN, "eval",
            "none of the run's %lld documents is judged: are their ids those of the judgements?",
            (long long)m->found);
    }
    if (m->unfindable > 0) {
        csp_log(CSP_LOG_WARN, "eval", "%lld judged queries have no relevant document; they count 0",
                (long long)m->unfindable);
    }
}

static csp_status run(const csp_arguments *args)
{
    const csp_metrics_options how = { .remove_query = csp_args_flag(args, "remove-query") };
    csp_measure *measures = NULL;
    csp_metrics *metrics = NULL;
    csp_trec *qrels = NULL, *ranking = NULL;
    int64_t count = 0;
    csp_status status;

    CSP_TRY(csp_measures_parse(csp_args_text(args, "measures"), &measures, &count));
    CSP_TRY_GOTO(csp_qrels_read(csp_args_text(args, "qrels"), &qrels));
    CSP_TRY_GOTO(csp_run_read(csp_args_text(args, "run"), &ranking));
    CSP_TRY_GOTO(csp_metrics_compute(qrels, ranking, measures, count, &how, &metrics));
    warn_of_mismatch(metrics);
    if (csp_args_text(args, "output")[0] == 'j') {
        status = print_json(metrics, csp_args_flag(args, "per-query"));
    } else {
        print_text(metrics, csp_args_flag(args, "per-query"));
    }

fail:
    csp_metrics_free(metrics);
    csp_trec_free(ranking);
    csp_trec_free(qrels);
    free(measures);
    return status;
}

const csp_command csp_cmd_eval = {
    .name = "eval",
    .summary = "score a run file against judgements",
    .options = options,
    .option_count = CSP_COUNT(options),
    .details = "Measures are those of trec_eval and ir_measures: linear gain, ties by descending "
               "document id,\nmeans over all judged queries.\n\n"
               "csplade eval --qrels qrels/test.tsv --run bm25.run\n"
               "csplade eval --qrels qrels/test.tsv --run bm25.run -m nDCG@20,R@1000 -o json",
    .run = run,
};
