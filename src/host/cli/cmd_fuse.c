/* cmd_fuse.c - csplade fuse: interpolates two runs, or finds the best weight on other queries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/option_rows.h"
#include "eval/fuse.h"

static const csp_option options[] = {
    { .name = "run",
      .kind = CSP_OPTION_TEXT,
      .value = "RUN",
      .required = true,
      .help = "the first run; alpha is its weight" },
    { .name = "with",
      .kind = CSP_OPTION_TEXT,
      .value = "RUN",
      .required = true,
      .help = "the second run; its weight is 1 - alpha" },
    { .name = "alpha",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "0.5",
      .min = 0,
      .max = 1,
      .help = "weight of the first run's scores, each query's scaled to 0..1" },
    { .name = "raw", .kind = CSP_OPTION_FLAG, .help = "do not scale the scores" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "RUN",
      .help = "the fused run to write" },
    CSP_OPTION_ROW_DEPTH,
    { .name = "tune",
      .kind = CSP_OPTION_TEXT,
      .value = "QRELS",
      .help = "print the alpha of the best --measure on these judgements, in place of fusing; use "
              "other queries than the reported ones" },
    { .name = "measure",
      .kind = CSP_OPTION_TEXT,
      .value = "NAME",
      .standard = "nDCG@10",
      .help = "what --tune maximises" },
};

static csp_status tune(const csp_arguments *args, const csp_trec *a, const csp_trec *b,
                       csp_fuse_norm norm)
{
    csp_trec *qrels = NULL;
    csp_measure *measures = NULL;
    int64_t count;
    double alpha, value;
    csp_status status;

    CSP_TRY(csp_qrels_read(csp_args_text(args, "tune"), &qrels));
    CSP_TRY_GOTO(csp_measures_parse(csp_args_text(args, "measure"), &measures, &count));
    CSP_TRY_GOTO(csp_fuse_tune(qrels, a, b, norm, &measures[0], 20, &alpha, &value));
    printf("alpha %.2f\n%s %.6f\n", alpha, measures[0].name, value);

fail:
    free(measures);
    csp_trec_free(qrels);
    return status;
}

static csp_status fuse(const csp_arguments *args, const csp_trec *a, const csp_trec *b,
                       csp_fuse_norm norm)
{
    csp_ranking *ranking = NULL;
    csp_status status;

    if (!csp_args_given(args, "output")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "fuse: --output RUN is missing (or --tune QRELS)");
    }
    CSP_TRY(
        csp_fuse(a, b, csp_args_f64(args, "alpha"), norm, csp_args_i64(args, "depth"), &ranking));
    status = csp_ranking_write(ranking, csp_args_text(args, "output"), "fused");
    csp_ranking_free(ranking);
    return status;
}

static csp_status run(const csp_arguments *args)
{
    const csp_fuse_norm norm = csp_args_flag(args, "raw") ? CSP_FUSE_RAW : CSP_FUSE_MIN_MAX;
    static const char *const of_fusing[] = { "alpha", "output", "depth" };
    csp_trec *a = NULL, *b = NULL;
    csp_status status;

    for (int i = 0; i < CSP_COUNT(of_fusing) && csp_args_given(args, "tune"); i++) {
        if (csp_args_given(args, of_fusing[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "fuse: --%s has no place beside --tune, which finds an alpha and fuses "
                            "nothing: give it in a second call",
                            of_fusing[i]);
        }
    }
    if (csp_args_given(args, "measure") && !csp_args_given(args, "tune")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "fuse: --measure is what --tune maximises, and needs it");
    }

    CSP_TRY_GOTO(csp_run_read(csp_args_text(args, "run"), &a));
    CSP_TRY_GOTO(csp_run_read(csp_args_text(args, "with"), &b));
    status = csp_args_given(args, "tune") ? tune(args, a, b, norm) : fuse(args, a, b, norm);

fail:
    csp_trec_free(a);
    csp_trec_free(b);
    return status;
}

const csp_command csp_cmd_fuse = {
    .name = "fuse",
    .summary = "interpolate two runs, such as a model's with BM25's",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "",
    .details = "csplade fuse --run model.dev.run --with bm25.dev.run --tune qrels/dev.tsv\n"
               "csplade fuse --run model.run --with bm25.run --alpha 0.6 --output fused.run",
    .run = run,
};
