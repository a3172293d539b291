/* cmd_merge.c - csplade merge: the shards of an encoding to one file. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "core/memory.h"
#include "eval/merge.h"

static const csp_option options[] = {
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .required = true,
      .help = "the whole collection: .h5 or .jsonl" },
};

static csp_status run(const csp_arguments *args)
{
    const int count = csp_args_positional_count(args);
    const char **path;
    int64_t rows;
    csp_status status;

    CSP_TRY(csp_alloc("merge", count, sizeof(*path), &path));
    for (int i = 0; i < count; i++) {
        path[i] = csp_args_positional(args, i);
    }
    CSP_TRY_GOTO(csp_vectors_merge(path, count, csp_args_text(args, "output"), &rows));
    printf("rows %lld\nfiles %d\n", (long long)rows, count);

fail:
    free((void *)path);
    return status;
}

const csp_command csp_cmd_merge = {
    .name = "merge",
    .summary = "the shards that encode --shard wrote, joined to one file",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "SHARD...",
    .details =
        "csplade encode --shard 0/2 --model DIR --input beir/ --output docs-0.h5\n"
        "csplade encode --shard 1/2 --model DIR --input beir/ --output docs-1.h5\n"
        "csplade merge --output docs.h5 docs-0.h5 docs-1.h5\n\n"
        "Shards are given in the order of their rows. All of one encoding must be there: rows "
        "that\nare missing, and shards of other texts, models or contracts, are refused.",
    .run = run,
};
