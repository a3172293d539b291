/*
 * option_rows.h - option rows that several commands list, each written once.
 */
#pragma once

#include "cli/args.h"

#define CSP_OPTION_ROW_THREADS                                                              \
    {                                                                                       \
        .name = "threads", .kind = CSP_OPTION_I64, .value = "N", .standard = "0", .min = 0, \
        .max = 4096, .help = "0 = one for every core this process may use"                  \
    }

/* What computes, by the names of ops/backend.h. */
#define CSP_OPTION_ROW_DEVICE                                                                  \
    {                                                                                          \
        .name = "device", .kind = CSP_OPTION_TEXT, .value = "auto|cpu|cuda|cuda:N",            \
        .standard = "auto", .help = "what computes; auto = a GPU where there is one, else cpu" \
    }

/* In which type it computes. */
#define CSP_OPTION_ROW_PRECISION                                                                  \
    {                                                                                             \
        .name = "precision", .kind = CSP_OPTION_ENUM, .value = "auto|fp32|bf16",                  \
        .standard = "auto", .help = "of weights and activations; auto = bf16 on a GPU, else fp32" \
    }

/* Length of a ranking in a run. */
#define CSP_OPTION_ROW_DEPTH                                                                      \
    {                                                                                             \
        .name = "depth", .letter = 'k', .kind = CSP_OPTION_I64, .value = "N", .standard = "1000", \
        .min = 1, .max = 1e8, .help = "documents for each query"                                  \
    }

#define CSP_OPTION_ROW_REMOVE_QUERY                            \
    {                                                          \
        .name = "remove-query", .kind = CSP_OPTION_FLAG,       \
        .help = "leave a document out whose id is the query's" \
    }

/* -o of commands that print a result. */
#define CSP_OPTION_ROW_FORM                                                             \
    {                                                                                   \
        .name = "format", .letter = 'o', .kind = CSP_OPTION_ENUM, .value = "text|json", \
        .standard = "text", .help = "what is printed"                                   \
    }
